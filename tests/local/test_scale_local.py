"""The workflow ``scale`` of local mode: nodes with all that is in them, groups, limits, choices, kills."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.local.things import Things, linked, scalable

UNTIL = Path(__file__).resolve().parents[1] / "real/cfy_until.py"
OUTPUTS = {"outputs": {"numbers": {"value": {"get_attributes_list": ["vm", "index"]}}}}
GROUPS = {
    "groups": {"pair": {"members": ["left", "right"]}},
    "policies": {
        "more": {
            "type": "cloudify.policies.scaling",
            "properties": {"default_instances": 2, "min_instances": 1, "max_instances": 4},
            "targets": ["pair"],
        }
    },
}


def machines(count: int = 2, **limits: int) -> dict[str, Any]:
    return {
        "net": {"type": "thing"},
        "vm": {"type": "thing", **scalable(count, **limits), **linked("net")},
        "disk": {"type": "thing", **scalable(2), **linked("vm", "contained_in")},
        "watcher": {"type": "thing", **linked("vm")},
    }


def test_out_and_in(things: Things) -> None:
    things.install(machines(), **OUTPUTS)
    before, net, watcher = things.things, things.of("net")[0], things.of("watcher")[0]
    things.start("scale", scalable_entity_name="vm", delta=2)
    assert before.items() <= things.things.items()
    assert len(things.of("vm")) == 4 and len(things.of("disk")) == 8
    new = set(things.things) - set(before)
    assert {instance for _, instance in things.called("create", "start")} == new
    watched = {call["target"] for call in things.calls if call["instance"] == watcher}
    assert watched == new & set(things.of("vm"))
    assert things.outputs() == {"numbers": [0, 1, 2, 3]}
    things.whole()

    newest = things.of("vm")[3]
    things.start("scale", scalable_entity_name="vm", delta=-1)
    assert newest not in things.things
    gone = {instance for _, instance in things.called("delete")}
    assert len(gone) == 3 and newest in gone, "with its two disks"
    assert [call["target"] for call in things.calls if call["instance"] == watcher] == [newest]
    assert things.outputs() == {"numbers": [0, 1, 2]}
    assert net in things.things
    things.whole()

    things.start("scale", scalable_entity_name="vm", delta=1)
    assert things.outputs() == {"numbers": [0, 1, 2, 3]}, "the number is free again"
    things.whole()
    things.home.cfy("uninstall", "-b", things.name)
    assert things.things == {}


def test_within_the_limits(things: Things) -> None:
    things.install(machines(2, min_instances=1, max_instances=3))
    before = things.things
    assert "cannot scale vm to 4 instances: its scalable capability says between 1 and 3" in things.start(
        "scale", 1, scalable_entity_name="vm", delta=2
    )
    assert "to 0 instances" in things.start("scale", 1, scalable_entity_name="vm", delta=-2)
    said = things.start("scale", 1, scalable_entity_name="wm", delta=1)
    assert "no node or scaling group of this name" in said and "It has disk, net, vm, watcher" in said
    assert "no whole number" in things.start("scale", 1, scalable_entity_name="vm", delta="many")
    things.start("scale", scalable_entity_name="vm", delta=0)
    assert things.calls == [] and things.things == before


def test_who_goes(things: Things) -> None:
    things.install(machines(4))
    vms = things.of("vm")
    for wrong in (
        {"include_instances": vms[0], "delta": 1},
        {"include_instances": ["vm_nobody"]},
        {"include_instances": vms[0], "exclude_instances": vms[0]},
        {"exclude_instances": vms},
    ):
        things.start("scale", 1, **{"scalable_entity_name": "vm", "delta": -1, **wrong})
        assert things.calls == []
    things.start("scale", scalable_entity_name="vm", delta=-2, include_instances=[vms[1]], exclude_instances=[vms[3]])
    assert things.of("vm") == [vms[0], vms[3]]
    things.whole()
    inside = next(one for one, found in things.instances.items()
                  if found["node_id"] == "disk" and found["relationships"][0]["target_id"] == vms[0])  # fmt: skip
    things.start("scale", scalable_entity_name="disk", delta=-1, include_instances=inside)
    assert inside not in things.things and len(things.of("disk")) == 2, "one of each machine"
    things.start("scale", scalable_entity_name="disk", delta=1, scale_compute=True)
    assert len(things.of("disk")) == 4, "things are no hosts"
    things.whole()


def pairs(things: Things) -> set[str]:
    """What each right is connected to."""
    rights = [one for one in things.instances.values() if one["node_id"] == "right"]
    assert all(len(one["relationships"]) == 1 for one in rights)
    return {str(one["relationships"][0]["target_id"]) for one in rights}


def test_a_group(things: Things) -> None:
    nodes = {
        "net": {"type": "thing"},
        "left": {"type": "thing", **linked("net")},
        "right": {"type": "thing", **linked("left")},
    }
    things.install(nodes, **GROUPS)
    before = things.things
    things.start("scale", scalable_entity_name="pair", delta=1)
    assert before.items() <= things.things.items()
    assert {node: len(things.of(node)) for node in ("net", "left", "right")} == {"net": 1, "left": 3, "right": 3}
    assert pairs(things) == set(things.of("left")), "each right has the left of its own pair"
    assert "between 1 and 4" in things.start("scale", 1, scalable_entity_name="pair", delta=2)
    kept = things.of("left")[1]
    things.start("scale", scalable_entity_name="pair", delta=-2, exclude_instances=[kept])
    assert things.of("left") == [kept]
    assert pairs(things) == {kept}
    things.whole()


def test_a_failure_takes_back_what_was_added(things: Things) -> None:
    nodes = machines()
    things.install(nodes)
    before = things.things
    nodes["vm"]["properties"] = {"fails": "start"}
    things.blueprint(nodes)
    things.start("update")
    said = things.start("scale", 1, scalable_entity_name="vm", delta=1)
    assert set(things.things) == set(before), said
    things.whole()
    said = things.start("scale", 1, scalable_entity_name="vm", delta=1, rollback_if_failed=False)
    assert "start fails, as it shall" in said and len(things.of("vm")) == 3
    said = things.start("update", 1)
    assert "a scale of vm by 1 was begun and did not end" in said
    assert "begun and did not end" in things.start("scale", 1, scalable_entity_name="vm", delta=2)
    things.start("scale", scalable_entity_name="vm", delta=0, abort_started=True)
    assert set(things.things) == set(before)
    things.whole()


@pytest.mark.parametrize("at", ["create 1", "start 2", "create 3", "establish 1"])
def test_a_killed_scale_out_goes_on(things: Things, at: str) -> None:
    things.install(machines())
    before = things.things
    things.start_killed("scale", at, scalable_entity_name="vm", delta=1)
    things.start("scale", scalable_entity_name="vm", delta=1)
    assert before.items() <= things.things.items()
    assert len(things.of("vm")) == 3 and len(things.of("disk")) == 6
    things.whole()


@pytest.mark.parametrize("at", ["unlink 1", "delete 1", "delete 3"])
def test_a_killed_scale_in_goes_on(things: Things, at: str) -> None:
    things.install(machines(3))
    vms = things.of("vm")
    things.start_killed("scale", at, scalable_entity_name="vm", delta=-1)
    things.start("scale", scalable_entity_name="vm", delta=-1)
    assert things.of("vm") == vms[:2] and len(things.of("disk")) == 4
    things.whole()


@pytest.mark.parametrize(("delta", "left"), [(1, 3), (-1, 1)])
def test_a_scale_that_was_killed_when_it_had_ended_is_not_done_twice(things: Things, delta: int, left: int) -> None:
    things.install(machines())
    file = things.parameters(scalable_entity_name="vm", delta=delta)
    killed = things.home.run(
        sys.executable, UNTIL, 1, "instances now", "executions", "start", "scale", "-b", things.name, "-p", file
    )
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    assert len(things.of("vm")) == left
    said = things.start("scale", scalable_entity_name="vm", delta=delta)
    assert len(things.of("vm")) == left, said
    assert "nothing is left to do" in said and things.called() == []
    # Who asks once more, asks for more.
    things.start("scale", scalable_entity_name="vm", delta=delta)
    assert len(things.of("vm")) == left + delta
    things.whole()


def test_a_killed_scale_does_not_keep_uninstall_away(things: Things) -> None:
    things.install(machines())
    things.start_killed("scale", "start 1", scalable_entity_name="vm", delta=1)
    things.home.cfy("uninstall", "-b", things.name)
    assert things.things == {}
