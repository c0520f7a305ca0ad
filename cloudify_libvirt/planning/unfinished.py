"""What a workflow that did not end has left in a deployment of local mode; data only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cloudify_libvirt.core.errors import Conflict

Json = Mapping[str, Any]

# Attributes of a stored deployment: the scale that was begun, the run that ended the last one, and relationships that
# are still to be established.
SCALING = "libvirt_scaling"
SCALED_BY = "libvirt_scaled_by"
PENDING_LINKS = "libvirt_links"
STARTED = "started"
_NEVER_BEGUN = frozenset({None, "", "uninitialized", "deleted"})


def in_words(begun: Json) -> str:
    """Say which scale did not end."""
    return f"a scale of {begun['asked']} by {begun['delta']} was begun and did not end"


def refusal(deployment: str, begun: Json) -> Conflict:
    """Return why another change of a deployment whose scale did not end is refused."""
    asked = f"-p scalable_entity_name={begun['asked']}"
    start = f"cfy executions start scale -b {deployment}"
    remedy = (
        f"Run it again: {start} {asked} -p delta={begun['delta']}; "
        f"or take it back: {start} -p abort_started=true -p delta=0."
    )
    return Conflict("update", f"deployment {deployment}", in_words(begun), remedy)


def half_made(instance: Json) -> str:
    """Return the state in which a workflow left an instance on its way, or ""."""
    state = instance.get("state")
    return "" if state in _NEVER_BEGUN or state == STARTED else str(state)


def of_scale(begun: Json | None, instance: Json) -> Iterator[str]:
    """Yield what a scale that did not end means for an instance."""
    if begun and instance["id"] in [one["id"] for one in begun["added"]]:
        yield f"added by a scale that did not end: {in_words(begun)}"
    if begun and instance["id"] in begun["removed"]:
        yield f"to be removed by a scale that did not end: {in_words(begun)}"
