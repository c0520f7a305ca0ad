"""What a stream is given: a send may take less than it was offered; and what proves that all of it was written."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudify_libvirt.core.storage.stream import PROOF_BYTES, Writing


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
    Writing(stream, 0).data(chunk)
    assert bytes(stream.taken) == chunk


@pytest.mark.parametrize(("width", "calls"), [(1, 1000), (999, 2), (1000, 1), (5000, 1)])
def test_as_many_sends_as_it_takes(width: int, calls: int) -> None:
    stream = Narrow([width])
    Writing(stream, 0).data(bytes(range(250)) * 4)
    assert stream.calls == calls and bytes(stream.taken) == bytes(range(250)) * 4


PIECES = st.lists(st.one_of(st.integers(1, 9000), st.binary(min_size=1, max_size=30)), max_size=8)


@given(PIECES, st.integers(0, 5000))
def test_the_last_bytes_that_are_not_zeros_are_the_proof(pieces: list[int | bytes], start: int) -> None:
    """A number is so many zeros."""
    chunks = [bytes(one) if isinstance(one, int) else one * 200 for one in pieces]
    writing = Writing(Narrow([700]), start)
    for chunk in chunks:
        writing.data(chunk)
    content = b"".join(chunks)
    offset, block = writing.proof
    assert content[offset - start :][: len(block)] == block and len(block) <= PROOF_BYTES
    if said := content.rstrip(b"\0"):
        assert offset - start + len(block) == len(said), "all that is not zeros comes before its end"
    elif content:
        assert offset - start + len(block) == len(content)
