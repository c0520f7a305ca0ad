"""Whether a monitor of Ceph answers: libvirt says the same of one that is away and of one that refuses the key."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.session import Session

# Source: https://docs.ceph.com/en/latest/rados/configuration/msgr2/
_PORTS = (3300, 6789)
_GREETING = b"ceph v"
_TIMEOUT_S = 2.0


def explained(error: CoreError, session: Session, source: Any) -> CoreError:
    """Return the failure of a pool's start with what is wrong: the servers (worth another try), or who asks.

    ``source`` is the element of the pool's definition. On another machine than the hypervisor's nothing is tried.
    """
    if "RADOS monitor" not in error.reason:
        return error
    servers, who = "Check params.source.hosts, and that a monitor runs there", "Check user and key in params.auth"
    if not session.shares_files:
        return _as(error, "no monitor answers the hypervisor, or none accepts the key", f"{servers}. {who}.", True)
    hosts = [(host.get("name", ""), host.get("port")) for host in source.findall("host")]
    if not any(_greets(name, ports) for name, port in hosts for ports in ([int(port)] if port else _PORTS,)):
        return _as(error, "no monitor answers", f"{servers} and lets this host in.", True)
    return _as(error, "a monitor answers, and refuses the user or the key", f"{who} (no 'client.' before it).", False)


def _as(error: CoreError, reason: str, remedy: str, retryable: bool) -> CoreError:
    return CoreError("start", error.target, f"{error.reason}: {reason}", remedy, retryable=retryable)


def _greets(host: str, ports: Iterable[int]) -> bool:
    return any(_greeting(host, port).startswith(_GREETING) for port in ports)


def _greeting(host: str, port: int) -> bytes:
    try:
        with socket.create_connection((host, port), _TIMEOUT_S) as connection:
            return connection.recv(len(_GREETING))
    except OSError:
        return b""
