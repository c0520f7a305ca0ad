"""The workflow ``scale`` of local mode, where the engine's own has no deployment modifications to work with.

What is wanted is stored first. A killed scale goes on when it is run again with the same parameters; any other one is
refused until then, as nobody could tell how many instances were meant.

Source: cloudify.plugins.workflows.scale_entity of 7.0, for the parameters and what they mean
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cloudify import decorators
from cloudify.exceptions import NonRecoverableError, WorkflowFailed

from cloudify_libvirt.core.errors import Conflict, CoreError, InvalidSpec, Missing
from cloudify_libvirt.core.units import parse_bool
from cloudify_libvirt.local_state import LocalState
from cloudify_libvirt.planning.compare import compare, fitted, scalables
from cloudify_libvirt.planning.leaving import leaving
from cloudify_libvirt.planning.unfinished import SCALED_BY, SCALING, in_words, refusal
from cloudify_libvirt.workflows import carrying, targets

Workflow = Callable[..., None]
workflow: Callable[[Workflow], Workflow] = decorators.workflow


@workflow
def scale(ctx: Any, **kwargs: Any) -> None:
    """Add instances of a node or scaling group with all that is in it, or remove some."""
    state = LocalState(ctx)
    try:
        delta = _number(kwargs.get("delta"))
        if _flag(kwargs, "abort_started"):
            _abort(ctx, state)
        if delta == 0:
            ctx.logger.info("delta is 0: nothing is scaled")
            return
        begun = _begun(ctx, state, delta, kwargs)
        if begun is None and _had_ended(ctx, state):
            ctx.logger.info("this scale was finished by the run that was killed: nothing is left to do")
            return
        begun = begun or _begin(ctx, state, delta, kwargs)
    except CoreError as error:
        raise NonRecoverableError(str(error)) from error
    if delta > 0:
        _out(ctx, state, begun, roll_back=_flag(kwargs, "rollback_if_failed", default=True))
    else:
        _in(ctx, state, begun, ignore_failure=_flag(kwargs, "ignore_failure"))
    ctx.logger.info(f"{begun['entity']} has {begun['wanted']} instances now")


def _number(value: object) -> int:
    try:
        return int(str(value))
    except ValueError as error:
        remedy = "Give one, such as 1 or -1."
        raise InvalidSpec("scale by", f"delta {value!r}", "it is no whole number", remedy) from error


def _flag(kwargs: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
    value = kwargs.get(key)
    return default if value in (None, "") else parse_bool(value, key)


def _begun(ctx: Any, state: LocalState, delta: int, kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the scale that was begun before and did not end, if it is this one."""
    found: dict[str, Any] | None = state.deployment.get(SCALING)
    if found is None:
        return None
    if (found["asked"], found["delta"]) != (kwargs.get("scalable_entity_name"), delta):
        raise Conflict(
            "scale", f"deployment {state.name}",
            in_words(found),
            "Run that again to finish it, or add abort_started=true to take it back first.",
        )  # fmt: skip
    ctx.logger.info(f"going on with the scale of {found['asked']} to {found['wanted']} instances")
    return found


def _had_ended(ctx: Any, state: LocalState) -> bool:
    """Tell whether the run that this one repeats was killed after its last step: nobody was told that it had ended."""
    last = state.deployment.get(SCALED_BY)
    return any(run["id"] == last for run in state.repeated(ctx.execution_id))


def check_finished(state: LocalState) -> None:
    """Refuse another change of a deployment whose scale did not end.

    Raises:
        Conflict: it did not.
    """
    begun = state.deployment.get(SCALING)
    if begun:
        raise refusal(state.name, begun)


def _begin(ctx: Any, state: LocalState, delta: int, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Decide what comes and goes, and store that before anything is done."""
    plan = state.deployment["plan"]
    asked = str(kwargs.get("scalable_entity_name") or "")
    entity = _entity(ctx, plan, asked, scale_compute=_flag(kwargs, "scale_compute"))
    properties = dict(scalables(plan))[entity]
    current = int(properties["current_instances"])
    wanted = _within(entity, current + delta, properties)
    chosen = {key: targets.names(kwargs.get(f"{key}_instances"), f"{key}_instances") for key in ("include", "exclude")}
    instances = state.instances()
    gone = _leaving(plan, instances, entity, wanted, delta, chosen)
    found = compare(plan, instances, plan, {entity: wanted}, {entity: gone})
    begun = {
        "asked": asked, "entity": entity, "delta": delta, "before": current, "wanted": wanted,
        "added": found.added, "linked": found.linked, "removed": [one["id"] for one in found.removed],
    }  # fmt: skip
    state.put(**{SCALING: begun})
    return begun


def _entity(ctx: Any, plan: Mapping[str, Any], asked: str, *, scale_compute: bool) -> str:
    """Return the node or group that is scaled."""
    if asked not in dict(scalables(plan)):
        known = ", ".join(sorted(dict(scalables(plan))))
        reason = "the deployment has no node or scaling group of this name"
        raise Missing("scale", f"'{asked}'", reason, f"It has {known}.")
    node = ctx.get_node(asked)
    if scale_compute and node is not None and node.host_node is not None:
        return str(node.host_node.id)
    return asked


def _within(entity: str, wanted: int, properties: Mapping[str, Any]) -> int:
    """Return the wanted number if the blueprint allows it; -1 is no limit."""
    least, most = int(properties.get("min_instances") or 0), int(properties.get("max_instances", -1))
    if wanted < least or (most >= 0 and wanted > most):
        limits = f"between {least} and {most}" if most >= 0 else f"at least {least}"
        raise InvalidSpec("scale", f"{entity} to {wanted} instances", f"its scalable capability says {limits}")
    return wanted


def _leaving(
    plan: Mapping[str, Any], instances: list[dict[str, Any]], entity: str, wanted: int, delta: int,
    chosen: Mapping[str, list[str]],
) -> list[str]:  # fmt: skip
    """Return the ids that go; refuse a choice that cannot be."""
    known = {str(one["id"]) for one in instances}
    known |= {str(group["id"]) for one in instances for group in one.get("scaling_groups") or []}
    names = {*chosen["include"], *chosen["exclude"]}
    gone = leaving(plan, instances, entity, wanted, chosen["include"], chosen["exclude"])
    every = leaving(plan, instances, entity, wanted)
    reasons = (
        (names and delta > 0, "instances can be included or excluded only when some are removed"),
        (names - known, f"the deployment has no instance {', '.join(sorted(names - known))}"),
        (set(chosen["include"]) & set(chosen["exclude"]), "an instance is both included and excluded"),
        (len(gone) < len(every), f"{len(every)} have to go, and the exclusions leave {len(gone)}"),
    )
    for wrong, reason in reasons:
        if wrong:
            raise InvalidSpec("scale", entity, reason)
    return gone


def _out(ctx: Any, state: LocalState, begun: Mapping[str, Any], *, roll_back: bool) -> None:
    """Add the new instances, install them, and link the others with them."""
    _store_added(state, begun)
    try:
        carrying.install(ctx, {one["id"] for one in begun["added"]})
    except WorkflowFailed:
        if roll_back:
            ctx.logger.error("scaling out failed: what was added is removed again")
            _take_back(ctx, state, begun)
        raise
    state.put(**{SCALING: None, SCALED_BY: ctx.execution_id})


def _store_added(state: LocalState, begun: Mapping[str, Any]) -> None:
    state.put(**_counted(state, begun["entity"], begun["wanted"]))
    state.add(begun["added"])
    state.link(begun["linked"])


def _in(ctx: Any, state: LocalState, begun: Mapping[str, Any], *, ignore_failure: bool) -> None:
    """Uninstall the instances that go, and forget them."""
    carrying.remove(ctx, set(begun["removed"]), ignore_failure=ignore_failure)
    state.remove(set(begun["removed"]))
    counted = _counted(state, begun["entity"], begun["wanted"])
    state.put(**{SCALING: None, SCALED_BY: ctx.execution_id}, **counted)


def _counted(state: LocalState, entity: str, number: int) -> dict[str, Any]:
    """Return what the deployment's file says when there are that many instances."""
    stored = state.deployment
    plan = fitted(stored["plan"], {entity: number})
    nodes = {str(node["id"]): node["capabilities"] for node in plan["nodes"]}
    changed = {key: {**node, "capabilities": nodes[key]} for key, node in stored["nodes"].items()}
    if entity in changed:
        changed[entity]["number_of_instances"] = number
    return {"plan": plan, "nodes": changed, "scaling_groups": plan.get("scaling_groups") or {}}


def _take_back(ctx: Any, state: LocalState, begun: Mapping[str, Any]) -> None:
    """Remove what a scale added, as if it had not been."""
    added = {str(one["id"]) for one in begun["added"]}
    graph = ctx.internal.task_graph
    for task in list(graph.tasks):
        graph.remove_task(task)
    carrying.remove(ctx, added)
    state.remove(added)
    state.put(**{SCALING: None}, **_counted(state, begun["entity"], begun["before"]))


def _abort(ctx: Any, state: LocalState) -> None:
    """Take back a scale that was begun and did not end."""
    begun = state.deployment.get(SCALING)
    if begun is None:
        return
    ctx.logger.info(f"taking back the scale of {begun['asked']} by {begun['delta']}")
    if begun["delta"] > 0:
        _store_added(state, begun)
        _take_back(ctx, state, begun)
        return
    there = {str(one["id"]) for one in state.instances()}
    if not set(begun["removed"]) <= there:
        target, reason = f"the scale of {begun['asked']} by {begun['delta']}", "some instances are removed already"
        raise Conflict("take back", target, reason, "Run it again to finish it.")
    carrying.install(ctx, set(begun["removed"]))
    state.put(**{SCALING: None})
