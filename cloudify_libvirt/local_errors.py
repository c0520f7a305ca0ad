"""Local mode's last line, with the reason: the engine leaves it out for operations that run in its own process.

Source: cloudify.workflows.tasks and tasks_graph of cloudify-common 7.0
"""

from __future__ import annotations

from typing import Any

from cloudify.error_handling import serialize_known_exception
from cloudify.workflows import tasks


def improve() -> bool:
    """Let failed local tasks keep their error, as remote ones do; False when the engine does so itself."""
    known = vars(tasks.LocalWorkflowTask).get("set_state")
    if known is None:
        tasks.LocalWorkflowTask.set_state = set_state
    return known in (None, set_state)


def set_state(self: Any, state: str, *values: Any, **named: Any) -> None:
    """Set the state of a local task; with an exception, keep that for the workflow's message."""
    error = named.get("exception")
    if error is not None:
        self.error = serialize_known_exception(error, "")
    super(tasks.LocalWorkflowTask, self).set_state(state, *values, **named)
