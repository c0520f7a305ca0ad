"""libvirt's event loop, and one signal per connection that every event sets.

Source: https://libvirt.org/html/libvirt-libvirt-event.html
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
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


@dataclass
class Watch:
    """What events tell: that something changed, and of which domains (UUIDs) since somebody last took them.

    ``complete`` is False where the driver has no life cycle events, and nothing may be concluded from silence.
    """

    signal: Signal = field(default_factory=Signal)
    touched: set[str] = field(default_factory=set)
    complete: bool = False


def subscribe(connection: Any) -> Watch:
    """Return what is set at each life cycle, agent, device and block job event of the connection.

    Who waits looks at the object's state after each; no event is taken for the fact itself.
    Drivers that lack one kind of event (LXC has no agent) simply never set it.
    """
    watch = Watch()

    def changed(_connection: Any, domain: Any, *_details: Any) -> None:
        watch.touched.add(str(domain.UUIDString()))
        watch.signal.set()

    for event in ("LIFECYCLE", "AGENT_LIFECYCLE", "DEVICE_REMOVED", "DEVICE_ADDED", "JOB_COMPLETED", "BLOCK_JOB_2"):
        number = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{event}")
        registered = quiet(partial(connection.domainEventRegisterAny, None, number, changed, None))
        watch.complete = watch.complete or (event == "LIFECYCLE" and registered is not None)
    return watch
