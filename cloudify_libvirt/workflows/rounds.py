"""One round: an operation on many instances at once, to its end, whatever fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudify.workflows.tasks import HandlerResult


@dataclass
class Outcome:
    """The instances on which the operation succeeded, what it returned, and the others with what they said."""

    done: list[Any] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.done + other.done, {**self.failed, **other.failed}, {**self.results, **other.results})

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
    for instance in instances:
        task = instance.execute_operation(
            operation, kwargs={**parameters, **more(instance)}, allow_kwargs_override=True
        )
        task.on_success = _succeeded(instance, outcome)
        # Of a task alone, an operation that asks for one more turn than it may have would end the workflow.
        alone = graph.subgraph(f"{operation} of {instance.id}")
        alone.add_task(task)
        alone.on_failure = _failed(instance, outcome)
    graph.execute()
    return outcome


def _succeeded(instance: Any, outcome: Outcome) -> Callable[[Any], HandlerResult]:
    def handle(task: Any) -> HandlerResult:
        outcome.done.append(instance)
        outcome.results[instance.id] = task.async_result.result
        return HandlerResult.cont()

    return handle


def _failed(instance: Any, outcome: Outcome) -> Callable[[Any], HandlerResult]:
    def handle(alone: Any) -> HandlerResult:
        outcome.failed[instance.id] = str(alone.failed_task.async_result.result).removeprefix(f"{instance.id}: ")
        return HandlerResult.ignore()

    return handle
