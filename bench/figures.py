"""Medians, and rows of the table that the measurements print."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table; ``ratio`` and ``bound`` are None for plain information."""

    what: str
    measured: str
    compared: str = ""
    ratio: float | None = None
    bound: float | None = None

    @property
    def holds(self) -> bool:
        """Tell whether the bound is kept."""
        return self.ratio is None or self.bound is None or self.ratio <= self.bound

    def cells(self) -> list[str]:
        """Return the line's cells as text."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        bound = "" if self.bound is None else f"{self.bound:.2f}"
        verdict = "" if self.bound is None else ("yes" if self.holds else "**no**")
        return [self.what, self.measured, self.compared, ratio, bound, verdict]


HEAD = ["what", "measured", "compared with", "ratio", "bound", "holds"]


def table(rows: list[Row]) -> str:
    """Return a Markdown table."""
    lines = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def median(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def ms(seconds: float) -> str:
    """Return milliseconds as text."""
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def s(seconds: float) -> str:
    """Return seconds as text."""
    return f"{seconds:.2f} s"
