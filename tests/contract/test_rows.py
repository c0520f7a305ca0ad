"""The table of rows is true: each test that it names exists, and each defect has one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.contract.rows import ALSO, DEFECTS, ROWS

HERE = Path(__file__).parent


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {entry.name for entry in ast.walk(tree) if isinstance(entry, ast.FunctionDef)}


@pytest.mark.parametrize("row", [*ROWS, *ALSO])
def test_the_tests_of_a_row_exist(row: str) -> None:
    references = ROWS.get(row) or ALSO[row]
    for reference in references:
        file, name = reference.split("::")
        assert name in functions(HERE / file), reference


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_has_a_test_of_its_own(defect: str) -> None:
    names = {name for path in HERE.glob("test_*.py") for name in functions(path)}
    assert [name for name in names if re.match(rf"test_{defect.lower()}_", name)], f"no test_{defect.lower()}_..."


def test_every_section_has_rows() -> None:
    assert {row[0] for row in ROWS} == set("12345678") and set(ALSO) < set(DEFECTS)
