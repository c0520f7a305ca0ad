"""One round: an operation on many instances at once, to its end, whatever fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudify.exceptions import NonRecoverableError, WorkflowFailed
from cloudify.workflows.tasks import INFINITE_TOTAL_RETRIES, HandlerResult


@dataclass
class Outcome:
    """The instances on which the operation succeeded, and the others with what they said."""

    done: list[Any] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.done + other.done, {**self.failed, **other.failed})

    @property
    def reasons(self) -> str:
        """Say which failed and why."""
        return "; ".join(f"{instance}: {reason}" for instance, reason in sorted(self.failed.items()))


Parameters = Mapping[str, Any]


def run(
    graph: Any,
    operation: str,
    instances: Iterable[Any],
    parameters: Parameters,
    more: Callable[[Any], Parameters] = lambda _instance: {},
) -> Outcome:
    """Run the operation on all instances in parallel; an instance's failure stops no other one.

    What may pass is retried as the engine is told to. ``graph`` is the execution's task graph, empty now; ``more``
    gives what only some instances get.
    """
    outcome = Outcome()
    wanted = list(instances)
    for instance in wanted:
        task = instance.execute_operation(
            operation, kwargs={**parameters, **more(instance)}, allow_kwargs_override=True
        )
        task.on_success, task.on_failure = _handlers(instance, outcome)
        graph.add_task(task)
    try:
        graph.execute()
    except WorkflowFailed as error:
        # An operation that asked for one more turn than it may have; no handler hears of that.
        finished = {instance.id for instance in outcome.done} | outcome.failed.keys()
        outcome.failed.update({instance.id: str(error) for instance in wanted if instance.id not in finished})
        for task in graph.tasks:
            graph.remove_task(task)
    return outcome


def _handlers(instance: Any, outcome: Outcome) -> tuple[Any, Any]:
    def succeeded(_task: Any) -> HandlerResult:
        outcome.done.append(instance)
        return HandlerResult.cont()

    def failed(task: Any) -> HandlerResult:
        error = task.async_result.result
        more = task.total_retries == INFINITE_TOTAL_RETRIES or task.current_retries < task.total_retries
        if more and not isinstance(error, NonRecoverableError):
            return HandlerResult.retry(retry_after=getattr(error, "retry_after", None))
        outcome.failed[instance.id] = str(error).removeprefix(f"{instance.id}: ")
        return HandlerResult.ignore()

    return succeeded, failed
