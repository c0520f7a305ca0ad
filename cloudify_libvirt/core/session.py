"""Connections: opened once per process and URI, checked before use, opened anew when they died.

Source: https://libvirt.org/uri.html
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from cloudify_libvirt.core import events
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import (
    AccessDenied,
    ConnectFailed,
    ConnectionLost,
    CoreError,
    LibraryMissing,
    Missing,
    libvirt_call,
    quiet,
)
from cloudify_libvirt.core.uri import HOST_KEY_REFUSED, KNOWN_HOSTS_REMEDY, check_uri, opened_as, shown
from cloudify_libvirt.core.wait import in_thread

OPEN_TIMEOUT_S = 20.0
# How long the event of what has just changed may be on its way.
_EVENT_S = 0.005
# A call to a host that is gone ends after interval x (count + 1) seconds.
KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 5, 3

# What is said of the socket of a driver's own daemon where none is installed, or none runs.
_ABSENT = ("No such file or directory", "Connection refused")

Answer = TypeVar("Answer")


class Session:
    """One connection to one hypervisor."""

    def __init__(self, uri: str, connection: Any) -> None:
        """Take over an open connection."""
        self.uri = shown(uri)
        self.opened = uri
        self.connection = connection
        self._watch = events.subscribe(connection)
        self.changed = self._watch.signal
        self._facts: dict[str, Any] = {}
        self._of_domains: dict[Callable[[Any], Any], dict[str, Any]] = {}
        self._asking = threading.Lock()

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
        return is_local(self.uri)

    @property
    def shares_files(self) -> bool:
        """Tell whether a path of the hypervisor can be looked at here; the test driver's paths are made up."""
        return self.is_local and self.driver != "test"

    def all_domains(self, flags: int = 0) -> list[Any]:
        """Return the domains of every driver of the host that uses the same networks and pools."""
        return [domain for session in self.drivers() for domain in session.domains(flags)]

    def domains(self, flags: int = 0) -> list[Any]:
        """Return the domains of this driver."""
        with libvirt_call("list the domains of", f"hypervisor {self.uri}"):
            return list(self.connection.listAllDomains(flags))

    def drivers(self) -> list[Session]:
        """Return this session and those of the host's other drivers that use the same networks and pools."""
        return [self, *(connect(uri) for uri in self.fact("sibling drivers", self._siblings))]

    def _siblings(self) -> list[str]:
        """Return the URIs of the other drivers of this machine's system daemon, where it has them.

        Raises:
            CoreError: one is there and does not answer, so that nobody can say what its domains use.
        """
        parts = urlsplit(self.uri)
        other = {"qemu": "lxc", "lxc": "qemu"}.get(self.driver)
        if not other or not self.is_local or parts.path != "/system":
            return []
        uri = urlunsplit(parts._replace(scheme=parts.scheme.replace(self.driver, other)))
        try:
            connect(uri)
        except CoreError as fault:
            if fault.retryable and not any(words in fault.reason for words in _ABSENT):
                raise
            return []
        return [uri]

    def fact(self, name: str, ask: Any) -> Any:
        """Return what ``ask()`` said the first time: for what does not change while connected."""
        if name not in self._facts:
            with libvirt_call(f"read {name} of", f"hypervisor {self.uri}"):
                self._facts[name] = ask()
        return self._facts[name]

    def of_domains(self, ask: Callable[[Any], Answer]) -> list[Answer]:
        """Return what ``ask(handle)`` says of every domain of this driver, asked again only of those that changed.

        Changes of a stopped domain's devices come without an event: not for what must never be wrong.
        """
        with self._asking:
            seen = self._watch.signal.count
            self._hear()
            kept = self._of_domains.get(ask, {}) if self._watch.complete else {}
            if lacking := len(kept) != self._domain_count():
                # To hear of the one that came or went costs less than to ask all of hundreds.
                self._watch.signal.wait(seen, _EVENT_S if kept else 0)
                self._hear()
                lacking = not kept or len(kept) != self._domain_count()
            if lacking:
                handles = {handle.UUIDString(): handle for handle in self.domains()}
                kept = {uuid: kept[uuid] if uuid in kept else ask(handle) for uuid, handle in handles.items()}
                self._of_domains[ask] = kept
            return list(kept.values())

    def _hear(self) -> None:
        """Ask those again that events told of."""
        for uuid in list(self._watch.touched):
            self._watch.touched.discard(uuid)
            self._ask_again(uuid)

    def touch(self, uuid: str) -> None:
        """Have a domain asked again by ``of_domains``: it was changed while it may be off."""
        self._watch.touched.add(uuid)

    def _domain_count(self) -> int:
        """Return how many domains there are now: an event may take a moment."""
        with libvirt_call("count the domains of", f"hypervisor {self.uri}"):
            return int(self.connection.numOfDomains() + self.connection.numOfDefinedDomains())

    def _ask_again(self, uuid: str) -> None:
        try:
            with libvirt_call("look up", f"domain {uuid} on {self.uri}"):
                handle = self.connection.lookupByUUIDString(uuid)
        except Missing:
            handle = None
        except CoreError:
            # Not seen: it has changed all the same.
            self._watch.touched.add(uuid)
            raise
        for ask, kept in self._of_domains.items():
            kept.pop(uuid, None)
            if handle is not None:
                kept[uuid] = ask(handle)


def is_local(uri: str) -> bool:
    """Tell whether a URI is of a hypervisor of this machine."""
    parts = urlsplit(uri)
    return not parts.hostname and "+" not in parts.scheme.replace("+unix", "")


_lock = threading.Lock()
_opening: dict[tuple[int, str], threading.Lock] = {}
_sessions: dict[tuple[int, str], Session] = {}


def connect(uri: str) -> Session:
    """Return the live session for ``uri``, a new one where the last has died.

    Raises:
        ConnectFailed: there is no such host, or it does not answer; with what to do.
        AccessDenied: it does not let us in.
        ConnectionLost: it answered earlier, and does not now.
    """
    check_uri(uri)
    key = (os.getpid(), uri)
    with _lock:
        # One for each: a host that does not answer keeps nobody from the others.
        opening = _opening.setdefault(key, threading.Lock())
    with opening:
        session = _sessions.get(key)
        if session is None or not session.alive:
            session = _sessions[key] = _open(uri) if session is None else _open_again(uri)
        return session


def give_up(uri: str) -> None:
    """Forget a session that has died: who asks next is told that the host does not answer, not that it is lost."""
    _sessions.pop((os.getpid(), uri), None)


# What ssh, the resolver and TLS say of the way to a host, which no retry changes.
_WAY_REMEDIES = {
    "Failed to verify peer's certificate": (
        "Either this is not the host, or: the CA certificate of this machine (cacert.pem) must be the authority that "
        "signed the host's, which must be in date; and the URI must name the host by a name that is in its certificate."
    ),
    "failed validation against": (
        "Have this machine's clientcert.pem signed by the authority in cacert.pem, and in date, or give that authority."
    ),
    "Unable to read TLS confirmation": (
        "The host lets no machine in without a certificate: have clientcert.pem, with its clientkey.pem, signed by the "
        "authority that the host trusts (ca_file in its libvirtd.conf)."
    ),
    "Cannot read CA certificate": (
        "This URI goes over TLS, which needs certificates of this machine's. Give one such as "
        "qemu+ssh://user@host/system; without a host, qemu:///system or lxc:///system."
    ),
    "Name or service not known": (
        "This machine knows no address of that host: correct the name in libvirt_auth, or the host's entry in DNS or "
        "/etc/hosts."
    ),
    "Permission denied (": (
        "Put the public key of the user that runs cfy into ~/.ssh/authorized_keys of the host's user, or name another "
        "user in libvirt_auth (qemu+ssh://user@host/system)."
    ),
}


# libvirt says so, too, when the daemon goes away at that moment.
_MAY_PASS = frozenset({"Unable to read TLS confirmation"})


def _open_again(uri: str) -> Session:
    try:
        return _open(uri)
    except CoreError as fault:
        if not fault.retryable:
            raise
        raise ConnectionLost("connect again to", fault.target, fault.reason, fault.remedy) from fault


def _open(uri: str) -> Session:
    events.ensure_loop()
    connection = in_thread(
        lambda: _open_connection(uri),
        timeout_s=OPEN_TIMEOUT_S,
        action="connect to",
        target=f"hypervisor {shown(uri)}",
        remedy="Check that the host is up and that no firewall drops the connection.",
    )
    quiet(lambda: connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT))
    return Session(uri, connection)


def _open_connection(uri: str) -> Any:
    try:
        with libvirt_call("connect to", f"hypervisor {shown(uri)}"):
            return libvirt.open(opened_as(uri))
    except CoreError as fault:
        raise _open_failure(fault, fault.__cause__) from fault.__cause__


def _open_failure(fault: CoreError, error: Any) -> CoreError:
    """Decide what a failed open means: a wrong URI stays wrong, a socket that refuses may come back."""
    target = fault.target
    for words, remedy in _WAY_REMEDIES.items():
        if words in fault.reason:
            return ConnectFailed("connect to", target, fault.reason, remedy, retryable=words in _MAY_PASS)
    if isinstance(fault, AccessDenied | Missing | LibraryMissing):
        return fault
    if any(words in fault.reason for words in HOST_KEY_REFUSED):
        return ConnectFailed("connect to", target, fault.reason, KNOWN_HOSTS_REMEDY)
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
