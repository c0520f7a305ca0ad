"""kill -9 after each kind of call of a snapshot's operation that changes something: the next run completes it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudify_libvirt import domain_tasks
from tests.driver.conftest import Node
from tests.real.conftest import IMAGES, PYTHON, QEMU, ROOT, Host, virsh

PLACE = IMAGES / "killed"
FULL = {"snapshot_incremental": False, "params": {"full_dump": True}}


class Killed:
    """One domain of one instance, whose state is in a file between the calls."""

    def __init__(self, state: Path, node: Node) -> None:
        self.state, self.node = state, node
        self.keep()

    def keep(self) -> None:
        told = {"params": self.node.params, "properties": self.node.properties, "runtime": self.node.runtime}
        self.state.write_text(json.dumps(told))

    def again(self, operation: str, **inputs: Any) -> None:
        """Run it here, to its end."""
        self.node.run(getattr(domain_tasks, f"snapshot_{operation}"), snapshot_name="one", **inputs)
        self.keep()

    def run(self, operation: str, count: int = 0, **inputs: Any) -> list[str] | None:
        """Run it in a process of its own; return the calls that changed something, None when it was killed."""
        given = json.dumps({"snapshot_name": "one", **inputs})
        call = [PYTHON, "-W", "ignore", "-m", "tests.real.snapshot_until", self.state, operation, given, str(count)]
        done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=ROOT, timeout=600)
        self.node.runtime.clear()
        self.node.runtime.update(json.loads(self.state.read_text())["runtime"])
        if done.returncode == -9:
            return None
        assert done.returncode == 0, f"{operation} after {count}: {done.stderr[-3000:]}"
        return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def killed(clean_host: Host, tmp_path: Path) -> Iterator[Killed]:
    PLACE.mkdir()
    for name, format_ in (("a.qcow2", "qcow2"), ("b.raw", "raw")):
        subprocess.run(["qemu-img", "create", "-q", "-f", format_, PLACE / name, "1M"], check=True)
    disks = [{"file": str(PLACE / "a.qcow2"), "type": "qcow2"}, {"file": str(PLACE / "b.raw"), "type": "raw"}]
    params = {"name": "killed", "memory": "32 MiB", "disks": disks, "wait_for_ip": False, "shutdown_timeout_s": 0}
    node = Node(params=params, properties={"libvirt_auth": QEMU, "backup_dir": str(tmp_path / "backups")})
    for name in ("create", "configure", "start"):
        node.run(getattr(domain_tasks, name))
    yield Killed(tmp_path / "state.json", node)
    for name in ("stop", "delete"):
        node.run(getattr(domain_tasks, name))
    assert {path.name for path in PLACE.iterdir()} == {"a.qcow2", "b.raw"}
    shutil.rmtree(PLACE)


def points(calls: list[str]) -> list[int]:
    """Return the numbers of the last call of each kind; those for a look into a directory change nothing."""
    last = {name: number for number, name in enumerate(calls, start=1) if "StoragePool" not in name}
    return sorted(last.values())


def files() -> set[str]:
    return {path.name for path in PLACE.iterdir()}


def test_snapshot(killed: Killed, clean_host: Host) -> None:
    made, reverted, deleted = (killed.run(operation) for operation in ("create", "apply", "delete"))
    assert made and reverted and deleted and files() == {"a.qcow2", "b.raw"}
    name = "vm_x0-one"
    with_snapshot = {"a.qcow2", "b.raw", f"a@{name}.qcow2", f"b@{name}.qcow2", f"killed@{name}.mem"}
    for count in points(made):
        assert killed.run("create", count) is None
        killed.again("create")
        assert files() == with_snapshot and virsh("snapshot-list", "killed", "--name").split() == [name]
        killed.again("delete")
        assert files() == {"a.qcow2", "b.raw"}, f"after {made[count - 1]}"
    killed.again("create")
    for count in points(reverted):
        assert killed.run("apply", count) is None
        killed.again("apply")
        assert clean_host.domain("killed").isActive(), f"after {reverted[count - 1]}"
        assert len(files()) == len(with_snapshot), files()
    for count in points(deleted):
        if killed.run("delete", count) is None:
            killed.again("delete")
        assert files() == {"a.qcow2", "b.raw"} and not killed.node.runtime["snapshot_files"]
        assert clean_host.domain("killed").isActive() and virsh("snapshot-list", "killed", "--name").split() == []
        killed.again("create")


def test_full_dump(killed: Killed, clean_host: Host, tmp_path: Path) -> None:
    made, restored = killed.run("create", **FULL), killed.run("apply", **FULL)
    killed.again("delete", **FULL)
    assert made and restored
    for count in points(made):
        assert killed.run("create", count, **FULL) is None
        killed.again("create", **FULL)
        assert clean_host.domain("killed").isActive(), f"after {made[count - 1]}"
        written = [path for path in (tmp_path / "backups").rglob("*") if path.is_file()]
        assert len(written) == 5, written
        killed.again("delete", **FULL)
    killed.again("create", **FULL)
    for count in points(restored):
        assert killed.run("apply", count, **FULL) is None
        killed.again("apply", **FULL)
        assert clean_host.domain("killed").isActive() and files() == {"a.qcow2", "b.raw"}, (
            f"after {restored[count - 1]}"
        )
