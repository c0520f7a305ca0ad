"""What ``cfy-libvirt plan`` says, beside what an install and an update then do; and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest
import yaml
from lxml import etree

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.update.table import how
from tests.real.conftest import BLUEPRINTS, IMAGES, ROOT, Cfy, Host, virsh
from tests.real.nodes import blueprint, empty_domain, node

NOTHING, FAILED, CHANGES = 0, 1, 2
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEb2xGFVlYXm0uCMGH0PLxd0ZsXfsWbsXtPwYAnmU0Lm me"
Entry = dict[str, Any]


class Planner:
    """``cfy-libvirt plan`` in the home of a cfy."""

    def __init__(self, cfy: Cfy) -> None:
        self.cfy = cfy

    def __call__(
        self, path: Path, deployment: str, *options: str, code: int | None = None, **inputs: object
    ) -> dict[str, Any]:
        done = self.run(path, deployment, "--json", *options, **inputs)
        assert done.stdout.startswith("{"), done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == found["code"], done.stderr
        if code is not None:
            assert found["code"] == code, json.dumps(found, indent=1)
        return found

    def run(self, path: Path, deployment: str, *options: str, **inputs: object) -> subprocess.CompletedProcess[str]:
        file = self.cfy.directory / "planned-inputs.yaml"
        file.write_text(yaml.safe_dump(inputs))
        call = [ROOT / ".venv/bin/cfy-libvirt", "plan", path, "-b", deployment, "-i", file, *options]
        return subprocess.run(call, env=self.cfy.environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def plan(cfy: Cfy) -> Planner:
    return Planner(cfy)


def entries(found: dict[str, Any], kind: str) -> dict[str, Entry]:
    return {str(one["name"]): one for one in found["instances"] if one["kind"] == kind}


def only(found: dict[str, Any], node_id: str) -> Entry:
    (one,) = (one for one in found["instances"] if one["node"] == node_id)
    return one


def fields(entry: Entry) -> dict[str, tuple[Any, Any, str]]:
    return {one["field"]: (one["old"], one["new"], one["how"]) for one in entry["changes"]}


def traces(home: Path) -> dict[str, int]:
    """Every file that a command of ours or of the engine's might write, with the time of its last change."""
    places = [home, Path("/run/lock"), Path("/run/cloudify-libvirt"),
              Path(os.environ.get("CLOUDIFY_LIBVIRT_CACHE") or home)]  # fmt: skip
    files = {path for place in places if place.exists() for path in place.rglob("*")}
    found = {str(path): path.lstat().st_mtime_ns for path in files if path.name != "planned-inputs.yaml"}
    # Guests write to their disks.
    return {**found, **{str(path): 0 for path in IMAGES.rglob("*")}}


def documents() -> dict[str, str]:
    """All definitions of the host, and what runs."""
    found = {"running": virsh("list", "--all"), "networks": virsh("net-list", "--all"),
             "pools": virsh("pool-list", "--all")}  # fmt: skip
    for command, listed in (("dumpxml", "list"), ("net-dumpxml", "net-list"), ("pool-dumpxml", "pool-list")):
        for name in virsh(listed, "--all", "--name").split():
            # Of a running guest the channels say whether it listens.
            found[f"{command} {name}"] = virsh(command, name, "--inactive")
    return found


def common(image: Path, **more: object) -> dict[str, object]:
    return {"image": str(image), "ssh_public_key": KEY, "ssh_user": "root", "memory": "128 MiB", **more}


def identity(host: Host, name: str) -> dict[str, Any]:
    """UUID and MACs that a domain has."""
    xml = virsh("dumpxml", name)
    macs = [line.split("'")[1] for line in xml.splitlines() if "<mac address" in line]
    return {"uuid": host.domain(name).UUIDString(), "macs": macs}


# What the host makes up: nobody plans it.
MADE_UP = {
    "domain": (),
    "network": ("mac",),
    "pool": ("capacity", "allocation", "available", "target/permissions/owner", "target/permissions/group"),
}


def meaning(kind: str, xml: str) -> str:
    """A definition without what only the install knows, and with its devices in one order."""
    root = parse.document(xml)
    for made_up in [one for path in MADE_UP[kind] for one in root.iterfind(path)]:
        made_up.getparent().remove(made_up)
    for known_later in ("instance", "number", "orchestrator"):
        for mark in root.iterfind("metadata/*"):
            mark.attrib.pop(known_later, None)
    for devices in root.iterfind("devices"):
        devices[:] = sorted(devices, key=etree.tostring)
    etree.indent(root)
    return etree.tostring(root, encoding="unicode")


def differences(found: dict[str, Any]) -> list[str]:
    """What becomes another in what is stored when libvirt is given the planned documents."""
    lines: list[str] = []
    for prefix, kind in (("", "domain"), ("net-", "network"), ("pool-", "pool")):
        for name, entry in entries(found, kind).items():
            dump = (f"{prefix}dumpxml", name, "--inactive")
            stored = virsh(*dump)
            define(prefix, entry["xml"])
            as_planned = virsh(*dump)
            define(prefix, stored)
            texts = [meaning(kind, xml).splitlines() for xml in (stored, as_planned)]
            lines += unified_diff(*texts, f"{kind} {name}", "planned", lineterm="")
    return lines


def define(prefix: str, xml: str) -> None:
    subprocess.run(["virsh", "-q", f"{prefix}define", "/dev/stdin"], input=xml, text=True, check=True)


def test_what_is_printed_before_is_what_is_made(
    cfy: Cfy, plan: Planner, clean_host: Host, tiny: Path, tmp_path: Path
) -> None:
    """Names, UUIDs, MACs, the automatic subnet and bridge; then nothing to do; then only what was changed."""
    path, inputs = BLUEPRINTS / "cluster.yaml", common(tiny, machines=2, disk="256 MiB")
    before, files = documents(), traces(cfy.directory)
    first = plan(path, "cluster", "--xml", code=CHANGES, **inputs)
    assert (documents(), traces(cfy.directory)) == (before, files)
    assert not (cfy.directory / "state").exists(), "an id of the orchestrator was made"
    assert first["installed"] is False and first["summary"]["create"] == 4
    again = plan(path, "cluster", "--xml", **inputs)
    for one, other in zip(first["instances"], again["instances"], strict=True):
        assert one == other, "it is the same each time"

    cfy.install(path, "cluster", **inputs)
    assert differences(first) == [], "each document is what libvirt has stored, after all that it filled in"
    for name, entry in entries(first, "domain").items():
        assert identity(clean_host, name) == {"uuid": entry["uuid"], "macs": [entry["facts"]["networks"][0]["mac"]]}
        assert entry["facts"]["volumes"][0]["size"] == 256 << 20
        for volume in entry["facts"]["volumes"]:
            virsh("vol-info", volume["name"], "--pool", volume["pool"])
    network = entries(first, "network")["cluster"]
    found = clean_host.connection.networkLookupByName("cluster")
    assert (found.UUIDString(), found.bridgeName()) == (network["uuid"], network["facts"]["bridge"])
    assert network["facts"]["cidr"].removesuffix("0/24") in found.XMLDesc()
    pool = entries(first, "pool")["cluster"]
    assert clean_host.connection.storagePoolLookupByName("cluster").UUIDString() == pool["uuid"]

    before, files = documents(), traces(cfy.directory)
    again = plan(path, "cluster", code=NOTHING, **inputs)
    assert again["installed"] and {one["action"] for one in again["instances"]} == {"keep"}
    assert plan(path, "cluster", code=NOTHING)["summary"]["keep"] == 4, "what was given at the install still counts"

    changed = plan(path, "cluster", code=CHANGES, memory="96 MiB", machines=3)
    assert [one["number"] for one in changed["instances"] if one["action"] == "create"] == [3]
    for name in ("node-1", "node-2"):
        entry = entries(changed, "domain")[name]
        assert entry["action"] == "change" and fields(entry)["memory"][2] == "live", entry
    fewer = plan(path, "cluster", code=CHANGES, machines=1)
    assert (fewer["summary"]["delete"], fewer["summary"]["keep"]) == (1, 3)
    (gone,) = (one for one in fewer["instances"] if one["action"] == "delete")
    assert (gone["name"], gone["number"]) == ("node-2", 2), "the newest goes"
    assert (documents(), traces(cfy.directory)) == (before, files)

    virsh("destroy", "node-1")
    lost = plan(path, "cluster", code=CHANGES)
    assert fields(entries(lost, "domain")["node-1"])["state"][:2] == ("shutoff", "running")
    cfy.uninstall("cluster")


@pytest.mark.parametrize("name", ["hello", "template-override"])
def test_a_fresh_install_leaves_nothing_to_do(name: str, cfy: Cfy, plan: Planner, clean_host: Host, tiny: Path) -> None:
    inputs = common(tiny)
    path = BLUEPRINTS / f"{name}.yaml"
    before = plan(path, name, code=CHANGES, **inputs)
    cfy.install(path, name, **inputs)
    after = plan(path, name, code=NOTHING, **inputs)
    for kind in ("domain", "network", "pool"):
        made = {one["uuid"] for one in entries(after, kind).values()}
        assert made == {one["uuid"] for one in entries(before, kind).values()}
    cfy.uninstall(name)


def test_a_container(cfy: Cfy, plan: Planner, clean_host: Host, container_root: Path) -> None:
    inputs = common(container_root)
    before = plan(BLUEPRINTS / "container.yaml", "container", code=CHANGES, **inputs)
    assert only(before, "container")["host"] == "lxc:///system"
    cfy.install(BLUEPRINTS / "container.yaml", "container", **inputs)
    after = plan(BLUEPRINTS / "container.yaml", "container", code=NOTHING, **inputs)
    assert only(after, "container")["uuid"] == only(before, "container")["uuid"]
    cfy.uninstall("container")


def test_what_others_made_is_used_and_untouched(
    cfy: Cfy, plan: Planner, host: Host, foreign: Callable[[str, str], Any], shelf: Any, tiny: Path
) -> None:
    """The name of the machine is the instance's id, which the engine gives at the install."""
    foreign("network", "<network><name>old-net</name><bridge name='oldbr'/><ip address='10.99.7.1' prefix='24'><dhcp>"
            "<range start='10.99.7.10' end='10.99.7.90'/></dhcp></ip></network>").create()  # fmt: skip
    inputs = common(tiny, network="old-net", pool="shelf")
    path = BLUEPRINTS / "external.yaml"
    before = plan(path, "external", "--xml", code=CHANGES, **inputs)
    assert [only(before, name)["action"] for name in ("network", "pool", "vm")] == ["use", "use", "create"]
    assert (only(before, "pool")["uuid"], only(before, "vm")["name"]) == (shelf.UUIDString(), None)
    assert "<name>(instance id)</name>" in only(before, "vm")["xml"]
    cfy.install(path, "external", **inputs)
    after = plan(path, "external", code=NOTHING, **inputs)
    assert [only(after, name)["action"] for name in ("network", "pool", "vm")] == ["use", "use", "keep"]
    assert only(after, "vm")["uuid"] == only(before, "vm")["uuid"]
    shelf.destroy()
    missing = plan(path, "second", code=FAILED, **{**inputs, "network": "nowhere"})
    assert "does not exist" in only(missing, "network")["problems"][0]
    assert missing["summary"]["problems"] == 1, "said once, of the node that uses it"
    assert not shelf.isActive(), "a plan starts nothing"
    shelf.create()
    cfy.uninstall("external")


def declared(**changed: dict[str, Any]) -> dict[str, Any]:
    """A network, a pool with a volume and a domain without an operating system; nodes' params may be others."""
    params: dict[str, dict[str, Any]] = {
        "lan": {"name": "lan", "cidr": "10.98.6.0/24"},
        "store": {"name": "store"},
        "data": {"name": "data.qcow2", "pool": "store", "size": "4 MiB", "format": "qcow2"},
        "vm": {"name": "vm", "description": "first", "networks": [{"network": "lan"}],
               "disks": [{"pool": "store", "volume": "data.qcow2"}],
               "graphics": [{"type": "vnc", "password": "Canary-1"}]},
    }  # fmt: skip
    given = {name: {**values, **changed.get(name, {})} for name, values in params.items()}
    return {
        "lan": node("network", **given["lan"]),
        "store": node("pool", **given["store"]),
        "data": node("volume", "store", **given["data"]),
        "vm": empty_domain("lan", "data", **given["vm"]),
    }


# Node, its params, and what is said: field, old, new, how. Where "" is how, the table of updates says it.
CHANGED: dict[str, tuple[str, dict[str, Any], tuple[Any, ...]]] = {
    "description": ("vm", {"description": "second"}, ("description", "first", "second", "live")),
    "address": ("vm", {"networks": [{"network": "lan", "ip": "10.98.6.9"}]}, ("networks[0].ip", None, "10.98.6.9", "")),
    "password": ("vm", {"graphics": [{"type": "vnc", "password": "Canary-2"}]},
                 ("graphics[0].password", "(not shown)", "(not shown)", "")),
    "pool": ("vm", {"pool": "store"}, ("pool", "default", "store", "replace")),
    "architecture": ("vm", {"arch": "i686"}, ("arch", None, "i686", "replace")),
    "boot menu": ("vm", {"boot": {"menu": True}}, ("boot.menu", None, "bootmenu enable=yes", "next boot")),
    "waiting": ("vm", {"shutdown_timeout_s": 9}, ("shutdown_timeout_s", 1, 9, "live")),
    "name": ("vm", {"name": "other"}, ("name", "vm", "other", "")),
    "subnet": ("lan", {"cidr": "10.98.7.0/24"}, ("ips[10.98.7.1]", None, "ip address=10.98.7.1", "")),
    "growth": ("data", {"size": "8 MiB"}, ("size", str(4 << 20), str(8 << 20), "live")),
    "format": ("data", {"format": "raw"}, ("format", "qcow2", "raw", "refused")),
    "shrink": ("data", {"size": "2 MiB"}, ("size", str(4 << 20), str(2 << 20), "refused")),
    "directory": ("store", {"path": "/var/lib/libvirt/images/elsewhere"},
                  ("path", "/var/lib/libvirt/images/store", "/var/lib/libvirt/images/elsewhere", "refused")),
}  # fmt: skip


def test_each_change_is_said_with_its_way(cfy: Cfy, plan: Planner, clean_host: Host, tmp_path: Path) -> None:
    """Changed in the blueprint, one thing after the other, beside one installation."""
    cfy.install(blueprint(tmp_path, "first", **declared()), "changes")
    assert plan(blueprint(tmp_path, "first", **declared()), "changes", code=NOTHING)["summary"]["keep"] == 4
    before = documents()
    for what, (name, params, wanted_line) in CHANGED.items():
        code = FAILED if wanted_line[-1] == "refused" else CHANGES
        found = plan(blueprint(tmp_path, "next", **declared(**{name: params})), "changes", "--xml", code=code)
        print(what, json.dumps(only(found, name)["changes"]))
        assert "Canary" not in json.dumps(found)
        assert {one["node"] for one in found["instances"] if one["action"] != "keep"} == {name}, what
        field, old, new, wanted = wanted_line
        said, entry = fields(only(found, name)), only(found, name)
        expected = wanted or str(how(entry["kind"], field, active=True).how)
        was, now, way = said[field]
        assert (was, way) == (old, expected) and (now == new or str(now).startswith(f"{new} ")), (what, said)
        assert "cidr" not in said, "a change is said once"
        replaces = any(one == "replace" for _old, _new, one in said.values())
        assert only(found, name)["action"] == ("replace" if replaces else "change"), what
    path = blueprint(tmp_path, "next", **declared(**dict([CHANGED["boot menu"][:2]])))
    shown = plan.run(path, "changes")
    assert shown.returncode == CHANGES and "1 to change" in shown.stdout, shown.stdout + shown.stderr
    assert [line.strip() for line in shown.stdout.splitlines() if "boot" in line] == [
        "boot.menu: nothing -> bootmenu enable=yes  [next boot]"
    ]
    more = {**declared(vm={"disks": [{"pool": "store", "volume": "data.qcow2"}, {"pool": "store", "volume": "new"}]}),
            "new": node("volume", "store", name="new", pool="store", size="1 MiB")}  # fmt: skip
    found = plan(blueprint(tmp_path, "next", **more), "changes", code=CHANGES)
    assert only(found, "new")["action"] == "create" and fields(only(found, "vm"))["disks[1]"][2] == "live"
    far = declared()
    far["lan"]["properties"]["libvirt_auth"] = "lxc:///system"
    found = plan(blueprint(tmp_path, "next", **far), "changes", code=CHANGES)
    assert fields(only(found, "lan"))["libvirt_auth"] == ("qemu:///system", "lxc:///system", "replace")
    assert documents() == before
    cfy.uninstall("changes")
