"""libvirt's event loop, and one signal per connection that every event sets.

Source: https://libvirt.org/html/libvirt-libvirt-event.html
"""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import Any

from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import quiet
from cloudify_libvirt.core.wait import Signal

_lock = threading.Lock()
_loop_pid: int | None = None


def ensure_loop() -> None:
    """Start the thread that delivers events, once per process; call before a connection is opened."""
    global _loop_pid
    with _lock:
        if _loop_pid == os.getpid():
            return
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_loop, name="libvirt events", daemon=True).start()
        _loop_pid = os.getpid()


def _run_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def subscribe(connection: Any) -> Signal:
    """Return the signal that is set at each life cycle, agent and device event of the connection.

    Who waits looks at the object's state after each; no event is taken for the fact itself.
    Drivers that lack one kind of event (LXC has no agent) simply never set it.
    """
    signal = Signal()

    def changed(*_details: Any) -> None:
        signal.set()

    for event in ("LIFECYCLE", "AGENT_LIFECYCLE", "DEVICE_REMOVED", "DEVICE_ADDED"):
        number = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{event}")
        quiet(partial(connection.domainEventRegisterAny, None, number, changed, None))
    return signal
