"""How a change of each field is carried out on what exists: while it runs, at its next start, or not at all. Pure.

Sources: https://libvirt.org/html/libvirt-libvirt-domain.html and https://libvirt.org/formatdomain.html; a row names
the call or the section of its own.
"""

from __future__ import annotations

from dataclasses import replace

from cloudify_libvirt.core.update import table_network, table_storage
from cloudify_libvirt.core.update.rows import How, Row

__all__ = ["DOMAIN", "ROWS", "How", "Row", "how"]

_DOMAIN_CALLS = "https://libvirt.org/html/libvirt-libvirt-domain.html#"
_FORMAT = "https://libvirt.org/formatdomain.html#"


def _live(field: str, call: str, note: str = "") -> Row:
    return Row("domain", field, How.LIVE, source=f"{_DOMAIN_CALLS}{call}", note=note)


def _restart(field: str, section: str, note: str = "") -> Row:
    return Row("domain", field, How.RESTART, source=f"{_FORMAT}{section}", note=note)


def _next(field: str, section: str, note: str = "") -> Row:
    return Row("domain", field, How.NEXT_BOOT, source=f"{_FORMAT}{section}", note=note)


_UPDATE = "virDomainUpdateDeviceFlags"
_ATTACH = "virDomainAttachDeviceFlags"

# The first row that answers counts.
DOMAIN: tuple[Row, ...] = (
    _live("title", "virDomainSetMetadata"),
    _live("description", "virDomainSetMetadata"),
    _live("metadata", "virDomainSetMetadata", "the ownership mark"),
    _live("autostart", "virDomainSetAutostart"),
    _live("state", "virDomainCreate", "start or resume; heal does the same"),
    _live("existence", "virDomainDefineXML", "heal defines it again, as it was"),
    _live("memory", "virDomainSetMemoryFlags", "within the maximum: balloon or DIMMs; pending until it is so"),
    _restart("max_memory", "memory-allocation"),
    _restart("memory_slots", "memory-devices", "places for the DIMMs that raise memory while it runs"),
    _live("vcpu", "virDomainSetVcpusFlags", "within the maximum; pending where the guest keeps one"),
    _restart("max_vcpu", "cpu-allocation"),
    _live("cpu_tune.shares", "virDomainSetSchedulerParametersFlags"),
    _live("cpu_tune.period_us", "virDomainSetSchedulerParametersFlags"),
    _live("cpu_tune.quota_us", "virDomainSetSchedulerParametersFlags"),
    _live("cpu_tune.vcpus[*]*", "virDomainPinVcpuFlags"),
    _live("cpu_tune.emulator", "virDomainPinEmulator"),
    _live("cpu_tune", "virDomainSetSchedulerParametersFlags", "all of it at once"),
    _live("memory_tune*", "virDomainSetMemoryParameters"),
    _live("events.*", "virDomainSetLifecycleAction"),
    _live("balloon.stats_period_s", "virDomainSetMemoryStatsPeriod"),
    _live("iothreads", "virDomainAddIOThread"),
    _live("disks[*].iotune*", "virDomainSetBlockIoTune"),
    _live("disks[*].medium", _UPDATE, "of a CD-ROM or floppy: inserted, changed, ejected"),
    _live("disks[*]", _ATTACH, "attached, or detached: pending until the guest has given it back"),
    _live("networks[*].link", _UPDATE),
    _live("networks[*].bandwidth*", _UPDATE),
    _live("networks[*].filter*", _UPDATE),
    _live("networks[*].network", _UPDATE, "the cable goes to another network; the guest keeps the card"),
    _live("networks[*].bridge", _UPDATE, "the cable goes to another bridge"),
    _live("networks[*].ip", "virDomainGetXMLDesc", "the network's reservation; the guest has it with its next lease"),
    _live("networks[*]", _ATTACH, "attached, or detached: pending until the guest has given it back"),
    _live("channels[*]", _ATTACH),
    _live("graphics[*].password", _UPDATE),
    _live("image.size", "virDomainBlockResize", "grows only"),
    _next("controller", "controllers", "slots that stay free for devices to come"),
    _next("boot.*", "operating-system-booting"),
    _next("disks[*].boot_order", "hard-drives-floppy-disks-cdroms"),
    _next("networks[*].boot_order", "network-interfaces"),
    _next("disks[*].startup_policy", "hard-drives-floppy-disks-cdroms"),
    Row("domain", "name", How.RESTART, How.LIVE, f"{_DOMAIN_CALLS}virDomainRename", "UUID and volumes stay"),
    Row("domain", "arch", How.REPLACE, How.REPLACE, f"{_FORMAT}operating-system-booting", "its disks boot on no other"),
    _restart("*", "element-and-attribute-overview", "all else: the definition has it at once"),
)  # fmt: skip


ROWS: tuple[Row, ...] = (*DOMAIN, *table_network.ROWS, *table_storage.ROWS)


def how(kind: str, field: str, *, active: bool) -> Row:
    """Return the row that says how a change of a field is made; every field has one.

    Its ``how`` is that of an object that runs, or with ``active`` False of one that does not.
    """
    found = next((row for row in ROWS if row.kind == kind and row.answers(field)), None)
    if found is None:
        found = Row(kind, field, How.REPLACE, How.REPLACE, note="no row of its own")
    return replace(found, how=found.at(active=active))
