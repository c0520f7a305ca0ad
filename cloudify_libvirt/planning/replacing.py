"""Which nodes of a changed blueprint cannot stay what they are; data only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Json = Mapping[str, Any]

_CONTAINED = "cloudify.relationships.contained_in"


def replaced(old: Json, new: Json) -> dict[str, str]:
    """Return the nodes whose instances have to be made anew, each with the reason."""
    before = {str(node["id"]): node for node in old["nodes"]}
    kept = {str(node["id"]): node for node in new["nodes"] if node["id"] in before}
    found = {name: reason for name, node in kept.items() if (reason := _reason(name, before[name], node, old, new))}
    # What is in a container goes with it.
    for _ in kept:
        found = {**{name: f"it is in {_host(node)}" for name, node in kept.items() if _host(node) in found}, **found}
    return found


def _reason(name: str, before: Json, node: Json, old: Json, new: Json) -> str:
    changes = (
        ("its type", str(before["type"]), str(node["type"])),
        ("what it is contained in", _host(before), _host(node)),
        ("its scaling group", _groups(old, name), _groups(new, name)),
    )
    said = [f"{what} was {was or 'none'} and is now {now or 'none'}" for what, was, now in changes if was != now]
    return "; ".join(said)


def _host(node: Json) -> str:
    links = node.get("relationships") or []
    return ", ".join(str(link["target_id"]) for link in links if _CONTAINED in link["type_hierarchy"])


def _groups(plan: Json, name: str) -> str:
    groups = plan.get("scaling_groups") or {}
    return ", ".join(sorted(group for group, found in groups.items() if name in found["members"]))


def without(instances: Iterable[Json], leaving: Iterable[Json]) -> list[dict[str, Any]]:
    """Return the instances as if those that leave had never been."""
    gone = {one["id"] for one in leaving}
    return [
        {**one, "relationships": [link for link in one.get("relationships") or [] if link["target_id"] not in gone]}
        for one in instances
        if one["id"] not in gone
    ]
