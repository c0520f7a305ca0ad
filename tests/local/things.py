"""Deployments of things: a node type whose instances are files, so that any cfy process sees what another one made."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.local.test_local_setup import CFY, Home

IMPORTS = ["cloudify/types/types.yaml"]
OPERATIONS = '''
"""A thing is the file things/INSTANCE with its node's properties; each call is one line of calls.jsonl."""
import json, os, signal, threading, time
from pathlib import Path
from cloudify import ctx
from cloudify.decorators import operation
from cloudify.exceptions import NonRecoverableError, OperationRetry

HOME = Path(os.environ["THINGS"])
# The engine runs operations in several threads.
ONE_AT_A_TIME = threading.Lock()

def done(kwargs, name=None):
    """Note the call; wait, or end the process, where the test wants it."""
    source = ctx.source if ctx.type == "relationship-instance" else ctx
    instance, node = source.instance, source.node
    name = name or ctx.operation.name.rsplit(".", 1)[1]
    target = ctx.target.instance.id if ctx.type == "relationship-instance" else None
    inputs = {key: value for key, value in kwargs.items() if not key.startswith("__") and key != "ctx"}
    said = {"operation": name, "instance": instance.id, "node": node.id, "target": target, "inputs": inputs}
    with ONE_AT_A_TIME:
        with open(HOME / "calls.jsonl", "a") as file:
            file.write(json.dumps(said) + "\\n")
        calls = [json.loads(line) for line in (HOME / "calls.jsonl").read_text().splitlines()]
        if os.environ.get("KILL_AT") == f"{name} {len([one for one in calls if one['operation'] == name])}":
            os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("WAIT_AT") == name:
        (HOME / "waiting").touch()
        while not (HOME / "go on").exists():
            time.sleep(0.05)
    if node.properties.get("fails") == name:
        raise NonRecoverableError(f"{name} fails, as it shall")

def thing():
    return HOME / "things" / ctx.instance.id

def declared():
    return {key: value for key, value in ctx.node.properties.items() if key in ("color", "size", "fails")}

@operation
def create(**kwargs):
    with ONE_AT_A_TIME:
        number = ctx.instance.runtime_properties.get("index")
        if number is None:
            taken = {json.loads(path.read_text())["index"] for path in (HOME / "things").iterdir()
                     if path.name.rsplit("_", 1)[0] == ctx.node.id}
            number = min(set(range(len(taken) + 1)) - taken)
        ctx.instance.runtime_properties["index"] = number
        thing().write_text(json.dumps({"index": number, **declared()}))
    done(kwargs)

@operation
def start(**kwargs):
    done(kwargs)

@operation
def delete(**kwargs):
    with ONE_AT_A_TIME:
        thing().unlink(missing_ok=True)
    done(kwargs)

@operation
def check_drift(**kwargs):
    done(kwargs)
    there = json.loads(thing().read_text())
    return [{"field": key, "declared": value, "found": there[key]} for key, value in declared().items()
            if there[key] != value]

@operation
def update(**kwargs):
    with ONE_AT_A_TIME:
        thing().write_text(json.dumps({**json.loads(thing().read_text()), **declared()}))
    done(kwargs)

@operation
def establish(**kwargs):
    done(kwargs)

@operation
def unlink(**kwargs):
    done(kwargs)
'''
LIFECYCLE = "cloudify.interfaces.lifecycle"
LINK = "cloudify.interfaces.relationship_lifecycle"
SECTIONS: dict[str, Any] = {
    "plugins": {"things": {"executor": "central_deployment_agent", "install": False}},
    "node_types": {
        "thing": {
            "derived_from": "cloudify.nodes.Root",
            "properties": {"color": {"default": "red"}, "size": {"default": 1}, "fails": {"default": ""}},
            "interfaces": {
                LIFECYCLE: {
                    name: f"things.thing_operations.{name}"
                    for name in ("create", "start", "delete", "check_drift", "update")
                }
            },
        },
        "stubborn": {
            "derived_from": "thing",
            "interfaces": {LIFECYCLE: {"update": {}, "check_drift": {}}},
        },
    },
    "relationships": {
        name: {
            "derived_from": f"cloudify.relationships.{name.removeprefix('thing_')}",
            "source_interfaces": {LINK: {one: f"things.thing_operations.{one}" for one in ("establish", "unlink")}},
        }
        for name in ("thing_connected_to", "thing_contained_in")
    },
}


class Things:
    """One deployment, and the files that its instances are."""

    name = "dep"

    def __init__(self, home: Home) -> None:
        self.home = home
        self.path = home.path / "state"
        (self.path / "things").mkdir(parents=True)
        (home.path / "thing_operations.py").write_text(OPERATIONS)
        home.environment["PYTHONPATH"] += f":{home.path}"
        home.environment["THINGS"] = str(self.path)

    def blueprint(self, nodes: dict[str, Any], **sections: Any) -> Path:
        path: Path = self.home.blueprint(*IMPORTS, nodes=nodes, **{**SECTIONS, **sections})
        return path

    def install(self, nodes: dict[str, Any], *options: object, **sections: Any) -> None:
        self.home.cfy("install", self.blueprint(nodes, **sections), "-b", self.name, *options)
        self.forget_calls()

    def start(self, workflow: str, code: int | None = 0, **parameters: Any) -> str:
        """Run a workflow; return what cfy said."""
        self.forget_calls()
        file = self.parameters(**parameters)
        done = self.home.run(CFY, "executions", "start", workflow, "-b", self.name, "-p", file)
        said: str = done.stdout + done.stderr
        assert code is None or done.returncode == code, said
        return said

    def parameters(self, **values: Any) -> Path:
        file: Path = self.home.path / "parameters.yaml"
        file.write_text(json.dumps(values))
        return file

    def start_killed(self, workflow: str, at: str, **parameters: Any) -> None:
        """Run a workflow that is killed (kill -9) in an operation, such as ``create 2``."""
        self.home.environment["KILL_AT"] = at
        try:
            said = self.start(workflow, code=-signal.SIGKILL, **parameters)
        finally:
            del self.home.environment["KILL_AT"]
        assert [call for call in self.calls if call["operation"] == at.split()[0]], said

    @contextmanager
    def beside(self, *command: object, wait_at: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a cfy command that waits in an operation until there is a file ``go on``."""
        process = subprocess.Popen(
            [str(part) for part in (CFY, *command)], env={**self.home.environment, "WAIT_AT": wait_at},
            cwd=self.home.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def forget_calls(self) -> None:
        (self.path / "calls.jsonl").write_text("")

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / "calls.jsonl").read_text().splitlines()]

    def called(self, *operations: str) -> list[tuple[str, str]]:
        """(operation, instance) of each call of these operations; of all but checks without any."""
        return [
            (str(call["operation"]), str(call["instance"]))
            for call in self.calls
            if (call["operation"] in operations if operations else call["operation"] != "check_drift")
        ]

    @property
    def things(self) -> dict[str, dict[str, Any]]:
        return {path.name: json.loads(path.read_text()) for path in (self.path / "things").iterdir()}

    def of(self, node: str) -> list[str]:
        """The things of a node, by their numbers."""
        found = {key: one for key, one in self.things.items() if key.rsplit("_", 1)[0] == node}
        return sorted(found, key=lambda key: found[key]["index"])

    @property
    def directory(self) -> Path:
        return self.home.path / ".cloudify/profiles/local/deployments" / self.name

    @property
    def instances(self) -> dict[str, dict[str, Any]]:
        files = (self.directory / "node-instances").iterdir()
        return {path.stem: json.loads(path.read_text()) for path in files}

    def outputs(self) -> dict[str, Any]:
        text = self.home.cfy("deployments", "outputs", "-b", self.name)
        found: dict[str, Any] = json.loads(text[text.index("{") :])
        return {key: sorted(value) if isinstance(value, list) else value for key, value in found.items()}

    def whole(self) -> None:
        """Assert that every instance stands and is linked with what stands, and that nothing else does."""
        found = self.instances
        assert set(found) == set(self.things)
        for one in found.values():
            assert one["state"] == "started", one
            assert {link["target_id"] for link in one["relationships"]} <= set(found)


def scalable(count: object, **properties: object) -> dict[str, Any]:
    return {"capabilities": {"scalable": {"properties": {"default_instances": count, **properties}}}}


def linked(target: str, kind: str = "connected_to") -> dict[str, Any]:
    return {"relationships": [{"type": f"thing_{kind}", "target": target}]}
