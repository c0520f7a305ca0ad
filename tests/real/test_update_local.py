"""Local mode's ``update`` and ``scale`` on real guests: who stays keeps its process, a killed run goes on."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.real.conftest import BLUEPRINTS, PYTHON, ROOT, Cfy, Host, public_key, ssh, virsh

SUCCEEDED = "Task succeeded"


def blueprint(directory: Path, *, boots: bool, **params: Any) -> Path:
    """The cluster with a description by input; without boots its guests are started, and not waited for."""
    document = yaml.safe_load((BLUEPRINTS / "cluster.yaml").read_text())
    document["inputs"]["about"] = {"default": "as it was"}
    machine = document["node_templates"]["machine"]["properties"]["params"]
    machine.update(description={"get_input": "about"}, **params)
    if not boots:
        machine.update(wait_for_ip=False, shutdown_timeout_s=0)
    path = directory / "blueprint" / "cluster.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(document))
    return path


def inputs(image: Path, key: Path, **more: object) -> dict[str, Any]:
    given = {"image": str(image), "ssh_public_key": public_key(key), "ssh_user": "root", "memory": "128 MiB"}
    return {**given, "disk": "256 MiB", "machines": 2, **more}


def pids(host: Host) -> dict[str, tuple[str, int]]:
    """UUID and QEMU's process of each running guest."""
    found = {}
    for domain in host.connection.listAllDomains():
        name = domain.name()
        found[name] = (domain.UUIDString(), int(Path(f"/run/libvirt/qemu/{name}.pid").read_text()))
    return found


def told(result: Any) -> str:
    """The lines of a workflow that name operations, without checks."""
    return "\n".join(line for line in result.lines(SUCCEEDED) if "check_drift" not in line)


def start(cfy: Cfy, workflow: str, check: bool = True, **parameters: Any) -> Any:
    file = cfy.directory / "parameters.yaml"
    file.write_text(yaml.safe_dump(parameters))
    return cfy("executions", "start", workflow, "-b", "cluster", "-p", file, check=check)


def test_guests_that_stay_stay(cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    path = blueprint(cfy.directory, boots=True)
    cfy.install(path, "cluster", **inputs(tiny, key))
    before = pids(clean_host)
    assert set(before) == {"node-1", "node-2"}

    nothing = start(cfy, "update")
    assert told(nothing) == "" and "unchanged: 4" in nothing.output

    result = start(cfy, "update", inputs={"about": "another one", "machines": 3})
    now = pids(clean_host)
    assert before.items() <= now.items() and set(now) == {"node-1", "node-2", "node-3"}
    assert clean_host.domain("node-2").metadata(0, None) == "another one"
    assert told(result).count("domain_tasks.update'") == 2
    assert told(result).count("domain_tasks.create'") == told(result).count("network_tasks.link'") == 1
    assert "pool_tasks" not in told(result) and "network_tasks.update" not in told(result)
    addresses = cfy.outputs("cluster")["addresses"]
    assert isinstance(addresses, list) and len(set(addresses)) == 3
    assert {ssh(key, str(address), "hostname") for address in addresses} == {"node-1", "node-2", "node-3"}

    # In, out again: the number, and with it name, UUID and address range, is free again; the others do not notice.
    start(cfy, "scale", scalable_entity_name="machine", delta=-1)
    assert pids(clean_host) == before
    start(cfy, "scale", scalable_entity_name="machine", delta=1)
    assert before.items() <= pids(clean_host).items()
    assert pids(clean_host)["node-3"][0] == now["node-3"][0]
    assert "ssh" in str(cfy.outputs("cluster")["ssh"])
    cfy.uninstall("cluster")


def test_what_takes_a_restart_waits_for_leave(cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    cfy.install(blueprint(cfy.directory, boots=False), "cluster", **inputs(tiny, key, machines=1))
    before = pids(clean_host)
    said = start(cfy, "update", inputs={"memory": "160 MiB"})
    assert pids(clean_host) == before
    assert said.lines("not in force yet", "memory"), said.output[-3000:]
    start(cfy, "update", allow_restart=True)
    now = pids(clean_host)
    assert now["node-1"][0] == before["node-1"][0] and now["node-1"][1] != before["node-1"][1]
    assert clean_host.domain("node-1").maxMemory() == 160 * 1024
    _another_architecture(cfy, clean_host)
    cfy.uninstall("cluster")


def _another_architecture(cfy: Cfy, host: Host) -> None:
    """It takes another machine: never without leave, and then under the same name and UUID."""
    before = pids(host)
    blueprint(cfy.directory, boots=False, arch="i686")
    refused = start(cfy, "update", check=False)
    assert refused.code != 0 and refused.lines("arch was", "is now i686", "-p allow_replace=machine"), refused.output
    assert pids(host) == before and "arch='x86_64'" in virsh("dumpxml", "node-1")
    start(cfy, "update", allow_replace="machine")
    now = pids(host)
    assert now["node-1"][0] == before["node-1"][0] and now["node-1"][1] != before["node-1"][1]
    assert "arch='i686'" in virsh("dumpxml", "node-1")
    assert told(start(cfy, "update")) == ""


def killed(cfy: Cfy, count: int, workflow: str, **parameters: Any) -> None:
    """Run a workflow, killed right after its count-th operation."""
    file = cfy.directory / "parameters.yaml"
    file.write_text(yaml.safe_dump(parameters))
    arguments = ["executions", "start", workflow, "-b", "cluster", "-p", file]
    call = [PYTHON, ROOT / "tests/real/cfy_until.py", count, SUCCEEDED, *arguments]
    done = subprocess.run(
        [str(word) for word in call], env=cfy.environment, cwd=ROOT, check=False, timeout=900,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == -9, done.stdout[-4000:]


@pytest.mark.parametrize("counts", [(1, 2, 3), (10, 5, 6)], ids=["early", "late"])
def test_killed_runs_go_on(cfy: Cfy, clean_host: Host, tiny: Path, key: Path, counts: tuple[int, int, int]) -> None:
    """An update with a change and a new machine, a scale out and a scale in; each killed, each run again."""
    update, out, in_ = counts
    cfy.install(blueprint(cfy.directory, boots=False), "cluster", **inputs(tiny, key))
    before = pids(clean_host)

    wanted = {"inputs": {"about": "another one", "machines": 3}}
    killed(cfy, update, "update", **wanted)
    start(cfy, "update", **wanted)
    names = {f"node-{number}" for number in range(1, 4)}
    assert set(pids(clean_host)) == names and before.items() <= pids(clean_host).items()
    assert {clean_host.domain(name).metadata(0, None) for name in names} == {"another one"}

    before = pids(clean_host)
    killed(cfy, out, "scale", scalable_entity_name="machine", delta=1)
    start(cfy, "scale", scalable_entity_name="machine", delta=1)
    assert set(pids(clean_host)) == names | {"node-4"} and before.items() <= pids(clean_host).items()

    killed(cfy, in_, "scale", scalable_entity_name="machine", delta=-2)
    start(cfy, "scale", scalable_entity_name="machine", delta=-2)
    assert {name: pid for name, pid in before.items() if name != "node-3"} == pids(clean_host)
    assert "unchanged: 4" in start(cfy, "update").output
    cfy.uninstall("cluster")
