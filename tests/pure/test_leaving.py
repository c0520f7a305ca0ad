"""Which instances go, and which nodes have to be made anew: over plain data."""

from __future__ import annotations

from typing import Any

from cloudify_libvirt.planning.leaving import leaving
from cloudify_libvirt.planning.replacing import replaced

CONTAINED = "cloudify.relationships.contained_in"


def node(name: str, kind: str = "thing", host: str = "") -> dict[str, Any]:
    links = [{"target_id": host, "type": "mine", "type_hierarchy": ["cloudify.relationships.depends_on", CONTAINED]}]
    return {"id": name, "type": kind, "relationships": links if host else []}


def instance(id_: str, index: int | None = None, host: str = "", groups: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "id": id_,
        "node_id": id_.partition("_")[0],
        "runtime_properties": {} if index is None else {"index": index},
        "relationships": [{"target_id": host, "target_name": host.partition("_")[0]}] if host else [],
        "scaling_groups": [{"id": group, "name": group.partition("_")[0]} for group in groups],
    }


def plan(*nodes: dict[str, Any], **groups: list[str]) -> dict[str, Any]:
    return {"nodes": list(nodes), "scaling_groups": {name: {"members": found} for name, found in groups.items()}}


def test_the_newest_go() -> None:
    stored = [instance("vm_a", 2), instance("vm_b", 0), instance("vm_c", 10), instance("vm_d")]
    one = plan(node("vm"))
    assert leaving(one, stored, "vm", 4) == []
    assert leaving(one, stored, "vm", 1) == ["vm_d", "vm_c", "vm_a"], "what was never made first"
    assert leaving(one, stored, "vm", 2, include=["vm_b"]) == ["vm_b", "vm_d"]
    assert leaving(one, stored, "vm", 2, exclude=["vm_d", "vm_c"]) == ["vm_a", "vm_b"]
    assert leaving(one, stored, "vm", 0, exclude=["vm_b"]) == ["vm_d", "vm_c", "vm_a"]
    assert leaving(one, stored, "nobody", 0) == []


def test_of_each_container() -> None:
    stored = [
        instance("vm_a", 0), instance("vm_b", 1),
        *(instance(f"disk_{host}{number}", number, f"vm_{host}") for host in "ab" for number in range(2)),
    ]  # fmt: skip
    both = plan(node("vm"), node("disk", host="vm"))
    assert leaving(both, stored, "disk", 1) == ["disk_a1", "disk_b1"]
    assert leaving(both, stored, "disk", 1, include=["disk_b0"]) == ["disk_a1", "disk_b0"]
    assert leaving(both, stored, "vm", 1, include=["disk_a1"]) == ["vm_a"], "what is in it stands for it"


def test_the_number_of_what_is_in_it_says_nothing_of_the_host() -> None:
    stored = [
        instance("vm_a", 0), instance("vm_b", 1), instance("disk_a0", 3, "vm_a"), instance("disk_b0", 0, "vm_b"),
    ]  # fmt: skip
    assert leaving(plan(node("vm"), node("disk", host="vm")), stored, "vm", 1) == ["vm_b"]


def test_of_groups() -> None:
    stored = [instance(f"{name}_{group}", index, groups=(f"pair_{group}",))
              for index, group in enumerate("xyz") for name in ("left", "right")]  # fmt: skip
    pairs = plan(node("left"), node("right"), pair=["left", "right"])
    assert leaving(pairs, stored, "pair", 1) == ["pair_z", "pair_y"]
    assert leaving(pairs, stored, "pair", 1, exclude=["right_z"]) == ["pair_y", "pair_x"]
    assert leaving(pairs, stored, "left", 0) == ["left_x", "left_y", "left_z"], "one in each pair"


def test_what_cannot_stay() -> None:
    old = plan(node("vm"), node("disk", host="vm"), node("net"), pair=["net"])
    assert replaced(old, old) == {}
    assert replaced(old, plan(node("vm"), node("new"))) == {}
    assert replaced(old, plan(node("vm", "other"), node("disk", host="vm"))) == {
        "vm": "its type was thing and is now other",
        "disk": "it is in vm",
    }
    assert replaced(old, plan(node("vm"), node("disk"), node("net"))) == {
        "disk": "what it is contained in was vm and is now none",
        "net": "its scaling group was pair and is now none",
    }
