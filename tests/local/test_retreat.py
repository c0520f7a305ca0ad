"""A cfy install or init that cannot be read changes nothing; what is wrong is said with what to do."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from cloudify_libvirt import deployments
from tests.local.test_local_setup import CFY
from tests.local.things import Things, scalable

KILLER = Path(__file__).with_name("cfy_written.py")
NODES: dict[str, Any] = {"net": {"type": "thing", **scalable({"get_input": "count"})}}
INPUTS: dict[str, Any] = {"inputs": {"count": {"type": "integer", "default": 1}}}


def written(things: Things) -> dict[str, bytes]:
    """What the local profile holds."""
    home = things.directory.parents[1]
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def refused(things: Things, *command: object) -> str:
    done = things.home.run(CFY, *command)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return str(done.stdout + done.stderr)


@pytest.mark.parametrize("command", ["install", "init"])
def test_a_first_one_leaves_nothing(things: Things, command: str) -> None:
    blueprint = things.blueprint(NODES, **INPUTS)
    before = written(things)
    said = refused(things, command, blueprint, "-b", "dep", "-i", "count=many")
    assert "the defined type is 'integer'" in said and "As in -i 'count: 3'." in said
    assert written(things) == before
    assert not (things.directory.parents[1] / "blueprints/dep").exists()
    things.home.cfy("install", blueprint, "-b", "dep", "-i", "count=2")
    assert len(things.things) == 2
    things.whole()


@pytest.mark.parametrize("command", ["install", "init"])
def test_an_installed_one_stays(things: Things, command: str) -> None:
    things.install(NODES, **INPUTS)
    before = written(things)
    good = things.blueprint(NODES, **INPUTS)
    assert "Did you mean 'count'?" in refused(things, command, good, "-b", "dep", "-i", "cuont=2")
    bad = things.blueprint({"net": {"type": "thing", "properties": {"colour": "blue"}}})
    assert "Did you mean 'color'?" in refused(things, command, bad, "-b", "dep")
    assert written(things) == before
    things.home.cfy("uninstall", "-b", "dep")
    assert things.things == {}
    assert not (things.directory.parents[1] / "aside").exists() and not things.directory.exists()


def test_a_good_one_replaces_the_state(things: Things) -> None:
    things.install(NODES, **INPUTS)
    old = set(things.instances)
    things.home.cfy("init", things.blueprint(NODES, **INPUTS), "-b", "dep", "-i", "count=2")
    assert len(things.instances) == 3 - 1 and not old & set(things.instances)
    home = things.directory.parents[1]
    assert not (home / "aside").exists() and not list((home / "busy").iterdir())


def test_what_is_removed_is_removed(things: Things) -> None:
    """Another workflow than uninstall in its place leaves things standing; cfy forgets them all the same."""
    things.install(NODES, **INPUTS)
    things.home.cfy("uninstall", "-b", "dep", "-w", "update")
    home = things.directory.parents[1]
    assert things.things and not things.directory.exists() and not (home / "aside").exists()
    assert not list((home / "busy").iterdir())


def test_killed_at_every_change(things: Things) -> None:
    """Old or new, and whole: what stands is known before and after the next cfy."""
    blueprint = things.blueprint(NODES, **INPUTS)
    things.install(NODES, **INPUTS)
    (old,) = things.things
    home = things.directory.parents[1]
    killed = 0
    while True:
        done = things.home.run(sys.executable, KILLER, killed + 1, "init", blueprint, "-b", "dep", "-i", "count=x")
        if done.returncode != -signal.SIGKILL:
            break
        killed += 1
        assert deployments.lives(str(home), "dep", old), f"killed at change {killed}"
        things.start("update")
        assert set(things.instances) == {old}
        assert not list((home / "aside").glob("*"))
    assert done.returncode == 1 and killed >= 6, done.stdout
    assert int(re.findall(r"changes: (\d+)", done.stdout)[0]) == killed
    things.whole()
    things.home.cfy("uninstall", "-b", "dep")
    assert things.things == {}
