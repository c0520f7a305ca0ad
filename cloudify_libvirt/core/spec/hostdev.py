"""Devices of the host that a guest may be given."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from cloudify_libvirt.core.spec.base import AbsolutePath, Count, Flag, Line, Part, Positive, Uuid, line
from cloudify_libvirt.core.spec.fields import option


def _hexadecimal(width: int, most: int) -> BeforeValidator:
    def read(value: object) -> str:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
            return f"0x{value:0{width}x}"
        digits = line(value).lower().removeprefix("0x")
        if not re.fullmatch("[0-9a-f]{1,4}", digits) or int(digits, 16) > most:
            raise ValueError(f"must be hexadecimal, 0x0 to 0x{most:x}")
        return f"0x{digits.zfill(width)}"

    return BeforeValidator(read)


class SerialDevice(Part):
    """A serial line of the host."""

    type: Literal["serial"]
    source_path: AbsolutePath = Field(description="Device of the host, as in /dev/ttyS0.")
    target_port: Count = Field(default=0, description="Port in the guest.")


class UsbDevice(Part):
    """A USB device of the host."""

    type: Literal["usb"]
    vendor_id: Annotated[str, _hexadecimal(4, 0xFFFF)] = Field(description="Vendor, as in 0x1234.")
    product_id: Annotated[str, _hexadecimal(4, 0xFFFF)] = Field(description="Product, as in 0xbeef.")


class PciDevice(Part):
    """A PCI device of the host."""

    type: Literal["pci"]
    bus: Annotated[str, _hexadecimal(2, 0xFF)] = Field(description="Bus, as in 0x06.")
    slot: Annotated[str, _hexadecimal(2, 0x1F)] = Field(description="Slot, as in 0x02.")
    function: Annotated[str, _hexadecimal(1, 7)] = Field(description="Function, as in 0x0.")
    domain: Annotated[str, _hexadecimal(4, 0xFFFF)] = Field(default="0x0000", description="PCI domain.")
    managed: Flag = Field(default=True, description="Take it from the host's driver, and give it back.")
    rom: Flag | None = option("false: hide its ROM.")
    rom_file: AbsolutePath | None = option("File on the host with its ROM.")
    boot_order: Positive | None = option("Place among the devices to start from; 1 is the first.")


class TpmDevice(Part):
    """A TPM of the host."""

    type: Literal["tpm"]
    path: AbsolutePath = Field(description="Device of the host, as in /dev/tpm0.")


class MdevDevice(Part):
    """A mediated device of the host, such as a virtual graphics card."""

    type: Literal["mdev"]
    uuid: Uuid = Field(description="UUID of the mediated device.")
    model: Literal["vfio-pci", "vfio-ccw", "vfio-ap"] = Field(default="vfio-pci", description="Kind.")
    display: Flag | None = option("It draws the guest's screen.")
    ramfb: Flag | None = option("It draws while the guest starts, too.")


class ScsiDevice(Part):
    """A SCSI device of the host."""

    type: Literal["scsi"]
    adapter: Line = Field(description="Adapter, as in scsi_host0.")
    bus: Count = Field(default=0, description="Bus.")
    target: Count = Field(default=0, description="Target.")
    unit: Count = Field(default=0, description="Unit.")
    readonly: Flag = Field(default=False, description="The guest cannot write.")
    shareable: Flag = Field(default=False, description="Several guests may have it.")


Device = Annotated[
    SerialDevice | UsbDevice | PciDevice | TpmDevice | MdevDevice | ScsiDevice, Field(discriminator="type")
]
