"""The workflow ``update`` of local mode: only differences happen, a killed one goes on, a failure says what and why."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.local.things import SECTIONS, Things, linked, scalable

KILLER = Path(__file__).with_name("cfy_written.py")
INPUTS = {"inputs": {"count": {"default": 2}, "color": {"default": "red"}}}
OUTPUTS = {
    "outputs": {
        "numbers": {"value": {"get_attributes_list": ["vm", "index"]}},
        "color": {"value": {"get_input": "color"}},
    }
}


def cluster(**vm: Any) -> dict[str, Any]:
    properties = {"color": {"get_input": "color"}, **vm.pop("properties", {})}
    return {
        "net": {"type": "thing"},
        "vm": {"type": "thing", "properties": properties, **scalable({"get_input": "count"}), **linked("net"), **vm},
    }


def test_only_differences_happen(things: Things) -> None:
    things.install(cluster(), **INPUTS, **OUTPUTS)
    before = things.of("vm")
    assert "updated: none; added: none; removed: none; unchanged: 3" in things.start("update")
    assert things.called() == []
    assert len(things.called("check_drift")) == 3

    said = things.start("update", inputs={"color": "blue"})
    assert sorted(things.called()) == sorted(("update", vm) for vm in before)
    assert {things.things[vm]["color"] for vm in before} == {"blue"}
    assert "unchanged: 1" in said

    said = things.start("update", inputs={"count": 3})
    assert things.of("vm")[:2] == before
    new = things.of("vm")[2]
    assert set(things.called()) == {("create", new), ("start", new), ("establish", new)}
    assert things.things[new]["color"] == "blue", "what was given before stays"
    assert things.outputs() == {"numbers": [0, 1, 2], "color": "blue"}

    things.start("update", inputs={"count": 1})
    assert things.of("vm") == before[:1], "the newest go"
    assert things.called("update", "create", "start") == []
    assert things.outputs() == {"numbers": [0], "color": "blue"}
    things.whole()
    things.home.cfy("uninstall", "-b", things.name)
    assert things.things == {}


def test_a_changed_blueprint(things: Things) -> None:
    things.install(cluster(), **INPUTS)
    vms, net = things.of("vm"), things.of("net")
    nodes = cluster(relationships=[
        {"type": "thing_connected_to", "target": "net"}, {"type": "thing_connected_to", "target": "disk"},
    ])  # fmt: skip
    nodes["disk"] = {"type": "thing", "properties": {"size": 7}}
    path = things.blueprint(nodes, **INPUTS)
    (path.parent / "extra.txt").write_text("of the new blueprint")
    things.start("update")
    disk = things.of("disk")
    assert things.of("vm") == vms and things.of("net") == net
    assert things.called("create", "update", "delete") == [("create", disk[0])]
    assert sorted((call["instance"], call["target"]) for call in things.calls if call["operation"] == "establish") == [
        (vm, disk[0]) for vm in sorted(vms)
    ]
    things.whole()
    kept = things.home.path / ".cloudify/profiles/local/blueprints" / things.name
    assert [one.read_text() for one in kept.rglob("extra.txt")] == ["of the new blueprint"]

    # And back: what goes is unlinked, and removed, before its node leaves the plan.
    things.blueprint(cluster(), **INPUTS)
    (path.parent / "extra.txt").unlink()
    things.start("update")
    unlinked = [(call["instance"], call["target"]) for call in things.calls if call["operation"] == "unlink"]
    assert sorted(unlinked) == [(vm, disk[0]) for vm in sorted(vms)]
    assert things.called("create", "update", "delete") == [("delete", disk[0])]
    assert not list(kept.rglob("extra.txt"))
    things.whole()


def test_a_new_relationship_between_what_stands(things: Things) -> None:
    nodes = {**cluster(), "other": {"type": "thing"}}
    things.install(nodes, **INPUTS)
    nodes["other"] = {"type": "thing", **linked("net")}
    things.blueprint(nodes, **INPUTS)
    things.start("update")
    other = things.of("other")[0]
    assert things.called() == [("establish", other)]
    things.start("update")
    assert things.called() == []
    nodes["other"] = {"type": "thing"}
    things.blueprint(nodes, **INPUTS)
    things.start("update")
    assert things.called() == [("unlink", other)]
    things.whole()


def test_changed_defaults_of_inputs(things: Things) -> None:
    things.install(cluster(), "-i", '{"count": 1}', **INPUTS)
    changed = {"inputs": {"count": {"default": 5}, "color": {"default": "green"}}}
    things.blueprint(cluster(), **changed)
    things.start("update")
    assert [things.things[vm]["color"] for vm in things.of("vm")] == ["green"], "the count was given, the color not"


def test_what_is_refused_changes_nothing(things: Things) -> None:
    things.install(cluster(), **INPUTS)
    files = {path: path.read_bytes() for path in things.directory.rglob("*.json") if path.name != "executions.json"}
    nodes = cluster()
    nodes["net"]["type"] = "stubborn"
    things.blueprint(nodes, **INPUTS)
    said = things.start("update", code=1)
    assert "node net: its type was thing and is now stubborn" in said and "-p allow_replace=net" in said
    assert "no node nett" in things.start("update", code=1, allow_replace="nett, vm")
    assert "-p allow_replace=net,vm" in things.start("update", code=1, allow_replace=["vm"]), "leave for another one"
    things.blueprint(cluster(properties={"colour": "red"}), **INPUTS)
    assert "colour" in things.start("update", code=1)
    assert "no such file" in things.start("update", code=1, blueprint="nowhere.yaml")
    things.blueprint(cluster(), **INPUTS)
    assert "machines" in things.start("update", code=1, inputs={"machines": 3})
    assert things.calls == []
    assert {path: path.read_bytes() for path in files} == files
    things.start("update")


@pytest.mark.parametrize("leave", [True, "net"])
def test_a_node_of_another_type_is_made_anew_with_leave(things: Things, leave: object) -> None:
    things.install(cluster(), **INPUTS)
    vms, net = things.of("vm"), things.of("net")
    nodes = cluster()
    nodes["net"]["type"] = "stubborn"
    things.blueprint(nodes, **INPUTS)
    things.start("update", allow_replace=leave)
    assert things.of("vm") == vms
    assert things.of("net") != net and len(things.of("net")) == 1
    order = [
        name for name, instance in things.called() if instance.startswith("net") or name in ("unlink", "establish")
    ]
    assert order == ["unlink", "unlink", "delete", "create", "start", "establish", "establish"]
    things.whole()


def machine(**params: Any) -> dict[str, Any]:
    """Sections of a blueprint with a thing that the plan takes for a domain of ours, as one operation is mapped so."""
    ours = {"other": {"pull": "libvirt.cloudify_libvirt.domain_tasks.pull"}}
    kind = {"derived_from": "thing", "properties": {"params": {"default": {}}}, "interfaces": ours}
    plugins = {**SECTIONS["plugins"], "libvirt": {"executor": "central_deployment_agent", "install": False}}
    types = {**SECTIONS["node_types"], "machine": kind}
    nodes = {"vm": {"type": "machine", "properties": {"params": params}}, "disk": {"type": "thing"}}
    return {"nodes": nodes, "plugins": plugins, "node_types": types}


def test_a_domain_of_another_image_is_not_called_unchanged(things: Things) -> None:
    """What was made of an image stays, and the next plan must not be clean as if it were another."""
    things.install(**machine(image="https://user:canary-1@host/old.img", pool="p", memory="1 GiB"))
    vm, disk = things.of("vm")[0], things.of("disk")
    path = things.directory / "node-instances" / f"{vm}.json"
    state = json.loads(path.read_text())
    state["runtime_properties"]["resource_id"] = vm
    path.write_text(json.dumps(state))
    for params, word in (
        ({"image": "https://user:canary-1@host/new.img", "pool": "p"}, "image was https://"),
        ({"image": "https://user:canary-1@host/old.img", "pool": "q"}, "pool was p and is now q"),
    ):
        things.blueprint(**machine(**params))
        for leave in (False, "disk"):
            said = things.start("update", code=1, allow_replace=leave)
            assert f"node vm: {word}" in said and "what was made of it stays" in said and "canary-1" not in said
            assert "-p allow_replace=" + ("disk,vm" if leave else "vm") in said
    assert things.calls == [] and things.of("vm") == [vm]
    old = {"source": "https://user:canary-1@host/old.img", "checksum": f"sha256:{'0' * 64}", "size": "20 GiB"}
    things.blueprint(**machine(image=old, pool="p"))
    things.start("update")
    assert things.of("vm") == [vm], "the same image, written otherwise"
    things.blueprint(**machine(image="https://host/new.img", pool="p"))
    things.start("update", allow_replace="vm")
    assert things.of("vm") != [vm] and things.of("disk") == disk
    things.whole()


def test_values_of_inputs_are_not_quoted(things: Things) -> None:
    weak = {**INPUTS["inputs"], "password": {"default": "long enough for all", "constraints": [{"min_length": 15}]}}
    things.install(cluster(), inputs=weak)
    said = things.start("update", code=1, inputs={"password": "canary-7f3a"})
    assert "password" in said and "min_length" in said and "canary-7f3a" not in said
    kept = (things.directory / "executions.json").read_text()
    assert "canary-7f3a" not in kept.replace(json.dumps({"password": "canary-7f3a"})[1:-1], "")


def test_links_that_a_killed_update_left_are_established_by_one_with_others(things: Things) -> None:
    nodes = {**cluster(), "one": {"type": "thing"}, "two": {"type": "thing"}}
    things.install(nodes, **INPUTS)
    nodes["one"] = {"type": "thing", **linked("net")}
    things.blueprint(nodes, **INPUTS)
    things.start_killed("update", "establish 1")
    nodes["two"] = {"type": "thing", **linked("net")}
    things.blueprint(nodes, **INPUTS)
    things.start("update")
    assert sorted(things.called()) == [("establish", things.of("one")[0]), ("establish", things.of("two")[0])]
    things.start("update")
    assert things.called() == []
    things.whole()


def test_a_failure_says_what_and_why_and_stops_no_other(things: Things) -> None:
    things.install(cluster(), **INPUTS)
    nodes = cluster()
    nodes["net"]["properties"] = {"size": 3, "fails": "update"}
    nodes["other"] = {"type": "thing"}
    things.blueprint(nodes, **INPUTS)
    said = things.start("update", code=1, inputs={"color": "blue"})
    net = things.of("net")[0]
    assert f"not all could be updated: {net}: update fails, as it shall" in said
    assert {things.things[vm]["color"] for vm in things.of("vm")} == {"blue"}
    assert len(things.of("other")) == 1
    nodes["net"]["properties"] = {"size": 3}
    things.blueprint(nodes, **INPUTS)
    things.start("update")
    things.whole()


def test_a_type_without_update_is_not_reinstalled_in_silence(things: Things) -> None:
    nodes = {**cluster(), "rock": {"type": "stubborn"}}
    things.install(nodes, **INPUTS)
    rock = things.of("rock")
    nodes["rock"] = {"type": "stubborn", "properties": {"size": 9}}
    things.blueprint(nodes, **INPUTS)
    said = things.start("update", code=1)
    assert f"{rock[0]}: its properties changed, but its type has no update operation" in said
    assert things.of("rock") == rock and things.called() == []


def test_out_of_band_drift_is_mended(things: Things) -> None:
    things.install(cluster(), **INPUTS)
    vm = things.of("vm")[1]
    path = things.path / "things" / vm
    path.write_text(path.read_text().replace("red", "pink"))
    things.start("update")
    assert things.called() == [("update", vm)]
    assert things.things[vm]["color"] == "red"


KILLS = ["update 1", "create 1", "start 2", "delete 1", "delete 2", "establish 2", "unlink 1"]


@pytest.mark.parametrize("at", KILLS)
def test_a_killed_update_goes_on(things: Things, at: str) -> None:
    """What goes, what comes and what changes in one update; killed in each kind of operation."""
    nodes = {**cluster(), "gone": {"type": "thing", **scalable(2), **linked("net")}}
    things.install(nodes, **INPUTS)
    vms, net = things.of("vm"), things.of("net")
    new = {**cluster(), "come": {"type": "thing", **linked("net")}}
    things.blueprint(new, **INPUTS)
    things.start_killed("update", at, inputs={"color": "blue", "count": 3})
    things.start("update", inputs={"color": "blue", "count": 3})
    assert things.of("vm")[:2] == vms and things.of("net") == net
    assert {node: len(things.of(node)) for node in ("vm", "come", "gone")} == {"vm": 3, "come": 1, "gone": 0}
    assert {things.things[vm]["color"] for vm in things.of("vm")} == {"blue"}
    things.whole()
    things.start("update")
    assert things.called() == []


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.chaos)])
def test_killed_between_two_writes(things: Things, tmp_path_factory: pytest.TempPathFactory, step: int) -> None:
    """The state files themselves: before a rename, removal or new directory, from one and the same start."""
    nodes = {**cluster(), "gone": {"type": "thing", **scalable(2), **linked("net")}}
    things.install(nodes, **INPUTS)
    new = {**cluster(), "come": {"type": "thing"}, "net": {"type": "thing", **linked("come")}}
    things.blueprint(new, **INPUTS)
    vms = things.of("vm")
    saved = tmp_path_factory.mktemp("saved") / "home"
    shutil.copytree(things.home.path, saved)
    wanted = things.parameters(inputs={"color": "blue", "count": 3})
    command = ("executions", "start", "update", "-b", things.name, "-p", wanted)

    def run(count: int) -> subprocess.CompletedProcess[str]:
        shutil.rmtree(things.home.path)
        shutil.copytree(saved, things.home.path)
        things.parameters(inputs={"color": "blue", "count": 3})
        done: subprocess.CompletedProcess[str] = things.home.run(sys.executable, KILLER, count, *command)
        return done

    whole = run(0)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    changes = int(whole.stdout.split("changes: ")[1].split()[0])
    assert changes > 10
    killed = 0
    for count in range(1, changes + 1, step):
        done = run(count)
        if done.returncode == 0:
            # The engine's threads may write once less than before.
            assert int(done.stdout.split("changes: ")[1].split()[0]) < count <= changes, done.stdout
            continue
        assert done.returncode == -9, count
        killed += 1
        things.home.cfy(*command)
        assert things.of("vm")[:2] == vms
        assert {node: len(things.of(node)) for node in ("vm", "come", "gone")} == {"vm": 3, "come": 1, "gone": 0}, count
        assert {things.things[vm]["color"] for vm in things.of("vm")} == {"blue"}
        things.whole()
    assert killed >= changes // step - 1, "nearly all were reached"
