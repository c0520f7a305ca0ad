"""Workflows of one worker thread in that thread.

The engine decides in one thread what comes next and does it in another: each of the two dozen tasks of a machine is
handed over and back. With one worker nothing is done at the same time anyway, so the worker decides, too, between two
tasks. Whoever started the workflow waits, and is interrupted, as before.

The engine's own way may also sleep a second over a result that comes between its last look and its reset of the event;
here the event is reset first.

Source: cloudify.workflows.tasks_graph, tasks and workflow_context of cloudify-common 7.0
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from cloudify import constants
from cloudify.workflows import api, events, tasks, tasks_graph, workflow_context

from cloudify_libvirt.local_known import digest_of

# Of the sources of the modules, as of cloudify-common 7.0.5.
_KNOWN = "e406b34426820616ade7652bbcadcc696330b5881f240eef42bad0b203f65cc9"
_MODULES = (tasks_graph, tasks, workflow_context, events)
# Of other states the engine's message is an error, which is caught.
_TOLD = frozenset({
    constants.TASK_SENDING, constants.TASK_STARTED, constants.TASK_SUCCEEDED, constants.TASK_RESCHEDULED,
    constants.TASK_FAILED,
})  # fmt: skip
# Seconds after which cancelled and failed workflows are looked for, as in the engine.
_LOOK_AGAIN = 1.0

_engines = tasks_graph.TaskDependencyGraph.execute
_engines_get = tasks.WorkflowTaskResult.get
_engines_begin = workflow_context.LocalTasksProcessing.__init__
_engines_event = workflow_context.CloudifyWorkflowContextInternal.send_task_event


def digest() -> str:
    """Return the digest of the engine's modules; "" where they cannot be read."""
    return digest_of(*_MODULES)


def improve() -> bool:
    """Replace how the engine works graphs off, once; False when its modules are not the known ones."""
    if tasks_graph.TaskDependencyGraph.execute is execute:
        return True
    if digest() != _KNOWN:
        return False
    tasks_graph.TaskDependencyGraph.execute = execute
    workflow_context.CloudifyWorkflowContextInternal.send_task_event = send_task_event
    workflow_context.LocalTasksProcessing.__init__ = _begin
    tasks.WorkflowTaskResult.get = get
    return True


def _begin(self: Any, *args: Any, **kwargs: Any) -> None:
    """Begin with a queue that costs less, before any worker looks into it."""
    _engines_begin(self, *args, **kwargs)
    self._local_tasks_queue = queue.SimpleQueue()


def send_task_event(self: Any, state: str, task: Any, event: Any = None) -> None:
    """Tell of a task, unless the engine, after some work, would not."""
    if state == constants.TASK_FAILED or (task.send_task_events and state in _TOLD):
        _engines_event(self, state, task, event)


class _Outcome(Future[None]):
    """How what is done inside ended: its error is raised where it is waited for, and not here."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        """Tell who waits."""
        if error is None:
            self.set_result(None)
        else:
            self.set_exception(error)
        return True


class _Bell(threading.Event):
    """An event that is mostly set already when it is set: that costs nothing."""

    def set(self) -> None:
        """Wake who waits."""
        if not self.is_set():
            super().set()


def execute(graph: Any) -> None:
    """Work the graph off in the worker thread; where there are more, or none, as the engine does."""
    processor = graph.ctx.internal.local_tasks_processor
    if not graph.ctx.local or not _has_one_worker(processor) or _is_others(processor):
        _engines(graph)
        return
    if _is_worker(processor):
        # Of a handler of another graph, which this worker is at.
        _work_off(graph, processor)
        return
    outcome = _Outcome()

    def work() -> None:
        with outcome:
            _work_off(graph, processor)

    processor.add_task(work)
    outcome.result()


def _has_one_worker(processor: Any) -> bool:
    workers = processor._local_task_processing_pool
    return len(workers) == 1 and bool(workers[0].is_alive()) and isinstance(_queue_of(processor), queue.SimpleQueue)


def _is_worker(processor: Any) -> bool:
    return processor._local_task_processing_pool[0] is threading.current_thread()


def _is_others(processor: Any) -> bool:
    """Tell whether the worker is at a graph of another thread; it does this one's tasks between that one's."""
    return "add_task" in vars(processor) and not _is_worker(processor)


def _queue_of(processor: Any) -> queue.SimpleQueue[Callable[[], Any]]:
    found: queue.SimpleQueue[Callable[[], Any]] = processor._local_tasks_queue
    return found


def _work_off(graph: Any, processor: Any) -> None:
    """Do tasks in the order in which they became ready, until the graph is empty, has failed or is cancelled."""
    waiting = _queue_of(processor)
    graph._errors = tasks_graph.TaskDependencyGraphErrors()
    bell = graph._tasks_wait = _Bell()
    api.cancel_callbacks.add(bell.set)
    try:
        with _ringing(processor, bell):
            while not graph._is_finished() and not processor.stopped:
                if not _advance(graph, waiting):
                    bell.clear()
                    if not _advance(graph, waiting):
                        bell.wait(_LOOK_AGAIN)
    finally:
        api.cancel_callbacks.discard(bell.set)
    _conclude(graph)


@contextmanager
def _ringing(processor: Any, bell: _Bell) -> Iterator[None]:
    """Let the worker hear of tasks that are added, also by the timer of one that is tried again."""
    before = vars(processor).get("add_task")
    waiting = _queue_of(processor)

    def add_task(task: Callable[[], Any]) -> None:
        waiting.put(task)
        bell.set()

    processor.add_task = add_task
    try:
        yield
    finally:
        if before is None:
            del processor.add_task
        else:
            processor.add_task = before


def _advance(graph: Any, waiting: queue.SimpleQueue[Callable[[], Any]]) -> bool:
    """Begin what is ready, do one task, end what is finished; False when there was nothing."""
    while graph._ready:
        task = graph._ready.pop()
        # Of those that it depends on, one failed.
        if not task.dependency_error:
            graph._run_task(task)
    done = _do_one(waiting)
    ended = bool(graph._finished_tasks)
    while graph._finished_tasks:
        task, result = graph._finished_tasks.popitem()
        graph._handle_terminated_task(result, task)
    return done or ended


def _do_one(waiting: queue.SimpleQueue[Callable[[], Any]]) -> bool:
    try:
        task = waiting.get_nowait()
    except queue.Empty:
        return False
    task()
    return True


def get(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Return a task's result; the worker, which would wait for itself, does what is waiting until it is there."""
    context = self.task.workflow_context
    processor = context.internal.local_tasks_processor
    if context.local and _has_one_worker(processor) and _is_worker(processor):
        bell = _Bell()
        self.on_result(lambda _result: bell.set())
        with _ringing(processor, bell):
            while self._result is self._NOT_SET and not api.has_cancel_request():
                bell.clear()
                if self._result is self._NOT_SET and not _do_one(_queue_of(processor)):
                    bell.wait(_LOOK_AGAIN)
    return _engines_get(self, *args, **kwargs)


def _conclude(graph: Any) -> None:
    if graph._wake_after_fail:
        graph._wake_after_fail.cancel()
    if graph._errors:
        raise graph._errors.format_exception()
    if api.has_cancel_request():
        raise api.ExecutionCancelled()
