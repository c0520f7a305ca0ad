"""Memory and vCPUs of a domain that exists: the running guest first, and the definition for its next start.

Source: https://libvirt.org/html/libvirt-libvirt-domain.html (virDomainSetMemoryFlags, virDomainSetVcpusFlags,
virDomainMemoryStatTags); https://libvirt.org/formatdomain.html#memory-devices
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cloudify_libvirt.core import parse, units
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import CoreError, InUse, libvirt_call, quiet
from cloudify_libvirt.core.host import preflight
from cloudify_libvirt.core.spec.memory import BLOCK_KIB
from cloudify_libvirt.core.states import OFF
from cloudify_libvirt.core.update import dimms
from cloudify_libvirt.core.wait import wait_until

# A guest that has a balloon driver answers within a second or two.
CONFIRM_TIMEOUT_S = 10.0
# The guest gives and takes whole pages.
_TOLERANCE_KIB = 4
# How long the guest is given to say how much of its memory it uses.
_STATS_TIMEOUT_S = 3.0
_RESTART = "it takes effect at the next start"
_NO_DRIVER = "a guest without a balloon driver always has its maximum, which only the next start can change"
# The parameters, as the user calls them.
MEMORY, MAX_MEMORY, VCPU, MAX_VCPU = "memory", "max_memory", "vcpu", "max_vcpu"


@dataclass(frozen=True)
class Size:
    """Memory in KiB and vCPUs; None in a wish leaves the value as it is. ``dimms``: memory may come in DIMMs."""

    memory_kib: int | None = None
    max_memory_kib: int | None = None
    vcpus: int | None = None
    max_vcpus: int | None = None
    dimms: bool = False


@dataclass(frozen=True)
class Pending:
    """One value, by its parameter, that is not in effect yet; ``at_start``: the next start brings it.

    ``held``: the guest was asked, and may still do so without a start.
    """

    what: str
    wanted: int
    now: int
    why: str
    at_start: bool = True
    held: bool = False

    def __str__(self) -> str:
        """Say it in one line."""
        if self.what in (VCPU, MAX_VCPU):
            name = "a maximum of " if self.what == MAX_VCPU else ""
            return f"{name}{self.wanted} vCPUs (now {self.now}): {self.why}"
        wanted, now = (units.human_size(value * units.KIB) for value in (self.wanted, self.now))
        name = "a maximum of memory of " if self.what == MAX_MEMORY else "memory of "
        return f"{name}{wanted} (now {now}): {self.why}"


@dataclass(frozen=True)
class Outcome:
    """What an update did, and what remains to be done."""

    done: tuple[str, ...]
    pending: tuple[Pending, ...]


def read(xml: str, *, with_dimms: bool = False) -> Size:
    """Read the sizes of a live or stored definition; ``with_dimms``: its maximum is what these can bring it to."""
    root = parse.document(xml)
    maximum, top = int(root.findtext("memory") or 0), root.find("maxMemory")
    current = int(root.findtext("currentMemory") or maximum)
    if with_dimms and top is not None:
        maximum = dimms.kib(top) - BLOCK_KIB
    vcpu = root.find("vcpu")
    most = int(vcpu.text or 1) if vcpu is not None else 1
    return Size(
        memory_kib=current,
        max_memory_kib=maximum,
        vcpus=most if vcpu is None else int(vcpu.get("current", most)),
        max_vcpus=most,
        dimms=with_dimms,
    )


def completed(wish: Size, now: Size) -> Size:
    """Return the wish with every value: maxima are raised with what they bound, and lowered only when asked."""
    memory = wish.memory_kib or min(now.memory_kib or 0, wish.max_memory_kib or now.memory_kib or 0)
    vcpus = wish.vcpus or now.vcpus or 1
    return Size(
        memory_kib=memory,
        # One that was recorded long ago must not hold up memory that grows beyond it.
        max_memory_kib=max(wish.max_memory_kib or now.max_memory_kib or 0, memory),
        vcpus=vcpus,
        max_vcpus=max(wish.max_vcpus or now.max_vcpus or 1, vcpus),
        dimms=wish.dimms,
    )


def at_start(wish: Size, xml: str) -> dict[str, str]:
    """Return the parameters that a running guest of that definition can have at its next start only, and why."""
    now, room = read(xml, with_dimms=wish.dimms), dimms.Room.read(xml) if wish.dimms else None
    found = {MAX_MEMORY: "", MAX_VCPU: ""}
    if (wish.memory_kib or 0) > (now.max_memory_kib or 0):
        found[MEMORY] = ""
    if (wish.vcpus or 0) > (now.max_vcpus or 0):
        found[VCPU] = ""
    why = room.why_not(wish.memory_kib or 0) if room else ""
    return {**found, MEMORY: why} if why else found


def apply(domain: Any, wish: Size, timeout_s: float = CONFIRM_TIMEOUT_S) -> Outcome:
    """Bring the domain to the wished size; what a running guest does not take is left for its next start.

    See ``check``, which comes before.
    """
    change = _Change(domain, timeout_s)
    running = domain.active
    with libvirt_call("read", domain.target):
        persistent = bool(domain.handle.isPersistent())
    if persistent:
        change.stored(wish)
    if running:
        change.live(wish)
    return Outcome(tuple(change.done), tuple(change.pending))


class _Change:
    """One update under way."""

    def __init__(self, domain: Any, timeout_s: float) -> None:
        self.domain, self.timeout_s = domain, timeout_s
        self.done: list[str] = []
        self.pending: list[Pending] = []

    def stored(self, wish: Size) -> None:
        """Change the definition: a maximum before what it bounds where it grows, after it where it shrinks."""
        config, most = libvirt.VIR_DOMAIN_AFFECT_CONFIG, libvirt.VIR_DOMAIN_MEM_MAXIMUM
        now = read(self.domain.xml(libvirt.VIR_DOMAIN_XML_INACTIVE), with_dimms=wish.dimms)
        to = completed(wish, now)
        maximum = (to.max_memory_kib != now.max_memory_kib, "setMemoryFlags", to.max_memory_kib, config | most)
        current = (to.memory_kib != now.memory_kib, "setMemoryFlags", to.memory_kib, config)
        grows = (to.max_memory_kib or 0) >= (now.memory_kib or 0)
        vcpu_maximum = libvirt.VIR_DOMAIN_VCPU_MAXIMUM
        steps = (
            *((maximum, current) if grows else (current, maximum)),
            (to.max_vcpus != now.max_vcpus, "setVcpusFlags", to.max_vcpus, config | vcpu_maximum),
            # Raising the maximum leaves the count where it was.
            (to.vcpus != now.vcpus or to.max_vcpus != now.max_vcpus, "setVcpusFlags", to.vcpus, config),
        )
        for needed, call, value, flags in steps:
            if needed:
                self._call(call, value, flags)
        if to != now:
            self.done.append(f"definition: {_words(to)}")

    def live(self, wish: Size) -> None:
        now = read(self.domain.xml(), with_dimms=wish.dimms)
        to = completed(wish, now)
        if to.max_memory_kib != now.max_memory_kib:
            why = f"the maximum of a running guest cannot change; {_RESTART}"
            self.pending.append(Pending(MAX_MEMORY, to.max_memory_kib or 0, now.max_memory_kib or 0, why))
        if to.max_vcpus != now.max_vcpus:
            why = f"a running guest cannot get another maximum; {_RESTART}"
            self.pending.append(Pending(MAX_VCPU, to.max_vcpus or 0, now.max_vcpus or 0, why))
        if wish.memory_kib and (not wish.dimms or self._fits(wish.memory_kib)):
            self._memory(wish.memory_kib, now.max_memory_kib or 0)
        if wish.vcpus and wish.vcpus != now.vcpus:
            self._vcpus(wish.vcpus, now)

    def _fits(self, wanted: int) -> bool:
        """Bring DIMMs, or take them back, until the balloon can do the rest; tell whether that is so."""
        room = dimms.Room.read(self.domain.xml())
        if room is None:
            return True
        why = room.why_not(wanted) or self._bring(room, wanted - room.total)
        if why:
            self.pending.append(Pending(MEMORY, wanted, self._actual_kib(), f"{why}; {_RESTART}"))
            return False
        why = self._take_back(room.spare(wanted), wanted)
        if why:
            # Its balloon must not take as much again: the guest may give the DIMM back at any moment.
            self.pending.append(Pending(MEMORY, wanted, self._actual_kib(), f"{why}; {_RESTART}", held=True))
        return not why

    def _bring(self, room: dimms.Room, size_kib: int) -> str:
        """Attach a DIMM where memory is lacking; return why that was refused."""
        if size_kib <= 0:
            return ""
        try:
            dimms.attach(self.domain, room, size_kib)
        except CoreError as error:
            if error.retryable:
                raise
            return error.reason.rstrip(".")
        self.done.append(f"running guest: a DIMM of {units.human_size(size_kib * units.KIB)}")
        return ""

    def _take_back(self, going: list[dimms.Dimm], wanted: int) -> str:
        """Ask for DIMMs; return why the guest still has one."""
        if not going:
            return ""
        # What the balloon holds in them would have to move to what stays, and leave the guest without memory.
        why = self._balloon(wanted + sum(one.size_kib for one in going))
        if why:
            return why
        left = dimms.take_back(self.domain, going, self.timeout_s)
        gone = sum(one.size_kib for one in going if one not in left)
        if gone:
            self.done.append(f"running guest: {units.human_size(gone * units.KIB)} of DIMMs taken back")
        return f"the guest has not given {len(left)} DIMM{'s' if len(left) > 1 else ''} back yet" if left else ""

    def _memory(self, wanted: int, most: int) -> None:
        now = actual_kib(self.domain)
        if abs(now - wanted) <= _TOLERANCE_KIB:
            return
        if wanted > most:
            limit = units.human_size(most * units.KIB)
            why = f"the running guest can have {limit} at most; {_RESTART}"
            self.pending.append(Pending(MEMORY, wanted, now, why))
            return
        why = self._balloon(wanted)
        if why:
            self.pending.append(Pending(MEMORY, wanted, self._actual_kib(), f"{why}; {_NO_DRIVER}", at_start=False))
        else:
            self.done.append(f"running guest: memory {units.human_size(wanted * units.KIB)}")

    def _balloon(self, wanted: int) -> str:
        """Ask the balloon for that much; return why the guest has another amount."""

        def reached() -> bool:
            return abs(self._actual_kib() - wanted) <= _TOLERANCE_KIB

        if reached():
            return ""
        refusal = self._try("setMemoryFlags", wanted)
        # libvirt only asks: a guest without a balloon driver changes nothing, and no error says so.
        if refusal:
            return refusal
        if wait_until(reached, timeout_s=self.timeout_s, signal=self.domain.session.changed):
            return ""
        return f"the guest has not confirmed it within {self.timeout_s:g} s"

    def _actual_kib(self) -> int:
        try:
            found = actual_kib(self.domain)
        except CoreError as error:
            if self.domain.state in OFF:
                raise self.domain.failure("change the memory of") from error
            raise
        # Afterwards: of a guest that has just ended it was what it starts with.
        if self.domain.state in OFF:
            raise self.domain.failure("change the memory of")
        return found

    def _vcpus(self, wanted: int, now: Size) -> None:
        if wanted > (now.max_vcpus or 1):
            refusal = f"the running guest can have {now.max_vcpus} at most"
        else:
            refusal = self._try("setVcpusFlags", wanted)
        reached = read(self.domain.xml()).vcpus or 0
        if reached == wanted:
            self.done.append(f"running guest: {wanted} vCPUs")
        else:
            why = refusal or "the guest has not taken or given it back"
            self.pending.append(Pending(VCPU, wanted, reached, f"{why}; {_RESTART}"))

    def _try(self, call: str, value: int) -> str:
        """Ask the running guest; return its refusal. What may pass (a lost connection) is raised."""
        try:
            self._call(call, value, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except CoreError as error:
            if error.retryable:
                raise
            return error.reason.rstrip(".")
        return ""

    def _call(self, call: str, value: int | None, flags: int) -> None:
        action = "set the memory of" if call == "setMemoryFlags" else "set the vCPUs of"
        with libvirt_call(action, self.domain.target):
            getattr(self.domain.handle, call)(value, flags)


def _words(size: Size) -> str:
    memory, most = (units.human_size((value or 0) * units.KIB) for value in (size.memory_kib, size.max_memory_kib))
    return f"memory {memory} of {most}, {size.vcpus} vCPUs of {size.max_vcpus}"


def close(there_bytes: int, wanted_bytes: int) -> bool:
    """Tell whether a guest has the memory that was asked for, but for what it rounds."""
    return abs(there_bytes - wanted_bytes) <= _TOLERANCE_KIB * units.KIB


def actual_kib(domain: Any) -> int:
    """Return the memory that the running guest has now, in KiB."""
    with libvirt_call("read the memory of", domain.target):
        said = domain.handle.memoryStats().get("actual")
        return int(said if said is not None else domain.handle.info()[2])


def check(domain: Any, wish: Size) -> None:
    """Refuse to take from a running guest what it uses: its kernel would kill programs.

    Raises:
        InUse: the guest uses more memory than it would have.
        CoreError: the host has not the memory that the guest would get in a DIMM.
    """
    if not domain.active or not wish.memory_kib:
        return
    room = dimms.Room.read(domain.xml()) if wish.dimms else None
    if room is not None and wish.memory_kib > room.total and not room.why_not(wish.memory_kib):
        lacks = wish.memory_kib - room.total
        preflight.check_memory(domain.session, lacks, domain.target, "give more memory to")
    if wish.memory_kib >= actual_kib(domain):
        return
    used = used_kib(domain)
    if used is not None and used > wish.memory_kib:
        use, wanted = (units.human_size(value * units.KIB) for value in (used, wish.memory_kib))
        raise InUse(
            "shrink the memory of",
            domain.target,
            f"the guest uses {use}, more than {wanted}",
            "Free memory in the guest, or stop it first.",
        )


def used_kib(domain: Any) -> int | None:
    """Return the memory that programs of the guest use, in KiB; None where the guest does not say.

    Its figures are fresh only with a period: one is set for the time of the question.
    """
    balloon = parse.document(domain.xml()).find("devices/memballoon/stats")
    before = int(balloon.get("period", 0)) if balloon is not None else 0
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE
    if not before and quiet(lambda: domain.handle.setMemoryStatsPeriod(1, live), -1) != 0:
        return None
    try:
        return _fresh_use(domain)
    finally:
        if not before:
            quiet(lambda: domain.handle.setMemoryStatsPeriod(0, live))


def _fresh_use(domain: Any) -> int | None:
    def stats() -> dict[str, int]:
        return dict(quiet(domain.handle.memoryStats, {}))

    first = stats().get("last_update", 0)

    def look() -> int | None:
        now = stats()
        if not now and domain.state in OFF:
            raise domain.failure("read the memory of")
        if "usable" not in now or now.get("last_update", 0) == first:
            return None
        return int(now["actual"]) - int(now["usable"])

    return wait_until(look, timeout_s=_STATS_TIMEOUT_S, signal=domain.session.changed)
