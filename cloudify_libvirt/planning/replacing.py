"""Which nodes of a changed blueprint cannot stay what they are; data only."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from cloudify_libvirt.core.units import read_size
from cloudify_libvirt.planning.compare import differences
from cloudify_libvirt.planning.hiding import shown
from cloudify_libvirt.planning.looking import kind_of

Json = Mapping[str, Any]

_CONTAINED = "cloudify.relationships.contained_in"
# What an installed instance keeps whatever the blueprint says: another value is another object.
_IDENTITY = frozenset({"libvirt_auth", "use_external_resource", "resource_id", "create_if_missing"})
# What of an image makes another disk; with what counts where nothing is said.
_OF_IMAGE = {"source": "", "pool": "", "mode": "overlay"}
_KEPT = "an installed instance stays where and what it is"
_MADE = "what was made of it stays, until the node is installed anew"
_STEP = re.compile(r"[^.\[]+")


def made_otherwise(kind: str, path: str, old: Json, new: Json) -> str:
    """Say why what stands cannot follow a change of that property ("params.image"); "" where it may.

    ``old`` and ``new``: the node's params before (``as_made``) and now.
    """
    if path in _IDENTITY:
        return _KEPT
    first = _STEP.match(path.removeprefix("params.")) if path.startswith("params.") else None
    if kind != "domain" or first is None:
        return ""
    if first[0] == "image":
        return _MADE if _is_another(_image(old.get("image")), _image(new.get("image"))) else ""
    if first[0] == "arch":
        # Where one of them is the host's, whatever that is, the host is asked, and refuses what is another.
        return _MADE if old.get("arch") and new.get("arch") and old["arch"] != new["arch"] else ""
    return _MADE if first[0] == "pool" else ""


def as_made(params: Json, record: Json) -> Json:
    """Return a node's params with what its instance was made as where they say nothing."""
    return {**params, "arch": params.get("arch") or record.get("arch")}


def _image(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {"source": value}


def _is_another(old: Json, new: Json) -> bool:
    """Tell whether a disk of the one image is none of the other, or would have to shrink; growing, it is seen there."""
    if any((old.get(key) or default) != (new.get(key) or default) for key, default in _OF_IMAGE.items()):
        return True
    try:
        return bool(old.get("size") and new.get("size")) and read_size(new["size"]) < read_size(old["size"])
    except (TypeError, ValueError):
        return False


def otherwise(old: Json, new: Json, instances: Iterable[Json]) -> dict[str, str]:
    """Return the nodes of ours that are made of, or in, something else now than what stands, each with the reason."""
    before = {str(node["id"]): node.get("properties") or {} for node in old["nodes"]}
    made: dict[str, Json] = {}
    for one in instances:
        runtime = one.get("runtime_properties") or {}
        if runtime.get("resource_id"):
            made[str(one["node_id"])] = runtime
    found: dict[str, str] = {}
    for node in new["nodes"]:
        name, kind = str(node["id"]), kind_of(node)
        if kind and name in made and name in before:
            said = list(_otherwise(kind, before[name], node.get("properties") or {}, made[name]))
            found |= {name: "; ".join(said)} if said else {}
    return found


def _otherwise(kind: str, old: Json, new: Json, record: Json) -> Iterator[str]:
    kind = "" if record.get("use_external_resource") else kind
    params = as_made(old.get("params") or {}, record)
    for change in differences(old, new):
        why = made_otherwise(kind, change.path, params, new.get("params") or {})
        if why:
            was, now = (shown(change.path, value) for value in (change.old, change.new))
            yield f"{change.path.removeprefix('params.')} was {was} and is now {now}, and {why}"


def replaced(old: Json, new: Json, otherwise: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Return the nodes whose instances have to be made anew, each with the reason.

    ``otherwise``: nodes for which that is known already.
    """
    before = {str(node["id"]): node for node in old["nodes"]}
    kept = {str(node["id"]): node for node in new["nodes"] if node["id"] in before}
    found = {name: reason for name, node in kept.items() if (reason := _reason(name, before[name], node, old, new))}
    found = {**{name: reason for name, reason in otherwise.items() if name in kept}, **found}
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


def asked(nodes: Collection[str]) -> str:
    """Return the parameter that gives leave to replace these nodes, and no others."""
    return f"-p allow_replace={','.join(sorted(nodes))}"
