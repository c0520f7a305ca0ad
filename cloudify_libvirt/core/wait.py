"""Time: the one place that waits.

A wait names what it waits for, has a deadline, ends when a check answers, and is woken by a signal
(a libvirt event) or looks again after a short poll where libvirt has no event.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from cloudify_libvirt.core.errors import ConnectionLost, CoreError, TimedOut

T = TypeVar("T")

# Longest time between two looks where libvirt has no event (DHCP leases, ARP).
POLL_S = 0.05


class Clock(Protocol):
    """Where a wait takes the time from."""

    def now(self) -> float:
        """Return monotonic seconds."""


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()


SYSTEM_CLOCK = SystemClock()


class Deadline:
    """A point in time that may not be passed."""

    def __init__(self, seconds: float, clock: Clock = SYSTEM_CLOCK) -> None:
        """Set the deadline ``seconds`` from now."""
        self._clock = clock
        self._end = clock.now() + seconds

    def remaining_s(self) -> float:
        """Return the seconds left, never below 0."""
        return max(0.0, self._end - self._clock.now())

    @property
    def passed(self) -> bool:
        """Tell whether no time is left."""
        return self.remaining_s() <= 0.0


class Signal:
    """Something happened; look again. Counts, so that nothing between two looks is missed."""

    def __init__(self) -> None:
        """Start with nothing to see."""
        self._condition = threading.Condition()
        self._count = 0

    @property
    def count(self) -> int:
        """Return how often the signal was set."""
        return self._count

    def set(self) -> None:
        """Wake everybody who waits."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def wait(self, seen: int, timeout_s: float) -> None:
        """Return when the count differs from ``seen``, or after ``timeout_s``."""
        with self._condition:
            self._condition.wait_for(lambda: self._count != seen, timeout_s)


def wait_until(
    check: Callable[[], T | None],
    *,
    timeout_s: float,
    signal: Signal,
    poll_s: float = POLL_S,
    clock: Clock = SYSTEM_CLOCK,
) -> T | None:
    """Return the first answer of ``check`` that is not None and not False, or None at the deadline."""
    deadline = Deadline(timeout_s, clock)
    while True:
        seen = signal.count
        answer = check()
        if answer is not None and answer is not False:
            return answer
        if deadline.passed:
            return None
        signal.wait(seen, min(poll_s, deadline.remaining_s()))


def retry_busy(call: Callable[[], T], *, timeout_s: float = 30.0, poll_s: float = 0.1) -> T:
    """Repeat ``call`` while it fails with an error that is worth retrying, until the deadline.

    What is called on a lost connection stays lost: that needs a new one.
    """
    deadline = Deadline(timeout_s)
    while True:
        try:
            return call()
        except CoreError as error:
            if not error.retryable or isinstance(error, ConnectionLost) or deadline.passed:
                raise
        time.sleep(poll_s)


def in_thread(call: Callable[[], T], *, timeout_s: float, action: str, target: str, remedy: str) -> T:
    """Run a call that has no deadline of its own; raise ``TimedOut`` when it takes longer.

    The thread is left behind then: a blocked C call cannot be interrupted.
    """
    results: list[T] = []
    failures: list[CoreError] = []

    def run() -> None:
        try:
            results.append(call())
        except CoreError as error:
            failures.append(error)

    thread = threading.Thread(target=run, name=f"bounded {action}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if failures:
        raise failures[0]
    if results:
        return results[0]
    raise TimedOut(action, target, f"no answer within {timeout_s:g} s", remedy, retryable=True)
