"""A cfy install or init that cannot be read changes nothing; what is wrong is said with what to do."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    foreign = things.blueprint({"net": {"type": "thing", "properties": {"color": "grün"}}})
    assert "as an input, with get_input in its place: -i FILE.yaml." in refused(things, command, foreign, "-b", "dep")
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


def test_what_fails_before_anything_is_read(things: Things) -> None:
    """cfy looks for the resolver of imports when the old state is gone already."""
    things.install(NODES, **INPUTS)
    blueprint = things.blueprint(NODES, **INPUTS)
    config = things.home.path / ".cloudify/config.yaml"
    good = config.read_text(encoding="utf-8")
    before = written(things)
    config.write_text(yaml.safe_dump({**yaml.safe_load(good), "import_resolver": {"implementation": "no.such:Thing"}}))
    for command in ("install", "init"):
        refused(things, command, blueprint, "-b", "dep")
    config.write_text(good, encoding="utf-8")
    assert written(things) == before
    things.whole()
    things.home.cfy("uninstall", "-b", "dep")
    assert things.things == {} and not things.directory.exists()


class Slow(BaseHTTPRequestHandler):
    """A server whose answer waits until it may go on."""

    asked, may_answer = threading.Event(), threading.Event()

    def do_GET(self) -> None:
        self.asked.set()
        assert self.may_answer.wait(300)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"tosca_definitions_version: cloudify_dsl_1_3\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_two_begin_at_once(things: Things) -> None:
    """The second does not even begin, so that it has nothing to take back from the first."""
    good = things.blueprint(NODES, **INPUTS)
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever).start()
        slow = good.with_name("slow.yaml")
        read = yaml.safe_load(good.read_text(encoding="utf-8"))
        read["imports"].append(f"http://127.0.0.1:{server.server_port}/more.yaml")
        slow.write_text(yaml.safe_dump(read), encoding="utf-8")
        environment = {**things.home.environment, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
        try:
            with subprocess.Popen([CFY, "install", slow, "-b", "dep"], env=environment, cwd=things.home.path,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:  # fmt: skip
                assert Slow.asked.wait(300)
                for inputs in ("count=2", "count=many"):
                    said = refused(things, "install", good, "-b", "dep", "-i", inputs)
                    assert f"deployment dep is busy: cfy install or init, pid {first.pid}," in said
                Slow.may_answer.set()
                said = first.communicate(timeout=300)[0]
        finally:
            Slow.may_answer.set()
            server.shutdown()
    assert first.returncode == 0, said
    assert len(things.things) == 1
    things.whole()


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
