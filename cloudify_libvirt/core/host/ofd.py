"""Locks of open files: a range of bytes, whose lock the kernel frees with the last process that has the file open.

Two opens of one file exclude each other also within a process, and one can look without taking anything.

Source: fcntl(2), open file description locks
"""

from __future__ import annotations

import fcntl
import os
import struct

# Source: fcntl(2), struct flock: type, whence, start, length, pid
_FLOCK = "hhqqi4x"


def take(file: int, start: int = 0, length: int = 0) -> None:
    """Lock a range of an open file for this open of it alone; length 0: to the end, however long it gets.

    Raises:
        BlockingIOError: another open has a lock there.
    """
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))


def taken(file: int, start: int = 0, length: int = 0) -> bool:
    """Tell whether another open of the file has a lock there; nothing is locked for that."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked)
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
