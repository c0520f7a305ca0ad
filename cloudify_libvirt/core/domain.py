"""Domains: start, stop, addresses' raw sources, removal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cloudify_libvirt.core import parse, states
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import CoreError, GuestFailed, TimedOut, libvirt_call, quiet, unless_gone
from cloudify_libvirt.core.host.console import tail
from cloudify_libvirt.core.resource import Resource
from cloudify_libvirt.core.states import ALIVE, OFF, State, Transition
from cloudify_libvirt.core.wait import Deadline, wait_until

DESTROY_TIMEOUT_S = 30.0
# How long libvirt waits for an agent that was there when it was asked.
AGENT_TIMEOUT_S = 5
# After so long a guest that is asked to shut down is reported as still running, and is asked again.
ASK_AGAIN_S = 10.0

# What undefine must take along, most complete first: drivers refuse flags that they do not know.
# Source: virDomainUndefineFlagsValues; the words are those of libvirt's virCheckFlags.
_UNKNOWN_FLAGS = "unsupported flags"
_UNDEFINE_FLAGS = (
    ("MANAGED_SAVE", "SNAPSHOTS_METADATA", "CHECKPOINTS_METADATA", "NVRAM"),
    ("MANAGED_SAVE", "SNAPSHOTS_METADATA", "CHECKPOINTS_METADATA"),
    ("MANAGED_SAVE", "SNAPSHOTS_METADATA"),
)


class Domain(Resource):
    """A virtual machine or container."""

    noun = "domain"
    by_name = "lookupByName"
    by_uuid = "lookupByUUIDString"
    define_call = "defineXMLFlags"
    # VIR_DOMAIN_XML_INACTIVE
    inactive_flag = 2

    @property
    def state(self) -> State:
        """Return the state now."""
        return states.state_of(self.handle)[0]

    @property
    def off_reason(self) -> str:
        """Say why the domain is off."""
        return states.reason_text(*states.state_of(self.handle))

    @property
    def stalled_disks(self) -> list[str]:
        """Say which disks could not be written or read, where the hypervisor paused the guest for that.

        Source: virDomainPausedReason, virDomainDiskErrorCode
        """
        if states.state_of(self.handle) != (State.PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR):
            return []
        with libvirt_call("read the disks' errors of", self.target):
            errors = self.handle.diskErrors(0)
        paths = {disk.target: disk.path for disk in self.facts().disks}
        words = {libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE: "there is no space left for"}
        return [
            f"{words.get(code, 'reading or writing failed of')} disk {target} ({paths.get(target) or 'no file'})"
            for target, code in sorted(errors.items())
        ]

    @property
    def gone(self) -> bool:
        """Tell whether the domain is no more, as a transient one after its end."""
        return states.state_of(self.handle)[1] == states.GONE

    @property
    def memory_kib(self) -> int:
        """Return the memory that it starts with."""
        with libvirt_call("read the memory of", self.target):
            return int(self.handle.info()[2])

    def facts(self) -> parse.DomainFacts:
        """Read the definition: of the running guest when it runs, else the stored one."""
        return parse.domain(self.xml())

    def secret_xml(self, *, stored: bool) -> str:
        """Return the stored definition, or that of the running domain, with its passwords: never to be shown.

        Written back without them, it would lose them.
        """
        kind = libvirt.VIR_DOMAIN_XML_INACTIVE if stored else 0
        return self.xml(kind | libvirt.VIR_DOMAIN_XML_SECURE)

    def running_xml(self) -> str:
        """Return what the running domain could be started with again, with its passwords: never to be shown."""
        return self.xml(libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE)

    def change(self, transition: Transition, timeout_s: float) -> bool:
        """Ask for a transition and wait for its end; False when the deadline passed, or the guest ended, first."""
        try:
            with libvirt_call(transition.name, self.target):
                transition.ask(self.handle)
        except CoreError:
            # Libvirt may just have ended what another asked for, such as a process that was killed.
            if transition is states.REBOOT or self.state not in transition.ends:
                raise
        ends = transition.ends | OFF
        wait_until(lambda: self.state in ends, timeout_s=timeout_s, signal=self.session.changed)
        return self.state in transition.ends

    def start(self) -> None:
        """Start the domain unless it runs; a paused one goes on.

        Raises:
            GuestFailed: it ended while it started; with the cause and the console's last lines.
        """
        state = self.state
        if state in states.RUNNING:
            return
        transition = states.RESUME if state is State.PAUSED else states.START
        # libvirt's call returns when the guest runs: what is off now has ended again.
        if not self.change(transition, 0.0):
            raise self.failure("start", "Look at its log on the host: /var/log/libvirt/.")

    def failure(self, action: str, remedy: str = "") -> GuestFailed:
        """Return the error that tells why the guest ended, with the tail of its console."""
        log = "" if self.gone else self.facts().console_log
        lines = tail(self.session, log)
        console = f" Its console ended with:\n{lines}" if lines else ""
        return GuestFailed(action, self.target, self.off_reason, f"{remedy}{console}".strip())

    def ask_shutdown(self) -> None:
        """Ask the guest to shut down, and return at once; what refuses or ignores it is left for ``stop``."""
        if self.state in states.RUNNING:
            quick = next(way for way, _share in self._requests() if way.returns_at_once)
            quiet_change(self, quick, 0.0)

    def stop(self, timeout_s: float, say: Callable[[str], object] = str) -> None:
        """Ask the guest to shut down (agent, then ACPI), and destroy it when it has not by the deadline.

        ``say`` is told every 10 s what is waited for, and that the guest had to be ended.

        Raises:
            TimedOut: even destroying did not end it; the state is unknown to us then.
        """
        if self.state in OFF:
            return
        if self.state is State.PAUSED:
            # A paused guest hears nothing: let it go on so that it can shut down.
            quiet_change(self, states.RESUME, 5.0)
        deadline = Deadline(timeout_s)
        for transition, share in self._requests():
            if self.state in OFF or deadline.passed:
                break
            if self._ended(transition, deadline.remaining_s() * share, deadline, say):
                return
        if self.state in ALIVE:
            say(f"{self.target} did not shut down when asked: it is ended like by a power cut")
        self.destroy()

    def _ended(self, way: Transition, timeout_s: float, last: Deadline, say: Callable[[str], object]) -> bool:
        """Ask in one way until the guest is off or the time is over; False at once where it cannot be asked so."""
        mine = Deadline(timeout_s)
        try:
            if self.change(way, min(ASK_AGAIN_S, timeout_s)):
                return True
        except CoreError:
            return False
        while self.state not in way.ends | OFF and not mine.passed:
            say(f"{self.target} still runs: {way.waiting}. It is ended by force in {last.remaining_s():.0f} s")
            # A guest that boots has not heard the power button, and hears it later.
            if way is states.SHUTDOWN_ACPI:
                with suppress(CoreError), libvirt_call(way.name, self.target):
                    way.ask(self.handle)
            turn_s = min(ASK_AGAIN_S, mine.remaining_s())
            wait_until(lambda: self.state in way.ends | OFF, timeout_s=turn_s, signal=self.session.changed)
        return self.state in way.ends

    def _requests(self) -> list[tuple[Transition, float]]:
        """Return the polite ways to end this guest, each with its share of the time that is left then."""
        if self.session.driver == "lxc":
            # The signal ends small inits at once; systemd ignores it, and an init without initctl that.
            return [(states.SHUTDOWN_SIGNAL, 0.1), (states.SHUTDOWN_INITCTL, 1.0)]
        if self.session.driver != "qemu":
            return [(states.SHUTDOWN, 1.0)]
        agent = [(states.SHUTDOWN_AGENT, 0.5)] if self.facts().agent_connected else []
        return [*agent, (states.SHUTDOWN_ACPI, 1.0)]

    def destroy(self) -> None:
        """End the guest at once; fine when it is off already."""
        if self.state not in ALIVE:
            return
        if not self.change(states.DESTROY, DESTROY_TIMEOUT_S):
            raise TimedOut(
                "destroy",
                self.target,
                f"it still runs after {DESTROY_TIMEOUT_S:g} s",
                "Its process may hang on storage; look for it on the host.",
            )

    def rename(self, name: str) -> bool:
        """Give the domain, which is off, another name; False when it has it.

        Raises:
            Conflict: another domain has it.
        """
        if name == self.name:
            return False
        self.check_free(self.session, name, self.uuid)
        with libvirt_call(f"rename to '{name}'", self.target):
            self.handle.rename(name, 0)
        found = type(self).find_by_uuid(self.session, self.uuid)
        self.handle = found.handle if found else self.handle
        return True

    def undefine(self) -> None:
        """Remove the definition with all that would hold it: managed save, snapshots, checkpoints, NVRAM."""
        if not unless_gone(self.handle.isPersistent, "read", self.target, False):
            return
        for names in _UNDEFINE_FLAGS:
            flags = sum(getattr(libvirt, f"VIR_DOMAIN_UNDEFINE_{name}") for name in names)
            try:
                with libvirt_call("undefine", self.target):
                    self.handle.undefineFlags(flags)
                return
            except CoreError as error:
                if _UNKNOWN_FLAGS not in error.reason:
                    raise
        with libvirt_call("undefine", self.target):
            self.handle.undefine()

    def reported_addresses(self, source: str) -> dict[str, Any]:
        """Return what one of libvirt's sources (LEASE, AGENT, ARP) says, or {} when it says nothing.

        Shape: {host or guest device: {"hwaddr": mac, "addrs": [{"addr", "prefix", "type"}]}}.
        """
        number = getattr(libvirt, f"VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_{source}")
        if source == "AGENT":
            # A guest that dies between question and answer would hold this call, and all later ones, for ever.
            quiet(lambda: self.handle.agentSetResponseTimeout(AGENT_TIMEOUT_S, 0))
        return dict(quiet(lambda: self.handle.interfaceAddresses(number, 0), None) or {})


def quiet_change(domain: Domain, transition: Transition, timeout_s: float) -> bool:
    """Try a transition that a guest may refuse (no agent, no ACPI); False when it did not work."""
    try:
        return domain.change(transition, timeout_s)
    except CoreError:
        return False
