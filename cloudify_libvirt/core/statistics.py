"""What a running domain consumes.

Source: https://libvirt.org/html/libvirt-libvirt-domain.html (virDomainInfo: cpuTime in nanoseconds)
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from cloudify_libvirt.core import states, units
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import InvalidSpec, libvirt_call
from cloudify_libvirt.core.update.sizes import actual_kib
from cloudify_libvirt.core.wait import Signal, wait_until

INTERVAL_S = 0.5
LONGEST_INTERVAL_S = 60.0
_NANOSECONDS = 1e9


@dataclass(frozen=True)
class Usage:
    """``cpu_percent`` counts one CPU of the host as 100, as top does; ``memory_mib`` is what the guest has."""

    cpu_percent: float
    memory_mib: float


def measure(domain: Domain, interval_s: float = INTERVAL_S) -> Usage:
    """Measure over an interval; a domain that does not run uses nothing.

    Raises:
        InvalidSpec: the interval is over a minute.
    """
    if interval_s > LONGEST_INTERVAL_S:
        raise InvalidSpec(
            "measure", domain.target, f"interval_s is {interval_s:g}", f"Give up to {LONGEST_INTERVAL_S:g} seconds."
        )
    if domain.state not in states.ALIVE:
        return Usage(0.0, 0.0)
    begin, used = time.monotonic(), _cpu_time_ns(domain)
    wait_until(lambda: None, timeout_s=interval_s, signal=Signal(), poll_s=interval_s)
    used, passed = _cpu_time_ns(domain) - used, time.monotonic() - begin
    percent = max(0.0, 100 * used / _NANOSECONDS / passed)
    return Usage(round(percent, 2), round(actual_kib(domain) / (units.MIB / units.KIB), 2))


def _cpu_time_ns(domain: Domain) -> int:
    with libvirt_call("read the CPU time of", domain.target):
        return int(domain.handle.info()[4])
