"""Which parts of a domain go together: refused here, where the reason can be said, not by QEMU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cloudify_libvirt.core import units
from cloudify_libvirt.core.spec.base import missing
from cloudify_libvirt.core.spec.fields import members
from cloudify_libvirt.core.spec.pcie import has_ports

# Machines of QEMU that take no DIMMs.
_NO_DIMMS = ("isapc", "microvm", "none")


def check(spec: Any) -> None:
    """Raise for the first combination in a ``DomainSpec`` that cannot work."""
    for rule in (_buses, _slots, _firmware, _cpu, _numa, _dimms, _pins, _shared, _boot_order, _iothreads, _spice):
        for key, reason in rule(spec):
            raise missing(key, reason)


def _buses(spec: Any) -> Iterator[tuple[str, str]]:
    if "q35" in (spec.machine or ""):
        for at, disk in enumerate(spec.disks):
            if disk.bus in ("ide", "fdc"):
                yield f"disks[{at}].bus", f"a q35 has no {disk.bus}; use bus: sata, scsi or virtio, or machine: pc"


def _slots(spec: Any) -> Iterator[tuple[str, str]]:
    if spec.hotplug_slots and spec.machine and not has_ports(spec.machine):
        yield "hotplug_slots", f"the bus of a {spec.machine} has its own free slots; it is for machine: q35 or virt"


def _firmware(spec: Any) -> Iterator[tuple[str, str]]:
    firmware = spec.firmware
    if firmware and firmware.secure_boot:
        if spec.machine and "q35" not in spec.machine:
            yield "firmware", f"secure boot needs machine: q35; a {spec.machine} has no system management mode"
        if not spec.modern and not spec.machine:
            yield "firmware", "secure boot needs machine: q35; older hardware (hardware: classic) is a pc"
        if spec.features and spec.features.smm is False:
            yield "features", "secure boot needs smm"


def _cpu(spec: Any) -> Iterator[tuple[str, str]]:
    cpu, most = spec.cpu, spec.max_vcpu or spec.vcpu
    if cpu is None:
        return
    if cpu.model and spec.cpu_mode:
        yield "cpu", f"a model and cpu_mode: {spec.cpu_mode} exclude each other; give one of them"
    if cpu.migratable is not None and spec.cpu_mode not in ("host-passthrough", "maximum"):
        yield "cpu.migratable", "it is of cpu_mode: host-passthrough and maximum"
    if cpu.topology and cpu.topology.cpus != most:
        of = "max_vcpu" if spec.max_vcpu else "vcpu"
        yield "cpu.topology", f"it has places for {cpu.topology.cpus} vCPUs, {of} is {most}; make them equal"


def _numa(spec: Any) -> Iterator[tuple[str, str]]:
    if not spec.numa_cells:
        if spec.numa_tune and not (spec.numa_tune.mode or spec.numa_tune.nodes):
            yield "numa_tune", "give mode or nodes"
        return
    most = spec.max_vcpu or spec.vcpu
    seen: set[int] = set()
    for at, cell in enumerate(spec.numa_cells):
        cpus = members(cell.cpus)
        if cpus & seen:
            yield f"numa_cells[{at}].cpus", f"vCPU {min(cpus & seen)} is in two cells"
        seen |= cpus
        far = [distance.cell for distance in cell.distances if distance.cell >= len(spec.numa_cells)]
        if far:
            yield f"numa_cells[{at}].distances", f"there is no cell {far[0]}"
    if seen != set(range(most)):
        yield "numa_cells", f"the cells have vCPUs {_listed(seen)}, and must have each of 0-{most - 1}"
    total = sum(units.to_kib(cell.memory) for cell in spec.numa_cells)
    if spec.has_memory and total != spec.max_memory_kib:
        asked, wanted = units.human_size(total * 1024), units.human_size(spec.max_memory_kib * 1024)
        yield "numa_cells", f"the cells together have {asked}, the domain {wanted}; make them equal"


def _dimms(spec: Any) -> Iterator[tuple[str, str]]:
    if not spec.memory_slots:
        return
    top = units.to_kib(spec.max_memory) if spec.max_memory else spec.memory_maxsize
    if not top:
        yield "memory_slots", "it needs max_memory: what the DIMMs may bring it to"
    if spec.numa_cells:
        yield "memory_slots", "it brings a NUMA cell of its own; leave numa_cells out"
    if spec.domain_type not in ("qemu", "kvm"):
        yield "memory_slots", f"a domain of type {spec.domain_type} takes no DIMMs"
    if (spec.machine or "").startswith(_NO_DIMMS):
        yield "memory_slots", f"a {spec.machine} takes no DIMMs; use machine: q35 or pc"
    if spec.features and spec.features.acpi is False:
        yield "memory_slots", "guests hear of DIMMs by ACPI; leave features.acpi out"
    for name, kib in (("memory", spec.memory_kib if spec.has_memory else 0), ("max_memory", top or 0)):
        if kib % units.KIB:
            yield name, "with memory_slots it is a number of whole MiB"


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _pins(spec: Any) -> Iterator[tuple[str, str]]:
    if spec.cpu_tune is None:
        return
    most = spec.max_vcpu or spec.vcpu
    for at, pin in enumerate(spec.cpu_tune.vcpus):
        if pin.id >= most:
            yield f"cpu_tune.vcpus[{at}].id", f"there is no vCPU {pin.id}: they are 0 to {most - 1}"
    for at, pin in enumerate(spec.cpu_tune.iothreads):
        if not 1 <= pin.id <= spec.iothreads:
            yield f"cpu_tune.iothreads[{at}].id", f"there is no I/O thread {pin.id}: iothreads is {spec.iothreads}"


def _shared(spec: Any) -> Iterator[tuple[str, str]]:
    backing = spec.memory_backing
    if backing and shares_memory(spec):
        if backing.access == "private":
            yield "memory_backing.access", "virtiofs and vhostuser need shared memory; leave access out"
        if backing.source == "anonymous":
            yield "memory_backing.source", "virtiofs and vhostuser need memory that can be shared; leave source out"
    if backing and backing.threads and backing.allocation != "immediate":
        yield "memory_backing.threads", "threads allocate memory at the start only, with allocation: immediate"


def shares_memory(spec: Any) -> bool:
    """Tell whether a process besides QEMU maps the guest's memory."""
    return any(share.driver == "virtiofs" for share in spec.filesystems) or any(
        interface.vhostuser for interface in spec.networks
    )


def _boot_order(spec: Any) -> Iterator[tuple[str, str]]:
    seen: set[int] = set()
    for what in ("disks", "networks", "devices"):
        for at, device in enumerate(getattr(spec, what)):
            order = getattr(device, "boot_order", None)
            if order in seen:
                yield f"{what}[{at}].boot_order", f"{order} is there twice"
            if order:
                seen.add(order)
    if seen and spec.boot and spec.boot.devices:
        yield "boot.devices", "boot_order of single devices and boot.devices exclude each other"


def _iothreads(spec: Any) -> Iterator[tuple[str, str]]:
    for at, disk in enumerate(spec.disks):
        if disk.iothread and disk.iothread > spec.iothreads:
            yield f"disks[{at}].iothread", f"there is no I/O thread {disk.iothread}: iothreads is {spec.iothreads}"


def _spice(spec: Any) -> Iterator[tuple[str, str]]:
    if any(screen.type == "spice" for screen in spec.graphics):
        return
    for what in ("redirections", "channels"):
        for at, line in enumerate(getattr(spec, what)):
            if line.type == "spicevmc":
                yield f"{what}[{at}].type", "spicevmc comes from viewers of spice; add it to graphics"
