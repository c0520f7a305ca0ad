"""What changes of a deployment's plan mean for its instances: some go, some come, the others are brought in line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cloudify.plugins import lifecycle

from cloudify_libvirt.workflows import rounds, targets
from cloudify_libvirt.workflows.leave import Leave, in_words
from cloudify_libvirt.workflows.rounds import Outcome

LIFECYCLE = "cloudify.interfaces.lifecycle"
CHECK_DRIFT = f"{LIFECYCLE}.check_drift"
# In the engine's order (cloudify.plugins.lifecycle.update_node_instance_subgraph).
UPDATES = tuple(
    f"{LIFECYCLE}.{name}"
    for name in ("preupdate", "update", "postupdate", "update_config", "update_apply", "update_postapply")
)
# Those that change the object; without one of them nothing does.
_CHANGING = (UPDATES[1], UPDATES[3], UPDATES[4])
_MAKING = tuple(f"{LIFECYCLE}.{name}" for name in ("precreate", "create", "configure", "start", "poststart"))
STARTED = "started"


@dataclass
class Report:
    """What became of the instances, by id."""

    unchanged: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def fail(self, outcome: Outcome) -> None:
        """Take note of an operation's failures."""
        self.failed.update(outcome.failed)


def begin(ctx: Any) -> Any:
    """Return the execution's empty task graph, with the nodes and instances as they are stored now."""
    ctx.refresh_node_instances()
    return ctx.graph_mode()


def remove(ctx: Any, gone: Collection[str], *, ignore_failure: bool = False) -> None:
    """Uninstall instances, those that depend on others first, and unlink what stays from them."""
    if not gone:
        return
    graph = begin(ctx)
    instances = {instance for instance in ctx.node_instances if instance.id in gone}
    stay = {instance for instance in ctx.node_instances if instance.id not in gone}
    lifecycle.uninstall_node_instances(graph, instances, ignore_failure, related_nodes=stay, name_prefix="remove-")


def install(ctx: Any, new: Collection[str]) -> None:
    """Install instances and establish the relationships of the others with them; each goes on from its state."""
    if not new:
        return
    graph = begin(ctx)
    instances = {instance for instance in ctx.node_instances if instance.id in new}
    stand = {instance for instance in ctx.node_instances if instance.id not in new and instance.state == STARTED}
    lifecycle.install_node_instances(graph, instances, related_nodes=stand, name_prefix="add-")


def unlink(ctx: Any, unlinked: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Run ``unlink`` of relationships between instances that stay."""
    _relationships(ctx, unlinked, lifecycle.execute_unlink_relationships)


def establish(ctx: Any, linked: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Run ``establish`` of relationships between instances that stay."""
    _relationships(ctx, linked, lifecycle.execute_establish_relationships)


def _relationships(ctx: Any, links: Mapping[str, Iterable[Mapping[str, Any]]], execute: Any) -> None:
    graph = begin(ctx)
    ends: dict[str, list[str]] = {}
    for id_, found in links.items():
        instance = ctx.get_node_instance(id_)
        if instance is not None:
            ends.setdefault(instance.node_id, []).extend(str(link["target_name"]) for link in found)
    if ends:
        everybody = set(ctx.node_instances)
        execute(graph, everybody, modified_relationship_ids=ends)


def align(ctx: Any, changed: Collection[str], leave: Leave, report: Report) -> None:
    """Install what is not there yet and update what is not as declared, in the order of dependencies.

    ``leave`` says what may be restarted and replaced for that. ``changed`` are nodes of other properties than before,
    for those that cannot tell their drift themselves.
    """
    begin(ctx)
    for level in list(targets.levels(ctx.node_instances)):
        new = [instance.id for instance in level if instance.state != STARTED]
        install(ctx, new)
        report.added += new
        begin(ctx)
        _mend(ctx, [ctx.get_node_instance(one.id) for one in level if one.id not in new], changed, leave, report)


def _mend(ctx: Any, instances: list[Any], changed: Collection[str], leave: Leave, report: Report) -> None:
    graph = ctx.graph_mode()
    drift = _drift(graph, instances, report)
    drifted = [
        instance
        for instance in instances
        if instance.id not in report.failed
        and (drift.get(instance.id) or (instance.node_id in changed and not targets.has(instance.node, CHECK_DRIFT)))
    ]
    drifted_ids = {instance.id for instance in drifted}
    report.unchanged += [one.id for one in instances if one.id not in drifted_ids and one.id not in report.failed]
    able = [instance for instance in drifted if _can(instance, _CHANGING)]
    for instance in drifted:
        if instance not in able and _can(instance, _MAKING):
            said = fields(drift.get(instance.id)) or "its properties"
            report.failed[instance.id] = f"{said} changed, but its type has no update operation: reinstall it"
    _update(graph, able, leave, report)
    report.failed.update(_refused(ctx, able))
    report.updated += [instance.id for instance in able if instance.id not in report.failed]
    left = _drift(graph, [instance for instance in able if instance.id not in report.failed], report)
    for id_, found in left.items():
        stays = [one for one in found if _stays(one, found)] if isinstance(found, list) else []
        waits = [one for one in found if one not in stays] if stays else found
        report.left.update({id_: fields(stays)} if stays else {})
        report.waiting.update({id_: fields(waits)} if waits else {})


def _stays(one: Any, found: list[Any]) -> bool:
    """Tell whether this plugin neither changed a thing nor waits for its start: whoever made it so keeps it."""
    ours = isinstance(one, Mapping) and "where" in one
    return ours and not any(other.get("pending") for other in found if other.get("field") == one.get("field"))


def _drift(graph: Any, instances: list[Any], report: Report) -> dict[str, Any]:
    """Return what each instance says of its drift; one that cannot tell has failed."""
    outcome = rounds.run(graph, CHECK_DRIFT, [one for one in instances if targets.has(one.node, CHECK_DRIFT)], {})
    report.fail(outcome)
    return outcome.results


def _update(graph: Any, instances: list[Any], leave: Leave, report: Report) -> None:
    """Run the update operations one after the other; an instance that fails one is left alone after it."""
    for operation in UPDATES:
        group = [one for one in instances if one.id not in report.failed and targets.has(one.node, operation)]
        report.fail(rounds.run(graph, operation, group, {}, partial(_ours, operation, leave)))


def _refused(ctx: Any, instances: Iterable[Any]) -> dict[str, str]:
    """Return what this plugin's updates noted instead of failing, as a Manager answers a failure with a reinstall."""
    ctx.refresh_node_instances()
    notes = [(one, ctx.get_node_instance(one.id).runtime_properties.get("update_refused")) for one in instances]
    return {one.id: in_words(str(note), one.node_id) for one, note in notes if note}


def _ours(operation: str, leave: Leave, instance: Any) -> Mapping[str, Any]:
    """Return what it may do where the operation is this plugin's: another's may not take what it does not know."""
    function = str(instance.node.operations[operation]["operation"])
    return leave.inputs(instance.node_id) if function.startswith("cloudify_libvirt.") else {}


def _can(instance: Any, operations: Iterable[str]) -> bool:
    return any(targets.has(instance.node, operation) for operation in operations)


def fields(drift: Any) -> str:
    """Name what a drift's description names; any plugin's own words are shown as they are."""
    if not drift:
        return ""
    if isinstance(drift, list):
        return ", ".join(dict.fromkeys(_field(one) for one in drift))
    return str(drift)


def _field(one: Any) -> str:
    return str(one.get("field") or one) if isinstance(one, Mapping) else str(one)
