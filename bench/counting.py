"""What a piece of work costs beside time: calls of libvirt, bytes read and written, memory."""

from __future__ import annotations

import importlib
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Source: proc(5); rchar and wchar are what was asked of the kernel, whether or not a disk had to move.
_IO, _STATUS = Path("/proc/self/io"), Path("/proc/self/status")

# Answered from the handle, or about this process.
_LOCAL = ("Free", "Ref", "GetName", "GetUUID", "GetUUIDString", "GetKey", "GetLastError", "RunDefaultImpl", "IsAlive")


@dataclass
class Cost:
    """What was counted: ``calls`` of libvirt by name, bytes, growth of memory in KiB, seconds.

    ``cpu_seconds``: of all threads of this process, whatever else the machine does.
    """

    calls: Counter[str] = field(default_factory=Counter)
    read_bytes: int = 0
    written_bytes: int = 0
    memory_kib: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def called(self) -> int:
        """Return how often libvirt was called."""
        return sum(self.calls.values())

    def per(self, count: int) -> dict[str, float]:
        """Return calls, bytes, KiB and seconds for one of ``count`` objects."""
        return {
            "calls": self.called / count, "read_bytes": self.read_bytes / count,
            "written_bytes": self.written_bytes / count, "memory_kib": self.memory_kib / count,
            "seconds": self.seconds / count, "cpu_seconds": self.cpu_seconds / count,
        }  # fmt: skip


@contextmanager
def counted() -> Iterator[Cost]:
    """Count what this process does meanwhile, in all its threads."""
    cost = Cost()
    before, memory = _numbers(_IO), _numbers(_STATUS)["VmRSS"]
    begin, cpu_begin = time.perf_counter(), time.process_time()
    with _calls_into(cost.calls):
        yield cost
    cost.seconds, cost.cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    after = _numbers(_IO)
    cost.read_bytes, cost.written_bytes = (after[key] - before[key] for key in ("rchar", "wchar"))
    cost.memory_kib = _numbers(_STATUS)["VmRSS"] - memory


@contextmanager
def _calls_into(calls: Counter[str]) -> Iterator[None]:
    """Count each call of libvirt's C library that may ask the host."""
    library = importlib.import_module("libvirtmod")
    originals = {name: value for name, value in vars(library).items() if callable(value) and name.startswith("vir")}
    for name, function in originals.items():
        if not name.endswith(_LOCAL):
            setattr(library, name, _counting(name, function, calls))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(library, name, function)


def _counting(name: str, function: Any, calls: Counter[str]) -> Any:
    def call(*arguments: Any) -> Any:
        calls[name] += 1
        return function(*arguments)

    return call


def _numbers(path: Path) -> dict[str, int]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
