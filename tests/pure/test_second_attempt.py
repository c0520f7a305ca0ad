"""A few tests with guests may fail once; nothing else may."""

from __future__ import annotations

import pytest

from tests.second_attempt import MOST, may_be_tried_again

SEEN = ["tests/real/test_x.py::test_a[1]", "tests/lab/test_y.py::test_b"]


@pytest.mark.parametrize(
    ("failed", "again"),
    [
        (SEEN, True),
        ([], False),
        ([f"tests/real/test_x.py::test_{number}" for number in range(MOST + 1)], False),
        ([*SEEN, "tests/chaos/test_kills.py::test_one"], False),
        (["tests/real/test_races.py::test_one"], False),
        (["tests/real/test_snapshot_killed.py::test_one"], False),
        (["tests/real/test_live.py::test_killed_while_we_wait[x]"], False),
        (["tests/pure/test_x.py::test_one"], False),
    ],
)
def test_which_may_be_tried_again(failed: list[str], again: bool) -> None:
    assert may_be_tried_again(failed) is again
