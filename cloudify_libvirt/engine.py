"""What we know of the engine's own state, where it lets us look; guarded, as none of it is promised."""

from __future__ import annotations

import time
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from cloudify.state import current_workflow_ctx

# cloudify_rest_client.executions.Execution
_UNENDED = frozenset({"pending", "started"})
_UNSUCCESSFUL = _UNENDED | {"failed", "cancelled"}
# What was cut off long ago is not what somebody asks for who gives the same command again.
_MOST_S = 3600.0


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
    return _absolute(found) if isinstance(found, str) and found else ""


@lru_cache(maxsize=8)
def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def repeats_since(ctx: Any, *, failed: bool) -> float | None:
    """Return when a run was begun that did not succeed and that this one repeats, as seconds since 1970; else None."""
    storage = getattr(getattr(ctx, "_endpoint", None), "storage", None)
    runs = repeated_runs(storage, ctx.execution_id, failed=failed)
    return float(runs[-1]["created_at"].timestamp()) if runs else None


def repeated_runs(storage: Any, execution_id: str, *, failed: bool) -> list[dict[str, Any]]:
    """Return the runs of the last hour that were cut off, or ``failed``, and that this one repeats, the latest first.

    That is, of the same workflow with the same parameters, and nothing else in between. What is begun on a deployment
    is kept in local mode (cloudify.workflows.local.DeploymentStorage); a Manager goes on with a run of its own.
    """
    runs: list[dict[str, Any]] = storage.get_executions() if storage is not None else []
    numbers = [number for number, run in enumerate(runs) if run["id"] == execution_id]
    if not numbers:
        return []
    now, ends = runs[numbers[0]], _UNSUCCESSFUL if failed else _UNENDED

    def repeats(run: dict[str, Any]) -> bool:
        recent = time.time() - float(run["created_at"].timestamp()) <= _MOST_S
        return recent and run["status"] in ends and all(run[key] == now[key] for key in ("workflow_id", "parameters"))

    return list(takewhile(repeats, reversed(runs[: numbers[0]])))


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
