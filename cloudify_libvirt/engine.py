"""What we know of the engine's own state, where it lets us look; guarded, as none of it is promised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloudify.state import current_workflow_ctx

# cloudify_rest_client.executions.Execution
_UNENDED = frozenset({"pending", "started"})


def queued_operations() -> int | None:
    """Return how many operations wait for a worker of this process; None where that cannot be seen.

    Local mode runs operations in the workflow's own process, with one queue before its worker threads
    (cloudify.workflows.workflow_context.LocalTasksProcessing).
    """
    try:
        processing = current_workflow_ctx.get_ctx().internal.local_tasks_processor
        return int(processing._local_tasks_queue.qsize())
    except (AttributeError, RuntimeError):
        return None


def home_of(ctx: Any) -> str:
    """Return the directory where local mode keeps the deployment; "" on a Manager, and where that cannot be seen.

    An operation's context has it through its endpoint (cloudify.endpoint.LocalEndpoint).
    """
    storage = getattr(getattr(ctx, "_endpoint", None), "storage", None)
    found = getattr(getattr(storage, "_storage", None), "_root_storage_dir", "")
    return str(Path(found).absolute()) if isinstance(found, str) and found else ""


def repeats_since(ctx: Any) -> float | None:
    """Return when a run was begun that nobody ended and that this one repeats, as seconds since 1970; else None.

    That is, of the same workflow with the same parameters, and nothing else in between. What is begun on a deployment
    is kept in local mode (cloudify.workflows.local.DeploymentStorage); a Manager goes on with a run of its own.
    """
    storage = getattr(getattr(ctx, "_endpoint", None), "storage", None)
    runs: list[dict[str, Any]] = storage.get_executions() if storage is not None else []
    numbers = [number for number, run in enumerate(runs) if run["id"] == ctx.execution_id]
    if not numbers:
        return None
    since, now = None, runs[numbers[0]]
    for run in reversed(runs[: numbers[0]]):
        if run["status"] not in _UNENDED or any(run[key] != now[key] for key in ("workflow_id", "parameters")):
            break
        since = float(run["created_at"].timestamp())
    return since


def resource_roots(ctx: Any) -> list[Path]:
    """Return the directories that resources come from: the blueprint's own, and its copy; of local mode only.

    The copy has the files that symbolic links of the blueprint led to (cloudify.workflows.local.FileStorage).
    """
    storage = getattr(getattr(ctx, "_endpoint", None), "storage", None)
    if storage is None:
        return []
    blueprint = storage.get_blueprint() or {}
    own = blueprint.get("blueprint_path")
    return [Path(path) for path in (own and str(Path(own).parent), blueprint.get("resources")) if path]


def operation_inputs(ctx: Any) -> list[dict[str, Any]] | None:
    """Return the inputs that the node's blueprint gives to its operations, one map each; None where that is not seen.

    It is in local mode, where the node is in this process's reach.
    """
    storage = getattr(getattr(ctx, "_endpoint", None), "storage", None)
    if storage is None:
        return None
    operations = storage.get_node(ctx.node.id).get("operations") or {}
    return [dict(one.get("inputs") or {}) for one in operations.values()]
