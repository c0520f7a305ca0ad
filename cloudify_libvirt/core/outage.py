"""A daemon that goes away for a while: what it cut off is done again on a new connection.

Guests go on running while libvirtd is restarted; only the connection to it breaks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cloudify_libvirt.core import session
from cloudify_libvirt.core.errors import ConnectionLost, CoreError, Missing
from cloudify_libvirt.core.resource import Resource
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.uri import shown
from cloudify_libvirt.core.wait import Signal, wait_until

T = TypeVar("T")
Found = TypeVar("Found", bound=Resource)

# How long a host that was connected may be away: a restart takes a second, an upgrade of its packages half a minute.
RETURN_TIMEOUT_S = 60.0
RETURN_POLL_S = 0.25
# A call that ends its daemon each time must come to an end itself.
MOST_OUTAGES = 3


def bridged(call: Callable[[], T], uri: Callable[[], str], tell: Callable[[str], None]) -> T:
    """Return what ``call`` returns; when its connection breaks wait for the host, and call again from the beginning.

    ``call`` takes a connection of its own each time, and finds what it made before. ``tell`` gets what a user should
    know while it takes long.

    Raises:
        CoreError: it failed otherwise, or the host was away for more than ``RETURN_TIMEOUT_S`` (worth a retry).
    """
    for _ in range(MOST_OUTAGES):
        try:
            return call()
        except ConnectionLost as error:
            host = uri()
            why = error.reason.rstrip(".")
            tell(f"lost {shown(host)} ({why}); waiting up to {RETURN_TIMEOUT_S:g} s for it, then this begins anew")
            returned(host)
    return call()


def same(found: Found) -> Found:
    """Return the same object on a connection that works: itself, or looked up again when the host is back.

    Raises:
        Missing: it is gone.
        CoreError: the host does not come back.
    """
    if found.session.alive:
        return found
    uuid, noun = found.uuid, type(found)
    again = noun.find_by_uuid(returned(found.session.opened), uuid)
    if again is None:
        raise Missing("find", found.target, "it is gone", "")
    return again


def returned(uri: str, timeout_s: float = RETURN_TIMEOUT_S) -> Session:
    """Return a new connection to a host that was lost, as soon as it answers.

    Raises:
        CoreError: it has not by the deadline; from then on nobody waits for it, until it is back.
    """
    failures: list[CoreError] = []

    def look() -> Session | None:
        try:
            return session.connect(uri)
        except CoreError as error:
            if not error.retryable:
                raise
            failures.append(error)
        return None

    found = wait_until(look, timeout_s=timeout_s, signal=Signal(), poll_s=RETURN_POLL_S)
    if found is not None:
        return found
    session.give_up(uri)
    last = failures[-1]
    reason = f"it has been away for more than {timeout_s:g} s ({last.reason.rstrip('.')})"
    raise CoreError(last.action, last.target, reason, last.remedy, retryable=True)
