"""Count what a process does to the world, and kill it (kill -9) at a chosen point.

A point is the return of a call of libvirt's C library, of a call that changes the file system, or of the start of
another program: everything that another process can see. Memory is not looked at, as it goes with the process.
"""

from __future__ import annotations

import builtins
import io
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

# What the library answers out of its own memory; the event loop, which turns by itself; handles that Python frees.
UNCOUNTED = re.compile(
    r"virEvent|Free$|Error|virInitialize|virConnectIsAlive|virStreamNew|virConnectSetKeepAlive"
    r"|vir(Domain|Network|StoragePool|StorageVol|DomainSnapshot|DomainCheckpoint)Get(Name|UUID|UUIDString|Key|ID)$"
)
# Calls of libvirt that only read; the others are also cut in the middle.
READS = re.compile(
    r"vir\w*?(Get|List|Lookup|Is[A-Z]|Num|XMLDesc|LibVersion|Capabilities|Open|State|Info|DHCPLeases|Has|Stats|Compare"
    r"|Type$|KeepAlive|Register|CPUModelNames|UUID|Name)"
)
FILES = ("open", "write", "ftruncate", "rename", "replace", "link", "symlink", "unlink", "remove", "mkdir", "rmdir",
         "chmod", "utime", "truncate")  # fmt: skip
# Files that nothing is read from: the log of cfy, terminals, and what Python keeps of itself.
NO_STATE = re.compile(r"/logs/|^/dev/|/__pycache__/|^/proc/")

_write, _open = os.write, os.open
BALLAST = "ballast"


def fill(directory: Path) -> None:
    """Take all the room that there is on a file system."""
    ballast = _open(directory / BALLAST, os.O_WRONLY | os.O_CREAT)
    # Again, as other processes take and give back meanwhile.
    for _ in range(100):
        room = os.fstatvfs(ballast).f_bavail * os.fstatvfs(ballast).f_frsize
        with suppress(OSError):
            os.posix_fallocate(ballast, os.fstat(ballast).st_size, max(room, 1))
    os.close(ballast)


class Fuse:
    """Counts points into a file, one line each; ends the process at one of them.

    ``at``: the point, from 1; 0 never ends it. ``during_s``: cut a changing call of libvirt that long after it began,
    None: after it returned. ``full``: let the process live, and the disk of this directory be full from then on.
    """

    def __init__(self, trace: int, at: int, during_s: float | None = None, full: Path | None = None) -> None:
        self.trace, self.at, self.during_s, self.full = trace, at, during_s, full
        self.count = 0
        self.lock = threading.RLock()

    def point(self, label: str) -> None:
        """Count one point; does not return from the last one."""
        with self.lock:
            self.count += 1
            _write(self.trace, f"{time.monotonic():.3f} {label}\n".encode())
            if self.count == self.at:
                self._burn()

    def _burn(self) -> None:
        if self.full is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            fill(self.full)

    def begin(self, name: str) -> None:
        """Let a call of libvirt begin that may be cut in its middle."""
        if self.during_s is None or self.count + 1 != self.at or READS.match(name):
            return
        _write(self.trace, f"during {name}\n".encode())
        threading.Thread(target=self._cut, args=(self.during_s,), daemon=True).start()

    def _cut(self, after_s: float) -> None:
        time.sleep(after_s)
        os.kill(os.getpid(), signal.SIGKILL)

    def arm(self) -> None:
        """Wrap everything that is counted, for the rest of this process."""
        import libvirtmod
        import libvirtmod_qemu

        for module in (libvirtmod, libvirtmod_qemu):
            for name in dir(module):
                if name.startswith("vir") and callable(getattr(module, name)) and not UNCOUNTED.search(name):
                    setattr(module, name, self._call(name, getattr(module, name)))
        for name in FILES:
            setattr(os, name, self._file(name, getattr(os, name)))
        opened = self._opened(io.open)
        io.open = builtins.open = opened  # type: ignore[assignment]
        self._programs()

    def _call(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.begin(name)
            try:
                return function(*arguments)
            finally:
                self.point(name)

        return counted

    def _file(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def counted(path: Any, *arguments: Any, **named: Any) -> Any:
            if name == "open" and not (arguments or [named.get("flags", 0)])[0] & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT
            ):
                return function(path, *arguments, **named)
            result = function(path, *arguments, **named)
            self._touched(name, path, *arguments)
            return result

        return counted

    def _opened(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def counted(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            result = function(file, mode, *arguments, **named)
            if set(mode) & set("wax+"):
                self._touched(f"open {mode}", file)
            return result

        return counted

    def _touched(self, what: str, path: Any, *arguments: Any) -> None:
        target = arguments[0] if what in ("rename", "replace", "link", "symlink") else path
        if isinstance(target, int):
            try:
                target = Path(f"/proc/self/fd/{target}").readlink()
            except OSError:
                target = "/dev/closed"
        target = os.fsdecode(target)
        if not NO_STATE.search(target) and not re.match(r"(pipe|socket|anon_inode):", target):
            self.point(f"{what} {target}")

    def _programs(self) -> None:
        started = subprocess.Popen.__init__

        @wraps(started)
        def counted(process: Any, arguments: Any, *more: Any, **named: Any) -> None:
            started(process, arguments, *more, **named)
            first = arguments if isinstance(arguments, str) else next(iter(arguments))
            self.point(f"start {os.path.basename(os.fsdecode(first))}")  # noqa: PTH119 - any kind of path

        subprocess.Popen.__init__ = counted  # type: ignore[method-assign,assignment]
