"""Which instances a workflow is about, and in which order they depend on each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml
from cloudify.constants import COMPUTE_NODE_TYPE
from cloudify.exceptions import NonRecoverableError

FILTERS = ("include_instances", "include_node_types", "exclude_node_types")


def names(value: object, parameter: str) -> list[str]:
    """Return a parameter's list of names; a text on the command line may be a list in YAML, or names and commas."""
    if isinstance(value, str):
        text = value.strip()
        value = yaml.safe_load(text) if text.startswith("[") else [part.strip() for part in text.split(",")]
    if value is not None and not isinstance(value, list | tuple):
        raise NonRecoverableError(f"{parameter} is {value!r}: give a list of names")
    return [str(name) for name in value or () if name not in (None, "")]


def chosen(ctx: Any, operation: str, parameters: Mapping[str, Any]) -> list[Any]:
    """Return the instances that have the operation and pass the filters.

    A node type matches the types that derive from it too; of several that are included a node must be all, and of
    those that are excluded none. A node whose property ``skip_actions`` lists the operation is left out.

    Raises:
        NonRecoverableError: ``include_instances`` names an instance that the deployment does not have.
    """
    only, types, but = (names(parameters.get(key), key) for key in FILTERS)
    unknown = set(only) - {instance.id for node in ctx.nodes for instance in node.instances}
    if unknown:
        raise NonRecoverableError(f"the deployment has no instance {', '.join(sorted(unknown))}")
    found = [
        instance
        for node in ctx.nodes
        if has(node, operation) and _passes(node, types, but)
        for instance in node.instances
        if not only or instance.id in only
    ]
    if types and not found:
        ctx.logger.warning(f"no instance with {operation} is of type {' and '.join(types)}, as the filters say")
    return found


def has(node: Any, operation: str) -> bool:
    """Tell whether a node does something in an operation, and does not ask to be skipped."""
    body = node.operations.get(operation) or {}
    return bool(body.get("operation")) and operation not in (node.properties.get("skip_actions") or ())


def _passes(node: Any, types: Iterable[str], but: Iterable[str]) -> bool:
    above = set(node.type_hierarchy)
    return set(types) <= above and not above & set(but)


def is_host(instance: Any) -> bool:
    """Tell whether it is a machine; others are services on machines, or what machines are made of."""
    return COMPUTE_NODE_TYPE in instance.node.type_hierarchy


def levels(instances: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield the instances in groups: each depends, also by way of others, on those of earlier groups only."""
    rest = {instance.id: instance for instance in instances}
    while rest:
        ready = [instance for instance in rest.values() if not _below(instance) & rest.keys()]
        # The engine's dependencies have no circles.
        yield ready
        for instance in ready:
            del rest[instance.id]


def _below(instance: Any) -> set[str]:
    """Return the ids of all instances that one depends on."""
    found: set[str] = set()
    waiting = [instance]
    while waiting:
        for relation in waiting.pop().relationships:
            if relation.target_id not in found:
                found.add(relation.target_id)
                waiting.append(relation.target_node_instance)
    return found
