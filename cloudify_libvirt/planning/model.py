"""A plan as data: one entry for each instance, and what the whole comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cloudify_libvirt.core.update.rows import How

NOTHING, FAILED, CHANGES = 0, 1, 2


class Action(StrEnum):
    """What becomes of an instance."""

    CREATE = "create"
    CHANGE = "change"
    REPLACE = "replace"
    DELETE = "delete"
    KEEP = "keep"
    USE = "use"


# In the order of an installation; a deletion comes last.
_IDLE = frozenset({Action.KEEP, Action.USE})


@dataclass
class Entry:
    """One instance.

    ``number`` counts from 1 among the instances of its node. ``ours`` False: a node of another plugin, of which only
    the blueprint is known. ``facts``: what it will be, by the parameters' names; None: known after the install.
    ``changes``: maps with field, old, new, how, where and note. ``problems``: why it cannot be made, or looked at.
    """

    action: Action
    node: str
    type: str
    ours: bool = True
    instance: str = ""
    number: int = 1
    kind: str = ""
    host: str = ""
    name: str | None = None
    uuid: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    xml: str | None = None

    @property
    def against(self) -> int:
        """Return how many things stand against it: problems, and changes that are refused."""
        return len(self.problems) + len([one for one in self.changes if one["how"] == How.REFUSED])

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**vars(self), "action": str(self.action), "instance": self.instance or None}


@dataclass
class Plan:
    """What an install or an update of a deployment would do; ``problems``: what stands against all of it."""

    deployment: str
    blueprint: str
    installed: bool
    entries: list[Entry]
    problems: list[str] = field(default_factory=list)

    @property
    def against(self) -> int:
        """Return how many things stand against it."""
        return len(self.problems) + sum(entry.against for entry in self.entries)

    @property
    def code(self) -> int:
        """Return the exit code: 0 nothing to do, 2 changes, 1 something stands against it."""
        if self.against:
            return FAILED
        return CHANGES if any(entry.action not in _IDLE for entry in self.entries) else NOTHING

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        counted = Counter(str(entry.action) for entry in self.entries)
        return {
            "deployment": self.deployment,
            "blueprint": self.blueprint,
            "installed": self.installed,
            "code": self.code,
            "summary": {**{str(action): counted[str(action)] for action in Action}, "problems": self.against},
            "problems": self.problems,
            "instances": [entry.plain() for entry in self.entries],
        }


def ordered(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries as they are read best: by kind, node and number; what goes comes last."""
    kinds = ("pool", "network", "volume", "iso9660", "domain", "")
    last = Action.DELETE
    return sorted(
        entries, key=lambda one: (one.action is last, kinds.index(one.kind), one.node, one.number, one.instance)
    )
