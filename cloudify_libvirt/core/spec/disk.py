"""What a user may ask for of a domain's disk."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from cloudify_libvirt.core.host import files as host_files
from cloudify_libvirt.core.spec.base import AbsolutePath, Flag, Line, Name, Part, Positive, Size, Uuid, missing, strict
from cloudify_libvirt.core.spec.fields import option
from cloudify_libvirt.core.spec.network_parts import pci_address

# Source: domaincommon.rng, diskTarget
DiskBus = Literal["ide", "fdc", "scsi", "virtio", "xen", "usb", "uml", "sata", "sd"]
# Source: storagecommon.rng, storageFormat
DiskFormat = Literal[
    "raw", "dir", "bochs", "cloop", "dmg", "iso", "vpc", "vdi", "fat", "vhd", "ploop", "luks", "cow", "qcow", "qcow2",
    "qed", "vmdk",
]  # fmt: skip


# Source: domaincommon.rng, diskSerial; basictypes.rng, wwn
WorldWideName = Annotated[Line, Field(pattern="^(0x)?[0-9a-fA-F]{16}$")]
DiskSerial = Annotated[Line, Field(pattern=r"^[A-Za-z0-9_.+ -]+$")]


class IoTune(Part):
    """Limits of one disk. Sizes have units and count per second; ``*_max`` may be reached for ``*_max_s`` seconds."""

    total_bytes: Size | None = option("Read and written, as in '10 MiB'.")
    read_bytes: Size | None = option("Read.")
    write_bytes: Size | None = option("Written.")
    total_iops: Positive | None = option("Requests.")
    read_iops: Positive | None = option("Requests to read.")
    write_iops: Positive | None = option("Requests to write.")
    total_bytes_max: Size | None = option("Read and written in a burst.")
    read_bytes_max: Size | None = option("Read in a burst.")
    write_bytes_max: Size | None = option("Written in a burst.")
    total_iops_max: Positive | None = option("Requests in a burst.")
    read_iops_max: Positive | None = option("Requests to read in a burst.")
    write_iops_max: Positive | None = option("Requests to write in a burst.")
    total_bytes_max_s: Positive | None = option("Seconds of the burst.")
    read_bytes_max_s: Positive | None = option("Seconds of the burst.")
    write_bytes_max_s: Positive | None = option("Seconds of the burst.")
    total_iops_max_s: Positive | None = option("Seconds of the burst.")
    read_iops_max_s: Positive | None = option("Seconds of the burst.")
    write_iops_max_s: Positive | None = option("Seconds of the burst.")
    size_iops: Size | None = option("Larger requests count as several.")
    group: Line | None = option("Disks of the same group share their limits.")

    @model_validator(mode="after")
    def _whole_or_parts(self) -> IoTune:
        for what in ("bytes", "iops"):
            for end in ("", "_max", "_max_s"):
                total, parts = f"total_{what}{end}", (f"read_{what}{end}", f"write_{what}{end}")
                if getattr(self, total) and any(getattr(self, part) for part in parts):
                    raise missing(total, f"{total} excludes {parts[0]} and {parts[1]}")
        return self


class Nvme(Part):
    """A namespace of an NVMe device of the host, driven by QEMU itself."""

    address: Annotated[str, BeforeValidator(pci_address)] = Field(description="PCI address, as in 0000:01:00.0.")
    namespace: Positive = Field(default=1, description="Number of the namespace.")
    managed: Flag = Field(default=True, description="Take it from the host's driver, and give it back.")


class Disk(Part):
    """A disk of a domain; for a container, a directory that it mounts."""

    file: AbsolutePath | None = Field(default=None, description="Path on the host.")
    pool: Name | None = Field(default=None, description="Pool of the volume; the domain's pool when absent.")
    volume: Name | None = Field(default=None, description="Volume, instead of file.")
    bus: DiskBus | None = Field(default=None, description="Bus; by the domain's hardware when absent.")
    dev: Line | None = Field(default=None, description="Target, as in vda; the next free one when absent.")
    type: DiskFormat | None = Field(default=None, description="Format of the file; that of the volume, else raw.")
    readonly: Flag = Field(default=False, description="The guest cannot write.")
    device: Literal["disk", "cdrom", "floppy", "lun"] = Field(
        default="disk", description="disk, cdrom, floppy, or lun (a block device that takes SCSI commands)."
    )
    block: AbsolutePath | None = option("Block device of the host, instead of file.")
    nvme: Nvme | None = option("{address, namespace, managed} of the host, instead of file.")
    cache: Literal["default", "none", "writethrough", "writeback", "directsync", "unsafe"] | None = option(
        "What the host keeps in its memory."
    )
    io: Literal["native", "threads", "io_uring"] | None = option("How the host does it; native needs cache: none.")
    discard: Literal["unmap", "ignore"] | None = option("unmap: what the guest gives up is given back.")
    detect_zeroes: Literal["off", "on", "unmap"] | None = option("Store written zeros as holes.")
    copy_on_read: Flag | None = option("Keep what is read from a base image.")
    error_policy: Literal["stop", "report", "ignore", "enospace"] | None = option("What a failed write does.")
    read_error_policy: Literal["stop", "report", "ignore"] | None = option("What a failed read does.")
    queues: Positive | None = option("Queues, of virtio.")
    queue_size: Positive | None = option("Requests in one queue, of virtio.")
    iothread: Positive | None = option("I/O thread that serves it, of virtio; see iothreads.")
    shareable: Flag = Field(default=False, description="Several guests write at once; raw only.")
    transient: Flag = Field(default=False, description="What the guest writes is forgotten when it ends.")
    serial: DiskSerial | None = option("Serial number: /dev/disk/by-id in the guest.")
    wwn: WorldWideName | None = option("World wide name, 16 hexadecimal digits.")
    vendor: Annotated[Line, Field(max_length=8)] | None = option("Vendor, of scsi.")
    product: Annotated[Line, Field(max_length=16)] | None = option("Product, of scsi.")
    rotation_rpm: Annotated[int, Field(ge=1, le=65534)] | None = option("Speed; 1 is an SSD. Of scsi, sata and ide.")
    removable: Flag | None = option("Of usb and scsi: the guest sees a stick.")
    logical_block_bytes: Positive | None = option("Size of a logical block.")
    physical_block_bytes: Positive | None = option("Size of a physical block.")
    boot_order: Positive | None = option("Place among the devices to start from; 1 is the first.")
    startup_policy: Literal["mandatory", "requisite", "optional"] | None = option(
        "What an absent medium does; of cdrom and floppy."
    )
    tray: Literal["open", "closed"] | None = option("Of cdrom and floppy.")
    iotune: IoTune | None = option("Limits of bytes and requests per second.")
    encryption_secret: Uuid | None = Field(
        default=None, description="Secret of libvirt with the key of a LUKS disk; that of the volume when absent."
    )

    @model_validator(mode="after")
    def _one_source(self, info: ValidationInfo) -> Disk:
        if self.file and (self.volume or self.pool):
            raise missing("file", "file and volume are two sources; give one of them")
        if self.file and (reason := host_files.closed(self.file)):
            raise missing("file", reason)
        if sum(map(bool, (self.file, self.volume, self.block, self.nvme))) > 1:
            raise missing("file", "file, volume, block and nvme are several sources; give one of them")
        has_source = self.file or self.volume or self.block or self.nvme or self.device in ("cdrom", "floppy")
        if strict(info) and not has_source:
            raise missing("file", "a disk needs file (a path on the host), or pool and volume")
        if strict(info):
            self._check_driver()
        return self

    def _check_driver(self) -> None:
        if self.io == "native" and self.cache not in ("none", "directsync"):
            raise missing("io", "io: native passes the host's cache by; set cache: none or directsync")
        if self.device == "lun" and not self.block:
            raise missing("block", "device: lun needs a block device")
        if self.bus not in (None, "virtio") and (self.iothread or self.queues):
            raise missing("bus", f"iothread and queues are of virtio; a disk on {self.bus} has none")
        if self.shareable and self.type not in (None, "raw"):
            raise missing("shareable", f"several guests cannot write to one {self.type} file; use a raw one")
        if self.device not in ("cdrom", "floppy") and (self.tray or self.startup_policy):
            raise missing("device", "tray and startup_policy are of cdrom and floppy")
