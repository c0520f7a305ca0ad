"""The error tree, and the one place that reads libvirt's error codes.

Every error says what was done to which object, why it failed and what to do, and whether trying
again can help. The layer above turns ``retryable`` into its engine's own kinds of failure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from cloudify_libvirt.core.driver import libvirt

_MOST_SHOWN = 1200
# What would move a terminal's cursor, begin a new line of a log, turn text around, or not be text at all.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def _printable(text: str) -> str:
    """Return what a log can hold of a text that may come from anywhere."""
    shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), shown)


class CoreError(Exception):
    """A failure that a user can act on."""

    retryable = False

    def __init__(
        self, action: str, target: str, reason: str, remedy: str = "", *, retryable: bool | None = None
    ) -> None:
        """Compose the message ``cannot <action> <target>: <reason>. <remedy>``."""
        action, target, reason, remedy = map(_printable, (action, target, reason, remedy))
        self.action, self.target, self.reason, self.remedy = action, target, reason, remedy
        if retryable is not None:
            self.retryable = retryable
        text = f"cannot {action} {target}: {reason.rstrip('.')}."
        super().__init__(f"{text} {remedy}".rstrip())


class InvalidSpec(CoreError):
    """What the user asked for is not valid."""


class InvalidTemplate(CoreError):
    """A template does not render, or renders a document that libvirt's schema refuses."""


class BadDocument(CoreError):
    """A document that should be libvirt's is not, or holds a value that it cannot hold."""


class LibraryMissing(CoreError):
    """The libvirt client library or its Python binding is not installed."""


class ConnectFailed(CoreError):
    """No connection to the hypervisor."""


class AccessDenied(CoreError):
    """Somebody (socket, polkit, file system) refused access."""


class Missing(CoreError):
    """The object does not exist."""


class Conflict(CoreError):
    """A name, UUID, MAC, bridge, subnet or volume is taken by somebody else."""


class InUse(CoreError):
    """The object cannot go: another object uses it."""


class Unsupported(CoreError):
    """This hypervisor cannot do it."""


class Busy(CoreError):
    """The object is busy now; the same call may work later."""

    retryable = True


class TimedOut(CoreError):
    """A deadline passed."""


class GuestFailed(CoreError):
    """The guest ended, crashed or never ran."""


class Unhealthy(CoreError):
    """What was installed is not as it should be: gone, off, or without what it needs."""


class DataLost(Unhealthy):
    """Contents are gone, and nothing but a backup brings them back."""


class ImageFailed(CoreError):
    """An image could not be fetched, verified or published."""


class BackupBroken(CoreError):
    """A backup is incomplete, or not what was written."""


class ChainBroken(CoreError):
    """A checkpoint does not know any more what changed since: only a full backup is right."""


class ConnectionLost(CoreError):
    """The connection broke in the middle; a new one may work."""

    retryable = True


# VIR_ERR_* names of libvirt/virterror.h, each with the class that it becomes.
# Source: https://libvirt.org/html/libvirt-virterror.html
_BY_CODE: dict[str, type[CoreError]] = {
    "VIR_ERR_NO_CONNECT": ConnectFailed,
    "VIR_ERR_INVALID_CONN": ConnectionLost,
    "VIR_ERR_RPC": ConnectionLost,
    "VIR_ERR_AUTH_FAILED": AccessDenied,
    "VIR_ERR_AUTH_CANCELLED": AccessDenied,
    "VIR_ERR_AUTH_UNAVAILABLE": AccessDenied,
    "VIR_ERR_ACCESS_DENIED": AccessDenied,
    "VIR_ERR_OPERATION_DENIED": AccessDenied,
    "VIR_ERR_NO_DOMAIN": Missing,
    "VIR_ERR_NO_NETWORK": Missing,
    "VIR_ERR_NO_STORAGE_POOL": Missing,
    "VIR_ERR_NO_STORAGE_VOL": Missing,
    "VIR_ERR_NO_SECRET": Missing,
    "VIR_ERR_NO_DOMAIN_METADATA": Missing,
    "VIR_ERR_NO_DOMAIN_SNAPSHOT": Missing,
    "VIR_ERR_NO_DOMAIN_CHECKPOINT": Missing,
    "VIR_ERR_NO_DOMAIN_BACKUP": Missing,
    "VIR_ERR_CHECKPOINT_INCONSISTENT": ChainBroken,
    "VIR_ERR_DOM_EXIST": Conflict,
    "VIR_ERR_NETWORK_EXIST": Conflict,
    "VIR_ERR_STORAGE_VOL_EXIST": Conflict,
    "VIR_ERR_NO_SUPPORT": Unsupported,
    "VIR_ERR_CONFIG_UNSUPPORTED": Unsupported,
    "VIR_ERR_ARGUMENT_UNSUPPORTED": Unsupported,
    "VIR_ERR_OPERATION_UNSUPPORTED": Unsupported,
    "VIR_ERR_OPERATION_TIMEOUT": TimedOut,
    "VIR_ERR_RESOURCE_BUSY": Busy,
    "VIR_ERR_AGENT_UNRESPONSIVE": Busy,
    "VIR_ERR_XML_INVALID_SCHEMA": InvalidTemplate,
    "VIR_ERR_XML_DETAIL": InvalidTemplate,
    "VIR_ERR_XML_ERROR": InvalidTemplate,
}

_REMEDIES: dict[type[CoreError], str] = {
    AccessDenied: "Run as a member of the group 'libvirt', or give a URI with credentials that may manage this host.",
    ConnectionLost: "Try again when the host can be reached.",
    GuestFailed: "Its process ended meanwhile; on its host, see /var/log/libvirt/qemu/.",
    ConnectFailed: "Check the URI (property libvirt_auth) and that libvirtd answers: virsh -c URI version.",
}

# Words in messages that share a code with final errors; libvirt has no code of their own for them.
_BUSY_WORDS = (
    "asynchronous jobs running",
    "is being used by another",
    "cannot acquire state change lock",
    "is still being allocated",
    "is still in use",
    # qemu-img's clock is too coarse for its measurement of the key's derivation, now and then.
    "Unable to get accurate CPU usage",
)
# A broken connection comes as a system or internal error, codes that say nothing of it; so does QEMU's to its monitor.
_LOST_WORDS = (
    "Cannot recv data",
    "Cannot write data",
    "End of file while reading data",
    "client socket is closed",
    "connection closed due to keepalive timeout",
    "connection was closed",
    "Broken pipe",
)
# The guest's process ended while it was asked.
_DIED_WORDS = (
    "End of file from qemu monitor",
    "End of file from agent socket",
    "Unable to read from monitor",
    "Unable to write to monitor",
)
_DENIED_WORDS = ("Permission denied", "authentication unavailable", "authentication failed")


def _class_of(error: Any) -> type[CoreError]:
    message = error.get_error_message() or str(error)
    if any(words in message for words in _BUSY_WORDS):
        return Busy
    if any(words in message for words in _DIED_WORDS):
        return GuestFailed
    if any(words in message for words in _LOST_WORDS) and "monitor" not in message:
        return ConnectionLost
    if any(words in message for words in _DENIED_WORDS):
        return AccessDenied
    return _kinds().get(error.get_error_code(), CoreError)


@lru_cache(maxsize=1)
def _kinds() -> dict[int, type[CoreError]]:
    """Return the classes by libvirt's numbers; older libraries lack some of the names."""
    return {getattr(libvirt, name): kind for name, kind in _BY_CODE.items() if hasattr(libvirt, name)}


def from_libvirt(error: Any, action: str, target: str, remedy: str = "") -> CoreError:
    """Turn one ``libvirtError`` into the error of this tree that says the same."""
    kind = _class_of(error)
    reason = (error.get_error_message() or str(error)).strip()
    # What would help the call against the host's refusal does not help when the host is not there.
    known = _REMEDIES.get(kind, "")
    return kind(action, target, reason, known if kind is ConnectionLost else remedy or known)


class _Named:
    """What is done to which object, in a ``with`` of libvirt's calls."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if error is not None and isinstance(error, libvirt.libvirtError):
            raise from_libvirt(error, *self._words) from error


def libvirt_call(action: str, target: str, remedy: str = "") -> AbstractContextManager[None]:
    """Name what is done to which object, for every libvirt call inside."""
    return _Named(action, target, remedy)


def unless_gone(call: Callable[[], Any], action: str, target: str, default: Any) -> Any:
    """Return what ``call`` returns, or ``default`` when the object went meanwhile; any other failure counts."""
    try:
        with libvirt_call(action, target):
            return call()
    except Missing:
        return default


def quiet(call: Callable[[], Any], default: Any = None) -> Any:
    """Return what ``call`` returns, or ``default`` where libvirt cannot answer it now.

    For questions that may have no answer (no agent, no lease yet), never for changes.
    """
    try:
        return call()
    except libvirt.libvirtError:
        return default
