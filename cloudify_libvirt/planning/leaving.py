"""Which instances go when there shall be fewer: the newest, unless the user names others; data only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Json = Mapping[str, Any]

_CONTAINED = "cloudify.relationships.contained_in"


@dataclass
class _Member:
    """An instance of the node or group: where it is contained, and the instances of nodes in it."""

    container: str
    inside: list[Json] = field(default_factory=list)


def leaving(
    plan: Json, instances: Iterable[Json], name: str, count: int, include: Collection[str] = (),
    exclude: Collection[str] = (),
) -> list[str]:  # fmt: skip
    """Return the ids that go so that ``count`` instances of a node or scaling group stay in each container.

    ``include`` go first, ``exclude`` stay; an id is one of an instance of the node or group, or of what is in it.
    Fewer ids than needed come back where too many are to stay.
    """
    members = _members(plan, list(instances), name)
    gone: list[str] = []
    for container in dict.fromkeys(member.container for member in members.values()):
        here = {key: member for key, member in members.items() if member.container == container}
        free = [key for key, member in here.items() if not _named(key, member, exclude)]
        free.sort(key=lambda key: (not _named(key, members[key], include), *_newest(key, members[key])))
        gone += free[: max(0, len(here) - count)]
    return gone


def _members(plan: Json, stored: list[Json], name: str) -> dict[str, _Member]:
    """Return the instances of a node or group by id."""
    by_id = {str(one["id"]): one for one in stored}
    hosts = {
        (str(node["id"]), str(link["target_id"]))
        for node in plan["nodes"]
        for link in node.get("relationships") or []
        if _CONTAINED in link["type_hierarchy"]
    }
    found: dict[str, _Member] = {}
    for one in stored:
        way = [*_way(one, by_id, hosts), ("", "")]
        for (there, key), (_, container) in pairwise(way):
            if there == name:
                found.setdefault(key, _Member(container)).inside.append(one)
    return found


def _way(instance: Json, by_id: Mapping[str, Json], hosts: Collection[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield name and id of the instance and of each group and host that it is in, from the inside."""
    current: Json | None = instance
    while current is not None:
        node = str(current.get("node_id") or current["name"])
        yield node, str(current["id"])
        links = [link for link in current.get("relationships") or [] if (node, str(link["target_name"])) in hosts]
        host = by_id.get(str(links[0]["target_id"])) if links else None
        of_host = [str(group["id"]) for group in (host or {}).get("scaling_groups") or []]
        for group in current.get("scaling_groups") or []:
            if str(group["id"]) not in of_host:
                yield str(group["name"]), str(group["id"])
        current = host


def _named(key: str, member: _Member, names: Collection[str]) -> bool:
    return key in names or any(str(one["id"]) in names for one in member.inside)


def _newest(key: str, member: _Member) -> tuple[float, str]:
    """Sort the newest first: what was never made, then by the highest number; of an instance its own counts."""
    own = [one for one in member.inside if str(one["id"]) == key] or member.inside
    numbers = [(one.get("runtime_properties") or {}).get("index") for one in own]
    known = [float(number) for number in numbers if number is not None]
    return (-max(known) if known else float("-inf")), max(str(one["id"]) for one in member.inside)
