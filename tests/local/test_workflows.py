"""The workflows over all instances, run by cfy on nodes whose operations are functions of this file's own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml

from tests.local.test_local_setup import CFY, Home

IMPORTS = ["cloudify/types/types.yaml", "plugin:cloudify-libvirt-plugin"]
OPERATIONS = '''
"""Each call is one line of calls.jsonl; a node whose property `fails` names the operation fails in it."""
import json, os, time
from pathlib import Path
from cloudify import ctx
from cloudify.decorators import operation
from cloudify.exceptions import NonRecoverableError, OperationRetry, RecoverableError

def together(name, instance, number):
    """Wait until so many instances are in this operation; tell whether they came."""
    (meeting := Path(os.environ["CALLS"]).parent / f"in {name}").mkdir(exist_ok=True)
    (meeting / instance).touch()
    deadline = time.monotonic() + 60
    while number and len(list(meeting.iterdir())) < number and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(list(meeting.iterdir()))

@operation
def call(**kwargs):
    kwargs.pop("ctx", None)
    name = ctx.operation.name.split("interfaces.", 1)[1]
    failure = ctx.node.properties["fails"].get(name)
    met = together(name, ctx.instance.id, ctx.node.properties["together"].get(name, 0))
    tries = ctx.instance.runtime_properties.get(name, 0) + 1
    ctx.instance.runtime_properties[name] = tries
    said = {"instance": ctx.instance.id, "node": ctx.node.id, "operation": name, "met": met,
            "kwargs": {key: value for key, value in kwargs.items() if not key.startswith("__")}, "failed": failure}
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps(said) + "\\n")
    if failure == "once" and tries == 1:
        raise RecoverableError("the disk is busy", retry_after=0.1)
    if failure == "ask again":
        raise OperationRetry("not yet", retry_after=0.1)
    if failure not in (None, "once"):
        raise NonRecoverableError(failure)
'''
NAMES = {
    "cloudify.interfaces.freeze": ("suspend", "resume", "fs_prepare", "fs_finalize"),
    "cloudify.interfaces.lifecycle": ("suspend", "resume"),
    "cloudify.interfaces.snapshot": ("create", "apply", "delete"),
    "cloudify.interfaces.statistics": ("perfomance",),
}
TYPE = {
    "properties": {"fails": {"default": {}}, "together": {"default": {}}, "skip_actions": {"default": []}},
    "interfaces": {
        interface: dict.fromkeys(names, "recorder.recorder_operations.call") for interface, names in NAMES.items()
    },
}
MACHINES = ("vm", "db")


class Deployment:
    """A deployment of a service on two machines on a network, and a node without any of the operations."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.calls_file = home.path / "calls.jsonl"
        (home.path / "recorder_operations.py").write_text(OPERATIONS)
        home.environment["PYTHONPATH"] += f":{home.path}"
        home.environment["CALLS"] = str(self.calls_file)

    def install(self, name: str, *imports: str, **properties: dict[str, object]) -> None:
        hosts = [{"type": "cloudify.relationships.connected_to", "target": "net"}]
        inside = [{"type": "cloudify.relationships.contained_in", "target": "vm"}]
        nodes = {
            "net": {"type": "recorded", "properties": properties.get("net", {})},
            "vm": {"type": "recorded_host", "properties": properties.get("vm", {}), "relationships": hosts},
            "db": {"type": "rotating_host", "properties": properties.get("db", {}), "relationships": hosts},
            "service": {"type": "recorded", "properties": properties.get("service", {}), "relationships": inside},
            "silent": {"type": "cloudify.nodes.Root"},
        }
        path = self.home.blueprint(
            *(imports or IMPORTS),
            nodes=nodes,
            plugins={"recorder": {"executor": "central_deployment_agent", "install": False}},
            node_types={
                "recorded": {"derived_from": "cloudify.nodes.Root", **TYPE},
                "recorded_host": {"derived_from": "cloudify.nodes.Compute", **TYPE},
                "rotating_host": {
                    "derived_from": "recorded_host",
                    "interfaces": {"cloudify.interfaces.snapshot": {"rotate": "recorder.recorder_operations.call"}},
                },
            },
        )
        self.name = name
        self.home.cfy("install", path, "-b", name)
        self.calls_file.write_text("")

    def run(self, workflow: str, *parameters: str, code: int = 0) -> str:
        self.calls_file.write_text("")
        options = [word for parameter in parameters for word in ("-p", parameter)]
        done = self.home.run(CFY, "executions", "start", workflow, "-b", self.name, *options,
                             "--allow-custom-parameters", "--task-thread-pool-size", "8")  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        return said

    @property
    def calls(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]

    def order(self, *operations: str) -> list[tuple[str, str]]:
        """(operation, node) of each call, those at one time by name."""
        found = [(str(call["operation"]), str(call["node"])) for call in self.calls]
        return [pair for pair in found if not operations or pair[0] in operations]

    def nodes(self, operation: str) -> list[str]:
        return sorted(node for name, node in self.order(operation))


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    home = Home(tmp_path)
    run = home.cfy_libvirt("local-setup")
    assert run.returncode == 0, run.stdout + run.stderr
    return Deployment(home)


EVERYBODY = ["db", "net", "service", "vm"]


def test_the_six_in_their_order_with_their_parameters(deployment: Deployment) -> None:
    deployment.install("six")
    deployment.run("suspend")
    assert deployment.nodes("lifecycle.suspend") == deployment.nodes("freeze.suspend") == EVERYBODY
    assert [name for name, _ in deployment.order()] == ["lifecycle.suspend"] * 4 + ["freeze.suspend"] * 4
    deployment.run("resume")
    assert [name for name, _ in deployment.order()] == ["freeze.resume"] * 4 + ["lifecycle.resume"] * 4
    deployment.run("statistics")
    assert deployment.nodes("statistics.perfomance") == EVERYBODY

    deployment.run("backup", "snapshot_name=one", "snapshot_incremental=false", "extra=mine")
    names = [name for name, _ in deployment.order()]
    assert names == [
        *["freeze.fs_prepare"] * 4, *["snapshot.create"] * 4, *["freeze.fs_finalize"] * 4, "snapshot.rotate",
    ]  # fmt: skip
    prepared = [node for name, node in deployment.order("freeze.fs_prepare")]
    finalized = [node for name, node in deployment.order("freeze.fs_finalize")]
    assert set(prepared[:2]) == set(finalized[2:]) == {"net", "service"}, "services first, machines last; then reversed"
    for call in deployment.calls:
        later = {"snapshot_rotate": False} if (call["node"], call["operation"]) == ("db", "snapshot.create") else {}
        assert call["kwargs"] == {
            **later,
            "snapshot_name": "one", "snapshot_incremental": False, "snapshot_type": "irregular", "snapshot_rotation": 1,
            "include_instances": [], "include_node_types": [], "exclude_node_types": [], "extra": "mine",
        }  # fmt: skip
    begin = time.time()
    deployment.run("backup")
    (name,) = {str(call["kwargs"]["snapshot_name"]) for call in deployment.calls}  # type: ignore[index]
    assert int(begin) <= float(name.removeprefix("backup-")) <= time.time() + 1, "named by the time"

    deployment.run("restore", "snapshot_name=one")
    applied = [node for _, node in deployment.order("snapshot.apply")]
    assert applied[0] == "net" and applied[-1] == "service" and set(applied[1:3]) == set(MACHINES)
    assert "snapshot_name is empty" in deployment.run("restore", code=1)
    deployment.run("remove_backup", "snapshot_name=one")
    assert deployment.nodes("snapshot.delete") == EVERYBODY and len(deployment.order()) == 4
    assert "snapshot_name is empty" in deployment.run("remove_backup", code=1)
    assert "must be true or false" in deployment.run("backup", "snapshot_incremental=perhaps", code=1)


def test_filters_and_skipped_actions(deployment: Deployment) -> None:
    deployment.install("filters", db={"skip_actions": ["cloudify.interfaces.freeze.suspend"]})
    deployment.run("suspend")
    assert (
        deployment.nodes("freeze.suspend") == ["net", "service", "vm"]
        and deployment.nodes("lifecycle.suspend") == EVERYBODY
    )
    deployment.run("suspend", "include_node_types=cloudify.nodes.Compute")
    assert deployment.nodes("lifecycle.suspend") == ["db", "vm"]
    deployment.run("suspend", "include_node_types=cloudify.nodes.Compute,rotating_host")
    assert deployment.nodes("lifecycle.suspend") == ["db"], "of several types a node must be all"
    said = deployment.run("suspend", "include_node_types=recorded,rotating_host")
    assert deployment.order() == [] and "no instance" in said
    deployment.run("backup", 'exclude_node_types=["cloudify.nodes.Compute"]', "snapshot_name=some")
    assert deployment.nodes("snapshot.create") == deployment.nodes("freeze.fs_prepare") == ["net", "service"]
    instances = json.loads(deployment.home.cfy("node-instances", "-b", "filters"))
    wanted = next(instance["id"] for instance in instances if instance["node_id"] == "db")
    deployment.run("statistics", f"include_instances={wanted}")
    assert deployment.nodes("statistics.perfomance") == ["db"]
    assert "has no instance db_x" in deployment.run("statistics", "include_instances=db_x", code=1)


def test_instances_run_at_the_same_time(deployment: Deployment) -> None:
    deployment.install("parallel", **{name: {"together": {"snapshot.create": len(EVERYBODY)}} for name in EVERYBODY})
    deployment.run("backup", "snapshot_name=one")
    calls = [call for call in deployment.calls if call["operation"] == "snapshot.create"]
    assert [call["met"] for call in calls] == [len(EVERYBODY)] * len(EVERYBODY), "one waited for another's end"


def test_a_backup_that_fails_on_one_is_on_none(deployment: Deployment) -> None:
    deployment.install("partial", db={"fails": {"snapshot.create": "the disk is full"}})
    said = deployment.run("backup", "snapshot_name=one", code=1)
    assert deployment.nodes("snapshot.create") == EVERYBODY
    assert deployment.nodes("snapshot.delete") == ["net", "service", "vm"], "db has cleaned up itself"
    assert deployment.nodes("freeze.fs_finalize") == EVERYBODY
    order = [name for name, _ in deployment.order()]
    assert order.index("freeze.fs_finalize") < order.index("snapshot.delete"), (
        "nothing stays frozen for the cleaning up"
    )
    last = said[said.index("no instance has backup 'one'") :]
    assert "it failed on db_" in last and "the disk is full" in last and "removed again from net_" in last


def test_old_backups_go_when_all_have_the_new_one(deployment: Deployment) -> None:
    deployment.install("rotating", vm={"fails": {"snapshot.create": "the disk is full"}})
    deployment.run("backup", "snapshot_name=one", "snapshot_rotation=2", code=1)
    assert "db" in deployment.nodes("snapshot.delete") and deployment.nodes("snapshot.rotate") == []
    deployment.install("stuck", db={"fails": {"snapshot.rotate": "it is in use"}})
    said = deployment.run("backup", "snapshot_name=one", "snapshot_rotation=2", code=1)
    assert "backup 'one' stands, but letting old ones go failed: db_" in said and "it is in use" in said
    assert deployment.nodes("snapshot.delete") == []


def test_what_cannot_be_cleaned_up_is_named(deployment: Deployment) -> None:
    deployment.install("worse", db={"fails": {"snapshot.create": "the disk is full"}},
                       vm={"fails": {"snapshot.delete": "it is in use"}})  # fmt: skip
    said = deployment.run("backup", "snapshot_name=one", code=1)
    assert "could not be removed again from vm_" in said and "it is in use" in said and "run remove_backup" in said


def test_freezing_that_fails_makes_no_backup_and_thaws(deployment: Deployment) -> None:
    deployment.install("frozen", service={"fails": {"freeze.fs_prepare": "no agent"}})
    said = deployment.run("backup", "snapshot_name=one", code=1)
    assert "no backup 'one' was made: freezing failed" in said and "no agent" in said
    assert deployment.nodes("snapshot.create") == [] and deployment.nodes("freeze.fs_finalize") == EVERYBODY
    assert deployment.nodes("freeze.fs_prepare") == ["net", "service"], "machines were left alone"


def test_a_restore_stops_before_what_depends_on_the_failure(deployment: Deployment) -> None:
    deployment.install("restore", vm={"fails": {"snapshot.apply": "checksum differs"}})
    said = deployment.run("restore", "snapshot_name=one", code=1)
    assert (
        deployment.nodes("snapshot.apply") == ["db", "net", "vm"]
        and deployment.nodes("freeze.fs_finalize") == EVERYBODY
    )
    assert "failed on vm_" in said and "checksum differs" in said and "not tried: service_" in said


def test_a_removal_goes_on_after_a_failure(deployment: Deployment) -> None:
    deployment.install("remove", net={"fails": {"snapshot.delete": "it is unknown"}})
    said = deployment.run("remove_backup", "snapshot_name=one", code=1)
    assert deployment.nodes("snapshot.delete") == EVERYBODY
    assert "but not from all: net_" in said and "it is unknown" in said


def test_what_may_pass_is_tried_again(deployment: Deployment) -> None:
    fails = {"snapshot.create": "once", "freeze.suspend": "ask again"}
    deployment.install("again", vm={"fails": fails})
    path = deployment.home.path / "calls.jsonl"
    path.write_text("")
    retries = ("--task-retries", "2", "--task-retry-interval", "1")
    run = deployment.home.run(CFY, "executions", "start", "backup", "-b", "again", *retries)
    assert run.returncode == 0, run.stdout + run.stderr
    assert deployment.nodes("snapshot.create") == sorted([*EVERYBODY, "vm"])
    run = deployment.home.run(CFY, "executions", "start", "suspend", "-b", "again", *retries)
    assert run.returncode == 1 and "but not on all: vm_" in run.stdout + run.stderr
    assert deployment.nodes("freeze.suspend") == sorted([*EVERYBODY, "vm", "vm"])


UTILITIES = (
    "plugin:cloudify-utilities-plugin",
    "plugin:cloudify-utilities-plugin?version= >=1.0",
    "https://raw.githubusercontent.com/cloudify-incubator/cloudify-utilities-plugin/1.9.8/plugin.yaml",
    "https://raw.githubusercontent.com/cloudify-incubator/cloudify-utilities-plugin/1.4.1.1/cloudify_suspend/types.yaml",
    "http://www.getcloudify.org/spec/utilities-plugin/1.9.8/plugin.yaml",
)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("utilities", UTILITIES)
def test_blueprints_that_import_the_utilities_plugin_too(deployment: Deployment, utilities: str, order: int) -> None:
    """Both bring the same workflows: the engine takes those of the first, and the functions are the same."""
    plugins = ["plugin:cloudify-libvirt-plugin", utilities][::order]
    nodes = {"vm": {"type": "cloudify.libvirt.domain"}}
    path = deployment.home.blueprint("cloudify/types/types.yaml", *plugins, nodes=nodes)
    assert "Initialized" in deployment.home.cfy("init", path, "-b", "both")
    deployment.install("two", "cloudify/types/types.yaml", *plugins)
    deployment.run("backup", "snapshot_name=one")
    assert deployment.nodes("snapshot.create") == EVERYBODY


def test_a_file_of_the_blueprints_own_may_say_the_same(tmp_path: Path) -> None:
    """What the parser does with two workflows of one name, with no resolver of ours: the first wins, key by key."""
    plugins = {"mine": {"executor": "central_deployment_agent", "install": False}}
    workflows = {"backup": {"mapping": "mine.other.backup", "parameters": {"mine": {"default": 1}}}}
    root = Path(__file__).resolve().parents[2]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"plugins": plugins, "workflows": workflows}))
    code = textwrap.dedent("""
        import sys
        from dsl_parser.parser import parse_from_path
        found = parse_from_path(sys.argv[1])["workflows"]["backup"]
        print(found["operation"], sorted(found["parameters"]))
    """)
    said = []
    for imports in (["own.yaml", f"file:{root}/plugin.yaml"], [f"file:{root}/plugin.yaml", "own.yaml"]):
        path = tmp_path / "blueprint.yaml"
        document = {
            "tosca_definitions_version": "cloudify_dsl_1_3",
            "imports": [f"file:{root}/types/types.yaml", *imports],
            "node_templates": {"vm": {"type": "cloudify.nodes.Root"}},
        }
        path.write_text(yaml.safe_dump(document))
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, path], capture_output=True, text=True, check=True
        )
        said.append(run.stdout.split(" ", 1))
    assert said[0] == ["other.backup", "['mine']\n"]
    assert said[1][0] == "cloudify_libvirt.workflows.backup" and "snapshot_name" in said[1][1]
