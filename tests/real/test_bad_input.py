"""Bad input on a real host: one clear error, retried or not as it should be, and nothing left behind."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.real.attempts import ONE_RETRY, Attempt, Node, cached, node, says, vm, volume
from tests.real.conftest import ROOT, Host, Result, public_key, ssh, virsh

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
    says(attempt.refused(bad, "validate"), "connect to hypervisor", uri, "libvirt_auth", *words)


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
    said, attempts = attempt.failed(bad, "validate", *ONE_RETRY)
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
    assert any(re.search(r"Task succeeded .*\[retry [1-5]/5\]", line) for line in lines)
    attempt.cfy.uninstall("bad")


def test_no_permission_on_the_socket(attempt: Attempt, clean_host: Host, tmp_path: Path) -> None:
    """As a user who may read everything (the checkout may be closed to others) but write to no socket of root."""
    assert stat.S_IMODE(Path("/run/libvirt/libvirt-sock").stat().st_mode) & 0o007 == 0
    before = clean_host.everything()
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
        env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    result = Result(done.returncode, done.stdout + done.stderr, 0)
    failures = result.lines("Task failed '")
    assert len(failures) == 1, result.output
    says(failures[0], "thing_", "cannot connect to hypervisor qemu:///system", "Permission denied", "group 'libvirt'")
    assert clean_host.everything() == before


# --- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (node("domain", params={"memry": "64 MiB"}), ["params.memry", "Did you mean 'params.memory'?"]),
        (node("domain", libvirt_auht="qemu:///system"), ["libvirt_auht", "Did you mean 'libvirt_auth'?"]),
        (node("network", params={"cider": "auto"}), ["params.cider", "Did you mean 'params.cidr'?"]),
    ],
)
def test_unknown_property(attempt: Attempt, clean_host: Host, bad: Node, words: list[str]) -> None:
    """The engine's parser refuses it, before anything runs."""
    before = clean_host.everything()
    result = attempt.install({"thing": bad})
    assert result.code != 0
    says(result.output, "thing", *words, "not part of")
    assert not result.lines("Task started") and "Traceback" not in result.output
    assert clean_host.everything() == before


@pytest.mark.parametrize(
    ("bad", "operation", "words"),
    [
        (vm({"params": {"memmory": "64 MiB"}}), "configure", ["params.memmory of node thing", "Did you mean 'memory'"]),
        (vm(networks=[{"netwrk": "x"}]), "validate", ["params.networks[0].netwrk", "Did you mean 'network'"]),
        (vm(image={"source": "/x", "cheksum": "y"}), "validate", ["params.image.cheksum", "'checksum'"]),
        (vm(cloud_init={"user-data": "x"}), "validate", ["params.cloud_init.user-data", "'user_data'"]),
        (node("network", params={"ips": [{"adress": "10.9.9.1"}]}), "validate", ["params.ips[0].adress", "'address'"]),
        (volume({"params": {"sise": "1 MiB"}}), "create", ["params.sise of node thing", "Did you mean 'size'"]),
        (node("pool", {"params": {"paht": "/x"}}, "create"), "create", ["params.paht", "'path'"]),
    ],
)
def test_unknown_parameter(attempt: Attempt, shelf: Any, bad: Node, operation: str, words: list[str]) -> None:
    says(attempt.refused(bad, operation), *words)


@pytest.mark.parametrize(
    ("bad", "operation", "words"),
    [
        (vm(memory="512 Mo"), "validate", ["params.memory of node thing", "'512 Mo'", "GiB"]),
        (vm(memory="512"), "validate", ["params.memory of node thing", "say the unit", "'512 MiB'"]),
        (vm(image={"source": "/x", "size": "20 gigs"}), "validate", ["params.image.size", "'20 gigs'", "GiB"]),
        (volume(size="1 Mio"), "validate", ["params.size of node thing", "'1 Mio'", "MiB"]),
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
    says(attempt.refused(bad, "configure"), "resource of node thing", "leaves the blueprint's directory")


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
