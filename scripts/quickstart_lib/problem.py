"""The one error of quickstart."""

from __future__ import annotations

from collections.abc import Sequence


class Problem(Exception):
    """What failed, why, and what to do; ``details`` are lines that others wrote."""

    def __init__(self, what: str, remedy: str, details: Sequence[str] = ()) -> None:
        """Keep the parts: they are shown on lines of their own."""
        super().__init__(what)
        self.what, self.remedy, self.details = what, remedy, list(details)
