"""What an update may do beside changes of what runs: parameters of the workflow, inputs of its operations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.units import parse_bool
from cloudify_libvirt.planning.replacing import asked
from cloudify_libvirt.workflows import targets

_OPERATIONS_WORDS = "allow_replace: true"


@dataclass(frozen=True)
class Leave:
    """Restarts, of all; replacements, of some nodes or (``everything``) of all."""

    restart: bool = False
    nodes: frozenset[str] = frozenset()
    everything: bool = False

    @classmethod
    def of(cls, parameters: Mapping[str, Any], known: Collection[str]) -> Leave:
        """Read the parameters; ``allow_replace`` says yes or no, or names nodes, of which ``known`` are there.

        Raises:
            InvalidSpec: a value is none of these, or names another node.
        """
        restart = parse_bool(parameters.get("allow_restart") or False, "allow_restart")
        value = parameters.get("allow_replace") or False
        if isinstance(value, str | list | tuple):
            try:
                return cls(restart, everything=parse_bool(value, "allow_replace"))
            except InvalidSpec:
                return cls(restart, frozenset(_known(targets.names(value, "allow_replace"), known)))
        return cls(restart, everything=parse_bool(value, "allow_replace"))

    def replaces(self, node: str) -> bool:
        """Tell whether a node's objects may be removed, with what they hold, and made anew."""
        return self.everything or node in self.nodes

    def inputs(self, node: str) -> dict[str, bool]:
        """Return what an operation of the node is given."""
        return {"allow_restart": self.restart, "allow_replace": self.replaces(node)}


def in_words(reason: str, node: str) -> str:
    """Return an operation's reason with the workflow's parameter in place of the operation's input."""
    return reason.replace(_OPERATIONS_WORDS, asked([node]))


def _known(names: list[str], known: Collection[str]) -> list[str]:
    unknown = sorted(set(names) - set(known))
    if unknown:
        remedy = f"Give names of nodes, or true for all; there are {', '.join(sorted(known))}."
        raise InvalidSpec("read", "allow_replace", f"there is no node {', '.join(unknown)}", remedy)
    return names
