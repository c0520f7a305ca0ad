"""A disk with no room for what cfy writes of its own: said in a line, and what a workflow failed of is never hidden."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from tests.local.test_local_setup import CFY
from tests.local.things import Things

NODES: dict[str, Any] = {"net": {"type": "thing"}}
# Whatever is written there, no space is left on it.
FULL = Path("/dev/full")


def fill(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(FULL)


def said_by(things: Things, *command: object, code: int) -> str:
    done = things.home.run(CFY, *command)
    said: str = done.stdout + done.stderr
    assert done.returncode == code and "Traceback" not in said, said
    return said


def test_a_log_that_takes_nothing(things: Things) -> None:
    things.install(NODES)
    log = things.home.path / ".cloudify/logs/cli.log"
    assert log.is_file()
    fill(log)
    failing = {"net": {"type": "thing", "properties": {"fails": "create"}}}
    said = said_by(things, "install", things.blueprint(failing), "-b", "other", code=1)
    reason, log_of_cfy = said.splitlines()[-2:]
    assert reason.startswith("Task failed: thing_operations.create"), "cfy's last words are the reason all the same"
    assert log_of_cfy == "cfy's log could not be written: [Errno 28] No space left on device"


def test_a_workflow_that_cannot_be_noted_is_not_begun(things: Things) -> None:
    things.install(NODES)
    draft = things.directory / ".executions.json"
    fill(draft)
    said = said_by(things, "uninstall", "-b", "dep", code=1)
    assert "[Errno 28] No space left on device: '" in said and "then run the same again" in said
    assert things.calls == []
    draft.unlink()
    said_by(things, "uninstall", "-b", "dep", code=0)


def test_a_workflow_whose_end_cannot_be_noted_finds_its_work_done(things: Things) -> None:
    blueprint = things.blueprint(NODES)
    command = [str(part) for part in (CFY, "install", blueprint, "-b", "dep")]
    environment = {**things.home.environment, "WAIT_AT": "create"}
    with subprocess.Popen(
        command, env=environment, cwd=things.home.path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as first:
        try:
            deadline = time.monotonic() + 300
            while not (things.path / "waiting").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            fill(things.directory / ".executions.json")
            (things.path / "go on").touch()
            said, _ = first.communicate(timeout=300)
        finally:
            first.kill()
    assert first.returncode == 1 and "'install' workflow execution succeeded" in said, said
    assert "[Errno 28] No space left on device: '" in said and "then run the same again" in said
    (things.directory / ".executions.json").unlink()
    said_by(things, "executions", "start", "install", "-b", "dep", code=0)
    things.whole()
    said_by(things, "uninstall", "-b", "dep", code=0)
