"""Workflows worked off by their one worker: what is done, by whom, and when it ends, as with the engine's own way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cloudify.workflows import tasks_graph

from cloudify_libvirt import local_engine, local_graph

ROOT = Path(__file__).resolve().parents[2]
BLUEPRINT = """
tosca_definitions_version: cloudify_dsl_1_4
imports: [cloudify/types/types.yaml]
plugins: {things: {executor: central_deployment_agent, package_name: things}}
node_types:
  thing:
    derived_from: cloudify.nodes.Root
    interfaces:
      cloudify.interfaces.lifecycle: {create: things.things.create, start: things.things.start}
      test: {count: things.things.count}
workflows: {nested: things.things.nested}
node_templates:
  late: {type: thing}
  other:
    type: thing
    capabilities: {scalable: {properties: {default_instances: 4}}}
  after: {type: thing, relationships: [{type: cloudify.relationships.depends_on, target: late}]}
"""
OPERATIONS = """
import os, sys, threading, time
from cloudify import ctx
from cloudify.exceptions import NonRecoverableError
from cloudify.workflows import api, tasks

TOLD, WORKING = [], []
MODE = os.environ["MODE"]

def told(what):
    TOLD.append([ctx.node.name, what, threading.current_thread().name])

def create(**_):
    WORKING.append(1)
    time.sleep(0.02)
    told(f"create, {len(WORKING)} at once")
    WORKING.pop()
    if ctx.node.name == "late":
        if MODE == "fails":
            raise NonRecoverableError("on purpose")
        if MODE == "cancelled":
            api.set_cancel_request()
        if MODE == "interrupted":
            print("now", file=sys.stderr, flush=True)
            time.sleep(60)
        if ctx.operation.retry_number < 2:
            return ctx.operation.retry("not yet", retry_after=0.3)

def start(**_):
    told("start")

def count(**_):
    from cloudify_libvirt.engine import queued_operations
    told(f"{queued_operations()} waiting")

def nested(ctx, **_):
    # Handlers that wait for another operation, and work off another graph; and an operation without any graph.
    late, other = (next(i for i in ctx.get_node(name).instances) for name in ("late", "other"))

    def waits(task):
        other.execute_operation("test.count").apply_async().get()
        graph = ctx.internal.task_graph.__class__(ctx)
        graph.add_task(other.execute_operation("test.count"))
        graph.execute()
        return tasks.HandlerResult.cont()

    late.execute_operation("test.count").get()
    graph = ctx.graph_mode()
    for one in (late, late, late, other):
        graph.add_task(one.execute_operation("test.count"))
    next(iter(graph.tasks)).on_success = waits
    graph.execute()
"""
RUN = """
import json, sys, threading, time
from cloudify.workflows import local
from cloudify_libvirt.local_resolver import LocalResolver
import things

env = local.init_env(sys.argv[1], name="dep", storage=local.InMemoryStorage(), resolver=LocalResolver())
begin = time.monotonic()
try:
    workflow = "nested" if things.MODE == "nested" else "install"
    ended = str(env.execute(workflow, task_retries=5, task_retry_interval=0, task_thread_pool_size=int(sys.argv[2])))
except BaseException as error:
    ended = type(error).__name__ + ": " + str(error)
print(json.dumps([ended, things.TOLD, time.monotonic() - begin, threading.current_thread().name]), file=sys.stderr)
"""


def begin(place: Path, mode: str, *, stock: bool, workers: int = 1) -> subprocess.Popen[str]:
    """Start an install, with the engine's way or ours."""
    (place / "things.py").write_text(OPERATIONS, encoding="utf-8")
    (place / "blueprint.yaml").write_text(BLUEPRINT, encoding="utf-8")
    path = os.pathsep.join([str(place), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": path, "MODE": mode, local_engine.SWITCH: "1" if stock else ""}
    # A shell that runs this in the background lets its children ignore SIGINT.
    command = ["env", "--default-signal=INT", sys.executable, "-W", "ignore", "-c", RUN]
    return subprocess.Popen([*command, str(place / "blueprint.yaml"), str(workers)], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def ended(running: subprocess.Popen[str]) -> Any:
    """Return how it ended, what was done (node, what, thread), how many seconds it took, and the main thread's name."""
    output, told = running.communicate(timeout=300)
    assert running.returncode == 0, output + told
    return json.loads(told.splitlines()[-1])


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("mode", ["works", "fails", "cancelled"])
def test_one_after_the_other_in_one_thread(tmp_path: Path, mode: str, stock: bool) -> None:
    how, told, seconds, main = ended(begin(tmp_path, mode, stock=stock))
    assert {thread for _, _, thread in told} == {"Task-Processor-1"} != {main}
    done = [(name, what) for name, what, _ in told]
    assert {what for _, what in done} <= {"create, 1 at once", "start"}
    first = [name for name, what in done if what.startswith("create")]
    if mode == "works":
        # The two later attempts wait for their time, and nobody waits for them who need not.
        assert how == "None" and seconds >= 0.6
        assert sorted(first) == ["after", "late", "late", "late", *["other"] * 4]
        assert done.index(("late", "start")) > max(n for n, one in enumerate(done) if one == ("other", "start"))
        assert done[-2:] == [("after", "create, 1 at once"), ("after", "start")]
    elif mode == "fails":
        assert how.startswith("WorkflowFailed") and "things.create" in how
        assert ("late", "start") not in done and "after" not in first and first.count("late") == 1
    else:
        assert "cancel" in how.lower()
        assert first.count("late") == 1 and "after" not in first


@pytest.mark.parametrize("stock", [False, True])
def test_an_interrupt_ends_it_at_once(tmp_path: Path, stock: bool) -> None:
    running = begin(tmp_path, "interrupted", stock=stock)
    assert running.stderr is not None
    assert running.stderr.readline() == "now\n"
    running.send_signal(signal.SIGINT)
    how, told, seconds, _ = ended(running)
    assert how.startswith("KeyboardInterrupt") and seconds < 50
    assert not [one for one in told if one[:2] == ["late", "start"]]


@pytest.mark.parametrize("stock", [False, True])
def test_more_workers_work_at_once(tmp_path: Path, stock: bool) -> None:
    how, told, _, _ = ended(begin(tmp_path, "works", stock=stock, workers=3))
    assert how == "None" and len(told) == 14
    assert len({thread for _, _, thread in told}) > 1


@pytest.mark.parametrize("stock", [False, True])
def test_handlers_may_wait_for_operations_and_graphs(tmp_path: Path, stock: bool) -> None:
    how, told, seconds, _ = ended(begin(tmp_path, "nested", stock=stock))
    assert how == "None" and seconds < 60, how
    assert sorted(name for name, _, _ in told) == ["late"] * 4 + ["other"] * 3
    # Who waits for a guest asks whether others wait for the worker.
    assert {what for _, what, _ in told} >= {"0 waiting", "1 waiting", "2 waiting", "3 waiting"}


def test_another_engine_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_graph.digest() == local_graph._KNOWN
    monkeypatch.setattr(local_graph, "_KNOWN", "of another")
    monkeypatch.setattr(tasks_graph.TaskDependencyGraph, "execute", local_graph._engines)
    assert not local_graph.improve()
    assert tasks_graph.TaskDependencyGraph.execute is local_graph._engines
