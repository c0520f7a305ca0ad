"""Run cfy, and kill it (kill -9) just before the n-th time that it changes what is stored of plans and of who is there.

python cfy_written.py COUNT ARGUMENT...; with COUNT 0 it runs to its end and says the number of changes.

Files that are renamed or removed and directories that are made below a profile's state count, as Python's audit events
tell them; what operations record in an instance's file does not.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

EVENTS = ("os.rename", "os.remove", "os.mkdir", "shutil.rmtree", "shutil.copytree")


class Fuse:
    """Counts, and ends the process."""

    def __init__(self, count: int) -> None:
        self.limit, self.seen = count, 0
        self.lock = threading.RLock()

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event in EVENTS and self.counts(args):
            with self.lock:
                self.seen += 1
                if self.seen == self.limit:
                    os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def counts(args: tuple[Any, ...]) -> bool:
        paths = [os.fsdecode(arg) for arg in args[:2] if isinstance(arg, str | bytes | os.PathLike)]
        return any("/profiles/local/" in path for path in paths) and not any(
            "executions.json" in path for path in paths
        )


if __name__ == "__main__":
    fuse = Fuse(int(sys.argv[1]))
    sys.argv = ["cfy", *sys.argv[2:]]
    sys.addaudithook(fuse)
    from cloudify_cli.main import _cfy

    try:
        _cfy()
    finally:
        print(f"changes: {fuse.seen}", flush=True)
