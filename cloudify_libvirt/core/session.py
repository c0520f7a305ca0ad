"""Connections: opened once per process and URI, checked before use, opened anew when they died.

Source: https://libvirt.org/uri.html
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from cloudify_libvirt.core import events
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import (
    AccessDenied,
    ConnectFailed,
    CoreError,
    InvalidSpec,
    LibraryMissing,
    Missing,
    libvirt_call,
    quiet,
)
from cloudify_libvirt.core.wait import in_thread

OPEN_TIMEOUT_S = 20.0
# A call to a host that is gone ends after interval x (count + 1) seconds.
KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 5, 3


class Session:
    """One connection to one hypervisor."""

    def __init__(self, uri: str, connection: Any) -> None:
        """Take over an open connection."""
        self.uri = uri
        self.connection = connection
        self._watch = events.subscribe(connection)
        self.changed = self._watch.signal
        self._facts: dict[str, Any] = {}
        self._of_domains: dict[str, Any] = {}

    @property
    def alive(self) -> bool:
        """Tell whether calls can still be made."""
        return bool(quiet(self.connection.isAlive, False))

    @property
    def driver(self) -> str:
        """Return libvirt's name of the driver in lower case: qemu, lxc, test, xen, ..."""
        return str(self.fact("driver", self.connection.getType)).lower()

    @property
    def is_local(self) -> bool:
        """Tell whether the hypervisor's files are this machine's files."""
        parts = urlsplit(self.uri)
        return not parts.hostname and "+" not in parts.scheme.replace("+unix", "")

    @property
    def shares_files(self) -> bool:
        """Tell whether a path of the hypervisor can be looked at here; the test driver's paths are made up."""
        return self.is_local and self.driver != "test"

    def all_domains(self, flags: int = 0) -> list[Any]:
        """Return the domains of every driver of the host that uses the same networks and pools."""
        uris = self.fact("sibling drivers", self._siblings)
        connections = [self.connection, *(connect(uri).connection for uri in uris)]
        with libvirt_call("list the domains of", f"hypervisor {self.uri}"):
            return [domain for connection in connections for domain in connection.listAllDomains(flags)]

    def _siblings(self) -> list[str]:
        """Return the URIs of the other drivers of this machine's system daemon that answer."""
        parts = urlsplit(self.uri)
        other = {"qemu": "lxc", "lxc": "qemu"}.get(self.driver)
        if not other or not self.is_local or parts.path != "/system":
            return []
        uri = urlunsplit(parts._replace(scheme=parts.scheme.replace(self.driver, other)))
        try:
            connect(uri)
        except CoreError:
            return []
        return [uri]

    def fact(self, name: str, ask: Any) -> Any:
        """Return what ``ask()`` said the first time: for what does not change while connected."""
        if name not in self._facts:
            with libvirt_call(f"read {name} of", f"hypervisor {self.uri}"):
                self._facts[name] = ask()
        return self._facts[name]

    def domain_fact(self, uuid: str, ask: Callable[[], Any]) -> Any:
        """Return what ``ask()`` said of the domain with that UUID, once per change that libvirt tells us of.

        Changes of a stopped domain's devices come without an event: not for what must never be wrong.
        """
        for changed in list(self._watch.touched):
            self._watch.touched.discard(changed)
            self._of_domains.pop(changed, None)
        if uuid in self._of_domains:
            return self._of_domains[uuid]
        answer = ask()
        if self._watch.complete:
            self._of_domains[uuid] = answer
        return answer


_lock = threading.Lock()
_sessions: dict[tuple[int, str], Session] = {}


def connect(uri: str) -> Session:
    """Return the live session for ``uri``; raise ``ConnectFailed`` or ``AccessDenied`` with what to do."""
    if not isinstance(uri, str) or not uri.strip():
        raise InvalidSpec(
            "connect to",
            "the hypervisor",
            f"libvirt_auth is {uri!r}, not a libvirt URI",
            "Give one such as qemu:///system, lxc:///system or qemu+ssh://user@host/system.",
        )
    key = (os.getpid(), uri)
    with _lock:
        session = _sessions.get(key)
        if session is None or not session.alive:
            session = _sessions[key] = _open(uri)
        return session


def _open(uri: str) -> Session:
    events.ensure_loop()
    connection = in_thread(
        lambda: _open_connection(uri),
        timeout_s=OPEN_TIMEOUT_S,
        action="connect to",
        target=f"hypervisor {uri}",
        remedy="Check that the host is up and that no firewall drops the connection.",
    )
    quiet(lambda: connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT))
    return Session(uri, connection)


def _open_connection(uri: str) -> Any:
    try:
        with libvirt_call("connect to", f"hypervisor {uri}"):
            return libvirt.open(uri)
    except CoreError as fault:
        raise _open_failure(fault, fault.__cause__) from fault.__cause__


def _open_failure(fault: CoreError, error: Any) -> CoreError:
    """Decide what a failed open means: a wrong URI stays wrong, a socket that refuses may come back."""
    target = fault.target
    if isinstance(fault, AccessDenied | Missing | LibraryMissing):
        return fault
    code = error.get_error_code()
    unknown = (libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_CONFIG_UNSUPPORTED)
    # The test driver's host file is part of its URI.
    if _is_misspelt(fault, code) or code in (*unknown, libvirt.VIR_ERR_XML_ERROR, libvirt.VIR_ERR_XML_DETAIL):
        return ConnectFailed(
            "connect to",
            target,
            fault.reason,
            "Check the URI (property libvirt_auth): qemu:///system, lxc:///system, test:///default, "
            "qemu+ssh://user@host/system.",
        )
    return ConnectFailed(
        "connect to",
        target,
        fault.reason,
        "Start the daemon there (systemctl start libvirtd), or check the URI (property libvirt_auth).",
        retryable=True,
    )


def _is_misspelt(fault: CoreError, code: int) -> bool:
    """Tell whether it is no URI at all, or has a path that its driver does not know: libvirt has no code for that."""
    return bool(code == libvirt.VIR_ERR_INTERNAL_ERROR and "URI" in fault.reason)
