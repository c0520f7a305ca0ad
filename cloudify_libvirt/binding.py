"""How an operation meets the engine, once: request, look-up, policy, translation of errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

from cloudify.decorators import operation
from cloudify.exceptions import NonRecoverableError, RecoverableError

from cloudify_libvirt import local_errors, local_guard, local_storage
from cloudify_libvirt.adoption import Fits, adopt, check_ours, forget_intent, mirrored
from cloudify_libvirt.core import errors
from cloudify_libvirt.core.outage import bridged
from cloudify_libvirt.core.spec import Kind
from cloudify_libvirt.request import Request

Operation = Callable[..., Any]
Translation = Callable[[errors.CoreError, Any], Exception | None]

local_storage.improve()
local_guard.install()
local_errors.improve()


class Missing(Enum):
    """What an operation does when the object does not exist, or never did."""

    SKIP = "nothing to do"
    FAIL = "an error"


class External(Enum):
    """What an operation does with an object that is not ours."""

    SKIP = "leave it alone"
    ACT = "act on it"


def current_ctx(kwargs: dict[str, Any]) -> Any:
    """Return the engine's context of this call."""
    from cloudify import ctx

    return kwargs.pop("ctx", None) or ctx


class SourceSide:
    """The source of a relationship, as if it were the context of a node's own operation.

    Operations of relationships run in parallel on a shared target, so only the source is written to.
    """

    def __init__(self, ctx: Any) -> None:
        """Stand on the context of a relationship."""
        self.relationship = ctx
        self.node, self.instance = ctx.source.node, ctx.source.instance
        self.target = ctx.target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.relationship, name)


def own_side(ctx: Any) -> Any:
    """Return the context whose instance may be written to."""
    return SourceSide(ctx) if getattr(ctx, "type", "") == "relationship-instance" else ctx


def for_engine(error: errors.CoreError, ctx: Any) -> Exception:
    """Translate: worth retrying or not; the message gets the node instance in front."""
    kind = RecoverableError if error.retryable else NonRecoverableError
    translated: Exception = kind(f"{ctx.instance.id}: {error}")
    return translated


def as_operation(
    kind: Kind, *, records: bool = True, translate: Translation = for_engine
) -> Callable[[Callable[[Request], Any]], Operation]:
    """Make an operation of a function of the request; ``kind`` names the spec that its params follow.

    One that only checks leaves no trace: with ``records=False`` nothing is written to runtime properties. ``translate``
    says what the engine hears of an error, also of one in the request itself: an exception, or None to let it pass.
    """

    def decorate(function: Callable[[Request], Any]) -> Operation:
        @functools.wraps(function)
        def run(**kwargs: Any) -> Any:
            ctx = own_side(current_ctx(kwargs))

            def attempt() -> Any:
                request = Request(ctx, kind, kwargs, records=records)
                request.mention_misspelt()
                return _mirrored(function, request, active=records)

            def tell(text: str) -> None:
                # The engine makes a logger for each operation that asks for one.
                ctx.logger.warning(text)

            try:
                return bridged(attempt, lambda: Request(ctx, kind, kwargs, records=False).uri, tell)
            except errors.CoreError as error:
                translated = translate(error, ctx)
                if translated is None:
                    return None
                raise translated from error

        marked: Operation = operation(run, resumable=True)
        return marked

    return decorate


def _mirrored(function: Callable[[Request], Any], request: Request, *, active: bool) -> Any:
    """Run an operation whose journal the orchestrator's ledger follows, also when it fails."""
    mirror = mirrored(request, active=active)
    try:
        return function(request)
    finally:
        mirror.keep()


def operates_on(
    noun: Any, *, kind: Kind, missing: Missing, external: External
) -> Callable[[Callable[..., Any]], Operation]:
    """Make an operation of a function of an existing object and the request.

    ``noun`` is the class that finds the object (``find(session, name)``). An object that was recorded
    with a UUID must still have it: another one of the same name is somebody else's.
    """

    def decorate(function: Callable[..., Any]) -> Operation:
        def act(request: Request) -> Any:
            if external is External.SKIP and request.external:
                return None
            if missing is Missing.FAIL:
                return function(existing(noun, request, function.__name__), request)
            found = look_up(noun, request)
            return None if found is None else function(found, request)

        return as_operation(kind)(functools.wraps(function)(act))

    return decorate


def removes(noun: Any, *, kind: Kind) -> Callable[[Callable[..., Any]], Operation]:
    """Make the operation that ends an object's life; afterwards everything recorded is forgotten.

    The function gets the object, or None when it is gone or was never made: what was made around it
    may still be there. An external object is only forgotten.
    """

    def decorate(function: Callable[..., Any]) -> Operation:
        def act(request: Request) -> None:
            if not request.external:
                function(look_up(noun, request), request)
            forget_intent(request)
            request.record.clear()

        return as_operation(kind)(functools.wraps(function)(act))

    return decorate


def look_up(noun: Any, request: Request) -> Any:
    """Return the object that this instance recorded, or None; a name alone would be anybody's."""
    recorded = request.record.get("uuid") if request.record.get("resource_id") else None
    return noun.find_by_uuid(request.session, recorded) if recorded else None


def existing(noun: Any, request: Request, action: str) -> Any:
    """Return the object that this instance recorded.

    Raises:
        Missing: there is none, so that the action cannot be done.
    """
    found = look_up(noun, request)
    if found is None:
        reason, remedy = "it was never made, or is gone", "Install the node first, or heal it."
        raise errors.Missing(action, f"the {noun.noun} of {request.label}", reason, remedy)
    return found


def find_external(noun: Any, request: Request) -> Any:
    """Return the existing object that the user named; None when it is missing and may be made.

    Raises:
        Missing: there is no such object and ``create_if_missing`` is off.
    """
    name = request.resource_id or request.name
    found = noun.find(request.session, name)
    if found is None and request.create_if_missing:
        request.own(name)
        return None
    if found is None:
        raise errors.Missing(
            "use",
            noun.label(name, request.session),
            "it does not exist",
            "Check resource_id, or set create_if_missing to have it made.",
        )
    request.record.put(resource_id=found.name, uuid=found.uuid, use_external_resource=True)
    request.record.note(f"using the existing {found.target}")
    return found


def claim(noun: Any, request: Request, fits: Fits = lambda _journal: None) -> Any:
    """Record name and UUID of what will be made, before it is; return what an earlier install made of it, or None.

    What an earlier install of this very instance made, and no deployment has any more, is taken over with its journal;
    ``fits`` refuses what cannot be kept as it is.

    Raises:
        Conflict: the name, or our derived UUID, belongs to an object that this instance did not record.
    """
    uuid = str(request.params["instance_uuid"])
    noun.check_free(request.session, request.name, uuid)
    known = request.record.get("uuid") == uuid
    found = None if known and not request.record.get("adopted") else noun.find_by_uuid(request.session, uuid)
    if not adopt(request, partial(_check_kept, request, found, fits)) and found is not None and not known:
        check_ours(request, found, {})
    request.record.put(resource_id=request.name, uuid=uuid)
    return found


def _check_kept(request: Request, found: Any, fits: Fits, journal: dict[str, Any]) -> None:
    """Refuse to take over an object that somebody else made meanwhile, or what does not fit."""
    if found is not None:
        check_ours(request, found, journal)
    fits(journal)
