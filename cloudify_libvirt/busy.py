"""One workflow at a time on a deployment of local mode: who has it is written down, and a killed one's claim is gone.

The kernel frees the lock of a process that ends, however it ends. No import of the engine: it is loaded at each start
of cfy.
"""

from __future__ import annotations

import getpass
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from cloudify_libvirt import local_room
from cloudify_libvirt.core.host import ofd

_held: dict[tuple[str, str], Claim] = {}


class DeploymentBusy(Exception):
    """Another process works on the deployment."""


class Claim:
    """The lock of one deployment, held by this process until it ends or lets go."""

    def __init__(self, path: Path, file: int) -> None:
        """Stand on a locked file."""
        self._path, self._file = path, file
        self.count = 1

    def release(self) -> None:
        """Let go, and remove the file while nobody else can have it."""
        with suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._file)


def claim(home: str, deployment: str, what: str) -> None:
    """Take the deployment for this process, which may take it several times; ``what`` tells others what for.

    Raises:
        DeploymentBusy: another process has it.
    """
    key = (str(Path(home).absolute()), deployment)
    if key in _held:
        _held[key].count += 1
        return
    path = _file_of(*key)
    # Without this one cfy takes the directory for one of a release long ago.
    Path(home, "deployments").mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    file = _locked(path)
    if file is None:
        raise DeploymentBusy(f"deployment {deployment} is busy: {_told(path)}. Let it end, then run this again.")
    said = {"what": what, "pid": os.getpid(), "since": time.strftime("%H:%M:%S"), "user": _user(),
            "numbers": _numbers()}  # fmt: skip
    try:
        with local_room.named(str(path)):
            os.write(file, json.dumps(said).encode())
    except OSError:
        Claim(path, file).release()
        raise
    _held[key] = Claim(path, file)


def release(home: str, deployment: str) -> None:
    """Give one claim back; the last one frees the deployment."""
    key = (str(Path(home).absolute()), deployment)
    held = _held.get(key)
    if held is None:
        return
    held.count -= 1
    if held.count == 0:
        _held.pop(key).release()


def holder(home: str, deployment: str) -> str:
    """Say who works on the deployment; "" when nobody does."""
    key = (str(Path(home).absolute()), deployment)
    path = _file_of(*key)
    if key in _held:
        return _told(path)
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return _told(path) if ofd.taken(file) else ""
    finally:
        os.close(file)


def _file_of(home: str, deployment: str) -> Path:
    return Path(home) / "busy" / deployment


def _locked(path: Path) -> int | None:
    """Return the path's locked and emptied file; None when another process has it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            ofd.take(file)
        except BlockingIOError:
            os.close(file)
            return None
        # The one that had it may have removed the file between the two calls.
        with suppress(FileNotFoundError):
            if os.fstat(file).st_ino == path.stat().st_ino:
                os.ftruncate(file, 0)
                return file
        os.close(file)


def _told(path: Path) -> str:
    said: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        said = json.loads(path.read_text(encoding="utf-8"))
    if not said:
        return "another process has just begun"
    # Of a container or a private host: here another process may have that number.
    where = "" if said.get("numbers", "") == _numbers() else " (as its container counts)"
    return f"{said['what']}, pid {said['pid']}{where}, since {said['since']}, user {said['user']}"


def _numbers() -> str:
    """Return what tells in which namespace this process's number counts; "" where the system has none."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
