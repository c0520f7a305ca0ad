"""How an operation that only looks meets the engine: what it finds is said, what it cannot see is asked again.

The engine takes any other error of a check for a finding: a heal or an update then replaces the instance, and with it
what it holds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from cloudify.exceptions import OperationRetry

from cloudify_libvirt.binding import as_operation, for_engine
from cloudify_libvirt.core.errors import CoreError, DataLost, Unhealthy
from cloudify_libvirt.core.spec import Kind
from cloudify_libvirt.record import Record
from cloudify_libvirt.request import REPLACING, Request

# The engine's word for trying again without end.
_FOREVER = -1


def checks(kind: Kind) -> Callable[[Callable[[Request], Any]], Any]:
    """Make an operation of a function that only looks; nothing is written to runtime properties.

    Lost contents stop a workflow that would put something empty in their place.
    """
    return as_operation(kind, records=False, translate=_found)


def _found(error: CoreError, ctx: Any) -> Exception:
    if not isinstance(error, Unhealthy):
        return _again(f"{ctx.instance.id}: cannot tell: {error}")
    if isinstance(error, DataLost) and ctx.workflow_id in REPLACING:
        return _again(f"{ctx.instance.id}: {error}")
    return for_engine(error, ctx)


def _again(text: str) -> Exception:
    translated: Exception = OperationRetry(text)
    return translated


def changes(kind: Kind) -> Callable[[Callable[[Request], Any]], Any]:
    """Make an operation of a function that brings what stands to what is declared.

    The engine answers a failed update with a reinstall, also where only the attempts are used up. So in its workflows
    what is refused is recorded and said, at once, or with the last attempt what may go another time.
    """

    def decorate(function: Callable[[Request], Any]) -> Any:
        @functools.wraps(function)
        def change(request: Request) -> None:
            function(request)
            request.record.forget("update_refused")

        return as_operation(kind, translate=_refused)(change)

    return decorate


def _refused(error: CoreError, ctx: Any) -> Exception | None:
    if ctx.workflow_id not in REPLACING:
        return for_engine(error, ctx)
    if error.retryable and not _last(ctx.operation):
        return _again(f"{ctx.instance.id}: {error}")
    record = Record(ctx)
    record.put(update_refused=str(error))
    record.warn(f"not updated, and left as it is: {error}")
    return None


def _last(attempt: Any) -> bool:
    """Tell whether the engine does not try an operation again."""
    most = attempt.max_retries
    # What the engine does not say of an operation, it does not do.
    return most != _FOREVER and int(attempt.retry_number or 0) >= int(most or 0)
