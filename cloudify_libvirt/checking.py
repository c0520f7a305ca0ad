"""How an operation that only looks meets the engine: what it finds is said, what it cannot see is asked again.

The engine takes any other error of a check for a finding: a heal or an update then replaces the instance, and with it
what it holds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from cloudify.exceptions import OperationRetry

from cloudify_libvirt.binding import as_operation
from cloudify_libvirt.core.errors import CoreError, DataLost, Unhealthy
from cloudify_libvirt.core.spec import Kind
from cloudify_libvirt.request import Request

# Workflows that replace what is found bad, without asking. The plain check says it as it is.
_REPLACING = frozenset({"heal", "update", "csys_new_deployment_update"})


def checks(kind: Kind) -> Callable[[Callable[[Request], Any]], Any]:
    """Make an operation of a function that only looks; nothing is written to runtime properties.

    Lost contents stop a workflow that would put something empty in their place.
    """

    def decorate(function: Callable[[Request], Any]) -> Any:
        @functools.wraps(function)
        def look(request: Request) -> Any:
            try:
                return function(request)
            except Unhealthy as error:
                if isinstance(error, DataLost) and request.ctx.workflow_id in _REPLACING:
                    raise OperationRetry(f"{request.ctx.instance.id}: {error}") from error
                raise
            except CoreError as error:
                raise OperationRetry(f"{request.ctx.instance.id}: cannot tell: {error}") from error

        return as_operation(kind, records=False)(look)

    return decorate


def changes(kind: Kind) -> Callable[[Callable[[Request], Any]], Any]:
    """Make an operation of a function that brings what stands to what is declared.

    The engine answers a failed update with a reinstall. So in its workflows what is refused is recorded and said, and
    what may go another time only ends the workflow.
    """

    def decorate(function: Callable[[Request], Any]) -> Any:
        @functools.wraps(function)
        def change(request: Request) -> Any:
            try:
                function(request)
            except CoreError as error:
                if request.ctx.workflow_id not in _REPLACING:
                    raise
                if error.retryable:
                    raise OperationRetry(f"{request.ctx.instance.id}: {error}") from error
                request.record.put(update_refused=str(error))
                request.record.warn(f"not updated, and left as it is: {error}")
                return
            if request.record.get("update_refused"):
                request.record.put(update_refused=None)

        return as_operation(kind)(change)

    return decorate
