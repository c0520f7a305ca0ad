"""Section 6 on a real host: the workflows over machines, volumes, a pool and a network."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import libvirt
import pytest

from tests.real.conftest import IMAGES, Cfy, Host, virsh
from tests.real.nodes import blueprint, empty_domain, node


@pytest.fixture
def deployment(clean_host: Host, cfy: Cfy) -> Cfy:
    """Two machines on a network, each with a disk of its own; backups in files hold all of the second one."""
    there = {"backup_dir": str(kept(cfy))}
    nodes: dict[str, Any] = {
        "network": node("network", properties=there, name="flows", cidr="10.98.47.0/24"),
        "pool": node("pool", properties=there, name="flows", path=str(IMAGES / "flows")),
    }
    for number in (1, 2):
        disk = {"pool": "flows", "volume": f"disk-{number}", "dev": "vda"}
        nodes[f"disk{number}"] = node(
            "volume", "pool", properties=there, name=f"disk-{number}", pool="flows", size="1 MiB", format="qcow2"
        )
        nodes[f"vm{number}"] = empty_domain(
            f"disk{number}", "network", properties=there, name=f"flow-{number}", disks=[disk], full_dump=number == 2
        )
    cfy.install(blueprint(cfy.directory, "flows", **nodes), "flows")
    return cfy


def kept(cfy: Cfy) -> Path:
    return cfy.directory / "kept"


def files(cfy: Cfy) -> list[Path]:
    return sorted(path for path in kept(cfy).rglob("*") if path.is_file())


def written(text: str) -> None:
    """Stop the second machine, write onto its disk, and start it again."""
    virsh("destroy", "flow-2")
    disk = IMAGES / "flows/disk-2"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -q -P {ord(text)} 0 64k", disk], check=True)
    virsh("start", "flow-2")


def on_disk() -> bytes:
    command = ["qemu-img", "dd", "-U", "-f", "qcow2", "-O", "raw", "bs=64k", "count=1"]
    with TemporaryDirectory() as directory:
        target = Path(directory) / "head"
        subprocess.run([*command, f"if={IMAGES}/flows/disk-2", f"of={target}"], check=True)
        return target.read_bytes()


def flow(cfy: Cfy, workflow: str, *parameters: str, check: bool = True) -> str:
    options = [word for parameter in parameters for word in ("-p", parameter)]
    return cfy("executions", "start", workflow, "-b", "flows", *options, check=check).output


def snapshots(number: int) -> list[str]:
    return virsh("snapshot-list", f"flow-{number}", "--name").split()


def recorded(cfy: Cfy) -> dict[str, list[str]]:
    """Node: the names of the backups that it has recorded."""
    return {str(i["node_id"]): sorted(i["runtime_properties"].get("backups") or {})  # type: ignore[attr-defined]
            for i in cfy.instances("flows")}  # fmt: skip


def ids(cfy: Cfy) -> dict[str, str]:
    return {str(i["node_id"]): str(i["id"]) for i in cfy.instances("flows")}


def test_backup_restore_and_remove_backup(deployment: Cfy) -> None:
    cfy, instances = deployment, ids(deployment)
    flow(cfy, "backup", "snapshot_name=one")
    for number in (1, 2):
        assert snapshots(number) == [f"{instances[f'vm{number}']}-one"]
    for name in ("network", "pool", "disk1", "disk2"):
        assert recorded(cfy)[name] == [f"{instances[name]}-one"]
    said = flow(cfy, "backup", "snapshot_name=one", check=False)
    assert "it failed on" in said and len(snapshots(1)) == len(snapshots(2)) == 1, "the first one stays"
    flow(cfy, "restore", "snapshot_name=one")
    said = flow(cfy, "restore", "snapshot_name=other", check=False)
    assert "nothing was restored from 'other'" in said
    flow(cfy, "remove_backup", "snapshot_name=one")
    assert snapshots(1) == snapshots(2) == [] and not any(recorded(cfy).values())
    cfy.uninstall("flows")


def test_a_restore_that_one_machine_cannot_have_touches_none(deployment: Cfy) -> None:
    cfy, instances = deployment, ids(deployment)
    flow(cfy, "backup", "snapshot_name=one")
    virsh("desc", "flow-1", "--live", "--config", "--title", "changed")
    second = f"{instances['vm2']}-one"
    virsh("snapshot-delete", "flow-2", second)
    said = flow(cfy, "restore", "snapshot_name=one", check=False)
    assert "nothing was restored from 'one': not all instances can be" in said and f"{instances['vm2']}: " in said
    assert virsh("desc", "flow-1", "--title").strip() == "changed", "it is not gone back"
    virsh("snapshot-create-as", "flow-2", second)
    flow(cfy, "restore", "snapshot_name=one")
    assert virsh("desc", "flow-1", "--title").strip() != "changed"
    cfy.uninstall("flows")


def test_a_backup_that_fails_on_one_machine_is_nowhere(deployment: Cfy) -> None:
    cfy, instances = deployment, ids(deployment)
    name = f"{instances['vm2']}-two"
    virsh("snapshot-create-as", "flow-2", name)
    said = flow(cfy, "backup", "snapshot_name=two", check=False)
    assert f"no instance has backup 'two' of this run: it failed on {instances['vm2']}" in said
    assert (
        f"removed again from {instances['disk1']}" in said and instances["vm1"] in said.split("removed again from")[1]
    )
    assert snapshots(1) == [] and snapshots(2) == [name], "that of somebody else is left alone"
    assert not any(recorded(cfy).values())
    cfy.uninstall("flows")


def test_a_backup_that_fails_lets_no_old_one_go(deployment: Cfy) -> None:
    """All old ones of all nodes stay until the new one is on all; then the oldest goes."""
    cfy, instances = deployment, ids(deployment)
    keep = "snapshot_rotation=2"
    for name in ("one", "two"):
        flow(cfy, "backup", f"snapshot_name={name}", keep)
    virsh("snapshot-create-as", "flow-2", f"{instances['vm2']}-three")
    flow(cfy, "backup", "snapshot_name=three", keep, check=False)
    assert snapshots(1) == [f"{instances['vm1']}-{name}" for name in ("one", "two")]
    assert recorded(cfy)["network"] == [f"{instances['network']}-{name}" for name in ("one", "two")]
    virsh("snapshot-delete", "flow-2", f"{instances['vm2']}-three")
    flow(cfy, "backup", "snapshot_name=four", keep)
    for number in (1, 2):
        assert sorted(snapshots(number)) == [f"{instances[f'vm{number}']}-{name}" for name in ("four", "two")]
    assert recorded(cfy)["disk1"] == sorted(f"{instances['disk1']}-{name}" for name in ("two", "four"))
    cfy.uninstall("flows")


def test_backups_in_files(deployment: Cfy, host: Host) -> None:
    """Definitions, and of one machine its memory and its disk: made, restored and removed for all at once."""
    cfy, old = deployment, "snapshot_incremental=false"
    written("A")
    flow(cfy, "backup", "snapshot_name=one", old)
    assert {path.stat().st_mode & 0o777 for path in files(cfy)} == {0o600}
    for name in ("flows", "disk-1", "disk-2", "flow-1", "flow-2"):
        assert [path for path in files(cfy) if path.name.startswith(name)], name
    assert not any(recorded(cfy).values()) and snapshots(1) == snapshots(2) == []
    assert host.domain("flow-2").isActive(), "it goes on"

    virsh("desc", "flow-1", "--config", "changed since")
    written("B")
    process = host.domain("flow-2").ID()
    flow(cfy, "restore", "snapshot_name=one", old)
    assert "changed since" not in host.domain("flow-1").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert on_disk() == b"A" * 65536
    assert host.domain("flow-2").isActive() and host.domain("flow-2").ID() != process, "its memory came back"

    said = flow(cfy, "backup", "snapshot_name=one", old, check=False)
    assert "no instance has backup 'one' of this run" in said and files(cfy), "the first one stays"
    flow(cfy, "restore", "snapshot_name=one", old)
    flow(cfy, "remove_backup", "snapshot_name=one", old)
    assert files(cfy) == []
    cfy.uninstall("flows")


def test_backups_in_files_that_fail_on_one_machine_are_nowhere(deployment: Cfy, host: Host) -> None:
    """One disk of the second machine is several files, which a dump does not take."""
    cfy, instances = deployment, ids(deployment)
    above = IMAGES / "flows/theirs.qcow2"
    virsh("snapshot-create-as", "flow-2", "theirs", "--disk-only", "--diskspec", f"vda,file={above}")
    said = flow(cfy, "backup", "snapshot_name=two", "snapshot_incremental=false", check=False)
    assert f"no instance has backup 'two' of this run: it failed on {instances['vm2']}" in said
    assert "it has external snapshots (theirs)" in said and instances["vm1"] in said.split("removed again from")[1]
    assert files(cfy) == [] and host.domain("flow-1").isActive() and host.domain("flow-2").isActive()
    virsh("blockcommit", "flow-2", "vda", "--active", "--pivot", "--wait")
    virsh("snapshot-delete", "flow-2", "theirs", "--metadata")
    above.unlink()
    cfy.uninstall("flows")


def test_suspend_statistics_resume(deployment: Cfy, host: Host) -> None:
    flow(deployment, "suspend")
    states = {host.domain(f"flow-{number}").state()[0] for number in (1, 2)}
    assert states == {libvirt.VIR_DOMAIN_PAUSED}
    flow(deployment, "statistics")
    stats = {i["node_id"]: i["runtime_properties"].get("stat") for i in deployment.instances("flows")}  # type: ignore[attr-defined]
    assert stats["vm1"]["memory"] == stats["vm2"]["memory"] == 32 and stats["vm1"]["cpu"] < 5 and stats["pool"] is None
    flow(deployment, "resume", f"include_instances={ids(deployment)['vm1']}")
    assert host.domain("flow-1").state()[0] == libvirt.VIR_DOMAIN_RUNNING
    assert host.domain("flow-2").state()[0] == libvirt.VIR_DOMAIN_PAUSED
    flow(deployment, "resume")
    assert host.domain("flow-2").state()[0] == libvirt.VIR_DOMAIN_RUNNING
    deployment.uninstall("flows")
