"""A domain's states and the ways between them.

Source: https://libvirt.org/html/libvirt-libvirt-domain.html (virDomainState, virDomainShutoffReason,
virDomainCrashedReason).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import Missing, libvirt_call


class State(IntEnum):
    """virDomainState."""

    NOSTATE = 0
    RUNNING = 1
    BLOCKED = 2
    PAUSED = 3
    SHUTDOWN = 4
    SHUTOFF = 5
    CRASHED = 6
    PMSUSPENDED = 7


RUNNING = frozenset({State.RUNNING, State.BLOCKED})
ALIVE = frozenset({*RUNNING, State.PAUSED, State.SHUTDOWN, State.PMSUSPENDED})
OFF = frozenset({State.SHUTOFF, State.CRASHED})

# Our own number beside libvirt's: a transient domain goes with its end.
GONE = -1
# virDomainShutoffReason, in words for messages.
SHUTOFF_REASONS = {
    GONE: "it is gone, removed from outside",
    1: "it was shut down from inside",
    2: "it was destroyed from outside",
    3: "it crashed (the guest's kernel panicked, or its hypervisor process died)",
    4: "it was migrated away",
    5: "its state was saved",
    6: "it failed to start, or its hypervisor process died",
    7: "it was put to sleep by a snapshot",
    8: "the daemon ended it",
}
CRASHED_REASONS = {1: "the guest's kernel panicked"}


@dataclass(frozen=True)
class Transition:
    """One way to another state: who asks for it, which states end it, which states need nothing."""

    name: str
    ask: Callable[[Any], object]
    ends: frozenset[State]
    returns_at_once: bool = True
    waiting: str = "it was asked to shut down"


def _shutdown_agent(handle: Any) -> object:
    return handle.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)


def _shutdown_acpi(handle: Any) -> object:
    return handle.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)


def _shutdown_signal(handle: Any) -> object:
    return handle.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_SIGNAL)


def _shutdown_initctl(handle: Any) -> object:
    return handle.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_INITCTL)


def _shutdown(handle: Any) -> object:
    return handle.shutdownFlags(0)


def _reboot(handle: Any) -> object:
    return handle.reboot(0)


START = Transition("start", lambda handle: handle.create(), RUNNING | {State.PAUSED})
# libvirt's call to the agent returns when the guest is down.
SHUTDOWN_AGENT = Transition(
    "shut down (guest agent)",
    _shutdown_agent,
    OFF,
    returns_at_once=False,
    waiting="its agent was asked to shut it down",
)
SHUTDOWN_ACPI = Transition(
    "shut down (ACPI)", _shutdown_acpi, OFF,
    waiting="its power button was pressed (ACPI), which a guest that still boots does not hear",
)  # fmt: skip
SHUTDOWN_SIGNAL = Transition(
    "shut down (signal to init)", _shutdown_signal, OFF, waiting="its init got the signal to shut down"
)
SHUTDOWN_INITCTL = Transition(
    "shut down (initctl)", _shutdown_initctl, OFF, waiting="its init was asked to shut down (initctl)"
)
SHUTDOWN = Transition("shut down", _shutdown, OFF)
DESTROY = Transition("destroy", lambda handle: handle.destroy(), OFF)
SUSPEND = Transition("suspend", lambda handle: handle.suspend(), frozenset({State.PAUSED}))
RESUME = Transition("resume", lambda handle: handle.resume(), RUNNING)
REBOOT = Transition("reboot", _reboot, ALIVE)


def state_of(handle: Any) -> tuple[State, int]:
    """Return the state and libvirt's number of the reason; a domain that is no more is off."""
    try:
        with libvirt_call("read the state of", f"domain '{handle.name()}'"):
            state, reason = handle.state()
    except Missing:
        return State.SHUTOFF, GONE
    return State(state), reason


def reason_text(state: State, reason: int) -> str:
    """Say why a domain is off."""
    if state is State.CRASHED:
        return CRASHED_REASONS.get(reason, "it crashed")
    return SHUTOFF_REASONS.get(reason, "it is not running")
