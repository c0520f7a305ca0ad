"""What a user may ask for of a domain's firmware, boot order and platform."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cloudify_libvirt.core.spec.base import AbsolutePath, Flag, Line, Part, Positive, Text, line, missing
from cloudify_libvirt.core.spec.fields import option, within


def _kind(value: object) -> str:
    text = line(value).lower()
    return {"efi": "uefi", "ovmf": "uefi"}.get(text, text)


def _firmware(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


class Firmware(Part):
    """The firmware that starts the guest."""

    type: Annotated[Literal["bios", "uefi"], BeforeValidator(_kind)] = Field(
        default="uefi", description="bios or uefi."
    )
    secure_boot: Flag = Field(default=False, description="Start signed systems only; with uefi on a q35.")
    loader: AbsolutePath | None = option("File of the firmware's code; libvirt chooses when absent.")
    nvram_template: AbsolutePath | None = option("File that the UEFI variables begin as; with loader.")

    @model_validator(mode="after")
    def _secure(self) -> Firmware:
        if self.type == "bios" and (self.secure_boot or self.nvram_template):
            raise missing("type", "secure boot and UEFI variables need type: uefi")
        if self.nvram_template and not self.loader:
            raise missing("loader", "nvram_template needs the loader that it belongs to")
        return self


FirmwareField = Annotated[Firmware, BeforeValidator(_firmware)]


class Boot(Part):
    """What the guest starts from."""

    devices: tuple[Literal["hd", "cdrom", "network", "fd"], ...] = Field(
        default=(), description="Kinds of devices, the first one first; hd when absent."
    )
    menu: Flag | None = option("Offer a menu.")
    menu_timeout_ms: Annotated[int, BeforeValidator(within(0, 65535))] | None = option("How long the menu waits.")
    serial: Flag | None = option("A BIOS writes to the serial console.")
    reboot_timeout_ms: Annotated[int, BeforeValidator(within(-1, 65535))] | None = option(
        "Start anew after a failed boot; -1: never."
    )
    kernel: AbsolutePath | None = option("Kernel on the host, started without a boot loader.")
    initrd: AbsolutePath | None = option("Its initial RAM disk.")
    cmdline: Line | None = option("Its command line.")
    dtb: AbsolutePath | None = option("Its device tree.")

    @model_validator(mode="after")
    def _of_a_kernel(self) -> Boot:
        if not self.kernel and (self.initrd or self.cmdline or self.dtb):
            raise missing("kernel", "initrd, cmdline and dtb belong to a kernel")
        return self


class Hyperv(Part):
    """What Windows guests know of their hypervisor."""

    mode: Literal["custom", "passthrough"] | None = option("passthrough: all that the host has.")
    relaxed: Flag | None = option("No watchdogs that fail under a hypervisor.")
    vapic: Flag | None = option("Virtual APIC.")
    spinlocks: Annotated[int, Field(ge=4096)] | None = option("Tries before a spin lock tells the hypervisor.")
    vpindex: Flag | None = option("Index of virtual processors.")
    runtime: Flag | None = option("Run time of processors.")
    synic: Flag | None = option("Synthetic interrupts.")
    stimer: Flag | None = option("Synthetic timers.")
    reset: Flag | None = option("Reset by the hypervisor.")
    vendor_id: Annotated[Line, Field(max_length=12)] | None = option("Vendor that the guest sees.")
    frequencies: Flag | None = option("Frequencies by registers.")
    reenlightenment: Flag | None = option("Notice of migration.")
    tlbflush: Flag | None = option("Flush of TLBs.")
    ipi: Flag | None = option("Interrupts between processors.")


class Features(Part):
    """Features of the platform; what is not set stays as the kind of hardware has it."""

    acpi: Flag | None = option("ACPI.")
    apic: Flag | None = option("APIC.")
    pae: Flag | None = option("Physical address extension.")
    hap: Flag | None = option("Hardware assisted paging.")
    smm: Flag | None = option("System management mode; secure boot sets it.")
    vmport: Flag | None = option("VMware's I/O port.")
    pmu: Flag | None = option("Performance counters.")
    pvspinlock: Flag | None = option("Paravirtual spin locks.")
    kvm_hidden: Flag | None = option("Hide KVM from the guest.")
    kvm_hint_dedicated: Flag | None = option("Tell the guest that its vCPUs are not shared.")
    vmcoreinfo: Flag | None = option("Let the guest say where its crash dump is.")
    ioapic: Literal["kvm", "qemu"] | None = option("Who emulates the I/O APIC.")
    gic: Literal["2", "3", "host"] | None = option("Version of an ARM's interrupt controller.")
    hyperv: Hyperv | None = option("What Windows guests know of their hypervisor.")


class Timer(Part):
    """A clock device of the guest."""

    name: Literal["platform", "pit", "rtc", "hpet", "tsc", "kvmclock", "hypervclock", "armvtimer"] = Field(
        description="Which."
    )
    present: Flag | None = option("Whether it is there.")
    tickpolicy: Literal["delay", "catchup", "merge", "discard"] | None = option(
        "What becomes of ticks that were missed."
    )
    track: Literal["boot", "guest", "wall", "realtime"] | None = option("What an rtc or platform follows.")
    frequency_hz: Positive | None = option("Frequency of a tsc.")
    mode: Literal["auto", "native", "emulate", "paravirt", "smpsafe"] | None = option("How a tsc is given.")


class Clock(Part):
    """The guest's clock."""

    offset: Literal["utc", "localtime", "timezone"] = Field(default="utc", description="What it shows.")
    timezone: Line | None = option("Time zone, as in Europe/Berlin, with offset: timezone.")
    timers: tuple[Timer, ...] = Field(
        default=(), description="[{name, present, tickpolicy, track, frequency_hz, mode}]."
    )

    @model_validator(mode="after")
    def _zoned(self) -> Clock:
        if (self.offset == "timezone") != (self.timezone is not None):
            raise missing("timezone", "offset: timezone and timezone belong together")
        return self


class Events(Part):
    """What follows on the end of a guest."""

    poweroff: Literal["destroy", "restart", "preserve", "rename-restart"] | None = option("It shut down.")
    reboot: Literal["destroy", "restart", "preserve", "rename-restart"] | None = option("It restarted.")
    crash: (
        Literal["destroy", "restart", "preserve", "rename-restart", "coredump-destroy", "coredump-restart"] | None
    ) = option("It crashed.")


class Power(Part):
    """What the firmware offers to the guest's operating system. Source: formatdomain.html#power-management."""

    suspend_to_mem: Flag | None = option("It may sleep, with its memory kept (S3).")
    suspend_to_disk: Flag | None = option("It may sleep, with its memory on disk (S4).")


class Smbios(Part):
    """What the firmware tells the guest of its machine."""

    manufacturer: Text | None = option("Manufacturer.")
    product: Text | None = option("Product.")
    version: Text | None = option("Version.")
    serial: Text | None = option("Serial number; cloud-init reads its seed's place here.")
    sku: Text | None = option("SKU number.")
    family: Text | None = option("Family.")
    host: Flag = Field(default=False, description="Show the host's own values instead.")
