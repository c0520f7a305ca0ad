"""What a user may ask for of a domain: what most need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from cloudify_libvirt.core import units
from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.spec.base import (
    INPUT_ONLY,
    AbsolutePath,
    Count,
    Flag,
    Line,
    Name,
    Positive,
    Size,
    Spec,
    Text,
    dsl,
    missing,
    strict,
)
from cloudify_libvirt.core.spec.cloud_init import CloudInit
from cloudify_libvirt.core.spec.disk import Disk
from cloudify_libvirt.core.spec.fields import within
from cloudify_libvirt.core.spec.hostdev import Device
from cloudify_libvirt.core.spec.interface import Interface
from cloudify_libvirt.core.spec.volume import _IMAGE, ImageField

# Source: domaincommon.rng, hvs
DomainType = Literal[
    "qemu", "kqemu", "kvm", "xen", "lxc", "uml", "openvz", "test", "vmware", "hyperv", "vbox", "phyp", "vz", "bhyve",
    "hvf",
]  # fmt: skip

# Each is a bus of its own, of which a machine has 256; more cost firmware and guest time at every boot.
Slots = Annotated[int, BeforeValidator(within(0, 64))]

LXC_DEFAULT_KIB = 512 * units.KIB


class DomainBasics(Spec):
    """What most domains need."""

    vcpu: Positive = Field(default=1, description="Virtual CPUs; 1 when absent.", json_schema_extra=dsl("integer"))
    max_vcpu: Positive | None = Field(default=None, description="Most virtual CPUs while it runs; vcpu when absent.",
                                      json_schema_extra=dsl("integer"))  # fmt: skip
    memory_size: Positive | None = Field(default=None, description="Memory in KiB; see also memory.",
                                         json_schema_extra=dsl("integer"))  # fmt: skip
    memory_maxsize: Positive | None = Field(
        default=None, description="Maximum of memory in KiB; twice memory_size when absent.",
        json_schema_extra=dsl("integer"),
    )  # fmt: skip
    nvram: AbsolutePath | None = Field(default=None, description="File of the UEFI variables; libvirt chooses.",
                                       json_schema_extra=dsl("string"))  # fmt: skip
    disks: tuple[Disk, ...] = Field(
        default=(), description="[{file | pool + volume | block | nvme, bus, dev, type, device, cache, iotune, ...}].",
        json_schema_extra=dsl(default=[]),
    )  # fmt: skip
    networks: tuple[Interface, ...] = Field(
        default=(), description="[{network | bridge | user | passt | macvtap | pci, dev, mac, type, ip, mtu, ...}].",
        json_schema_extra=dsl(default=[]),
    )  # fmt: skip
    devices: tuple[Device, ...] = Field(
        default=(), description="Devices of the host: [{type: serial | usb | pci | tpm | mdev | scsi, ...}].",
        json_schema_extra=dsl(default=[]),
    )  # fmt: skip
    full_dump: Flag = Field(default=False, description="A backup to a file holds the memory too.",
                            json_schema_extra=dsl(default=False))  # fmt: skip
    wait_for_ip: Flag = Field(default=True, description="start waits for an address.",
                              json_schema_extra=dsl(default=True))  # fmt: skip
    domain_type: DomainType = Field(default="qemu", description="libvirt's domain type: qemu, kvm, lxc, xen, test ...",
                                    json_schema_extra=dsl(default="qemu"))  # fmt: skip
    domain_cpu: Line = Field(default="custom", description="CPU mode of older blueprints; see cpu_mode.",
                             json_schema_extra=INPUT_ONLY)  # fmt: skip
    memory: Size | None = Field(default=None, description="Memory with its unit, as in '2 GiB'.",
                                json_schema_extra=dsl("string"))  # fmt: skip
    max_memory: Size | None = Field(default=None, description="Maximum of memory with its unit; memory when absent.",
                                    json_schema_extra=dsl("string"))  # fmt: skip
    image: ImageField | None = Field(default=None, description=_IMAGE + " Makes the root disk.")
    pool: Name = Field(default="default", description="Pool of the domain's own volumes.",
                       json_schema_extra=dsl("string", "default"))  # fmt: skip
    cloud_init: CloudInit | None = Field(
        default=None, repr=False,
        description="{hostname, user_data, meta_data, network_config, ssh_authorized_keys}.",
    )  # fmt: skip
    machine: Line | None = Field(default=None, description="Machine type, as in q35 or pc; by hardware when absent.",
                                 json_schema_extra=dsl("string"))  # fmt: skip
    arch: Line | None = Field(default=None, description="Architecture of the guest; the host's when absent.",
                              json_schema_extra=dsl("string"))  # fmt: skip
    cpu_mode: Literal["none", "maximum", "host-model", "host-passthrough"] | None = Field(
        default=None, description="CPU of the guest; one that starts on the host when absent.",
        json_schema_extra=dsl("string"),
    )  # fmt: skip
    accelerator: Literal["auto", "kvm", "tcg"] = Field(
        default="auto", description="auto measures whether KVM works.", json_schema_extra=dsl("string", "auto")
    )
    hardware: Literal["auto", "classic", "modern"] = Field(
        default="auto", description="auto is modern when image, memory or cloud_init is set.",
        json_schema_extra=dsl("string", "auto"),
    )  # fmt: skip
    hotplug_slots: Slots | None = Field(
        default=None, description="Devices that can come while it runs, of a PCIe machine; 8 with modern hardware.",
        json_schema_extra=dsl("integer"),
    )  # fmt: skip
    autostart: Flag = Field(default=False, description="Start the domain with the host.",
                            json_schema_extra=dsl(default=False))  # fmt: skip
    allow_restart: Flag = Field(default=False, description="An update may restart the guest where it must.",
                                json_schema_extra=dsl(default=False))  # fmt: skip
    title: Line | None = Field(default=None, description="Short title, one line.", json_schema_extra=dsl("string"))
    description: Text | None = Field(default=None, description="Free text.", json_schema_extra=dsl("string"))
    init: AbsolutePath = Field(default="/sbin/init", description="First program of a container.",
                               json_schema_extra=dsl("string", "/sbin/init"))  # fmt: skip
    console_log: Flag = Field(default=True, description="Keep what the guest writes to its console.",
                              json_schema_extra=dsl(default=True))  # fmt: skip
    ssh_user: Line | None = Field(default=None, description="Login for the runtime property ssh_command.",
                                  json_schema_extra=dsl("string"))  # fmt: skip
    address_timeout_s: Positive = Field(default=300, description="Seconds to wait for an address.",
                                        json_schema_extra=dsl(default=300))  # fmt: skip
    shutdown_timeout_s: Count = Field(default=60, description="Seconds for the guest's shutdown, before it is forced.",
                                      json_schema_extra=dsl(default=60))  # fmt: skip

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> DomainBasics:
        for new, old in (("memory", "memory_size"), ("max_memory", "memory_maxsize")):
            if getattr(self, new) and getattr(self, old):
                raise missing(new, f"{new} and {old} say the same; give one of them")
        if self.max_memory and self.memory and self.max_memory < self.memory:
            raise missing("max_memory", "max_memory is less than memory")
        if self.max_vcpu and self.max_vcpu < self.vcpu:
            raise missing("max_vcpu", "max_vcpu is less than vcpu")
        if strict(info) and not self.has_memory:
            raise missing("memory", f"a domain of type {self.domain_type} needs memory, as in '512 MiB'")
        _distinct("networks", "mac", (interface.mac for interface in self.networks))
        _distinct("networks", "ip", (interface.ip for interface in self.networks))
        _distinct("disks", "dev", (disk.dev for disk in self.disks))
        return self

    @property
    def modern(self) -> bool:
        """True for virtio hardware; False keeps what guests of older blueprints see."""
        asked = self.image or self.memory or self.cloud_init
        return self.hardware == "modern" or (self.hardware == "auto" and asked is not None)

    @property
    def _wanted_kib(self) -> int | None:
        if self.memory:
            return units.to_kib(self.memory)
        return self.memory_size or (LXC_DEFAULT_KIB if self.domain_type == "lxc" else None)

    @property
    def has_memory(self) -> bool:
        """False only where a user's template brings its own, or the domain exists already."""
        return self._wanted_kib is not None

    @property
    def memory_kib(self) -> int:
        """Memory at start.

        Raises:
            InvalidSpec: none is set, which is right only with a template that brings its own.
        """
        if self._wanted_kib is None:
            raise InvalidSpec("size", f"domain {self.name}", "neither memory nor memory_size is set")
        return self._wanted_kib

    @property
    def max_memory_kib(self) -> int:
        """Maximum of memory: at least ``memory_kib``, because an update may have raised that."""
        explicit = units.to_kib(self.max_memory) if self.max_memory else self.memory_maxsize
        return max(explicit or (1 if self.modern else 2) * self.memory_kib, self.memory_kib)

    @property
    def wanted_cpu_mode(self) -> str | None:
        """``cpu_mode``, or that of ``domain_cpu`` where it names a mode without a model; None: choose one."""
        return self.cpu_mode or (self.domain_cpu if self.domain_cpu != "custom" else None)


def _distinct(where: str, key: str, values: Iterable[str | None]) -> None:
    seen: set[str] = set()
    for at, value in enumerate(values):
        if value is not None and value in seen:
            raise missing(f"{where}[{at}].{key}", f"{value} is there twice")
        seen.add(value or "")
