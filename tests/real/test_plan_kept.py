"""What ``cfy-libvirt plan`` says of an installation, and what an update with the same blueprint then does."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import IMAGES, Cfy, Host, Result, virsh
from tests.real.nodes import blueprint, empty_domain, node
from tests.real.test_plan import CHANGES, FAILED, NOTHING, Planner, fields, only, plan  # noqa: F401 - a fixture
from tests.real.test_update_local import start as started

DEPLOYMENT = "cluster"
STORE = IMAGES / "kept"
MIB = 1 << 20
Said = dict[tuple[str, str], str]


class Kept:
    """One installation, what is planned for it, and what its updates do."""

    def __init__(self, cfy: Cfy, planner: Planner, host: Host, directory: Path) -> None:
        self.cfy, self.planner, self.host, self.directory = cfy, planner, host, directory

    def planned(self, nodes: dict[str, Any], code: int) -> dict[str, Any]:
        return self.planner(blueprint(self.directory, "next", **nodes), DEPLOYMENT, code=code)

    def update(self, nodes: dict[str, Any], **leave: Any) -> Result:
        path = blueprint(self.directory, "next", **nodes)
        result: Result = started(self.cfy, "update", check=False, blueprint=str(path), **leave)
        return result

    def processes(self) -> dict[str, str]:
        """The process of each guest."""
        names = (domain.name() for domain in self.host.connection.listAllDomains())
        return {name: Path(f"/run/libvirt/qemu/{name}.pid").read_text() for name in names}

    def comes_true(self, nodes: dict[str, Any], code: int) -> Result:
        """Update without leave, and compare each planned line with what became of it."""
        said = words(self.planned(nodes, code))
        before = self.processes()
        result = self.update(nodes)
        assert (result.code == 1) is (code == FAILED or "replace" in said.values()), result.output[-4000:]
        assert self.processes() == before, "without leave nobody is restarted"
        left = words(self.planner(blueprint(self.directory, "next", **nodes), DEPLOYMENT))
        assert left == {line: word for line, word in said.items() if word not in ("live", "next boot")}, said
        for (_node, field), word in said.items():
            if word == "restart":
                assert result.lines("not in force yet", field), result.output[-3000:]
            if word == "stays":
                assert result.lines("left as somebody made it", field), result.output[-3000:]
        return result


def words(found: dict[str, Any]) -> Said:
    """By node and field, the word of each line."""
    lines = {(one["node"], line["field"]): line["how"] for one in found["instances"] for line in one["changes"]}
    assert found["summary"]["problems"] == len([word for word in lines.values() if word == "refused"]), found
    return lines


def note(found: dict[str, Any], node_id: str, field: str) -> str:
    (line,) = (one for one in only(found, node_id)["changes"] if one["field"] == field)
    return str(line["note"])


def declared(image: Path, **changed: dict[str, Any]) -> dict[str, Any]:
    """A network, a pool with two volumes, a machine of its own image, and one with a volume."""
    params: dict[str, dict[str, Any]] = {
        "data": {"name": "data.qcow2", "pool": "kept", "size": "4 MiB", "format": "qcow2"},
        "spare": {"name": "spare.qcow2", "pool": "kept", "size": "4 MiB", "format": "qcow2"},
        "vm": {"name": "vm", "description": "first", "disks": [{"pool": "kept", "volume": "data.qcow2"}]},
        "machine": {"name": "machine", "pool": "kept", "image": {"source": str(image), "size": "4 MiB"}},
    }
    given = {name: {**values, **changed.get(name, {})} for name, values in params.items()}
    return {
        "store": node("pool", name="kept", path=str(STORE)),
        "data": node("volume", "store", **given["data"]),
        "spare": node("volume", "store", **given["spare"]),
        "vm": empty_domain("data", **given["vm"]),
        "machine": empty_domain("store", **given["machine"]),
    }


@pytest.fixture
def kept(cfy: Cfy, plan: Planner, clean_host: Host, tmp_path: Path) -> Kept:  # noqa: F811
    return Kept(cfy, plan, clean_host, tmp_path)


def test_an_update_does_what_the_plan_says(kept: Kept, tmp_path: Path) -> None:
    image = tmp_path / "image.raw"
    image.write_bytes(bytes(MIB) + b"content".ljust(MIB, b"\0"))
    kept.cfy.install(blueprint(tmp_path, "first", **declared(image)), DEPLOYMENT)
    kept.planned(declared(image), NOTHING)

    beyond_what_runs(kept, image)
    what_is_refused_and_what_stays(kept, image)
    smaller_image(kept, image)
    lost_disk(kept, image)
    another_name_of_the_node(kept, image)
    kept.cfy.uninstall(DEPLOYMENT)


def beyond_what_runs(kept: Kept, image: Path) -> None:
    """More memory and vCPUs than the running guest can have wait for a start, and then come."""
    nodes = declared(image, vm={"memory": "64 MiB", "vcpu": 2, "description": "second"})
    found = kept.planned(nodes, CHANGES)
    assert fields(only(found, "vm")) == {
        "description": ("first", "second", "live"), "memory": (str(32 * MIB), str(64 * MIB), "restart"),
        "max_memory": (str(32 * MIB), str(64 * MIB), "restart"), "vcpu": ("1", "2", "restart"),
        "max_vcpu": ("1", "2", "restart"),
    }  # fmt: skip
    result = kept.comes_true(nodes, CHANGES)
    assert result.lines("wanted: domain 'vm': memory 32 MiB -> 64 MiB (restart)")
    assert not result.lines("WARNING", "drift"), "one's own wish is no drift"
    before = kept.processes()
    restarted = kept.update(nodes, allow_restart=True)
    assert restarted.lines("restarting vm for", "memory", "vcpu") and not restarted.lines("memory_kib")
    after = kept.processes()
    assert before["vm"] != after["vm"] and before["machine"] == after["machine"]
    kept.planned(nodes, NOTHING)


def what_is_refused_and_what_stays(kept: Kept, image: Path) -> None:
    """A smaller volume, one that somebody made anew in another format, and a disk that somebody attached."""
    mine = {"memory": "64 MiB", "vcpu": 2, "description": "second"}
    other = STORE.parent / "other.raw"
    other.write_bytes(bytes(MIB))
    virsh("attach-disk", "vm", str(other), "vdx", "--persistent")
    stays = kept.planned(declared(image, vm=mine), NOTHING)
    assert words(stays) == {("vm", "disks[vdx]"): "stays"} and only(stays, "vm")["action"] == "keep"
    spare = STORE / "spare.qcow2"
    spare.write_bytes(bytes(4 * MIB))
    virsh("pool-refresh", "kept")
    nodes = declared(image, vm={**mine, "title": "third"}, data={"size": "2 MiB"})
    found = kept.planned(nodes, FAILED)
    assert words(found) == {("vm", "disks[vdx]"): "stays", ("vm", "title"): "live", ("data", "size"): "refused",
                            ("spare", "format"): "refused", ("spare", "target.compat"): "refused"}  # fmt: skip
    assert "shrinking would lose data" in note(found, "data", "size")
    result = kept.comes_true(nodes, FAILED)
    assert result.lines("shrinking would lose data") and result.lines("it became so on the host")
    assert result.lines("WARNING", "drift", "volume 'spare.qcow2'"), "what somebody else changed"
    assert result.lines("wanted: domain 'vm': title nothing ->", "third (live)")
    assert "vdx" in virsh("domblklist", "vm") and "4.00 MiB" in virsh("vol-info", "data.qcow2", "--pool", "kept")
    virsh("detach-disk", "vm", "vdx", "--config")
    other.unlink()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", spare, "4M"], check=True)
    virsh("pool-refresh", "kept")


def smaller_image(kept: Kept, image: Path) -> None:
    """What takes another machine stops the whole update, unless its node is named."""
    nodes = declared(image, machine={"image": {"source": str(image), "size": "2 MiB"}}, vm={"description": "never"})
    found = kept.planned(nodes, CHANGES)
    machine = only(found, "machine")
    assert machine["action"] == "replace" and fields(machine)["image.size"] == ("4 MiB", "2 MiB", "replace")
    assert "-p allow_replace=machine" in machine["notes"][0] and "nothing at all is updated" in machine["notes"][0]
    before = kept.processes()
    result = kept.update(nodes)
    assert result.code == 1 and result.lines("-p allow_replace=machine")
    assert kept.processes() == before and "second" in virsh("desc", "vm")


def lost_disk(kept: Kept, image: Path) -> None:
    """A guest that runs has the last of its disk: it is not restarted, whatever is allowed."""
    (root,) = STORE.glob("machine*root*")
    root.rename(STORE.parent / "kept-root")
    nodes = declared(image, machine={"memory": "64 MiB"})
    found = kept.planned(nodes, FAILED)
    said = {field: word for (name, field), word in words(found).items() if name == "machine"}
    assert said == {"image": "refused", "memory": "refused", "max_memory": "refused"}
    assert "is gone" in note(found, "machine", "image")
    before = kept.processes()["machine"]
    result = kept.update(nodes, allow_restart=True)
    assert result.code == 1 and result.lines("not updated", "is gone")
    assert kept.processes()["machine"] == before
    (STORE.parent / "kept-root").rename(root)


def another_name_of_the_node(kept: Kept, image: Path) -> None:
    """It is another node: what the old one made goes first, and its name is free then."""
    nodes = declared(image)
    vm = nodes.pop("vm")
    nodes["server"] = vm
    found = kept.planned(nodes, CHANGES)
    made, gone = only(found, "server"), only(found, "vm")
    assert (made["action"], made["name"], gone["action"], gone["name"]) == ("create", "vm", "delete", "vm")
    assert "that is no renaming" in " ".join(made["notes"])
    before = kept.host.domain("vm").UUIDString()
    assert kept.update(nodes).code == 0
    assert kept.host.domain("vm").UUIDString() == made["uuid"] != before == gone["uuid"]
    assert kept.planned(nodes, NOTHING)["summary"]["keep"] == 5
