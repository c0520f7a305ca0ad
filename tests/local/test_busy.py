"""Two cfy processes on one deployment: the second is refused at once, and a killed first one is in nobody's way."""

from __future__ import annotations

import getpass
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cloudify_libvirt import busy
from tests.local.test_local_setup import CFY
from tests.local.things import Things

NODES: dict[str, Any] = {"net": {"type": "thing"}}


HOLD = """
import sys
from cloudify_libvirt import busy
busy.claim(sys.argv[1], "one", "workflow x")
print("held", flush=True)
sys.stdin.readline()
"""
LOOK = """
import sys
from cloudify_libvirt import busy
print("looking", flush=True)
while True:
    busy.holder(sys.argv[1], "one")
"""


def begun(things: Things) -> None:
    """Wait until the process beside stands in its operation."""
    deadline = time.monotonic() + 300
    while not (things.path / "waiting").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (things.path / "waiting").unlink()


def go_on(things: Things) -> None:
    (things.path / "go on").touch()


def refused(things: Things, *command: object, by: int, what: str) -> None:
    """Assert that cfy says who is at work, fails, and leaves every file as it is."""
    before = {path: path.read_bytes() for path in things.directory.parents[1].rglob("*") if path.is_file()}
    done = things.home.run(CFY, *command)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    user = re.escape(getpass.getuser())
    found = re.search(rf"deployment dep is busy: {what}, pid (\d+), since \d\d:\d\d:\d\d, user {user}", said)
    assert found and int(found[1]) == by, said
    after = {path: path.read_bytes() for path in things.directory.parents[1].rglob("*") if path.is_file()}
    assert after == before


def test_the_second_is_refused(things: Things) -> None:
    blueprint = things.blueprint(NODES)
    with things.beside("install", blueprint, "-b", "dep", wait_at="create") as first:
        begun(things)
        for command in (
            ("install", blueprint, "-b", "dep"),
            ("init", blueprint, "-b", "dep"),
            ("uninstall", "-b", "dep"),
            ("executions", "start", "install", "-b", "dep"),
            ("executions", "start", "update", "-b", "dep"),
            ("executions", "start", "scale", "-b", "dep", "-p", "scalable_entity_name=net"),
        ):
            refused(things, *command, by=first.pid, what="workflow install")
        # Who only looks is not in the way, and another deployment is another matter.
        things.home.cfy("deployments", "outputs", "-b", "dep")
        things.home.cfy("node-instances", "-b", "dep")
        assert busy.holder(str(things.directory.parents[1]), "dep").startswith("workflow install, pid")
        go_on(things)
        things.home.cfy("install", blueprint, "-b", "other")
        assert first.wait(300) == 0
    assert busy.holder(str(things.directory.parents[1]), "dep") == ""
    things.start("update")
    things.home.cfy("install", blueprint, "-b", "dep")
    for name in ("dep", "other"):
        things.home.cfy("uninstall", "-b", name)
    assert not list((things.directory.parents[1] / "busy").iterdir())


def test_a_killed_first_one_is_in_nobodys_way(things: Things) -> None:
    with things.beside("install", things.blueprint(NODES), "-b", "dep", wait_at="start") as first:
        begun(things)
        refused(things, "uninstall", "-b", "dep", by=first.pid, what="workflow install")
        first.send_signal(signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL
    assert (things.directory.parents[1] / "busy" / "dep").exists(), "what a kill leaves"
    things.start("install")
    things.whole()
    assert things.home.cfy("uninstall", "-b", "dep")


def test_claims(tmp_path: Any) -> None:
    home = str(tmp_path)
    for _ in range(2):
        busy.claim(home, "one", "workflow x")
    busy.claim(home, "two", "workflow y")
    busy.release(home, "one")
    assert busy.holder(home, "one").startswith(f"workflow x, pid {os.getpid()}, since ")
    busy.release(home, "one")
    busy.release(home, "one")
    assert busy.holder(home, "one") == "" and busy.holder(home, "two")
    busy.release(home, "two")
    assert not list((tmp_path / "busy").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="a namespace needs root")
def test_a_number_of_another_namespace_is_said_to_be_one(tmp_path: Path) -> None:
    """Whoever ends the process of that number must not end another one."""
    words = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holds:
        assert holds.stdout and holds.stdout.readline() == b"held\n"
        assert busy.holder(str(tmp_path), "one").startswith("workflow x, pid 1 (as its container counts), since ")
        holds.communicate(b"\n", timeout=60)
    assert busy.holder(str(tmp_path), "one") == ""


def test_who_looks_takes_nothing(tmp_path: Path) -> None:
    """A look at a killed run's file while another run begins: that one must not be refused."""
    home, left = str(tmp_path), tmp_path / "busy" / "one"
    left.parent.mkdir()
    left.touch()
    assert busy.holder(home, "one") == ""
    looks = subprocess.Popen([sys.executable, "-c", LOOK, home], stdout=subprocess.PIPE)
    try:
        assert looks.stdout and looks.stdout.readline() == b"looking\n"
        for _ in range(3000):
            left.touch()
            busy.claim(home, "one", "workflow y")
            busy.release(home, "one")
        assert looks.poll() is None
    finally:
        looks.kill()
        looks.wait()
