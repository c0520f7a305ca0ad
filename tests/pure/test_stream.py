"""What a stream is given: a send may take less than it was offered."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudify_libvirt.core.storage.stream import _send_all


@dataclass
class Narrow:
    """Takes as many bytes at a time as it is told, over and over."""

    widths: list[int]
    taken: bytearray = field(default_factory=bytearray)
    calls: int = 0

    def send(self, data: bytes) -> int:
        width = min(self.widths[self.calls % len(self.widths)], len(data))
        self.calls += 1
        self.taken += data[:width]
        return width


@given(st.binary(max_size=3000), st.lists(st.integers(1, 700), min_size=1, max_size=8))
def test_short_sends_lose_nothing_and_repeat_nothing(chunk: bytes, widths: list[int]) -> None:
    stream = Narrow(widths)
    _send_all(stream, chunk)
    assert bytes(stream.taken) == chunk


@pytest.mark.parametrize(("width", "calls"), [(1, 1000), (999, 2), (1000, 1), (5000, 1)])
def test_as_many_sends_as_it_takes(width: int, calls: int) -> None:
    stream = Narrow([width])
    _send_all(stream, bytes(range(250)) * 4)
    assert stream.calls == calls and bytes(stream.taken) == bytes(range(250)) * 4
