"""What we know of the engine's own state, where it lets us look; guarded, as none of it is promised."""

from __future__ import annotations

from cloudify.state import current_workflow_ctx


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
