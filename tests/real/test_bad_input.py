"""Bad input on a real host: one clear error, retried or not as it should be, and nothing left behind."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.real.conftest import IMAGES, ROOT, Cfy, Host, Result, public_key, ssh, virsh

Node = dict[str, Any]

SHELF = IMAGES / "shelf"
ONE_RETRY = ("--task-retries", "1", "--task-retry-interval", "1")


def node(kind: str, inputs: Node | None = None, operation: str = "configure", **properties: Any) -> Node:
    """A node template; ``inputs`` are those of one operation of its life cycle."""
    found: Node = {"type": f"cloudify.libvirt.{kind}", "properties": properties}
    if inputs:
        found["interfaces"] = {"cloudify.interfaces.lifecycle": {operation: {"inputs": inputs}}}
    return found


def vm(inputs: Node | None = None, **params: Any) -> Node:
    """A machine without disk and network, but for what ``params`` say."""
    bare = {"name": "vm", "memory": "64 MiB", "wait_for_ip": False, "shutdown_timeout_s": 0}
    return node("domain", inputs, params={**bare, **params})


def volume(inputs: Node | None = None, **params: Any) -> Node:
    return node("volume", inputs, "create", params={"name": "volume", "pool": "shelf", **params})


@dataclass
class Attempt:
    """Installs what cannot work."""

    cfy: Cfy
    host: Host
    directory: Path

    def blueprint(self, nodes: dict[str, Node], files: dict[str, str]) -> Path:
        self.directory.mkdir(exist_ok=True)
        for name, text in files.items():
            (self.directory / name).write_text(text)
        imports = ["cloudify/types/types.yaml", "plugin:cloudify-libvirt-plugin"]
        document = {
            "tosca_definitions_version": "cloudify_dsl_1_3",
            "imports": imports,
            "inputs": {name: {"default": ""} for name in ("text", "name", "title")},
            "node_templates": nodes,
            "outputs": {"ip": {"value": {"get_attribute": [next(iter(nodes)), "ip"]}}},
        }
        path = self.directory / "blueprint.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def install(self, nodes: dict[str, Node], *options: str, files: dict[str, str] | None = None) -> Result:
        return self.cfy("install", self.blueprint(nodes, files or {}), "-b", "bad", *options, check=False)

    def refused(self, bad: Node, operation: str, *options: str, files: dict[str, str] | None = None) -> str:
        """Install one node, which must fail at once in that operation, leaving nothing; return what was said."""
        said, attempts = self.failed(bad, operation, *options, files=files)
        assert attempts == 1, "retried, though it cannot help"
        return said

    def failed(self, bad: Node, operation: str, *options: str, files: dict[str, str] | None = None) -> tuple[str, int]:
        """Like ``refused``, with the number of attempts."""
        before = self.host.everything()
        result = self.install({"thing": bad}, *options, files=files)
        assert result.code == 1, result.output[-3000:]
        assert "Traceback" not in result.output
        failures = result.lines(f".{operation}] Task failed")
        assert failures, result.output[-3000:]
        assert len(failures) == len(result.lines("Task failed '")) == len(result.lines(f".{operation}] Task started"))
        assert self.host.everything() == before, "left behind by the install that failed"
        self.cfy.uninstall("bad")
        assert self.host.everything() == before, "left behind by the uninstall"
        said = failures[0].split(" -> ", 1)[1]
        assert re.match(r"thing_\w+: cannot ", said), said
        print(said)
        return said, len(failures)


@pytest.fixture
def attempt(cfy: Cfy, host: Host, tmp_path: Path) -> Attempt:
    return Attempt(cfy, host, tmp_path / "blueprint")


@pytest.fixture
def foreign(host: Host) -> Iterator[Callable[[str, str], Any]]:
    """Define objects of somebody else; they go after the test."""
    made: list[Any] = []

    def define(kind: str, xml: str) -> Any:
        calls = {"domain": "defineXML", "network": "networkDefineXML", "pool": "storagePoolDefineXML"}
        made.append(getattr(host.connection, calls[kind])(xml))
        return made[-1]

    yield define
    for thing in reversed(made):
        if thing.isActive():
            thing.destroy()
        thing.undefine()


@pytest.fixture
def shelf(foreign: Callable[[str, str], Any]) -> Iterator[Any]:
    """A pool that exists."""
    SHELF.mkdir()
    pool = foreign("pool", f"<pool type='dir'><name>shelf</name><target><path>{SHELF}</path></target></pool>")
    pool.create()
    yield pool
    shutil.rmtree(SHELF)


def foreign_domain(name: str, inner: str = "") -> str:
    return (
        f"<domain type='qemu'><name>{name}</name><memory>65536</memory><os><type arch='x86_64'>hvm</type></os>"
        f"<devices>{inner}</devices></domain>"
    )


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def says(said: str, *words: str) -> None:
    missing = [word for word in words if word not in said]
    assert not missing, f"{missing} not said in: {said}"


# --- the hypervisor ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("qemuu:///system", ["Check the URI", "qemu:///system"]),
        ("qemu:///sytem", ["Check the URI", "qemu:///system"]),
        ("qemu+carrier-pigeon:///system", ["Check the URI"]),
        ("not a uri", ["Check the URI"]),
    ],
)
def test_wrong_uri(attempt: Attempt, uri: str, words: list[str]) -> None:
    bad = {**vm(), "properties": {**vm()["properties"], "libvirt_auth": uri}}
    says(attempt.refused(bad, "precreate"), "connect to hypervisor", uri, "libvirt_auth", *words)


@pytest.mark.parametrize(
    "uri",
    [
        "qemu+unix:///system?socket=/nonexistent/sock",
        "qemu+tcp://127.0.0.1:1/system",
        "qemu+tcp://no-such-host.invalid/system",
    ],
)
def test_unreachable_uri_is_tried_again(attempt: Attempt, uri: str) -> None:
    bad = {**vm(), "properties": {**vm()["properties"], "libvirt_auth": uri}}
    said, attempts = attempt.failed(bad, "precreate", *ONE_RETRY)
    says(said, f"cannot connect to hypervisor {uri}", "systemctl start libvirtd", "libvirt_auth")
    assert attempts == 2


def test_daemon_that_comes_back(attempt: Attempt, clean_host: Host, tmp_path: Path) -> None:
    """The retry is worth it: the socket appears after the first attempt failed."""
    socket = tmp_path / "sock"
    late = {**vm(), "properties": {**vm()["properties"], "libvirt_auth": f"qemu+unix:///system?socket={socket}"}}
    path = attempt.blueprint({"thing": late}, {})
    command = [ROOT / ".venv/bin/cfy", "install", path, "-b", "bad", "--task-retry-interval", "1"]
    with subprocess.Popen(
        command, env=attempt.cfy.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        assert running.stdout is not None
        lines = []
        for line in running.stdout:
            lines.append(line)
            if "Task failed" in line and not socket.is_symlink():
                socket.symlink_to("/run/libvirt/libvirt-sock")
    assert running.returncode == 0, "".join(lines)
    assert any("[retry 1/5]" in line and "Task succeeded" in line for line in lines)
    attempt.cfy.uninstall("bad")


def test_no_permission_on_the_socket(attempt: Attempt, clean_host: Host, tmp_path: Path) -> None:
    """As a user who may read everything (the checkout may be closed to others) but write to no socket of root."""
    assert stat.S_IMODE(Path("/run/libvirt/libvirt-sock").stat().st_mode) & 0o007 == 0
    path = attempt.blueprint({"thing": vm()}, {})
    home = tmp_path / "nobody"
    home.mkdir()
    environment = {**attempt.cfy.environment, "HOME": str(home)}
    subprocess.run([ROOT / ".venv/bin/cfy-libvirt", "local-setup"], env=environment, check=True, capture_output=True)
    for below in [home, *home.rglob("*")]:
        shutil.chown(below, "nobody", "nogroup")
    reading = "dac_read_search"
    done = subprocess.run(
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", f"--inh-caps=-all,+{reading}",
         f"--ambient-caps=+{reading}", ROOT / ".venv/bin/cfy", "install", path, "-b", "bad"],
        env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    result = Result(done.returncode, done.stdout + done.stderr, 0)
    failures = result.lines("Task failed '")
    assert len(failures) == 1, result.output
    says(failures[0], "thing_", "cannot connect to hypervisor qemu:///system", "Permission denied", "group 'libvirt'")


# --- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (node("domain", params={"memry": "64 MiB"}), ["params.memry", "thing"]),
        (node("domain", libvirt_auht="qemu:///system"), ["libvirt_auht", "thing"]),
        (node("network", params={"cider": "auto"}), ["params.cider", "thing"]),
    ],
)
def test_unknown_property(attempt: Attempt, clean_host: Host, bad: Node, words: list[str]) -> None:
    """The engine's parser refuses it, before anything runs."""
    result = attempt.install({"thing": bad})
    assert result.code != 0
    says(result.output, *words, "not part of")
    assert not result.lines("Task started")


@pytest.mark.parametrize(
    ("bad", "operation", "words"),
    [
        (vm({"params": {"memmory": "64 MiB"}}), "configure", ["params.memmory of node thing", "Did you mean 'memory'"]),
        (vm(networks=[{"netwrk": "x"}]), "configure", ["params.networks[0].netwrk", "Did you mean 'network'"]),
        (vm(image={"source": "/x", "cheksum": "y"}), "configure", ["params.image.cheksum", "'checksum'"]),
        (vm(cloud_init={"user-data": "x"}), "configure", ["params.cloud_init.user-data", "'user_data'"]),
        (node("network", params={"ips": [{"adress": "10.9.9.1"}]}), "precreate", ["params.ips[0].adress", "'address'"]),
        (volume({"params": {"sise": "1 MiB"}}), "create", ["params.sise of node thing", "Did you mean 'size'"]),
        (node("pool", {"params": {"paht": "/x"}}, "create"), "create", ["params.paht", "'path'"]),
    ],
)
def test_unknown_parameter(attempt: Attempt, shelf: Any, bad: Node, operation: str, words: list[str]) -> None:
    says(attempt.refused(bad, operation), *words)


@pytest.mark.parametrize(
    ("bad", "operation", "words"),
    [
        (vm(memory="512 Mo"), "precreate", ["params.memory of node thing", "'512 Mo'", "GiB"]),
        (vm(memory="512"), "precreate", ["params.memory of node thing", "say the unit", "'512 MiB'"]),
        (vm(image={"source": "/x", "size": "20 gigs"}), "precreate", ["params.image.size", "'20 gigs'", "GiB"]),
        (volume(size="1 Mio"), "precreate", ["params.size of node thing", "'1 Mio'", "MiB"]),
    ],
)
def test_wrong_unit(attempt: Attempt, shelf: Any, bad: Node, operation: str, words: list[str]) -> None:
    says(attempt.refused(bad, operation), *words)


NOT_EVALUATED = {"get_attribute": ["other", "resource_id"]}


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (vm(networks=[{"network": NOT_EVALUATED}]), "params.networks[0].network"),
        (vm(memory=NOT_EVALUATED), "params.memory"),
        (vm(name=NOT_EVALUATED), "params.name"),
        (node("network", params={"name": "net", "cidr": NOT_EVALUATED}), "params.cidr"),
        (node("pool", params={"name": "pool", "path": NOT_EVALUATED}), "params.path"),
        (volume(pool=NOT_EVALUATED), "params.pool"),
        (node("domain", libvirt_auth=NOT_EVALUATED), "libvirt_auth"),
        (node("domain", use_external_resource=True, resource_id=NOT_EVALUATED), "resource_id"),
    ],
)
def test_value_that_was_not_evaluated(attempt: Attempt, clean_host: Host, bad: Node, field: str) -> None:
    before = clean_host.everything()
    result = attempt.install({"thing": bad, "other": {"type": "cloudify.nodes.Root"}})
    failures = result.lines("Task failed '")
    assert len(failures) == 1, result.output
    says(failures[0], field, "node thing", "get_attribute", "inputs of the operation")
    assert clean_host.everything() == before
    attempt.cfy.uninstall("bad")


def test_value_that_is_evaluated_in_inputs(attempt: Attempt, clean_host: Host) -> None:
    """What the error advises works."""
    pool = node("pool", params={"name": "late"})
    late = node("volume", {"params": {"pool": {"get_attribute": ["pool", "resource_id"]}}}, "create",
                params={"name": "v", "size": "1 MiB"})  # fmt: skip
    late["relationships"] = [{"type": "cloudify.relationships.depends_on", "target": "pool"}]
    assert attempt.install({"thing": late, "pool": pool}).code == 0
    assert virsh("vol-list", "late").split()[0] == "v"
    attempt.cfy.uninstall("bad")


# --- images --------------------------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path: Path, tiny: Path) -> Iterator[str]:
    """The small image on a web server."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "tiny.qcow2").symlink_to(tiny)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def cache(attempt: Attempt, tmp_path: Path) -> Path:
    """An image cache of its own."""
    directory = tmp_path / "cache"
    attempt.cfy.environment["CLOUDIFY_LIBVIRT_CACHE"] = str(directory)
    return directory


def cached(directory: Path) -> list[str]:
    """What the cache keeps, besides its locks."""
    return [path.name for path in directory.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_missing_image_on_this_host(attempt: Attempt, shelf: Any, cache: Path) -> None:
    said = attempt.refused(vm(image="/var/tmp/no-such.qcow2", pool="shelf"), "configure")
    says(said, "image /var/tmp/no-such.qcow2", "no such file", "Put the image there")
    assert cached(cache) == []


def test_missing_image_on_a_server(attempt: Attempt, shelf: Any, cache: Path, web: str) -> None:
    said = attempt.refused(volume(image=f"{web}/no-such.qcow2"), "create")
    says(said, f"cannot fetch {web}/no-such.qcow2", "404", "Check the URL")
    assert cached(cache) == []


def test_server_that_is_down_is_tried_again(attempt: Attempt, shelf: Any, cache: Path) -> None:
    url = "http://127.0.0.1:9/tiny.qcow2"
    said, attempts = attempt.failed(vm(image=url, pool="shelf"), "configure", *ONE_RETRY)
    says(said, f"cannot fetch {url}", "Connection refused", "Check the host")
    assert attempts == 2
    assert not (cache / "images").exists() or not any((cache / "images").iterdir())


@pytest.mark.parametrize(("kind", "remote"), [("domain", True), ("volume", False)])
def test_checksum_mismatch(
    attempt: Attempt, shelf: Any, cache: Path, web: str, tiny: Path, kind: str, remote: bool
) -> None:
    wrong = "sha256:" + "0" * 64
    source = f"{web}/tiny.qcow2" if remote else str(tiny)
    image = {"source": source, "checksum": wrong}
    bad = vm(image=image, pool="shelf") if kind == "domain" else volume(image=image)
    said = attempt.refused(bad, "configure" if kind == "domain" else "create")
    right = hashlib.sha256(tiny.read_bytes()).hexdigest()
    says(said, source, right, "0" * 64, "Nothing was kept")
    assert cached(cache) == []
    assert shelf.listVolumes() == []


def test_page_instead_of_an_image(attempt: Attempt, shelf: Any, cache: Path, tmp_path: Path, web: str) -> None:
    (tmp_path / "web" / "login.html").write_text("<html>please log in</html>\n" * 100)
    said = attempt.refused(vm(image=f"{web}/login.html", pool="shelf"), "configure")
    says(said, "login.html", "HTML")
    assert cached(cache) == []


def test_size_below_the_images(attempt: Attempt, shelf: Any, tiny: Path) -> None:
    said = attempt.refused(vm(image={"source": str(tiny), "size": "1 MiB"}, pool="shelf"), "configure")
    says(said, "vm-root.qcow2", "1 MiB is less than the image's", "Give a larger size")
    assert shelf.listVolumes() == []


# --- templates -----------------------------------------------------------------------------------------------

TEMPLATE = """\
<domain type="{{ domain_type }}">
  <name>{{ name }}</name>
  <memory unit="KiB">{{ memory_size }}</memory>
  <os><type>hvm</type></os>
  <devices>
    MIDDLE
  </devices>
</domain>
"""


@pytest.mark.parametrize(
    ("middle", "words"),
    [
        ("<emulator>{{ emulatr }}</emulator>", ["'emulatr' is undefined", "Did you mean emulator?"]),
        ("<emulator>{{ ctx.nod.name }}</emulator>", ["nod"]),
        ("<emulator>{% if %}</emulator>", ["syntax error"]),
        ("<emulator>", ["not well-formed XML", "emulator"]),
        ("<dsk type='file'/>", ["element <dsk", "not allowed inside <devices>", "Did you mean <disk>?"]),
        ("<disk type='fil' device='disk'/>", ["element <disk", 'type="fil"']),
    ],
)
def test_bad_template_of_a_domain(attempt: Attempt, shelf: Any, tiny: Path, middle: str, words: list[str]) -> None:
    bad = vm({"template_resource": "own.xml.j2"}, image=str(tiny), pool="shelf", cloud_init={"hostname": "x"})
    said = attempt.refused(bad, "configure", files={"own.xml.j2": TEMPLATE.replace("MIDDLE", middle)})
    # libxml2 sees an element that is not closed at the next end tag.
    line = 7 if middle == "<emulator>" else 6
    says(said, "template own.xml.j2 of node thing", f"line {line} of own.xml.j2", *words)
    assert shelf.listVolumes() == []


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("network", "<network>\n<name>{{ nam }}</name></network>", ["line 2", "'nam' is undefined"]),
        ("network", "<network>\n<name>n</name>\n<brigde name='b'/></network>", ["line 3", "element <brigde"]),
        ("network", "<network>\n<name>n</nome></network>", ["line 2", "not well-formed"]),
        ("pool", "<pool type='dir'>\n<name>n</name>\n<traget/></pool>", ["line 3", "element <traget"]),
        ("volume", "<volume>\n<name>volume</name>\n<capacty/></volume>", ["line 3", "element <capacty"]),
    ],
)
def test_bad_template_of_others(attempt: Attempt, shelf: Any, kind: str, text: str, words: list[str]) -> None:
    params = {"network": {"cidr": "auto"}, "pool": {}, "volume": {"pool": "shelf", "size": "1 MiB"}}[kind]
    bad = node(kind, {"template_content": text}, "create", params={"name": kind, **params})
    says(attempt.refused(bad, "create"), "template template_content of node thing", *words)
    assert shelf.listVolumes() == []


def test_template_that_leaves_the_blueprint(attempt: Attempt, clean_host: Host) -> None:
    bad = vm({"template_resource": "../../etc/passwd"})
    says(attempt.refused(bad, "configure"), "template_resource of node thing", "leaves the blueprint's directory")


def test_template_that_cannot_be_read(attempt: Attempt, clean_host: Host) -> None:
    bad = vm({"template_resource": "nowhere.xml.j2"})
    says(attempt.refused(bad, "configure"), "resource nowhere.xml.j2 of node thing", "no such file", "relative")
    attempt.directory.mkdir(exist_ok=True)
    (attempt.directory / "latin.xml.j2").write_bytes("<domain>\xe9</domain>".encode("latin-1"))
    bad = vm({"template_resource": "latin.xml.j2"})
    says(attempt.refused(bad, "configure"), "template latin.xml.j2 of node thing", "not UTF-8", "Save it as UTF-8")


def test_misspelt_input(attempt: Attempt, clean_host: Host) -> None:
    """Undeclared inputs are the user's own business; one that looks like ours is mentioned."""
    said = attempt.install({"thing": vm({"template_contnet": "<domain/>", "colour": "blue"})})
    assert said.code == 0
    assert len(said.lines("configure", "'template_contnet' is ignored; did you mean 'template_content'?")) == 1
    assert not said.lines("colour")
    attempt.cfy.uninstall("bad")


# --- taken by somebody else ----------------------------------------------------------------------------------


def test_name_taken(attempt: Attempt, foreign: Callable[[str, str], Any], shelf: Any) -> None:
    foreign("domain", foreign_domain("vm"))
    foreign("network", "<network><name>net</name></network>")
    remedy = "Choose another params.name, or set use_external_resource"
    says(attempt.refused(vm(), "precreate"), "domain 'vm' on qemu:///system", "another domain (UUID", remedy)
    bad = node("network", params={"name": "net", "cidr": "auto"})
    says(attempt.refused(bad, "precreate"), "network 'net' on qemu:///system", "another network (UUID", remedy)
    bad = node("pool", params={"name": "shelf", "path": "/var/tmp/other"})
    says(attempt.refused(bad, "precreate"), "pool 'shelf' on qemu:///system", "another pool (UUID", remedy)
    assert virsh("domstate", "vm").strip() == "shut off"


@pytest.mark.parametrize("form", ["52-54-00-AA-BB-CC", "5254.00aa.bbcc"])
def test_mac_taken(attempt: Attempt, foreign: Callable[[str, str], Any], form: str) -> None:
    foreign("domain", foreign_domain("older", "<interface type='user'><mac address='52:54:00:aa:bb:cc'/></interface>"))
    said = attempt.refused(vm(networks=[{"user": True, "mac": form}]), "create")
    says(said, "domain 'vm'", "MAC 52:54:00:aa:bb:cc", "domain 'older'", "Give the interface another mac")


def test_mac_of_a_network_taken(attempt: Attempt, foreign: Callable[[str, str], Any]) -> None:
    """A bridge has a MAC too; two of one kind on a link cannot talk."""
    foreign("network", "<network><name>older</name><mac address='52:54:00:aa:bb:cd'/></network>")
    said = attempt.refused(vm(networks=[{"user": True, "mac": "52:54:00:aa:bb:cd"}]), "create")
    says(said, "MAC 52:54:00:aa:bb:cd", "network 'older'", "another mac")


@pytest.fixture
def link() -> Iterator[str]:
    """An interface of the host with an address."""
    for command in (
        "link add taken0 type bridge", "link set taken0 address 52:54:00:aa:bb:ce", "addr add 10.98.7.1/24 dev taken0",
        "-6 addr add fd98:7::1/64 dev taken0 nodad", "link set taken0 up", "route add 10.97.0.0/16 via 10.98.7.9",
    ):  # fmt: skip
        subprocess.run(["ip", *command.split()], check=True)
    yield "taken0"
    subprocess.run(["ip", "link", "del", "taken0"], check=True)


def test_mac_of_the_host_taken(attempt: Attempt, link: str) -> None:
    said = attempt.refused(vm(networks=[{"user": True, "mac": "52:54:00:aa:bb:ce"}]), "create")
    says(said, "MAC 52:54:00:aa:bb:ce", "interface taken0", "another mac")


def test_bridge_taken(attempt: Attempt, foreign: Callable[[str, str], Any], link: str) -> None:
    foreign("network", "<network><name>older</name><bridge name='oldbr0'/></network>")
    for bridge, owner in (("oldbr0", "network 'older'"), (link, "the host's interface taken0")):
        said = attempt.refused(node("network", params={"name": "net", "dev": bridge}), "precreate")
        says(said, "network 'net'", f"bridge {bridge} is used by {owner}", "Choose another params.dev")


@pytest.mark.parametrize(
    ("params", "owner"),
    [
        ({"cidr": "10.96.3.128/25"}, "10.96.3.0/24 of network 'older'"),
        ({"ips": [{"address": "10.96.0.1", "netmask": "255.255.0.0"}]}, "10.96.3.0/24 of network 'older'"),
        ({"cidr": "10.98.7.0/26"}, "10.98.7.0/24 of the host's route via taken0"),
        ({"cidr": "10.97.5.0/24"}, "10.97.0.0/16 of the host's route via taken0"),
        ({"ips": [{"address": "fd98:7::5", "prefix": 64}]}, "fd98:7::/64 of the host's route via taken0"),
    ],
)
def test_subnet_taken(
    attempt: Attempt, foreign: Callable[[str, str], Any], link: str, params: Node, owner: str
) -> None:
    foreign(
        "network", "<network><name>older</name><bridge name='oldbr0'/><ip address='10.96.3.1' prefix='24'/></network>"
    )
    said = attempt.refused(node("network", params={"name": "net", **params}), "precreate")
    says(said, "network 'net'", f"overlaps with {owner}", "cidr: auto")


def test_volume_name_taken(attempt: Attempt, shelf: Any, tiny: Path) -> None:
    for name in ("volume", "vm-root.qcow2"):
        shelf.createXML(f"<volume><name>{name}</name><capacity>4096</capacity></volume>")
        (SHELF / name).write_bytes(b"precious")
    said = attempt.refused(volume(size="1 MiB"), "create")
    says(said, "volume 'volume' of pool 'shelf'", "exists", "Choose another params.name", "use_external_resource")
    said = attempt.refused(vm(image=str(tiny), pool="shelf"), "configure")
    says(said, "volume 'vm-root.qcow2' of pool 'shelf'", "exists", "choose another params.name")
    assert {(SHELF / name).read_bytes() for name in ("volume", "vm-root.qcow2")} == {b"precious"}


@pytest.mark.parametrize("path", [f"{SHELF}", f"{IMAGES}//./shelf/"])
def test_pool_directory_taken(attempt: Attempt, shelf: Any, path: str) -> None:
    said = attempt.refused(node("pool", params={"name": "other", "path": path}), "precreate")
    says(said, "pool 'other'", f"directory {SHELF} belongs to pool 'shelf'", "Choose another params.path")


def test_address_taken(attempt: Attempt, foreign: Callable[[str, str], Any], shelf: Any, tiny: Path) -> None:
    net = foreign(
        "network",
        "<network><name>older</name><bridge name='oldbr0'/><ip address='10.96.3.1' prefix='24'><dhcp>"
        "<range start='10.96.3.2' end='10.96.3.99'/><host mac='52:54:00:00:00:01' ip='10.96.3.7' name='printer'/>"
        "</dhcp></ip></network>",
    )
    for ip, words in (("10.96.3.7", ["reserved for 52:54:00:00:00:01 (printer)"]), ("10.95.0.7", ["10.96.3.0/24"])):
        bad = vm(networks=[{"network": "older", "ip": ip}], image=str(tiny), pool="shelf")
        says(attempt.refused(bad, "configure"), f"address {ip} on network 'older'", *words, "hoose an")
        assert shelf.listVolumes() == []
        assert net.XMLDesc().count("<host ") == 1


# --- the host's means ----------------------------------------------------------------------------------------


@pytest.fixture
def closed(foreign: Callable[[str, str], Any]) -> Iterator[Path]:
    """A directory that only root may enter, with a pool and a disk in it."""
    directory = IMAGES / "closed"
    (directory / "deep").mkdir(parents=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", directory / "deep/disk.qcow2", "1M"], check=True)
    directory.chmod(0o700)
    pool = foreign("pool", f"<pool type='dir'><name>closed</name><target><path>{directory}/deep</path></target></pool>")
    pool.create()
    yield directory
    shutil.rmtree(directory)


def test_directory_that_qemu_may_not_enter(attempt: Attempt, closed: Path, tiny: Path) -> None:
    disk = f"{closed}/deep/disk.qcow2"
    by_path = vm(disks=[{"file": disk, "type": "qcow2"}])
    said = attempt.refused(by_path, "configure")
    says(said, f"disk {disk}", "domain 'vm'", f"may not enter directory {closed}:"[:-1], "setfacl -m u:", "chmod o+x")
    said = attempt.refused(vm(image=str(tiny), pool="closed"), "configure")
    says(said, f"{closed}/deep/vm-root.qcow2", f"may not enter directory {closed}", "chmod o+x")
    assert names(closed / "deep") == ["disk.qcow2"]
    said = attempt.refused(vm(disks=[{"file": f"{closed}/gone.qcow2"}]), "configure")
    says(said, f"disk {closed}/gone.qcow2", "does not exist", "params.disks")
    # What the error advises works.
    advised = re.search(r"chmod o\+x '([^']+)'", attempt.failed(by_path, "configure")[0])
    assert advised is not None
    subprocess.run(["chmod", "o+x", advised[1]], check=True)
    assert attempt.install({"thing": by_path}).code == 0
    assert attempt.host.domain("vm").isActive()
    attempt.cfy.uninstall("bad")


def test_not_enough_memory(attempt: Attempt, shelf: Any, tiny: Path) -> None:
    said = attempt.refused(vm(memory="4 TiB", image=str(tiny), pool="shelf"), "configure")
    says(said, "domain 'vm'", "it needs 4 TiB, the host has", "Give it less memory, or stop other domains")
    assert shelf.listVolumes() == []


@pytest.fixture
def small(foreign: Callable[[str, str], Any]) -> Iterator[Path]:
    """A pool on a file system of 2 MiB."""
    directory = IMAGES / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "small", directory], check=True)
    pool = foreign("pool", f"<pool type='dir'><name>small</name><target><path>{directory}</path></target></pool>")
    pool.create()
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)
    directory.rmdir()


@pytest.mark.parametrize(("mode", "stale"), [("overlay", False), ("clone", True)])
def test_not_enough_disk_for_an_image(attempt: Attempt, small: Path, tiny: Path, mode: str, stale: bool) -> None:
    """With ``stale`` somebody else fills the disk, which libvirt has not noticed."""
    assert tiny.stat().st_size > 2 << 20
    if stale:
        subprocess.run(["mount", "-o", "remount,size=1g", small], check=True)
        attempt.host.connection.storagePoolLookupByName("small").refresh()
        subprocess.run(["mount", "-o", "remount,size=2m", small], check=True)
    image = {"source": str(tiny), "mode": mode}
    for bad, operation in ((vm(image=image, pool="small"), "configure"), (volume(pool="small", image=image), "create")):
        said = attempt.refused(bad, operation)
        says(said, "pool 'small'", "it needs", "has 2 MiB left", "Free some space")
        assert names(small) == []


def test_not_enough_disk_to_allocate(attempt: Attempt, small: Path) -> None:
    said = attempt.refused(volume(pool="small", capacity=64, allocation=64), "create")
    says(said, "volume 'volume' of pool 'small'", "it needs 64 MiB", "has 2 MiB left", "Free some space")
    assert names(small) == []


def test_disk_that_fills_up_meanwhile(attempt: Attempt, small: Path, tiny: Path) -> None:
    """The last byte is missing: the check passes, the writing does not."""
    room = tiny.stat().st_size + (64 << 10)
    subprocess.run(["mount", "-o", f"remount,size={room}", small], check=True)
    said = attempt.refused(vm(image=str(tiny), pool="small", cloud_init={"user_data": "x" * (1 << 20)}), "configure")
    says(said, "pool 'small'", "Is there room in the pool?")
    assert names(small) == []


def test_not_enough_disk_for_the_cache(attempt: Attempt, shelf: Any, small: Path, web: str) -> None:
    attempt.cfy.environment["CLOUDIFY_LIBVIRT_CACHE"] = str(small / "cache")
    (small / "cache").mkdir()
    before = attempt.host.everything()
    result = attempt.install({"thing": vm(image=f"{web}/tiny.qcow2", pool="shelf")})
    failures = result.lines("Task failed '")
    assert len(failures) == 1, result.output
    says(failures[0], f"{web}/tiny.qcow2", f"no space left in {small}/cache", "CLOUDIFY_LIBVIRT_CACHE")
    assert cached(small / "cache") == []
    assert attempt.host.everything()["domains"] == before["domains"]
    assert shelf.listVolumes() == []
    attempt.cfy.uninstall("bad")


# --- unusual, but right --------------------------------------------------------------------------------------


def test_names_and_texts_that_need_care(
    attempt: Attempt, clean_host: Host, tiny: Path, key: Path, tmp_path: Path
) -> None:
    text = "#cloud-config\n# Grüße an 世界 ☃ \U0001f40d\nwrite_files:\n" + (
        "  - path: /root/greeting\n    content: 'Grüße an 世界 ☃ \U0001f40d {{ name }} & <b>'\n"
    )
    name = 'a&b <c> "é"'
    # The engine takes texts beyond ASCII in inputs, not in blueprints.
    inputs = tmp_path / "inputs.yaml"
    values = {"text": text, "name": name, "title": "« <&> ü »"}
    inputs.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    nodes = {
        "thing": node("domain", params={
            "name": {"get_input": "name"}, "title": {"get_input": "title"},
            "description": "<&>", "memory": "128 MiB", "image": str(tiny),
            "pool": "p&q <r>", "networks": [{"network": "n&m <o>"}],
            "cloud_init": {"user_data": {"get_input": "text"}, "ssh_authorized_keys": [public_key(key)]}}),
        "network": node("network", params={"name": "n&m <o>", "cidr": "auto"}),
        "pool": node("pool", params={"name": "p&q <r>"}),
    }  # fmt: skip
    nodes["thing"]["relationships"] = [
        {"type": "cloudify.libvirt.relationships.connected_to", "target": "network"},
        {"type": "cloudify.relationships.depends_on", "target": "pool"},
    ]
    result = attempt.install(nodes, "-i", str(inputs))
    assert result.code == 0, result.output[-3000:]
    assert name in clean_host.domains()
    address = str(attempt.cfy.outputs("bad")["ip"])
    said = ssh(key, address, "cat /root/greeting; echo; mkdir -p /s; mount -o ro /dev/sr0 /s; cat /s/user-data")
    greeting, seed = said.split("\n", 1)
    assert greeting == f"Grüße an 世界 ☃ \U0001f40d {name} & <b>"
    assert yaml.safe_load(seed)["write_files"][0]["content"] == greeting
    attempt.cfy.uninstall("bad")
