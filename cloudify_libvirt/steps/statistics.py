"""What a domain consumes, written to its runtime property ``stat``."""

from __future__ import annotations

from cloudify_libvirt.core import statistics
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.units import parse_seconds
from cloudify_libvirt.request import Request


def performance(domain: Domain, request: Request) -> dict[str, float]:
    """Measure over the input ``interval_s`` (0.5 s); record and return {cpu: percent, memory: MiB}."""
    interval_s = parse_seconds(request.inputs.get("interval_s") or statistics.INTERVAL_S, "interval_s")
    usage = statistics.measure(domain, interval_s)
    stat = {"cpu": usage.cpu_percent, "memory": usage.memory_mib}
    request.record.assign(stat=stat)
    request.record.note(f"{domain.name}: {usage.cpu_percent:g} % CPU, {usage.memory_mib:g} MiB of memory")
    return stat
