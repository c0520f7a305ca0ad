"""The deployment, through cfy: its state, its workflows, its outputs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from cloudify_libvirt import busy
from quickstart_lib import home
from quickstart_lib.host import ROOT, Host
from quickstart_lib.problem import Problem
from quickstart_lib.view import Screen
from quickstart_lib.watch import Board

ID = "quickstart"
BLUEPRINT = ROOT / "blueprints" / "cluster.yaml"
CFY = ROOT / ".venv/bin/cfy"
ENVIRONMENT = {"PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
STOP_TIMEOUT_S = 20
TAIL = 8


class Deployment:
    """One installed, half installed or absent cluster."""

    def __init__(self, host: Host, screen: Screen, logs: Path) -> None:
        """Stand on a host; nothing is asked yet."""
        self.host, self.screen, self.logs = host, screen, logs

    @staticmethod
    def exists() -> bool:
        """Tell whether cfy knows the deployment."""
        return (home.base() / "profiles/local/deployments" / ID).is_dir()

    @staticmethod
    def refuse_busy() -> None:
        """Raise ``Problem`` while another process works on it; it says who."""
        who = busy.holder(str(home.base() / "profiles/local"), ID)
        if who:
            raise Problem(f"deployment {ID} is busy: {who}", "Let it end, or end that process; then run this again.")

    @staticmethod
    def forget() -> None:
        """Remove what cfy keeps of it; also what a failed start left, which would break the next one."""
        for name in ("deployments", "blueprints"):
            shutil.rmtree(home.base() / "profiles/local" / name / ID, ignore_errors=True)

    def instances(self) -> list[dict[str, Any]]:
        """Return the node instances with their states and runtime properties."""
        found: list[dict[str, Any]] = json.loads(self._ask("[", "node-instances", "-b", ID))
        return found

    def machines(self) -> int:
        """Return how many machines are installed, or about to be; 0 where nothing is."""
        return sum(one["node_id"] == "machine" for one in self.instances()) if self.exists() else 0

    def outputs(self) -> dict[str, list[str]]:
        """Return the blueprint's outputs."""
        found: dict[str, list[str]] = json.loads(self._ask("{", "deployments", "outputs", "-b", ID))
        return found

    @staticmethod
    def _ask(opening: str, *words: str) -> str:
        done = subprocess.run([str(CFY), *words], capture_output=True, text=True, env={**os.environ, **ENVIRONMENT})
        if done.returncode != 0 or opening not in done.stdout:
            said = (done.stdout + done.stderr).splitlines()[-TAIL:]
            raise Problem(f"cfy {' '.join(words)} does not answer", "Its own words are below.", said)
        return done.stdout[done.stdout.index(opening) :]

    def install(self, inputs: Path) -> None:
        """Install from the blueprint."""
        self.forget()
        self._run("install", "install", str(BLUEPRINT), "-b", ID, "-i", str(inputs))

    def go_on(self) -> None:
        """Go on with an install that was cut off: what stands is kept."""
        self._run("install", *_execution("install"))

    def start(self) -> None:
        """Start what is installed and does not run."""
        self._run("start", *_execution("start"))

    def uninstall(self) -> None:
        """Remove everything that the deployment made."""
        retries = ("--task-retries", "3", "--task-retry-interval", "2", "--task-thread-pool-size", "8")
        self._run("uninstall", "uninstall", "-b", ID, *retries)

    def _run(self, name: str, *words: str) -> None:
        log = self.logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}.log"
        self.screen.say(f"{name}: cfy {words[0]} (full log: {log})")
        board = Board(time.monotonic, self._names() if self.exists() else {})
        code = self._follow([*self.host.prefix, str(CFY), *words], log, board)
        for warning in board.warnings:
            self.screen.say(f"warning: {warning}")
        if code != 0:
            raise Problem(
                f"cfy {name} failed with exit code {code}",
                f"The full log is {log}. When the cause is mended, run scripts/quickstart again: it goes on where it "
                "stopped. scripts/quickstart --down takes away what there is.",
                board.reasons or log.read_text().splitlines()[-TAIL:],
            )

    def _names(self) -> dict[str, str]:
        machines = (one for one in self.instances() if one["node_id"] == "machine")
        return {one["id"]: one["runtime_properties"].get("resource_id") or "" for one in machines}

    def _follow(self, command: list[str], log: Path, board: Board) -> int:
        """Run the command, its output into the log and the view; it is ended when we are."""
        with log.open("w") as file, self.screen.board(board) as changed:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
                env={**os.environ, **ENVIRONMENT},
            )
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    row = board.read(line.rstrip("\n"))
                    if row is not None:
                        changed(row)
                return process.wait()
            finally:
                _end(process)


def _execution(workflow: str) -> tuple[str, ...]:
    return ("executions", "start", workflow, "-b", ID, "--task-retries", "5", "--task-retry-interval", "3")


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
