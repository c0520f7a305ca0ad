"""Reading cfy's event lines: which object is at which step. Pure, but for the clock that it is given."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

LINE = re.compile(r"^\S+ \S+\s+(?:CFY|LOG) <[^>]*> \[(?P<instance>[\w-]+?)(?:\.[\w.]+)?\] (?P<text>.*)$")
STARTED = re.compile(r"Task started 'cloudify_libvirt\.(?P<task>[\w.]+)'")
FAILED = re.compile(r"Task failed '[^']*' -> (?P<reason>.*?)(?: \[retry \d+/\d+\])?$")
WARNING = "WARNING: "
NOTES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"defined domain '(?P<name>.*?)' on \S+ \((?P<detail>.*)\)"), "defined"),
    (re.compile(r"started domain '(?P<name>.*?)'"), "started"),
    (re.compile(r"domain '(?P<name>.*?)' on \S+ still runs: (?P<detail>.*?), which"), "shutting down"),
    (re.compile(r"(?P<name>\S+) has address (?P<detail>\S+) after"), "address"),
    (re.compile(r"image \S+: (?P<detail>.*)"), "image"),
)
# Task -> the step that begins with it.
STEPS = {
    "network_tasks.create": "network",
    "pool_tasks.create": "pool",
    "domain_tasks.validate": "checked",
    "domain_tasks.configure": "disk",
    "domain_tasks.prestop": "asked to shut down",
    "domain_tasks.stop": "shutting down",
    "domain_tasks.delete": "removing",
    "network_tasks.delete": "removing",
    "pool_tasks.delete": "removing",
}
ENDS = {"Node instance started": "ready", "Deleted node instance": "gone"}


@dataclass
class Row:
    """One node instance."""

    instance: str
    began: float
    name: str = ""
    step: str = ""
    detail: str = ""
    ended: float | None = None
    failed: bool = False

    @property
    def label(self) -> str:
        """Return the object's name, or the instance's id until that is known."""
        return self.name or self.instance

    def seconds(self, now: float) -> float:
        """Return how long it took, or has taken so far."""
        return (now if self.ended is None else self.ended) - self.began


@dataclass
class Board:
    """All instances of one workflow run."""

    clock: Callable[[], float]
    names: dict[str, str] = field(default_factory=dict)  # of the instances that have objects already
    rows: dict[str, Row] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def read(self, line: str) -> Row | None:
        """Take one line of cfy's; return the row whose step or detail changed."""
        match = LINE.match(line)
        if match is None:
            return None
        instance = match["instance"]
        row = self.rows.setdefault(instance, Row(instance, self.clock(), self.names.get(instance, "")))
        before = (row.step, row.detail, row.failed)
        self._apply(row, match["text"])
        return row if (row.step, row.detail, row.failed) != before else None

    def _apply(self, row: Row, text: str) -> None:
        if text in ENDS:
            row.ended = self.clock()
            # An address says more than "ready".
            row.step = row.step if row.step == "address" else ENDS[text]
            return
        if text.startswith(WARNING):
            said = text.removeprefix(WARNING)
            self.warnings = [*(one for one in self.warnings if one != said), said]
            return
        failed = FAILED.match(text)
        if failed:
            row.failed, row.ended, row.detail = True, self.clock(), failed["reason"]
            self.reasons = [*(r for r in self.reasons if r != failed["reason"]), failed["reason"]]
            return
        started = STARTED.match(text)
        if started:
            self._begin(row, started["task"])
            return
        self._note(row, text)

    def _begin(self, row: Row, task: str) -> None:
        if row.failed:
            # A retry: what it failed with is no reason any more.
            self.reasons = [reason for reason in self.reasons if reason != row.detail]
            row.failed, row.ended, row.detail = False, None, ""
        if not task.startswith("domain_tasks."):
            row.name = row.instance.rpartition("_")[0]
        if task in STEPS:
            row.step, row.detail = STEPS[task], ""

    @staticmethod
    def _note(row: Row, text: str) -> None:
        for pattern, step in NOTES:
            found = pattern.match(text.removeprefix("INFO: "))
            if found:
                groups = found.groupdict()
                row.name = groups.get("name") or row.name
                row.step, row.detail = step, groups.get("detail") or ""
                return
