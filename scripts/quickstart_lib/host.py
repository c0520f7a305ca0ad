"""The libvirt to use: the machine's own when it answers, else a lab."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from quickstart_lib.problem import Problem

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "scripts" / "lab"
LAB_NAME = "quickstart"
URI = "qemu:///system"
ANSWER_TIMEOUT_S = 10
NOT_RUNNING = 3


@dataclass(frozen=True)
class Host:
    """Where commands run that talk to libvirt or to its guests."""

    on: str

    @property
    def prefix(self) -> list[str]:
        """Return the words that go before such a command."""
        return [*lab_command(), "exec"] if self.on == "lab" else []

    @property
    def shown_prefix(self) -> str:
        """Return them as the user would type them here."""
        if self.on != "lab":
            return ""
        script = "scripts/lab" if Path.cwd() == ROOT else str(LAB)
        words = [*(["sudo"] if os.environ.get("SUDO_USER") else []), script, *lab_command()[1:], "exec"]
        return shlex.join(words) + " "

    def domains(self) -> set[str]:
        """Return the names of all domains there; none where libvirt does not answer."""
        words = [*self.prefix, "virsh", "-q", "-c", URI, "list", "--all", "--name"]
        return set(subprocess.run(words, capture_output=True, text=True).stdout.split())

    def running(self) -> set[str]:
        """Return the names of the running domains."""
        done = subprocess.run(
            [*self.prefix, "virsh", "-q", "-c", URI, "list", "--name"], capture_output=True, text=True
        )
        if done.returncode != 0:
            raise Problem(f"libvirt does not list its machines: {done.stderr.strip()}", f"Try: virsh -c {URI} list")
        return set(done.stdout.split())


def lab_command(*words: str) -> list[str]:
    directory = os.environ.get("CLOUDIFY_LIBVIRT_LAB_DIR")
    return [str(LAB), "--name", LAB_NAME, *(["--dir", directory] if directory else []), *words]


def machine_answers() -> bool:
    """Tell whether the machine's own libvirt runs and lets us in; it is not asked for a password."""
    command = ["virsh", "-q", "-c", URI, "version"]
    try:
        # Cut off from the terminal, it cannot ask there.
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=ANSWER_TIMEOUT_S, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def lab_runs() -> bool:
    """Tell whether the lab is up and answers."""
    return _lab("status", allowed=(0, NOT_RUNNING)) == 0


def lab_up() -> None:
    """Start the lab, or what is missing of it."""
    _lab("up")


def lab_down() -> None:
    """End the lab and forget its state."""
    _lab("down", "--purge")


def _lab(*words: str, allowed: tuple[int, ...] = (0,)) -> int:
    done = subprocess.run(lab_command(*words), capture_output=True, text=True)
    if done.returncode not in allowed:
        raise Problem(
            f"the private libvirt host does not {' '.join(words)}",
            "Mend what it says; scripts/lab --help tells more.",
            done.stderr.splitlines(),
        )
    return done.returncode
