"""A backup in files whose name is given again: only what the killed run itself made is made anew."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import volume_tasks
from cloudify_libvirt.core.session import Session
from tests.driver.conftest import Node
from tests.driver.test_storage import define_pool

GIVEN = {"snapshot_name": "old", "snapshot_type": "irregular", "snapshot_incremental": False}


@dataclass
class Repeating(Node):
    """A node instance of local mode, with the runs of its deployment before this one."""

    runs: list[dict[str, Any]] = field(default_factory=list)

    def ctx(self) -> Any:
        ctx = super().ctx()
        # Of each run the engine's properties are read once.
        ctx._execution_id = str(uuid.uuid4())
        executions = [*self.runs, one_run(ctx.execution_id, "started", 0)]
        ctx._endpoint = SimpleNamespace(
            storage=SimpleNamespace(get_executions=lambda: executions, get_blueprint=lambda: None)
        )
        return ctx


def one_run(name: str, status: str, ago_s: float) -> dict[str, Any]:
    begun = datetime.now() - timedelta(seconds=ago_s)
    return {"id": name, "workflow_id": "backup", "parameters": {}, "status": status, "created_at": begun}


@pytest.fixture
def data(session: Session, tmp_path: Path) -> Repeating:
    define_pool(session).start()
    node = Repeating(name="data", params={"name": "kept", "pool": "pool", "size": "2 MiB"})
    node.properties["backup_dir"] = str(tmp_path / "backups")
    node.run(volume_tasks.create)
    return node


def backup(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "backups").rglob("kept-*.xml")
    return path


def test_a_backup_of_before_is_never_removed_by_a_run_that_was_killed_early(data: Repeating, tmp_path: Path) -> None:
    """After a new install nothing is recorded of it; the directory and the UUID are the same."""
    data.run(volume_tasks.snapshot_create, **GIVEN)
    path = backup(tmp_path)
    path.write_text(f"{path.read_text()}<!-- of long ago -->")
    os.utime(path, (time.time() - 7200,) * 2)
    data.runtime["snapshots"] = {}
    data.runs.append(one_run("killed", "started", 60))
    with pytest.raises(NonRecoverableError, match=r"there is one of this name\. Choose another name"):
        data.run(volume_tasks.snapshot_create, **GIVEN)
    assert path.read_text().endswith("<!-- of long ago -->")


def test_what_the_killed_run_made_and_had_no_time_to_record_is_made_anew(data: Repeating, tmp_path: Path) -> None:
    data.runs.append(one_run("killed", "started", 60))
    data.run(volume_tasks.snapshot_create, **GIVEN)
    path = backup(tmp_path)
    path.write_text("<!-- half -->")
    data.runtime["snapshots"] = {}
    data.run(volume_tasks.snapshot_create, **GIVEN)
    assert "<volume" in path.read_text() and "old" in data.runtime["snapshots"]


def test_a_definition_that_is_kept_is_recorded_with_its_time(data: Repeating) -> None:
    """One store of both: a kill in between would leave a backup that no repeated run knows for its own."""
    given = {**GIVEN, "snapshot_incremental": True}
    data.run(volume_tasks.snapshot_create, **given)
    held = [one for one in data.stored if one.get("backups")]
    assert held and all("old" in one["snapshots"] for one in held)
    data.runs.append(one_run("killed", "started", 60))
    data.run(volume_tasks.snapshot_create, **given)
    data.runtime["snapshots"] = {}
    with pytest.raises(NonRecoverableError, match="there is one of this name"):
        data.run(volume_tasks.snapshot_create, **given)
