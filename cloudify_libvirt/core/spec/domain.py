"""What a user may ask for of a domain: the basics, and the hardware in detail."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, model_validator

from cloudify_libvirt.core.spec import hardware_rules
from cloudify_libvirt.core.spec.base import AbsolutePath, Count, Uuid, dsl, strict
from cloudify_libvirt.core.spec.cpu import Cpu, CpuTune, NumaCell, NumaTune
from cloudify_libvirt.core.spec.devices import (
    BalloonField,
    Filesystem,
    IommuField,
    RngField,
    SharedMemory,
    TpmField,
    VsockField,
    WatchdogField,
)
from cloudify_libvirt.core.spec.display import (
    Channel,
    GraphicsField,
    InputField,
    Redirection,
    Serial,
    SoundField,
    VideoField,
)
from cloudify_libvirt.core.spec.domain_basics import DomainBasics
from cloudify_libvirt.core.spec.fields import option, shorthand
from cloudify_libvirt.core.spec.firmware import Boot, Clock, Events, Features, FirmwareField, Power, Smbios
from cloudify_libvirt.core.spec.memory import BlockTune, Dimms, MemoryBacking, MemoryTune

_LIST = dsl(default=[])


class DomainSpec(DomainBasics):
    """A domain."""

    cpu: Annotated[Cpu, shorthand("model")] | None = option("{model, features, topology, cache, ...}; see cpu_mode.")
    cpu_tune: CpuTune | None = option("{cpus, vcpus, emulator, iothreads, shares, period_us, quota_us}.")
    iothreads: Count = Field(default=0, description="I/O threads, for disks.", json_schema_extra=dsl("integer", 0))
    numa_cells: tuple[NumaCell, ...] = Field(
        default=(), description="NUMA cells: [{cpus, memory, distances, host_nodes, ...}].", json_schema_extra=_LIST
    )
    numa_tune: NumaTune | None = option("{mode, nodes}: nodes of the host for the memory.")
    memory_backing: MemoryBacking | None = option("{hugepages, source, access, allocation, locked, ...}.")
    memory_tune: MemoryTune | None = option("{hard_limit, soft_limit, swap_hard_limit}.")
    memory_slots: Dimms | None = option(
        "DIMMs that can come while it runs: with them memory grows in blocks of 128 MiB up to max_memory."
    )
    block_tune: BlockTune | None = option("{weight}.")
    firmware: FirmwareField | None = option("bios, uefi, or {type, secure_boot, loader, nvram_template}.")
    boot: Boot | None = option("{devices, menu, kernel, ...}.")
    features: Features | None = option("{acpi, smm, hyperv, kvm_hidden, ...}.")
    clock: Clock | None = option("{offset, timezone, timers}.")
    events: Events | None = option("{poweroff, reboot, crash}: what follows.")
    power: Power | None = option("{suspend_to_mem, suspend_to_disk}: how the guest may sleep.")
    generation_id: Uuid | None = option("UUID by which the guest sees that it was put back (VM generation ID).")
    partition: AbsolutePath | None = option("Resource partition (cgroup) of the host, as in /machine/shop.")
    smbios: Smbios | None = option("{manufacturer, product, serial, ...}, or {host: true}.")
    tpm: TpmField = option("true, or {model, version, persistent, encryption_secret, banks}: a TPM by swtpm.")
    video: VideoField | None = option("Model, or {model, heads, vram, accel3d, width, height}.")
    graphics: tuple[GraphicsField, ...] = Field(
        default=(), description="[vnc | spice | {type, listen | socket, port, password, ...}]; at 127.0.0.1.",
        repr=False, json_schema_extra=_LIST,
    )  # fmt: skip
    inputs: tuple[InputField, ...] = Field(
        default=(), description="[tablet | mouse | keyboard | {type, bus}].", json_schema_extra=_LIST
    )
    sound: SoundField | None = option("Model of a sound card.")
    serials: tuple[Serial, ...] = Field(
        default=(), description="Further serial lines: [{type, path, log, ...}].", json_schema_extra=_LIST
    )
    channels: tuple[Channel, ...] = Field(
        default=(), description="Named lines to the host: [{name, path}].", json_schema_extra=_LIST
    )
    redirections: tuple[Redirection, ...] = Field(
        default=(), description="USB devices of viewers: [{bus, type}].", json_schema_extra=_LIST
    )
    filesystems: tuple[Filesystem, ...] = Field(
        default=(), description="Shared directories: [{source, target, driver, ...}].", json_schema_extra=_LIST
    )
    watchdog: WatchdogField | None = option("Action, or {model, action}.")
    rng: RngField | None = option("random, builtin, or {source, path, rate_bytes, period_ms}.")
    vsock: VsockField = option("true, or {cid}: sockets between host and guest.")
    balloon: BalloonField | None = option("Model, or {model, autodeflate, free_page_reporting, stats_period_s}.")
    iommu: IommuField | None = option("Model, or {model, interrupt_remapping, caching_mode, device_tlb}.")
    shared_memory: tuple[SharedMemory, ...] = Field(
        default=(), description="Memory shared by guests: [{name, size, role}].", json_schema_extra=_LIST
    )

    @model_validator(mode="after")
    def _possible(self, info: ValidationInfo) -> DomainSpec:
        if strict(info):
            hardware_rules.check(self)
        return self


# A user's template may be older than these, and have variables of these names and another shape.
NEWER = frozenset(DomainSpec.__annotations__)
