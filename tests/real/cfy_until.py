"""Run cfy, and kill it (kill -9) the moment it has said a text for the n-th time.

python cfy_until.py COUNT TEXT ARGUMENT...

The engine says "Task succeeded" in the thread that ran the operation, before anything else happens.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any


class Fuse:
    """Standard output that ends the process."""

    def __init__(self, stream: Any, count: int, text: str) -> None:
        self.stream, self.left, self.text = stream, count, text
        self.lock = threading.RLock()

    def write(self, data: str) -> int:
        # Nothing that another thread says comes in between.
        with self.lock:
            written: int = self.stream.write(data)
            self.stream.flush()
            self.left -= data.count(self.text)
            if self.left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


if __name__ == "__main__":
    count, text, *arguments = sys.argv[1:]
    sys.stdout = Fuse(sys.stdout, int(count), text)
    sys.argv = ["cfy", *arguments]
    from cloudify_cli.main import _cfy

    sys.exit(_cfy())
