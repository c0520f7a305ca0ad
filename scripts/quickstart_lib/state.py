"""What quickstart must remember between its runs, and the key that it made."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import platformdirs

from quickstart_lib.problem import Problem


@dataclass
class State:
    """Facts of a run: saved before what they describe is done."""

    on: str  # "machine": the machine's own libvirt; "lab": one of scripts/lab
    lab_is_ours: bool
    machines: int
    key: str
    made_directories: list[str] = field(default_factory=list)


class Place:
    """The directory that holds it."""

    def __init__(self, directory: Path | None = None) -> None:
        """Use ``directory``, else the user's state directory (XDG_STATE_HOME)."""
        self.directory = directory or platformdirs.user_state_path("cloudify-libvirt") / "quickstart"
        self.file = self.directory / "state.json"
        self.key = self.directory / "key"
        self.inputs = self.directory / "inputs.yaml"
        self.logs = self.directory / "logs"
        self.before = self.directory / "cloudify-before"

    def load(self) -> State | None:
        """Return what an earlier run left, or None."""
        try:
            return State(**json.loads(self.file.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise Problem(f"cannot read {self.file}: {error}", "Remove that file if you made it.") from error

    def save(self, state: State) -> None:
        """Write the state, whole or not at all."""
        draft = self.file.with_suffix(".new")
        draft.write_text(json.dumps(asdict(state), indent=1))
        draft.replace(self.file)

    def create(self) -> list[str]:
        """Make the directories; return those that did not exist, the innermost first."""
        missing = [path for path in (self.directory, *self.directory.parents) if not path.exists()]
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        return [str(path) for path in missing]

    def remove(self, made: list[str]) -> None:
        """Remove the directory, and the parents that were made for it, unless others use them now."""
        shutil.rmtree(self.directory)
        for path in map(Path, made[1:]):
            if any(path.iterdir()):
                return
            path.rmdir()

    def own_key(self) -> Path:
        """Return the key of this place, made at the first call."""
        if not self.key.exists() or not self.key.with_suffix(".pub").exists():
            self.key.unlink(missing_ok=True)
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "quickstart", "-f", str(self.key)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
            self.key.chmod(0o600)
        return self.key

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one quickstart run at a time."""
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    @staticmethod
    def _lock(descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Problem("another quickstart is running", "Wait for it, or end it.") from error


def user_key(path: Path) -> Path:
    """Return the private key that the user named; its public half must lie beside it."""
    private = path.with_suffix("") if path.suffix == ".pub" else path
    for file in (private, private.with_name(private.name + ".pub")):
        if not file.is_file():
            raise Problem(f"there is no {file}", "Give --ssh-key a private key that has its .pub file beside it.")
    return private.absolute()


def public_half(key: Path) -> str:
    """Return the public key's line."""
    return key.with_name(key.name + ".pub").read_text().strip()
