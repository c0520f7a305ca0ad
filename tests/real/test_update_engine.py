"""A Manager's update, by the engine's own functions (engine_update.py): what it calls, and what then stands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.real.conftest import Cfy, Host, Result, virsh
from tests.real.nodes import blueprint, empty_domain, node

# What a Manager calls its workflow.
WORKFLOW = "csys_new_deployment_update"
OWN = ("preupdate", "postupdate", "update_config", "update_apply", "update_postapply")
ORDER = ["preupdate", "update", "postupdate", "update_config", "update_apply", "update_postapply"]
PARAMS: dict[str, dict[str, Any]] = {
    "lan": {"name": "lan", "cidr": "10.98.9.0/24"},
    "store": {"name": "store"},
    "data": {"name": "data.qcow2", "pool": "store", "size": "4 MiB", "format": "qcow2"},
    "vm": {"name": "vm", "description": "first", "vcpu": 1, "max_vcpu": 1, "networks": [{"network": "lan"}],
           "disks": [{"pool": "store", "volume": "data.qcow2"}]},
    "other": {"name": "other", "description": "first"},
}  # fmt: skip


class Managed:
    """One deployment, updated as a Manager does."""

    def __init__(self, cfy: Cfy, host: Host, directory: Path) -> None:
        self.cfy, self.host = cfy, host
        cfy.environment["PYTHONPATH"] = str(Path(__file__).parent)
        nodes = {
            "lan": node("network", **PARAMS["lan"]),
            "store": node("pool", **PARAMS["store"]),
            "data": node("volume", "store", **PARAMS["data"]),
            "vm": empty_domain("lan", "data", **PARAMS["vm"]),
            "other": empty_domain("vm", **PARAMS["other"]),
        }
        for one in nodes.values():
            one["interfaces"] = {"cloudify.interfaces.lifecycle": dict.fromkeys(OWN, "manager.engine_update.nothing")}
        nodes["other"]["interfaces"]["cloudify.interfaces.lifecycle"]["postupdate"] = "manager.engine_update.failing"
        path = blueprint(directory, "managed", **nodes)
        document = yaml.safe_load(path.read_text())
        document["plugins"] = {"manager": {"executor": "central_deployment_agent", "install": False}}
        document["workflows"] = {
            WORKFLOW: {"mapping": "manager.engine_update.update", "parameters": {"properties": {"default": {}}}}
        }
        path.write_text(yaml.safe_dump(document))
        self.cfy.install(path, "managed")

    def update(self, **changed: dict[str, Any]) -> Result:
        """Run the workflow with other params of nodes."""
        given = {name: {"params": {**self.params(name), **params}} for name, params in changed.items()}
        file = self.cfy.directory / "parameters.yaml"
        file.write_text(yaml.safe_dump({"properties": given}))
        return self.cfy("executions", "start", WORKFLOW, "-b", "managed", "-p", file)

    def params(self, name: str) -> dict[str, Any]:
        path = self.cfy.directory / ".cloudify/profiles/local/deployments/managed/deployment.json"
        found: dict[str, Any] = json.loads(path.read_text())["nodes"][name]["properties"]["params"]
        return found

    def instance(self, name: str) -> dict[str, Any]:
        (path,) = (self.cfy.directory / ".cloudify/profiles/local/deployments/managed/node-instances").glob(f"{name}_*")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    @property
    def drift(self) -> dict[str, list[str]]:
        """What the engine holds of each node's drift."""
        found = {name: self.instance(name)["system_properties"].get("configuration_drift") or {} for name in PARAMS}
        return {name: [one["field"] for one in drift["result"]] for name, drift in found.items() if drift.get("result")}

    @property
    def identity(self) -> dict[str, tuple[str, int]]:
        """UUID and QEMU's process of each guest."""
        pids = {name: int(Path(f"/run/libvirt/qemu/{name}.pid").read_text()) for name in ("vm", "other")}
        return {name: (self.host.domain(name).UUIDString(), pid) for name, pid in pids.items()}


def sent(result: Result) -> dict[str, list[str]]:
    """The operations that ran, in their order, by node."""
    found: dict[str, list[str]] = {}
    for node_name, name in re.findall(r"\[(\w+)_\w+\.(\w+)\] Task started", result.output):
        found.setdefault(node_name, []).append(name)
    return found


@pytest.fixture
def managed(cfy: Cfy, clean_host: Host, tmp_path: Path) -> Managed:
    return Managed(cfy, clean_host, tmp_path)


def test_what_the_engine_calls_and_what_stands_then(managed: Managed) -> None:
    before = managed.identity
    looked = {name: ["check_drift"] for name in PARAMS}

    assert sent(managed.update()) == looked, "nothing differs, and nothing is updated"

    # Every kind of node in one update: each gets the engine's six operations, in the engine's order.
    result = managed.update(
        lan={"dns": {"hosts": [{"ip": "10.98.9.9", "names": ["web"]}]}}, store={"autostart": False},
        data={"size": "8 MiB"}, vm={"description": "second"},
    )  # fmt: skip
    assert sent(result) == {**{name: ["check_drift", *ORDER] for name in PARAMS}, "other": ["check_drift"]}
    assert managed.identity == before
    assert virsh("desc", "vm").strip() == "second"
    assert "<hostname>web</hostname>" in virsh("net-dumpxml", "lan")
    assert virsh("domblkinfo", "vm", "vda").split()[1] == str(8 << 20)
    assert managed.drift == {}
    assert sent(managed.update()) == looked, "the drift is gone from the host, too"

    # What somebody else changed on the host is drift, and goes the same way.
    virsh("desc", "vm", "--config", "--live", "theirs")
    assert sent(managed.update())["vm"] == ["check_drift", *ORDER]
    assert (virsh("desc", "vm").strip(), managed.identity) == ("second", before)

    _what_waits_or_is_refused(managed, before)
    managed.cfy.uninstall("managed")


def _what_waits_or_is_refused(managed: Managed, before: dict[str, tuple[str, int]]) -> None:
    """No leave to restart, and a value that the host refuses: the engine has no reason to install anything anew."""
    result = managed.update(vm={"max_vcpu": 2})
    assert "max_vcpu" in managed.instance("vm")["runtime_properties"]["update_pending"]
    assert result.lines("to be installed anew: []"), result.output
    assert (sent(result)["vm"], managed.identity) == (["check_drift", *ORDER], before)
    assert {"create", "stop", "delete"}.isdisjoint(name for names in sent(result).values() for name in names)

    stored = virsh("dumpxml", "--inactive", "vm")
    result = managed.update(vm={"machine": "no-such-machine"}, data={"size": "1 MiB"})
    for name in ("vm", "data"):
        assert managed.instance(name)["runtime_properties"]["update_refused"], name
        assert sent(result)[name] == ["check_drift", *ORDER]
    assert result.lines("to be installed anew: []") and managed.identity == before
    assert virsh("dumpxml", "--inactive", "vm") == stored
    # The engine has forgotten the drift of what did not fail; the next look finds it again.
    managed.cfy("executions", "start", "check_drift", "-b", "managed")
    assert managed.drift == {"vm": ["machine", "max_vcpu"], "data": ["size"]}
    managed.update(vm={"machine": None, "max_vcpu": 1}, data={"size": "8 MiB"})
    assert managed.drift == {} and not managed.instance("vm")["runtime_properties"].get("update_refused")

    # What fails is installed anew: it is this that a refusal must not be.
    result = managed.update(other={"description": "second"})
    assert result.lines("updated: other; to be installed anew: ['other_"), result.output
    after = managed.identity
    assert after["vm"] == before["vm"] and after["other"][0] == before["other"][0] and after["other"] != before["other"]
