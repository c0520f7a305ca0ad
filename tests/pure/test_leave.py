"""What an update may replace, and what of a node cannot change in place."""

from __future__ import annotations

from typing import Any

import pytest

from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.planning.replacing import as_made, made_otherwise, otherwise, replaced
from cloudify_libvirt.workflows.leave import Leave, asked, in_words

NODES = ("data", "logs", "vm")
CONTAINED = "cloudify.relationships.contained_in"


@pytest.mark.parametrize(
    ("value", "nodes"),
    [
        (None, ""), ("", ""), (False, ""), ("false", ""), ([], ""),
        (True, "data logs vm"), ("yes", "data logs vm"), (1, "data logs vm"),
        ("data", "data"), ("data, vm", "data vm"), ('["logs"]', "logs"), (["vm", "logs"], "logs vm"),
    ],
)  # fmt: skip
def test_leave_is_of_all_or_of_some(value: object, nodes: str) -> None:
    leave = Leave.of({"allow_replace": value}, NODES)
    assert [node for node in NODES if leave.replaces(node)] == nodes.split()
    for node in NODES:
        assert leave.inputs(node) == {"allow_restart": False, "allow_replace": node in nodes.split()}


@pytest.mark.parametrize("value", ["dat", ["data", "x"]])
def test_a_node_that_is_not_there_is_said(value: object) -> None:
    with pytest.raises(InvalidSpec, match=r"no node (dat|x)\. Give names of nodes.*data, logs, vm"):
        Leave.of({"allow_replace": value}, NODES)
    with pytest.raises(InvalidSpec, match="allow_restart"):
        Leave.of({"allow_restart": "vm"}, NODES)


def test_what_is_asked_for_names_the_nodes() -> None:
    assert asked({"vm", "data"}) == "-p allow_replace=data,vm"
    assert in_words("lost; allow_replace: true does that", "data") == "lost; -p allow_replace=data does that"


@pytest.mark.parametrize(
    ("old", "new", "another"),
    [
        ("a.img", "b.img", True), ("a.img", {"source": "b.img"}, True), (None, "a.img", True),
        ("a.img", {"source": "a.img", "mode": "clone"}, True), ({"source": "a", "pool": "p"}, "a", True),
        ({"source": "a", "size": "9 GiB"}, {"source": "a", "size": "8 GiB"}, True),
        ("a.img", {"source": "a.img", "mode": "overlay", "checksum": "sha256:0"}, False),
        ({"source": "a", "size": "8 GiB"}, {"source": "a", "size": "9 GiB"}, False),
    ],
)  # fmt: skip
def test_which_images_are_another(old: Any, new: Any, another: bool) -> None:
    before, after = {"image": old}, {"image": new}
    assert bool(made_otherwise("domain", "params.image", before, after)) is another
    assert not made_otherwise("volume", "params.image", before, after), "the host says it"


@pytest.mark.parametrize(
    ("old", "new", "made", "another"),
    [
        ("x86_64", "i686", "x86_64", True), (None, "i686", "x86_64", True), (None, "x86_64", "x86_64", False),
        # Of an earlier release, or the host's once more: that is seen there.
        (None, "i686", None, False), ("i686", None, "i686", False), ("x86_64", "i686", None, True),
    ],
)  # fmt: skip
def test_which_architectures_are_another(old: str | None, new: str | None, made: str | None, another: bool) -> None:
    before, after = as_made({"arch": old}, {"arch": made}), {"arch": new}
    assert bool(made_otherwise("domain", "params.arch", before, after)) is another
    plans = [plan(params={"arch": one} if one else {}) for one in (old, new)]
    stands = {"node_id": "vm", "runtime_properties": {"resource_id": "vm", "arch": made}}
    assert list(otherwise(*plans, [stands])) == ["vm"] * another


def plan(**properties: Any) -> dict[str, Any]:
    operations = {"start": {"operation": "cloudify_libvirt.domain_tasks.start"}}
    host = {"target_id": "vm", "type_hierarchy": [CONTAINED]}
    return {"nodes": [
        {"id": "vm", "type": "t", "properties": properties, "operations": operations, "relationships": []},
        {"id": "app", "type": "t", "properties": {}, "operations": {}, "relationships": [host]},
    ]}  # fmt: skip


def test_another_host_or_image_takes_the_machine_with_what_is_in_it() -> None:
    old = plan(libvirt_auth="qemu:///system", params={"pool": "p", "memory": "1 GiB"})
    stands = {"node_id": "vm", "runtime_properties": {"resource_id": "vm"}}
    used = {"node_id": "vm", "runtime_properties": {"resource_id": "vm", "use_external_resource": True}}
    moved = plan(libvirt_auth="qemu+ssh://other/system", params={"pool": "p", "memory": "2 GiB"})
    refilled = plan(libvirt_auth="qemu:///system", params={"pool": "q", "memory": "2 GiB"})
    for new, word in ((moved, "libvirt_auth was qemu:///system and is now"), (refilled, "pool was p and is now q")):
        found = otherwise(old, new, [stands])
        assert list(found) == ["vm"] and found["vm"].startswith(word) and "memory" not in found["vm"]
        assert replaced(old, new, found) == {**found, "app": "it is in vm"}
        assert otherwise(old, new, []) == {}, "nothing stands"
    assert list(otherwise(old, moved, [used])) == ["vm"]
    assert otherwise(old, refilled, [used]) == {}, "nothing of it is made"
