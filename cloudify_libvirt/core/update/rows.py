"""One row of the update table: how a field that is not as declared gets so. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache


class How(StrEnum):
    """How a change comes into effect; the last two are of no row: they depend on what is there."""

    LIVE = "live"
    NEXT_BOOT = "next boot"
    RESTART = "restart"
    REPLACE = "replace"
    REFUSED = "refused"
    STAYS = "stays"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ``field`` is a pattern over the user's names, as differences have them: ``[*]`` stands for any entry of a list,
    ``*`` elsewhere for any text. ``off`` says how where the object does not run.
    """

    kind: str
    field: str
    how: How
    off: How = How.LIVE
    source: str = ""
    note: str = ""

    def answers(self, field: str) -> bool:
        """Tell whether the row is about that field."""
        return _pattern(self.field).fullmatch(field) is not None

    def at(self, *, active: bool) -> How:
        """Return how the change is made to an object that runs, or not."""
        return self.how if active else self.off


@cache
def _pattern(field: str) -> re.Pattern[str]:
    text = re.escape(field).replace(r"\[\*\]", r"\[[^\]]*\]").replace(r"\*", ".*")
    return re.compile(text)
