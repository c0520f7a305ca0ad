"""The book of a long run of kills: it is gone on with where it was stopped, shared out, and added up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import figures, results
from tests.chaos.results import FAILED, NOT_REACHED, SURVIVED, Results, Trial
from tests.chaos.trials import every, shard

POINTS = ["1.0 virDomainCreate", "1.1 open w state/x", "1.2 virDomainGetState", "1.3 start qemu-img", "1.4 unlink y/z"]


@pytest.fixture
def trial() -> Trial:
    return Trial("scale", 1, 5, "virDomainCreate", SURVIVED, False, 2.0, "abc", results.product())


def test_what_was_survived_is_left_out(tmp_path: Path, trial: Trial) -> None:
    book = Results(tmp_path / "book")
    for number, outcome in enumerate((SURVIVED, FAILED, NOT_REACHED), 1):
        book.add(replace(trial, point=number, outcome=outcome))
    book.add(replace(trial, point=4, code="another"))
    book.add(replace(trial, point=5, phase="update"))
    assert book.left("scale", [1, 2, 3, 4, 5]) == [2, 4, 5]
    book.add(replace(trial, point=2))
    assert book.left("scale", [1, 2, 3, 4, 5]) == [4, 5]
    assert Results().left("scale", [1, 2]) == [1, 2]


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_shards_are_all(of: int) -> None:
    parts = [shard(f"{number}/{of}", every)(POINTS) for number in range(1, of + 1)]
    assert [point for part in parts for point in part] == every(POINTS) == [1, 2, 4, 5, 3]


def test_the_table_counts_the_last_trial_of_a_point(
    tmp_path: Path, trial: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    book = Results(tmp_path / "book")
    book.add(replace(trial, outcome=FAILED, why="it was another world"))
    book.add(replace(trial, point=2, in_the_middle=True, seconds=4.0))
    book.add(replace(trial, point=3, outcome=NOT_REACHED))
    assert figures.main([str(book.path)]) == 1
    said = capsys.readouterr().out
    assert "| workflow `scale` by one machine | the same again | 5 | 2 | 1 | 1 | 2.7 s |" in said
    assert "not survived: scale 1 virDomainCreate: it was another world" in said
    assert "scale: 1 points were not come to" in said
    book.add(trial)
    assert figures.main([str(book.path)]) == 0
    assert "| 5 | 2 | 2 | 1 | 2.5 s |" in capsys.readouterr().out
