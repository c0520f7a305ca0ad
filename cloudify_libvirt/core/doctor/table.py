"""All checks in one table, and how they are run: each with a deadline, none stops the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from cloudify_libvirt.core.doctor import access, hypervisor, room, surroundings
from cloudify_libvirt.core.doctor.finding import Check, Finding, Noun, Target, problem, unknown
from cloudify_libvirt.core.errors import ConnectionLost, CoreError, Unsupported
from cloudify_libvirt.core.session import connect, is_local
from cloudify_libvirt.core.wait import in_thread

# The slowest of them, the measurement of KVM, has 2 s.
DEADLINE_S = 10.0
_QEMU, _REAL = frozenset({"qemu"}), frozenset({"qemu", "lxc", "xen", "bhyve"})


def _of(*nouns: Noun) -> frozenset[Noun]:
    return frozenset(nouns)


CHECKS = (
    Check("library", access.library, _of("host"), connected=False),
    Check("names", access.names, _of("host"), connected=False),
    Check("connection", access.connection, _of("host"), connected=False),
    Check("version", hypervisor.version, _of("host")),
    Check("drivers", hypervisor.parts, _of("host"), drivers=_REAL),
    Check("accelerator", hypervisor.accelerator, _of("domain"), drivers=_QEMU),
    Check("firmware", hypervisor.firmware, _of("host"), drivers=_QEMU),
    Check("tpm", hypervisor.tpm, _of("host"), drivers=_QEMU),
    Check("network disks", hypervisor.network_disks, _of("domain"), here=True, drivers=_QEMU),
    Check("security", hypervisor.security, _of("domain"), drivers=_QEMU),
    Check("dnsmasq", surroundings.dnsmasq, _of("network"), connected=False, here=True, drivers=_REAL),
    Check("forwarding", surroundings.forwarding, _of("network"), here=True, drivers=_REAL),
    Check("memory", room.memory, _of("domain"), drivers=_REAL),
    Check("room", room.disks, _of("host"), drivers=_REAL),
    Check("paths", room.paths, _of("host"), here=True, drivers=_QEMU),
    Check("clock", surroundings.clock, _of("host"), connected=False, here=True),
)


def reach(uri: str, images: Iterable[str] = ()) -> Target:
    """Return the host at ``uri``, connected or with the reason why not; never raises for what a host lacks."""
    try:
        return Target(uri, connect(uri), None, tuple(images))
    except CoreError as fault:
        return Target(uri, None, fault, tuple(images))


def examine(target: Target, noun: Noun | None = None, but: Collection[str] = ()) -> Iterator[Finding]:
    """Run all checks, or those that concern one noun, ``but`` some by name, and yield what each found."""
    for check in CHECKS:
        if (noun is None or noun in check.concerns) and check.name not in but:
            yield from (replace(finding, check=check.name) for finding in _findings(check, target))


def _findings(check: Check, target: Target) -> list[Finding]:
    if check.connected and target.session is None:
        return [unknown(check.name, "not looked at: there is no connection")]
    if target.session is not None and check.drivers and target.session.driver not in check.drivers:
        return []
    if check.here and not is_local(target.uri):
        return [unknown(check.name, "not seen from here: it is another machine", command="cfy-libvirt doctor # there")]
    return _bounded(check, target)


def _bounded(check: Check, target: Target) -> list[Finding]:
    """Run one check; what it cannot read is a finding, too."""

    def run() -> list[Finding]:
        try:
            return list(check.run(target))
        except OSError as error:
            return [unknown(check.name, f"cannot be read: {error}")]

    try:
        label = f"{check.name} of {target.uri}"
        return in_thread(run, timeout_s=DEADLINE_S, action="check", target=label, remedy="Look at the host's load.")
    except Unsupported as fault:
        return [unknown(check.name, fault.reason)]
    except ConnectionLost:
        # Says nothing of the host.
        raise
    except CoreError as fault:
        return [problem(check.name, fault.reason, fault.remedy)]
