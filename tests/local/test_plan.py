"""``cfy-libvirt plan`` on libvirt's built-in driver, which forgets everything: what is said before an install."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudify_libvirt.planning import going
from cloudify_libvirt.planning.compare import ABSENT, Change, compare, differences, merged_inputs
from cloudify_libvirt.planning.hiding import SECRET, is_secret, public_xml, shown
from cloudify_libvirt.planning.model import Action, Entry
from cloudify_libvirt.planning.reading import given
from cloudify_libvirt.planning.world import World
from tests.local.test_local_setup import CFY, Home
from tests.local.things import Things, linked, scalable

NOTHING, FAILED, CHANGES = 0, 1, 2
URI = "test:///default"
CANARY = "Canary-7f3a"
IMPORTS = ("cloudify/types/types.yaml", "plugin:cloudify-libvirt-plugin")


def ours(kind: str, *after: str, properties: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    links = [{"type": "cloudify.relationships.depends_on", "target": other} for other in after]
    return {
        "type": f"cloudify.libvirt.{kind}",
        "properties": {"libvirt_auth": URI, "params": params, **(properties or {})},
        "relationships": links,
    }


def scaled(node: dict[str, Any], count: int) -> dict[str, Any]:
    return {**node, "capabilities": {"scalable": {"properties": {"default_instances": count}}}}


class Planner:
    """The command in a home of its own."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def run(self, path: Path | str, *options: str) -> tuple[int, str, str]:
        done = self.home.cfy_libvirt("plan", path, *options)
        return done.returncode, done.stdout, done.stderr

    def __call__(self, *options: str, code: int, imports: tuple[str, ...] = IMPORTS, **nodes: Any) -> dict[str, Any]:
        path = self.home.blueprint(*imports, nodes=nodes)
        found, said, errors = self.run(path, "-b", "planned", "--json", *options)
        assert found == code, said + errors
        result: dict[str, Any] = json.loads(said)
        assert result["code"] == code
        return result


@pytest.fixture
def plan(tmp_path: Path) -> Planner:
    return Planner(Home(tmp_path))


def of(found: dict[str, Any], node: str) -> list[dict[str, Any]]:
    return [one for one in found["instances"] if one["node"] == node]


def files(home: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in home.rglob("*") if path.name not in ("blueprints",)}


def test_what_will_be_made(plan: Planner) -> None:
    nodes = {
        "net": ours("network", name="lan", cidr="10.9.0.0/24"),
        "store": ours("pool", name="store", path="/srv/store"),
        "data": ours("volume", "store", name="data.qcow2", pool="store", size="2 GiB", format="qcow2"),
        "medium": ours("ISO9660", "store", pool="store", volume="cd.iso", files={"a": "b"}),
        "vm": scaled(
            ours("domain", "net", "data", name="vm-{{ number }}", memory="64 MiB", pool="store", wait_for_ip=False,
                 networks=[{"network": "lan", "ip": "10.9.0.{{ number + 10 }}"}],
                 disks=[{"pool": "store", "volume": "data.qcow2"}]), 2),
        "root": {"type": "cloudify.nodes.Root"},
    }  # fmt: skip
    found = plan("--xml", code=CHANGES, **nodes)
    assert found["summary"] == {"create": 7, "change": 0, "replace": 0, "delete": 0, "keep": 0, "use": 0, "problems": 0}
    (net,), (data,), (medium,), (root,) = (of(found, name) for name in ("net", "data", "medium", "root"))
    assert net["facts"]["cidr"] == "10.9.0.0/24" and net["facts"]["bridge"] in net["xml"]
    assert data["facts"] == {"pool": "store", "size": 2 << 30, "format": "qcow2", "path": "/srv/store/data.qcow2",
                             "encrypted": False}  # fmt: skip
    assert medium["facts"] == {"pool": "store", "volume": "cd.iso", "files": 1}
    assert (root["ours"], root["action"], root["host"]) == (False, "create", "")
    first, second = of(found, "vm")
    assert [one["name"] for one in (first, second)] == ["vm-1", "vm-2"]
    assert first["uuid"] != second["uuid"] and f"<uuid>{first['uuid']}</uuid>" in first["xml"]
    assert [one["facts"]["networks"][0]["ip"] for one in (first, second)] == ["10.9.0.11", "10.9.0.12"]
    assert first["facts"]["networks"][0]["mac"] in first["xml"]
    assert 'file="/srv/store/data.qcow2"' in first["xml"], "a volume that is not there yet"
    assert first["host"] == URI and not [one["instance"] for one in found["instances"] if one["instance"]]
    assert plan("--xml", code=CHANGES, **nodes) == found, "planned again, it is the same"
    assert [one["xml"] for one in plan(code=CHANGES, **nodes)["instances"] if "xml" in one] == []


def test_nothing_is_written(plan: Planner) -> None:
    path = plan.home.blueprint(*IMPORTS, nodes={"net": ours("network", cidr="auto"), "pool": ours("pool", name="p")})
    before = files(plan.home.path)
    for options in ((), ("--xml",), ("--json",), ("-b", "other")):
        assert plan.run(path, *options)[0] == CHANGES
    assert files(plan.home.path) == before


def test_what_is_not_known_is_not_made_up(plan: Planner) -> None:
    """Names that are the engine's ids, values of nodes that do not exist, what a script of the user's sets."""
    late = {
        **ours("domain", "net", memory="64 MiB", wait_for_ip=False, networks=[{"network": "default"}]),
        "interfaces": {
            "cloudify.interfaces.lifecycle": {
                "create": {"implementation": "script.script_runner.tasks.run", "inputs": {"script_path": "mac.py"}},
                "configure": {"inputs": {"params": {"description": {"get_attribute": ["net", "bridge"]},
                                                    "title": {"concat": ["a", {"get_attribute": ["net", "x"]}]},
                                                    "vcpu": {"get_property": ["net", "cpus"]}}}},
            }
        },
    }  # fmt: skip
    net = ours("network", cidr="10.9.0.0/24", properties={"cpus": 3})
    net["type"] = "with_cpus"
    path = plan.home.blueprint(
        *IMPORTS, nodes={"net": net, "vm": late},
        plugins={"script": {"executor": "central_deployment_agent", "install": False}},
        node_types={"with_cpus": {"derived_from": "cloudify.libvirt.network", "properties": {"cpus": {"default": 1}}}},
    )  # fmt: skip
    code, said, errors = plan.run(path, "-b", "planned", "--json", "--xml")
    assert code == CHANGES, said + errors
    (vm,) = of(json.loads(said), "vm")
    assert vm["name"] is None and "<name>(instance id)</name>" in vm["xml"]
    assert vm["facts"]["vcpu"] == 3, "what can be known is"
    assert "<description>" not in vm["xml"] and "<title>" not in vm["xml"]
    assert vm["notes"][:2] == [
        "known after install: input params.description",
        "known after install: input params.title",
    ]
    assert any("create runs mac.py" in note for note in vm["notes"])


def test_secrets_are_not_printed(plan: Planner) -> None:
    nodes = {
        "vm": ours("domain", name="vm", memory="64 MiB", wait_for_ip=False,
                   graphics=[{"type": "vnc", "password": f"{CANARY}1"}],
                   cloud_init={"user_data": {"password": f"{CANARY}2"}, "hostname": f"{CANARY}3"}),
        "medium": ours("ISO9660", pool="default-pool", volume="v", files={"secret": f"{CANARY}4"}),
        "data": ours("volume", pool="default-pool", name="v", content=f"{CANARY}5"),
        "page": {"type": "with_password", "properties": {"password": f"{CANARY}6"}},
        "named": ours("domain", name="x", memory="1 MiB", description=f"of {CANARY}7", properties={}),
    }  # fmt: skip
    types = {"with_password": {"derived_from": "cloudify.nodes.Root", "properties": {"password": {}}}}
    path = plan.home.blueprint(*IMPORTS, nodes=nodes, node_types=types)
    for options in (("--json", "--xml"), ("--xml",), ()):
        code, said, errors = plan.run(path, *options)
        assert code in (CHANGES, FAILED) and "vm" in said, errors
        assert [canary for canary in range(1, 7) if f"{CANARY}{canary}" in said + errors] == []
    code, said, errors = plan.run(path, "--xml")
    assert f"of {CANARY}7" in said, "what is no secret is shown"


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({"net": ours("network", cidr="10.9")}, ("params.cidr of node net", "must be an IPv4 network")),
        ({"vm": ours("domain", name="a", memory="1 GiB", description={"get_attribute": ["vm", "ip"]})},
         ("params.description of node vm", "was not evaluated")),
        ({"vm": ours("domain", name="a", memory="1 GiB", pool="nowhere", cloud_init={"hostname": "a"})},
         ("pool 'nowhere'", "does not exist")),
        ({"vm": ours("domain", name="a", memory="1 GiB", pool="default-pool",
                     cloud_init={"ssh_authorized_keys": ["k"]})},
         ("ssh_authorized_keys[0]", "not a public key")),
        ({"net": ours("network", name="default", cidr="10.9.0.0/24")},
         ("network 'default'", "another network", "use_external_resource")),
        ({"net": ours("network", properties={"use_external_resource": True, "resource_id": "none"})},
         ("network 'none'", "does not exist")),
        ({"net": ours("network", properties={"libvirt_auth": "nonsense:///"})}, ("nonsense:///", "URI")),
    ],
    ids=["value", "function", "pool", "key", "name", "external", "uri"],
)  # fmt: skip
def test_what_stands_against_it_is_said_with_the_node(
    plan: Planner, nodes: dict[str, Any], words: tuple[str, ...]
) -> None:
    found = plan(code=FAILED, **nodes)
    (one,) = (one for one in found["instances"] if one["problems"])
    said = " ".join(one["problems"])
    assert one["node"] == next(iter(nodes))
    assert [word for word in words if word not in said] == [], said
    assert len(set(one["problems"])) == len(one["problems"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("Required inputs ['size']",)),
        (("-i", "size=1;other=2"), ("Unknown input", "other")),
        (("-i", "[1]"), ("no mapping of inputs",)),
        (("-i", "{size: [}"), ("no mapping of inputs",)),
    ],
)
def test_wrong_inputs(plan: Planner, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    path = plan.home.blueprint(*IMPORTS, nodes={"net": ours("network")}, inputs={"size": {}})
    code, said, errors = plan.run(path, *options)
    assert (code, said) == (FAILED, "") and "Traceback" not in errors
    assert [word for word in words if word not in errors] == [], errors


def test_the_value_of_a_secret_input_is_not_quoted(plan: Planner) -> None:
    inputs = {"password": {"constraints": [{"min_length": 40}]}, "name": {"constraints": [{"min_length": 40}]}}
    path = plan.home.blueprint(*IMPORTS, nodes={"net": ours("network")}, inputs=inputs)
    code, said, errors = plan.run(path, "-i", f'{{"password": "{CANARY}1", "name": "{"x" * 50}"}}')
    assert (code, said) == (FAILED, "") and "password" in errors and CANARY not in errors


def test_a_misspelt_parameter_is_said_with_its_node(plan: Planner) -> None:
    code, said, errors = plan.run(plan.home.blueprint(*IMPORTS, nodes={"net": ours("network", ciddr="auto")}))
    assert (code, said) == (FAILED, "") and "ciddr" in errors and "net" in errors and "Traceback" not in errors


@pytest.mark.parametrize("text", [None, "a: [", "node_templates: 3", "- 1"])
def test_what_is_no_blueprint(plan: Planner, text: str | None) -> None:
    path = plan.home.path / "wrong.yaml"
    if text is not None:
        path.write_text(text)
    code, said, errors = plan.run(path)
    assert (code, said) == (FAILED, "") and "Traceback" not in errors
    assert f"cannot read blueprint {path}" in errors


def test_an_installed_deployment(plan: Planner) -> None:
    """Of nodes that are not ours: added, removed, changed, other numbers, and nothing at all."""
    types = {"thing": {"derived_from": "cloudify.nodes.Root",
                       "properties": {"size": {"default": 1}, "password": {"default": ""}}}}  # fmt: skip
    inputs = {"size": {"default": 1}, "count": {"default": 1}}

    def blueprint(extra: dict[str, Any] | None = None, **properties: Any) -> Path:
        node = {"type": "thing", "properties": {"size": {"get_input": "size"}, **properties}}
        some = {**node, "capabilities": {"scalable": {"properties": {"default_instances": {"get_input": "count"}}}}}
        nodes = {"one": node, "some": some, **(extra or {})}
        path: Path = plan.home.blueprint(*IMPORTS, nodes=nodes, node_types=types, inputs=inputs)
        return path

    def planned(path: Path, *options: str) -> dict[str, Any]:
        code, said, errors = plan.run(path, "-b", "things", "--json", *options)
        assert said, errors
        found: dict[str, Any] = json.loads(said)
        assert code == found["code"]
        return found

    plan.home.cfy_libvirt("local-setup")
    plan.home.cfy("install", blueprint(), "-b", "things", "-i", '{"size": 7, "count": 3}')
    before = files(plan.home.path)
    same = planned(blueprint())
    assert (same["code"], same["installed"], same["summary"]["keep"]) == (NOTHING, True, 4), "its inputs still count"
    assert planned(blueprint(), "-i", '{"count": 2}')["summary"]["delete"] == 1
    other = planned(blueprint(password=f"{CANARY}1"), "-i", '{"size": 8}')
    assert other["code"] == CHANGES and CANARY not in json.dumps(other)
    (one,) = of(other, "one")
    assert (one["action"], one["ours"]) == ("change", False)
    assert [(line["field"], line["old"], line["new"], line["how"]) for line in one["changes"]] == [
        ("size", 7, 8, ""), ("password", SECRET, SECRET, ""),
    ]  # fmt: skip
    more = planned(blueprint({"two": {"type": "thing", "relationships": [
        {"type": "cloudify.relationships.depends_on", "target": "one"}]}}))  # fmt: skip
    assert [(one["action"], one["instance"]) for one in of(more, "two")] == [("create", None)]
    less = {"type": "cloudify.nodes.Root"}
    gone = planned(plan.home.blueprint(*IMPORTS, nodes={"one": less}, node_types=types, inputs=inputs))
    assert [one["action"] for one in of(gone, "some")] == ["delete"] * 3
    assert [one["action"] for one in of(gone, "one")] == ["create", "delete"], "of another type, made anew"
    assert "its type was thing and is now cloudify.nodes.Root" in of(gone, "one")[1]["notes"][0]
    assert {path: at for path, at in files(plan.home.path).items() if ".cloudify" in path} == {
        path: at for path, at in before.items() if ".cloudify" in path
    }
    plan.home.cfy("uninstall", "-b", "things")
    again = planned(blueprint())
    assert (again["installed"], again["summary"]["create"]) == (False, 2), "nothing is left, its inputs neither"


def planned(things: Things, code: int, nodes: dict[str, Any]) -> dict[str, Any]:
    """What is planned for a deployment of things."""
    done = things.home.cfy_libvirt("plan", things.blueprint(nodes), "-b", things.name, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("delta", "at"), [(1, "create 1"), (-1, "delete 1")])
def test_a_scale_that_did_not_end_is_said_as_the_update_says_it(things: Things, delta: int, at: str) -> None:
    nodes = {"net": {"type": "thing"}, "vm": {"type": "thing", **scalable(2), **linked("net")}}
    things.install(nodes)
    assert planned(things, NOTHING, nodes)["summary"]["keep"] == 3
    scale = {"scalable_entity_name": "vm", "delta": delta}
    things.start_killed("scale", at, **scale)
    found = planned(things, FAILED, nodes)
    (problem,) = found["problems"]
    assert f"a scale of vm by {delta} was begun and did not end" in problem and found["summary"]["problems"] == 1
    (half,) = (one for one in found["instances"] if one["action"] == "create")
    assert half["node"] == "vm" and "half made, or half removed (state" in half["notes"][0]
    assert "by a scale that did not end" in half["notes"][1]
    said = things.start("update", 1)
    assert problem in said, "in the same words"
    things.start("scale", **scale)
    assert planned(things, NOTHING, nodes)["summary"]["keep"] == 3 + delta


def test_an_install_that_was_killed_goes_on_with_an_update(things: Things) -> None:
    nodes = {"net": {"type": "thing"}, "vm": {"type": "thing", **linked("net")}}
    things.home.environment["KILL_AT"] = "create 2"
    things.home.run(CFY, "install", things.blueprint(nodes), "-b", things.name)
    del things.home.environment["KILL_AT"]
    found = planned(things, CHANGES, nodes)
    (net,), (vm,) = of(found, "net"), of(found, "vm")
    assert (net["action"], vm["action"]) == ("keep", "create") and "an update installs it from there on" in vm["notes"][
        0
    ]
    things.start("update")
    assert planned(things, NOTHING, nodes)["summary"]["keep"] == 2
    things.whole()


def test_names_are_those_of_each_instance(plan: Planner) -> None:
    """The domains of the test driver are gone with the process that made them: that is to be healed, and said."""

    def nodes(name: str) -> dict[str, Any]:
        return {"vm": scaled(ours("domain", name=name, memory="64 MiB", wait_for_ip=False), 2)}

    plan.home.cfy_libvirt("local-setup")
    plan.home.cfy("install", plan.home.blueprint(*IMPORTS, nodes=nodes("vm-{{ number }}")), "-b", "planned")
    found = plan(code=FAILED, **nodes("web-{{ number }}"))
    lines = [line for one in of(found, "vm") for line in one["changes"]]
    assert {line["how"] for line in lines} == {"refused"} and found["summary"]["problems"] == len(lines) == 4
    assert [(line["old"], line["new"]) for line in lines if line["field"] == "name"] == [
        ("vm-1", "web-1"), ("vm-2", "web-2"),
    ]  # fmt: skip
    assert "heal" in lines[0]["note"]
    code, said, _ = plan.run(plan.home.path / "blueprints/blueprint.yaml", "-b", "planned")
    assert (
        code == FAILED
        and "[refused: it is gone; heal it first" in said
        and said.splitlines()[-1].endswith("4 problems")
    )
    updated = plan.home.run(CFY, "executions", "start", "update", "-b", "planned")
    assert updated.returncode == FAILED and "heal" in updated.stdout + updated.stderr


def test_inputs_as_cfy_takes_them(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: 1\ny: [2]\n")
    (tmp_path / "b.yaml").write_text("x: 3\n")
    assert given([str(tmp_path / "a.yaml")]) == {"x": 1, "y": [2]}
    assert given([str(tmp_path)]) == given([f"{tmp_path}/*.yaml"]) == {"x": 3, "y": [2]}
    assert given(["x=1;y=a=b", '{"z": true}', "w: 5"]) == {"x": "1", "y": "a=b", "z": True, "w": 5}


def test_which_inputs_a_changed_blueprint_gets() -> None:
    old = {"a": {"default": 1}, "b": {"default": 2}, "c": {}, "gone": {}}
    new = {"a": {"default": 5}, "b": {"default": 6}, "c": {}, "d": {"default": 7}}
    stored = {"a": 1, "b": 3, "c": 4, "gone": 8}
    assert merged_inputs(old, stored, new, {"d": 9}) == {"b": 3, "c": 4, "d": 9}


def test_differences_by_leaf() -> None:
    old = {"a": {"b": [1, {"c": 2}], "d": None}, "e": 1, "same": [{}]}
    new = {"a": {"b": [1, {"c": 3}, 4]}, "e": True, "same": [{}]}
    assert list(differences(old, new)) == [
        Change("a.b[1].c", 2, 3), Change("a.b[2]", ABSENT, 4), Change("a.d", None, ABSENT), Change("e", 1, True),
    ]  # fmt: skip


def as_plan(**counts: int) -> dict[str, Any]:
    def scalable(default: int, current: int) -> dict[str, Any]:
        numbers = {"default_instances": default, "current_instances": current, "min_instances": 0, "max_instances": -1}
        return {"scalable": {"properties": numbers}}

    nodes = [
        {"id": name, "capabilities": scalable(count, count), "relationships": []} for name, count in counts.items()
    ]
    return {"nodes": nodes, "scaling_groups": {}}


def test_what_was_scaled_stays_so_unless_the_blueprint_says_another_number() -> None:
    old = as_plan(vm=1)
    old["nodes"][0]["capabilities"]["scalable"]["properties"]["current_instances"] = 3
    stored = [{"id": f"vm_{n}", "node_id": "vm", "name": "vm", "relationships": [], "runtime_properties": {"index": n}}
              for n in range(3)]  # fmt: skip
    same = compare(old, stored, as_plan(vm=1))
    assert (same.nothing, same.counts) == (True, {"vm": 3})
    fewer = compare(old, stored, as_plan(vm=2))
    assert [one["id"] for one in fewer.removed] == ["vm_2"] and [one["id"] for one in fewer.kept] == ["vm_0", "vm_1"]
    more = compare(old, stored, as_plan(vm=4, new=1))
    assert sorted(one["node_id"] for one in more.added) == ["new", "vm"] and more.nodes_added == ["new"]


def test_subnets_that_two_networks_would_choose_are_not_promised() -> None:
    facts = {"cidr": "10.1.0.0/24", "bridge": "b"}
    entries = [Entry(Action.CREATE, name, "t", kind="network", facts=dict(facts), xml="<network/>") for name in "ab"]
    going.doubt(World(subnets=[(URI, "10.1.0.0/24")]), entries, [])
    assert entries[0].facts["cidr"] == "10.1.0.0/24"
    going.doubt(World(subnets=[(URI, "10.1.0.0/24")] * 2), entries, [])
    assert [(one.facts["cidr"], one.xml, one.facts["bridge"]) for one in entries] == [(None, None, "b")] * 2


def test_what_is_hidden() -> None:
    hidden = ("params.cloud_init.hostname", "cloud_init", "params.graphics[0].password", "params.auth.username",
              "params.encryption.secret_uuid", "api_token", "params.files.a")  # fmt: skip
    assert [path for path in hidden if not is_secret(path)] == []
    assert not is_secret("params.disks[0].encryption_secret")
    assert not is_secret("params.memory") and not is_secret("params.networks[0].network")
    assert shown("params", {"memory": 1, "auth": {"password": "x"}}) == {"memory": 1, "auth": SECRET}
    assert shown("params.image.source", "https://me:pw@host/i?token=1") == "https://host/i?..."
    assert 'passwd="geheim"' not in public_xml('<domain><devices><graphics passwd="geheim"/></devices></domain>')


def test_the_page_names_every_key(plan: Planner) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/plan.md").read_text()
    found = plan("--xml", code=CHANGES, net=ours("network", cidr="10.9.0.0/24"))
    keys = {*found, *found["instances"][0], *found["summary"]}
    assert [key for key in keys if f"`{key}`" not in page] == []
    assert yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
