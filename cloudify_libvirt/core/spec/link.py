"""What is asked of a network's or an interface's ports: rates, VLANs, the switch that they are on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cloudify_libvirt.core import units
from cloudify_libvirt.core.spec.base import Flag, Part, Positive, Text, Uuid, missing

# Source: IEEE 802.1Q; libvirt's schema takes 4095 too, which is reserved
VlanId = Annotated[int, BeforeValidator(units.read_int), Field(ge=0, le=4094)]

_KB_S: dict[str, Any] = {"unit": "kB/s"}
_PARAMETERS = {
    "openvswitch": {"interface_id", "profile_id"},
    "midonet": {"interface_id"},
    "802.1Qbg": {"manager_id", "type_id", "type_id_version", "instance_id"},
    "802.1Qbh": {"profile_id"},
}  # Source: networkcommon.rng, virtualPortProfile


class Rate(Part):
    """A limit of what flows in one direction."""

    average_kb_s: Positive = Field(description="Rate that holds in the long run.", json_schema_extra=_KB_S)
    peak_kb_s: Positive | None = Field(
        default=None, description="Highest rate, while the burst lasts.", json_schema_extra=_KB_S
    )
    burst_kib: Positive | None = Field(default=None, description="How much may be sent at the peak rate.")

    @model_validator(mode="after")
    def _peak_is_higher(self) -> Rate:
        if self.peak_kb_s is not None and self.peak_kb_s < self.average_kb_s:
            raise missing("peak_kb_s", "is below average_kb_s")
        return self


class Bandwidth(Part):
    """Limits of what flows, seen from the guests."""

    inbound: Rate | None = Field(default=None, description="To the guests.")
    outbound: Rate | None = Field(default=None, description="From the guests.")


class Vlan(Part):
    """VLANs of a port, on an Open vSwitch bridge or an SR-IOV device."""

    tags: tuple[VlanId, ...] = Field(min_length=1, description="VLAN ids.")
    trunk: Flag = Field(default=False, description="Frames are tagged; so with several tags.")
    native: VlanId | None = Field(default=None, description="VLAN of frames without a tag, of a trunk.")
    native_mode: Literal["untagged", "tagged"] = Field(
        default="untagged", description="Whether frames of the native VLAN leave with a tag."
    )

    @model_validator(mode="after")
    def _native_is_a_tag(self) -> Vlan:
        if self.native is not None and self.native not in self.tags:
            raise missing("native", "is not among tags")
        return self

    @property
    def is_trunk(self) -> bool:
        """True where the port carries tagged frames. Source: virNetDevVlanParse of libvirt."""
        return self.trunk or len(self.tags) > 1 or self.native is not None


class VirtualPort(Part):
    """The kind of switch that a port is on, where it is no Linux bridge."""

    type: Literal["openvswitch", "midonet", "802.1Qbg", "802.1Qbh"] = Field(description="Kind of switch.")
    interface_id: Uuid | None = Field(default=None, description="Id of the port; libvirt's choice when absent.")
    profile_id: Annotated[Text, Field(max_length=39)] | None = Field(default=None, description="Port profile.")
    manager_id: Annotated[int, BeforeValidator(units.read_int), Field(ge=0, le=0xFF)] | None = Field(
        default=None, description="VSI manager, of 802.1Qbg."
    )
    type_id: Annotated[int, BeforeValidator(units.read_int), Field(ge=0, le=0xFFFFFF)] | None = Field(
        default=None, description="VSI type, of 802.1Qbg."
    )
    type_id_version: Annotated[int, BeforeValidator(units.read_int), Field(ge=0, le=0xFF)] | None = Field(
        default=None, description="Version of the VSI type, of 802.1Qbg."
    )
    instance_id: Uuid | None = Field(default=None, description="VSI instance, of 802.1Qbg.")

    @model_validator(mode="after")
    def _parameters_of_the_type(self) -> VirtualPort:
        known = _PARAMETERS[self.type]
        for name in type(self).model_fields:
            if name not in {"type", "extra"} | known and getattr(self, name) is not None:
                raise missing(name, f"type {self.type} has only {', '.join(sorted(known))}")
        if self.type == "midonet" and self.interface_id is None:
            raise missing("interface_id", "a midonet port needs its id")
        return self


def _vlan(value: object) -> object:
    return {"tags": [value]} if isinstance(value, int | str) else value


def _port(value: object) -> object:
    return value if isinstance(value, Mapping) else {"type": value}


VlanField = Annotated[Vlan, BeforeValidator(_vlan)]
VirtualPortField = Annotated[VirtualPort, BeforeValidator(_port)]
