"""Workflows over all instances: suspend, resume, statistics, backup, restore, remove_backup."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cloudify import decorators
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.units import parse_bool
from cloudify_libvirt.workflows import rounds, targets
from cloudify_libvirt.workflows.rounds import Outcome

Workflow = Callable[..., None]
workflow: Callable[[Workflow], Workflow] = decorators.workflow

FREEZE = "cloudify.interfaces.freeze"
LIFECYCLE = "cloudify.interfaces.lifecycle"
SNAPSHOT = "cloudify.interfaces.snapshot"
ROTATE = f"{SNAPSHOT}.rotate"
CHECK = f"{SNAPSHOT}.check"
PERFORMANCE = "cloudify.interfaces.statistics.perfomance"


@workflow
def suspend(ctx: Any, **kwargs: Any) -> None:
    """Pause all machines; the operation of old names comes first."""
    _both(ctx, (f"{LIFECYCLE}.suspend", f"{FREEZE}.suspend"), kwargs)


@workflow
def resume(ctx: Any, **kwargs: Any) -> None:
    """Let all machines go on; the operation of old names comes last."""
    _both(ctx, (f"{FREEZE}.resume", f"{LIFECYCLE}.resume"), kwargs)


@workflow
def statistics(ctx: Any, **kwargs: Any) -> None:
    """Measure all machines, into their runtime property ``stat``."""
    _both(ctx, (PERFORMANCE,), kwargs)


@workflow
def backup(ctx: Any, **kwargs: Any) -> None:
    """Make a backup of all instances, or of none: after a failure what the others made is removed again."""
    graph = ctx.graph_mode()
    parameters = _backup_parameters(kwargs)
    name = parameters["snapshot_name"]
    create = targets.chosen(ctx, f"{SNAPSHOT}.create", parameters)
    prepared = _prepare(ctx, graph, parameters)
    made = Outcome()
    if not prepared.failed:
        made = rounds.run(graph, f"{SNAPSHOT}.create", create, parameters, _later)
    thawed = _finalize(ctx, graph, parameters)
    if prepared.failed:
        raise _failure(f"no backup '{name}' was made: freezing failed", prepared, thawed)
    if made.failed:
        raise _taken_back(graph, name, made, thawed, parameters)
    rotated = rounds.run(graph, ROTATE, filter(_rotates, made.done), parameters)
    if thawed.failed:
        raise _failure(f"backup '{name}' stands, but thawing failed", thawed, rotated)
    if rotated.failed:
        raise _failure(f"backup '{name}' stands, but letting old ones go failed", rotated)
    ctx.logger.info(f"backup '{name}' of {len(made.done)} instances")


def _rotates(instance: Any) -> bool:
    """Tell whether it lets old backups go by an operation of its own, not when it makes a new one."""
    return targets.has(instance.node, ROTATE)


def _later(instance: Any) -> dict[str, Any]:
    """Keep an old backup until all instances have the new one."""
    return {"snapshot_rotate": False} if _rotates(instance) else {}


def _taken_back(graph: Any, name: str, made: Outcome, thawed: Outcome, parameters: dict[str, Any]) -> Exception:
    """Remove what the instances without a failure made; one that failed has cleaned up, or had that name before."""
    removed = rounds.run(graph, f"{SNAPSHOT}.delete", made.done, parameters)
    text = f"no instance has backup '{name}' of this run: it failed on {_ids(made.failed)} ({made.reasons})"
    if removed.done:
        text += f"; removed again from {_ids(instance.id for instance in removed.done)}"
    if removed.failed:
        text = (
            f"backup '{name}' failed on {_ids(made.failed)} ({made.reasons}), and could not be removed again from "
            f"{_ids(removed.failed)} ({removed.reasons}): run remove_backup for these"
        )
    return _failure(text, Outcome(failed=thawed.failed))


@workflow
def restore(ctx: Any, **kwargs: Any) -> None:
    """Restore all instances, each after those that it depends on; a failure stops those that are left.

    Whether they can be restored is asked of all machines before any is touched.
    """
    graph = ctx.graph_mode()
    parameters = _named(kwargs)
    name = parameters["snapshot_name"]
    wanted = targets.chosen(ctx, f"{SNAPSHOT}.apply", parameters)
    checked = rounds.run(graph, CHECK, [one for one in wanted if targets.has(one.node, CHECK)], parameters)
    if checked.failed:
        raise _failure(f"nothing was restored from '{name}': not all instances can be", checked)
    prepared = _prepare(ctx, graph, parameters)
    applied = Outcome()
    for level in targets.levels(wanted):
        if not (prepared.failed or applied.failed):
            applied += rounds.run(graph, f"{SNAPSHOT}.apply", level, parameters)
    thawed = _finalize(ctx, graph, parameters)
    if prepared.failed:
        raise _failure(f"nothing was restored from '{name}': freezing failed", prepared, thawed)
    if applied.failed:
        tried = {instance.id for instance in applied.done} | applied.failed.keys()
        left = [instance.id for instance in wanted if instance.id not in tried]
        raise _failure(
            f"restore from '{name}' failed on {_ids(applied.failed)} ({applied.reasons}); "
            f"restored: {_ids(instance.id for instance in applied.done)}; not tried: {_ids(left)}",
            thawed,
        )
    if thawed.failed:
        raise _failure(f"restored from '{name}', but thawing failed", thawed)
    ctx.logger.info(f"restored {len(applied.done)} instances from '{name}'")


@workflow
def remove_backup(ctx: Any, **kwargs: Any) -> None:
    """Remove a backup from all instances; one that fails keeps no other one from it."""
    graph = ctx.graph_mode()
    parameters = _named(kwargs)
    name = parameters["snapshot_name"]
    wanted = targets.chosen(ctx, f"{SNAPSHOT}.delete", parameters)
    removed = rounds.run(graph, f"{SNAPSHOT}.delete", wanted, parameters)
    if removed.failed:
        gone = _ids(instance.id for instance in removed.done)
        raise _failure(f"backup '{name}' was removed from {gone}, but not from all", removed)
    ctx.logger.info(f"removed backup '{name}' of {len(removed.done)} instances")


def _both(ctx: Any, operations: tuple[str, ...], kwargs: dict[str, Any]) -> None:
    """Run operations one after the other, each on all instances at once; fail at the end, naming each failure."""
    graph = ctx.graph_mode()
    outcome = Outcome()
    for operation in operations:
        outcome += rounds.run(graph, operation, targets.chosen(ctx, operation, kwargs), kwargs)
    if outcome.failed:
        raise _failure(f"{ctx.workflow_id} succeeded on {_ids(i.id for i in outcome.done)}, but not on all", outcome)


def _prepare(ctx: Any, graph: Any, parameters: dict[str, Any]) -> Outcome:
    """Freeze services, then the machines below them; machines stay as they are where a service failed."""
    found = targets.chosen(ctx, f"{FREEZE}.fs_prepare", parameters)
    outcome = Outcome()
    for hosts in (False, True):
        if not outcome.failed:
            group = [instance for instance in found if targets.is_host(instance) is hosts]
            outcome += rounds.run(graph, f"{FREEZE}.fs_prepare", group, parameters)
    return outcome


def _finalize(ctx: Any, graph: Any, parameters: dict[str, Any]) -> Outcome:
    """Thaw machines, then services: always all, as nothing may stay frozen."""
    found = targets.chosen(ctx, f"{FREEZE}.fs_finalize", parameters)
    outcome = Outcome()
    for hosts in (True, False):
        group = [instance for instance in found if targets.is_host(instance) is hosts]
        outcome += rounds.run(graph, f"{FREEZE}.fs_finalize", group, parameters)
    return outcome


def _backup_parameters(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {
        **kwargs,
        "snapshot_name": str(kwargs.get("snapshot_name") or f"backup-{int(time.time())}"),
        "snapshot_type": kwargs.get("snapshot_type") or "irregular",
        "snapshot_rotation": kwargs.get("snapshot_rotation") or -1,
        "snapshot_incremental": _incremental(kwargs),
    }


def _named(kwargs: dict[str, Any]) -> dict[str, Any]:
    if not kwargs.get("snapshot_name"):
        raise NonRecoverableError("snapshot_name is empty: name the backup, as in -p snapshot_name=NAME")
    return {**kwargs, "snapshot_name": str(kwargs["snapshot_name"]), "snapshot_incremental": _incremental(kwargs)}


def _incremental(kwargs: dict[str, Any]) -> bool:
    value = kwargs.get("snapshot_incremental")
    try:
        return True if value in (None, "") else parse_bool(value, "snapshot_incremental")
    except InvalidSpec as error:
        raise NonRecoverableError(str(error)) from error


def _ids(found: Any) -> str:
    return ", ".join(sorted(found)) or "none"


def _failure(text: str, *outcomes: Outcome) -> Exception:
    """Return the error of a workflow: what happened, and what each instance said."""
    said = [outcome.reasons for outcome in outcomes if outcome.failed]
    failure: Exception = NonRecoverableError(": ".join([text, *said]))
    return failure
