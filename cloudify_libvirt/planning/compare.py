"""A new plan of a deployment compared with its stored plan and instances; data only, nothing is read or written.

``compare(old, instances, new)``: ``old`` and ``new`` are prepared plans (``dsl_parser.tasks.prepare_deployment_plan``,
as ``deployment["plan"]`` has it) with their ``nodes`` and ``scaling_groups``; ``instances`` are the stored ones, with
``id``, ``node_id``, ``relationships`` and ``scaling_groups``. None of them is written to. ``Comparison`` says:

- ``added``, ``removed``, ``kept``: lists of instances. Kept ones have their relationships of tomorrow, added ones new
  ids, both what else the engine stores of an instance.
- ``linked``, ``unlinked``: by instance id, the relationships that a kept instance gains and loses.
- ``nodes_added``, ``nodes_removed``: ids of nodes. ``changes``: by id of a kept node, its ``Change`` list: ``path`` in
  the node's properties ("params.memory", "params.disks[0].volume"), ``old`` and ``new``; ``ABSENT``: there is none.
- ``mapped``: by id of a kept node, the names of the operations that have another function or other inputs now.
- ``counts``: how many instances of each scalable node and group are wanted: the new plan's number where the blueprint
  or its inputs changed it, else what the deployment has been scaled to.

``merged_inputs`` says which inputs a changed blueprint gets: those given now, else those given at the install; a stored
value that only is the old default gives way to the new one.

``fitted(new, counts)`` returns the plan with those numbers, so that it can be stored.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dsl_parser import tasks

from cloudify_libvirt.planning.leaving import leaving

Json = Mapping[str, Any]


class _Absent:
    """Stands for a property that is not there, which None does not say."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


@dataclass(frozen=True)
class Change:
    """One property that is another one now."""

    path: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Comparison:
    """What becomes of the nodes and instances of a deployment."""

    added: list[dict[str, Any]] = field(default_factory=list)
    removed: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    linked: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    unlinked: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    nodes_added: list[str] = field(default_factory=list)
    nodes_removed: list[str] = field(default_factory=list)
    changes: dict[str, list[Change]] = field(default_factory=dict)
    mapped: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def nothing(self) -> bool:
        """Tell whether the new plan says what the stored one says."""
        return not any(
            (self.added, self.removed, self.linked, self.unlinked, self.nodes_added, self.nodes_removed, self.changes,
             self.mapped)
        )  # fmt: skip


def compare(
    old: Json, instances: Iterable[Json], new: Json, counts: Mapping[str, int] | None = None,
    gone: Mapping[str, list[str]] | None = None,
) -> Comparison:  # fmt: skip
    """Return what of the deployment is new, gone, or otherwise in the new plan.

    ``counts`` replaces some numbers of instances. ``gone`` says by node or group which ids go where there shall be
    fewer; without it the newest go.
    """
    stored = [dict(copy.deepcopy(dict(one))) for one in instances]
    counts = {**wanted_counts(old, new), **(counts or {})}
    before, after = _nodes(old), _nodes(new)
    both = [key for key in after if key in before]
    modified = _modified(old, stored, new, counts, gone or {})
    return Comparison(
        **_instances(stored, modified),
        nodes_added=[key for key in after if key not in before],
        nodes_removed=[key for key in before if key not in after],
        changes={
            key: found
            for key in both
            if (found := list(differences(before[key].get("properties"), after[key].get("properties"))))
        },
        mapped={key: names for key in both if (names := _mapped(before[key], after[key]))},
        counts=counts,
    )


def merged_inputs(old: Json, stored: Json, new: Json, given: Json) -> dict[str, Any]:
    """Return the inputs of a changed blueprint; ``old`` and ``new`` are the inputs' definitions, by name."""
    kept = {
        name: value
        for name, value in stored.items()
        if name in new and not (name in old and _default(old[name]) == value)
    }
    return {**kept, **given}


def _default(definition: Any) -> Any:
    return definition.get("default", ABSENT) if isinstance(definition, Mapping) else ABSENT


def differences(old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """Yield the leaves in which two values differ; lists are compared place by place."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            below = f"{path}.{key}" if path else str(key)
            yield from differences(old.get(key, ABSENT), new.get(key, ABSENT), below)
    elif isinstance(old, list) and isinstance(new, list):
        for at in range(max(len(old), len(new))):
            before, after = (one[at] if at < len(one) else ABSENT for one in (old, new))
            yield from differences(before, after, f"{path}[{at}]")
    elif old != new or type(old) is not type(new):
        yield Change(path, old, new)


def wanted_counts(old: Json, new: Json) -> dict[str, int]:
    """Return how many instances of each scalable node and group there shall be."""
    before, after = dict(scalables(old)), dict(scalables(new))
    return {
        name: int(before[name]["current_instances"])
        if name in before and before[name]["default_instances"] == wanted["default_instances"]
        else int(wanted["current_instances"])
        for name, wanted in after.items()
    }


def fitted(plan: Json, counts: Mapping[str, int]) -> dict[str, Any]:
    """Return a copy of the plan that says these numbers of instances."""
    wanted = dict(copy.deepcopy(dict(plan)))
    for name, properties in scalables(wanted):
        if name in counts:
            properties["current_instances"] = counts[name]
    return wanted


def _nodes(plan: Json) -> dict[str, Any]:
    return {str(node["id"]): node for node in plan["nodes"]}


def scalables(plan: Json) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, node in _nodes(plan).items():
        yield name, node["capabilities"]["scalable"]["properties"]
    for name, group in (plan.get("scaling_groups") or {}).items():
        yield name, group["properties"]


def _mapped(old: Json, new: Json) -> list[str]:
    before, after = (
        {name: (one.get("operation"), one.get("inputs")) for name, one in (node.get("operations") or {}).items()}
        for node in (old, new)
    )
    return [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]


def _modified(
    old: Json, stored: list[dict[str, Any]], new: Json, counts: Mapping[str, int], gone: Mapping[str, list[str]]
) -> dict[str, Any]:
    """Return the engine's own answer, as its deployment update asks it."""
    before = dict(scalables(old))
    changed = {
        name: {
            "instances": count,
            "removed_ids_include_hint": gone[name] if name in gone else leaving(old, stored, name, count),
        }
        for name, count in counts.items()
        if name in before and int(before[name]["current_instances"]) != count
    }
    plan = fitted(new, counts)
    found: dict[str, Any] = tasks.modify_deployment(
        nodes=plan["nodes"],
        previous_nodes=copy.deepcopy(list(old["nodes"])),
        previous_node_instances=stored,
        modified_nodes=changed,
        scaling_groups={**copy.deepcopy(dict(old.get("scaling_groups") or {})), **(plan.get("scaling_groups") or {})},
    )
    return {**found, "stored": stored}


def _instances(stored: list[dict[str, Any]], modified: Mapping[str, Any]) -> dict[str, Any]:
    added, removed = (_marked(modified[f"{what}_and_related"], what) for what in ("added", "removed"))
    gone = {one["id"] for one in removed}
    linked, unlinked = (
        {one["id"]: one["relationships"] for one in _marked(modified[f"{what}_and_related"], what)}
        for what in ("extended", "reduced")
    )
    kept = [one for one in stored if one["id"] not in gone]
    for one in kept:
        lost = [_key(link) for link in unlinked.get(one["id"], ())]
        links = [link for link in one.get("relationships") or [] if _key(link) not in lost]
        one["relationships"] = [*links, *copy.deepcopy(linked.get(one["id"], []))]
    return {"added": added, "removed": removed, "kept": kept, "linked": linked, "unlinked": unlinked}


def _marked(instances: Iterable[Json], modification: str) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in one.items() if key != "modification"}
        for one in instances
        if one.get("modification") == modification
    ]


def _key(link: Json) -> tuple[str, str]:
    return str(link["type"]), str(link["target_id"])
