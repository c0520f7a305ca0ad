"""Waiting: deadlines by a clock that the test turns, signals that are never missed."""

from __future__ import annotations

import threading
import time

import pytest

from cloudify_libvirt.core.errors import Busy, Conflict, ConnectionLost, CoreError, TimedOut
from cloudify_libvirt.core.wait import Deadline, Signal, in_thread, retry_busy, wait_until


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def now(self) -> float:
        return self.time_s


def test_deadline_follows_its_clock() -> None:
    clock = Clock()
    deadline = Deadline(10, clock)
    assert (deadline.remaining_s(), deadline.passed) == (10, False)
    clock.time_s += 9.5
    assert (deadline.remaining_s(), deadline.passed) == (0.5, False)
    clock.time_s += 100
    assert (deadline.remaining_s(), deadline.passed) == (0, True)


@pytest.mark.parametrize(("answers", "expected"), [([None, False, "yes"], "yes"), ([0], 0), ([""], "")])
def test_only_none_and_false_mean_not_yet(answers: list[object], expected: object) -> None:
    left = list(answers)
    assert wait_until(lambda: left.pop(0), timeout_s=5, signal=Signal(), poll_s=0.001) == expected
    assert left == []


def test_looks_once_more_at_the_deadline_and_then_gives_up() -> None:
    clock, looks = Clock(), []

    def look() -> None:
        looks.append(clock.time_s)
        clock.time_s += 4

    assert wait_until(look, timeout_s=10, signal=Signal(), poll_s=0.001, clock=clock) is None
    assert looks == [1000, 1004, 1008]


def test_a_deadline_of_zero_still_looks() -> None:
    assert wait_until(lambda: "there", timeout_s=0, signal=Signal()) == "there"


def test_a_signal_ends_the_pause_between_two_looks() -> None:
    signal, happened = Signal(), threading.Event()

    def happen() -> None:
        happened.set()
        signal.set()

    timer = threading.Timer(0.05, happen)
    timer.start()
    begin = time.monotonic()
    assert wait_until(happened.is_set, timeout_s=120, signal=signal, poll_s=120) is True
    assert time.monotonic() - begin < 60
    timer.join()


def test_a_signal_between_look_and_wait_is_not_missed() -> None:
    signal, looks = Signal(), []

    def look() -> bool:
        looks.append(1)
        signal.set()  # after the look began, before the wait
        return len(looks) == 3

    begin = time.monotonic()
    assert wait_until(look, timeout_s=120, signal=signal, poll_s=120) is True
    assert time.monotonic() - begin < 60


def test_an_error_of_the_check_ends_the_wait() -> None:
    def look() -> None:
        raise Conflict("look at", "it", "somebody took it")

    with pytest.raises(Conflict):
        wait_until(look, timeout_s=30, signal=Signal())


def test_busy_is_tried_again_and_final_errors_are_not() -> None:
    failures: list[CoreError] = [Busy("do", "it", "a job runs"), Busy("do", "it", "a job runs")]

    def call() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert retry_busy(call, poll_s=0.001) == "done"
    failures[:] = [Conflict("do", "it", "taken")]
    with pytest.raises(Conflict):
        retry_busy(call, poll_s=0.001)


def test_what_is_called_on_a_lost_connection_stays_lost() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise ConnectionLost("do", "it", "client socket is closed")

    with pytest.raises(ConnectionLost):
        retry_busy(call, poll_s=0.001)
    assert calls == [1]


def test_busy_beyond_the_deadline_is_raised() -> None:
    def call() -> None:
        raise Busy("do", "it", "a job runs")

    with pytest.raises(Busy):
        retry_busy(call, timeout_s=0.02, poll_s=0.005)


def test_a_call_that_hangs_is_left_behind() -> None:
    release = threading.Event()
    with pytest.raises(TimedOut, match=r"cannot open it: no answer within 0\.05 s\. Look\.") as caught:
        in_thread(release.wait, timeout_s=0.05, action="open", target="it", remedy="Look.")
    assert caught.value.retryable
    release.set()
    assert in_thread(lambda: 7, timeout_s=60, action="open", target="it", remedy="") == 7


def test_an_error_in_the_thread_comes_out() -> None:
    def call() -> None:
        raise Conflict("do", "it", "taken")

    with pytest.raises(Conflict):
        in_thread(call, timeout_s=60, action="do", target="it", remedy="")
