"""What the networks of a host say: each is read once, and again when libvirt tells that it has changed.

Which networks there are is asked each time. A change that another client makes is known a moment after it is made;
libvirt itself refuses a bridge that is taken, and a subnet when the network starts.

Source: https://libvirt.org/html/libvirt-libvirt-network.html, virNetworkEventLifecycleType
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import libvirt_call, quiet, unless_gone
from cloudify_libvirt.core.session import Session

Named = tuple[str, parse.NetworkFacts]


@dataclass
class _Known:
    """What was read over one connection; ``complete``: whether changes are told at all."""

    complete: bool = False
    touched: set[str] = field(default_factory=set)
    facts: dict[str, Named] = field(default_factory=dict)
    asking: threading.Lock = field(default_factory=threading.Lock)


_lock = threading.Lock()
_known: WeakKeyDictionary[Session, _Known] = WeakKeyDictionary()


def of_host(session: Session) -> dict[str, Named]:
    """Return {UUID: (name, facts)} of every network."""
    known = _known_of(session)
    with known.asking:
        with libvirt_call("list the networks of", f"hypervisor {session.uri}"):
            handles = {str(handle.UUIDString()): handle for handle in session.connection.listAllNetworks(0)}
        kept = _unchanged(known)
        found = {uuid: _again(kept.get(uuid), handle) for uuid, handle in handles.items()}
        known.facts = {uuid: named for uuid, named in found.items() if named is not None}
        return known.facts


def forget(session: Session, uuid: str) -> None:
    """Read a network again that this process has just changed: its event may take a moment."""
    _known_of(session).touched.add(uuid)


def _known_of(session: Session) -> _Known:
    with _lock:
        if session not in _known:
            _known[session] = _watched(session)
        return _known[session]


def _watched(session: Session) -> _Known:
    known = _Known()

    def changed(_connection: Any, network: Any, *_details: Any) -> None:
        known.touched.add(str(network.UUIDString()))

    watch = partial(
        session.connection.networkEventRegisterAny, None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, changed, None
    )
    known.complete = quiet(watch) is not None
    return known


def _unchanged(known: _Known) -> dict[str, Named]:
    """Return what still counts; what does not is forgotten now, should reading it anew fail."""
    changed = set(known.touched) if known.complete else set(known.facts)
    known.touched -= changed
    known.facts = {uuid: named for uuid, named in known.facts.items() if uuid not in changed}
    return known.facts


def _again(kept: Named | None, handle: Any) -> Named | None:
    name = str(handle.name())
    if kept is not None and kept[0] == name:
        return kept
    xml = unless_gone(handle.XMLDesc, "read", f"network '{name}'", "")
    return (name, parse.network(xml)) if xml else None
