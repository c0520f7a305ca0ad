"""The engine made cheaper beside the engine as it is: the same plans, states, messages and errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from cloudify_libvirt import local_engine

ROOT = Path(__file__).resolve().parents[2]
BLUEPRINTS = sorted([*(ROOT / "blueprints").glob("*.yaml"), *(ROOT / "tests/data/blueprints").glob("*.yaml")])

TYPES = """
tosca_definitions_version: cloudify_dsl_1_4
imports: [cloudify/types/types.yaml]
plugins: {things: {executor: central_deployment_agent, package_name: things}}
dsl_definitions:
  inputs: &inputs {inputs: {given: {default: {nested: [1, {text: a}], from: {get_property: [SELF, text]}}}}}
data_types:
  row: {properties: {name: {type: string}, size: {type: integer, default: 3}}}
node_types:
  thing:
    derived_from: cloudify.nodes.Root
    properties:
      text: {type: string, default: plain}
      rows: {default: []}
      row: {type: row, default: {name: first}}
    interfaces:
      cloudify.interfaces.lifecycle:
        create: {implementation: things.things.create, <<: *inputs}
        configure: {implementation: things.things.again}
        start: things.things.start
        delete: things.things.delete
relationships:
  beside:
    derived_from: cloudify.relationships.depends_on
    target_interfaces: {cloudify.interfaces.relationship_lifecycle: {establish: things.things.link}}
"""
BLUEPRINT = """
tosca_definitions_version: cloudify_dsl_1_4
imports: [types.yaml]
inputs: {word: {type: string, default: said}, fails: {default: false}}
node_templates:
  one:
    type: thing
    capabilities: {scalable: {properties: {default_instances: 3}}}
    properties: &shared {text: {get_input: word}, rows: [{a: 1}, [2, {b: {concat: [x, y]}}]]}
  two:
    type: thing
    properties: *shared
    relationships: [{type: beside, target: one}, {type: cloudify.relationships.connected_to, target: one}]
  three: {type: thing, properties: {text: {get_attribute: [two, told]}}}
groups: {both: {members: [one, two]}}
policies: {scaled: {type: cloudify.policies.scaling, targets: [both], properties: {default_instances: 2}}}
outputs: {told: {value: {get_attribute: [three, told]}}}
"""
OPERATIONS = """
import datetime
from cloudify import ctx
from cloudify.exceptions import NonRecoverableError

def create(given, **_):
    ctx.logger.info("creating %s", ctx.instance.id.split("_")[0])
    ctx.logger.getChild("part").warning("a part")
    ctx.instance.runtime_properties["given"] = given
    ctx.instance.runtime_properties["told"] = {"at": datetime.datetime(2026, 1, 2), "what": ctx.node.properties["text"]}
    ctx.instance.update()
    ctx.instance.runtime_properties["told"]["what"] += "!"
    given["nested"].append("mine")

def again(**_):
    if ctx.operation.retry_number == 0:
        return ctx.operation.retry("not yet", retry_after=0)

def start(**_):
    ctx.logger.debug("not told")
    if ctx.node.properties["text"] == "fail":
        raise NonRecoverableError("on purpose")
    return {"some": ["result"]}

def link(**_):
    ctx.target.instance.runtime_properties["linked"] = ctx.source.instance.id.split("_")[0]

def delete(**_):
    ctx.instance.runtime_properties.pop("told", None)
"""
RUN = """
import json, random, sys
from pathlib import Path
from cloudify.workflows import local
from cloudify_libvirt.local_resolver import LocalResolver

home, word, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
random.seed(3)
storage = local.FileStorage(str(home / "state")) if kind == "files" else local.InMemoryStorage()
env = local.init_env(str(home / "source/blueprint.yaml"), name="dep", inputs={"word": word}, storage=storage,
                     resolver=LocalResolver())
seen = []
for workflow in ("install", "uninstall"):
    try:
        env.execute(workflow, task_retries=1, task_retry_interval=0, task_thread_pool_size=1)
        seen.append([workflow, env.outputs()])
    except Exception as error:
        seen.append([workflow, type(error).__name__, sorted(str(error).splitlines())])
    seen.append(sorted(([i["node_id"], i.get("state"), i["version"], i["runtime_properties"], i["relationships"]]
                        for i in env.storage.get_node_instances()), key=str))
    if kind == "files":
        seen.append({str(path.relative_to(home)): json.loads(path.read_text()) for path in
                     sorted((home / "state").rglob("*.json"))})
print(json.dumps(seen, default=str), file=sys.stderr)
"""
PLANS = """
import json, random, sys
from dsl_parser import parser, tasks
from cloudify_libvirt import local_engine
from cloudify_libvirt.local_resolver import LocalResolver

local_engine.lighten()
for path in sys.argv[1:]:
    random.seed(5)
    try:
        plan = parser.parse_from_path(path, resolver=LocalResolver())
        inputs = {name: one.get("default", "x") for name, one in plan["inputs"].items()}
        prepared = tasks.prepare_deployment_plan(plan, inputs=inputs)
        told = [type(plan).__name__, plan, type(prepared).__name__, prepared]
    except Exception as error:
        told = [type(error).__name__, str(error)]
    print(json.dumps(told, default=repr))
"""


def run(stock: bool, code: str, *arguments: str, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run code with the engine as it is, or with ours."""
    path = os.pathsep.join({str(directory), str(ROOT)})
    env = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", local_engine.SWITCH: "1" if stock else ""}
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=600)


def test_plans_of_all_blueprints_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "types.yaml").write_text(TYPES, encoding="utf-8")
    (tmp_path / "odd.yaml").write_text(BLUEPRINT, encoding="utf-8")
    wrong = {
        "type": "node_templates: {a: {type: nothing}}",
        "schema": "node_templates: {a: {type: thing, propertys: {}}}",
        "property": "node_templates: {a: {type: thing, properties: {row: {size: x}}}}",
        "yaml": "node_templates:\n  a:\n   - b\n  c",
        "cycle": "node_types: {a: {derived_from: b}, b: {derived_from: a}}",
    }
    head = "tosca_definitions_version: cloudify_dsl_1_4\nimports: [types.yaml]\n"
    for name, text in wrong.items():
        (tmp_path / f"{name}.yaml").write_text(head + text + "\n", encoding="utf-8")
    paths = [*BLUEPRINTS, tmp_path / "odd.yaml", *(tmp_path / f"{name}.yaml" for name in wrong)]
    stock, ours = (run(as_it_is, PLANS, *map(str, paths)).stdout.splitlines() for as_it_is in (True, False))
    assert len(stock) == len(paths)
    assert ours == stock
    told = [json.loads(line) for line in ours]
    assert [one[0] for one in told[: -len(wrong)]] == ["Plan"] * (len(paths) - len(wrong))
    assert all(one[0].endswith(("Exception", "Error")) for one in told[-len(wrong) :])


@pytest.mark.parametrize(("kind", "word"), [("files", "said"), ("files", "fail"), ("memory", "said")])
def test_runs_leave_and_say_the_same(tmp_path: Path, kind: str, word: str) -> None:
    (tmp_path / "things.py").write_text(OPERATIONS, encoding="utf-8")
    told = []
    for as_it_is in (True, False):
        home = tmp_path / ("stock" if as_it_is else "ours")
        (home / "source").mkdir(parents=True)
        (home / "source/types.yaml").write_text(TYPES, encoding="utf-8")
        (home / "source/blueprint.yaml").write_text(BLUEPRINT, encoding="utf-8")
        done = run(as_it_is, RUN, str(home), word, kind, directory=tmp_path)
        told.append([plain(done.stdout), masked(json.loads(done.stderr.splitlines()[-1]), str(home))])
    stock, ours = told
    assert ours == stock
    lines = ours[0]
    assert any("a part" in line for line in lines)
    assert any("Task rescheduled" in line for line in lines)
    assert any("on purpose" in line for line in lines) is (word == "fail")
    assert not any("not told" in line for line in lines)


def plain(output: str) -> list[str]:
    """Return the lines without their times, in no order: two threads write them."""
    return sorted(line[24:] for line in output.splitlines())


def masked(value: Any, place: str) -> Any:
    """Leave out what differs from run to run: times, places, and numbers of runs."""
    if isinstance(value, dict):
        hidden = {"created_at", "started_at", "ended_at", "__datetime__"}
        return {
            key: "..." if key in hidden or (key == "id" and "workflow_id" in value) else masked(item, place)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [masked(item, place) for item in value]
    return value.replace(place, "...") if isinstance(value, str) else value


def test_nothing_is_changed_before_local_mode_begins() -> None:
    """As in a process of a Manager that has the plugin: the parser loads our entry point there, too."""
    code = """
        import copy, gc
        from dsl_parser import functions, parser, yaml_loader
        from cloudify_libvirt import domain_tasks
        from cloudify import dispatch, logs, context
        from dsl_parser.framework import elements
        assert yaml_loader.load.__module__ == "dsl_parser.yaml_loader"
        assert elements.copy is dispatch.copy is copy
        assert logs.send_task_event.__module__ == "cloudify.logs"
        assert context.init_cloudify_logger.__module__ == "cloudify.logs"
        assert gc.get_threshold()[0] < 5000
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], check=True)


@pytest.mark.parametrize("module", ["logs", "context"])
def test_other_messages_are_left_alone(module: str) -> None:
    code = f"""
        from cloudify import context, logs
        {module}.__file__ = "/dev/null"
        from cloudify_libvirt import local_messages
        before = logs.send_task_event
        assert local_messages.improve() is False
        assert logs.send_task_event is before
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], check=True)


def test_messages_about_operations_are_the_engines() -> None:
    from cloudify import logs
    from cloudify.context import CloudifyContext

    from cloudify_libvirt import local_messages

    assert local_messages.digest() == local_messages._KNOWN
    usual = {
        "local": True, "storage": None, "type": "operation", "node_id": "vm_1", "node_name": "vm", "task_id": "t",
        "task_name": "a.b", "workflow_id": "install", "execution_id": "e", "deployment_id": "d", "blueprint_id": "b",
        "operation": {"name": "create", "retry_number": 0}, "plugin": {"name": "libvirt"}, "tenant": {"name": "x"},
    }  # fmt: skip
    bare = {"local": True, "node_id": "vm_1"}
    for given in (usual, bare, {**usual, "operation": None}, {**usual, "task_queue": "q", "task_target": "w"}):
        told: list[Any] = []
        local_messages.send_task_event(given, "task_started", "text", None, {"more": 1}, told.append)
        expected = {**logs.message_context_from_cloudify_context(CloudifyContext(given)), "more": 1}
        assert told[0]["context"] == expected
        assert list(told[0]["context"]) == list(expected)
