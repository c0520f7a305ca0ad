"""What a user may ask for of a domain's network interface."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from cloudify_libvirt.core.spec.base import (
    AbsolutePath,
    Count,
    Flag,
    InterfaceName,
    Ip,
    Ipv4,
    Line,
    Mac,
    Part,
    Positive,
    Size,
    line,
    missing,
    strict,
)
from cloudify_libvirt.core.spec.fields import PortNumber, option, shorthand
from cloudify_libvirt.core.spec.link import Bandwidth, VirtualPortField, VlanField
from cloudify_libvirt.core.spec.network_parts import pci_address

_SOURCES = ("network", "bridge", "user", "passt", "macvtap", "tap", "pci", "vhostuser", "vdpa")
_PLAIN_BRIDGE = (
    "a plain Linux bridge takes no VLAN from libvirt; make a bridge over a VLAN device of the host "
    "(ip link add link eth0 name eth0.42 type vlan id 42) and give that, or use an Open vSwitch bridge with "
    "virtualport: openvswitch"
)


def _variable(value: object) -> str:
    """Return the name of a filter's variable. Source: nwfilter_params.rng."""
    if not re.fullmatch("[a-zA-Z0-9_]+", line(value)):
        raise ValueError("a filter's variable has letters, digits and '_'")
    return line(value)


class FilterParameter(Part):
    """A variable of a network filter."""

    name: Annotated[str, BeforeValidator(_variable)] = Field(description="Name, as in IP.")
    value: Line = Field(description="Value, as in 10.0.0.5.")


class NetworkFilter(Part):
    """A filter of libvirt that the interface's packets pass."""

    name: Line = Field(description="Name, as in clean-traffic.")
    parameters: tuple[FilterParameter, ...] = Field(default=(), description="[{name, value}].")


class PortForward(Part):
    """A port of the host that leads into the guest, with passt."""

    protocol: Literal["tcp", "udp"] = Field(default="tcp", description="tcp or udp.")
    host_port: PortNumber = Field(description="Port of the host.")
    guest_port: PortNumber | None = option("Port of the guest; host_port when absent.")
    address: Ip | None = option("Address of the host; all when absent.")


class Interface(Part):
    """A network interface of a domain."""

    network: Line | None = Field(default=None, description="libvirt network.")
    bridge: InterfaceName | None = Field(default=None, description="Bridge of the host, instead of network.")
    user: Flag = Field(default=False, description="User-mode networking, instead of network.")
    dev: InterfaceName | None = Field(default=None, description="Name of the host's side; libvirt's choice if absent.")
    mac: Mac | None = Field(default=None, description="MAC address; derived when absent.")
    type: Line | None = Field(default=None, description="Model of the interface.")
    ip: Ipv4 | None = Field(default=None, description="Fixed IPv4 address, reserved in the network's DHCP.")
    mtu: Annotated[Positive, Field(ge=68, le=65535)] | None = Field(default=None, description="MTU in bytes.")
    model: Line | None = option("Model, as type; the word of newer blueprints.")
    passt: Flag = Field(default=False, description="User-mode networking by passt, instead of network.")
    forwards: tuple[PortForward, ...] = Field(default=(), description="Ports of the host that lead in, with passt.")
    macvtap: InterfaceName | None = option("Device of the host that the guest shares, instead of network.")
    macvtap_mode: Literal["vepa", "bridge", "private", "passthrough"] = Field(
        default="bridge", description="How guests on the same device see each other."
    )
    tap: Flag = Field(default=False, description="A tap device that someone else connects, instead of network.")
    pci: Annotated[str, BeforeValidator(pci_address)] | None = option(
        "PCI address of the host's network device that the guest gets, as in 0000:06:10.0."
    )
    vhostuser: AbsolutePath | None = option("UNIX socket of a vhost-user switch, instead of network.")
    vhostuser_mode: Literal["client", "server"] = Field(default="client", description="The guest's side of the socket.")
    vdpa: AbsolutePath | None = option("vDPA device of the host, as in /dev/vhost-vdpa-0.")
    portgroup: Line | None = option("Port group of the network.")
    vlan: VlanField | None = option("A tag, or {tags, trunk, native, native_mode}; Open vSwitch and SR-IOV only.")
    virtualport: VirtualPortField | None = option("openvswitch, or {type, ...}: the switch that it is on.")
    bandwidth: Bandwidth | None = option("{inbound, outbound} of {average_kb_s, peak_kb_s, burst_kib}.")
    filter: Annotated[NetworkFilter, shorthand("name")] | None = option(
        "Network filter: its name, or {name, parameters}."
    )
    link: Literal["up", "down"] | None = option("down: the cable is not plugged in.")
    boot_order: Positive | None = option("Place among the devices to start from; 1 is the first.")
    driver: Literal["vhost", "qemu"] | None = option("Who moves packets, with virtio.")
    queues: Positive | None = option("Queues, with virtio.")
    rx_queue_size: Positive | None = option("Packets in a queue to the guest, with virtio.")
    tx_queue_size: Positive | None = option("Packets in a queue from the guest, with virtio and vhostuser.")
    rom: Flag | None = option("false: no boot ROM, which a guest that never boots from the network does not need.")
    coalesce_frames: Positive | None = option("Packets that one interrupt may tell of.")
    send_buffer: Size | None = option("What a slow receiver may hold up.")
    isolated_port: Flag | None = option("It sees no other isolated interface of the bridge.")
    trust_guest_rx_filters: Flag | None = option("The guest may change its MAC and filters, with macvtap.")
    acpi_index: Count | None = option("Number that names it in the guest: eno1 for 1.")
    addrs: Any = Field(default=None, description="Addresses found at start; read back and ignored.")

    @model_validator(mode="after")
    def _one_source(self, info: ValidationInfo) -> Interface:
        found = [name for name in _SOURCES if getattr(self, name)]
        if len(found) > 1:
            raise missing("network", f"{' and '.join(found)} exclude each other; give one of them")
        if self.ip and not self.network and found:
            raise missing("ip", "a fixed address needs a libvirt network, which reserves it")
        if strict(info) and not found and not self.discovered:
            raise missing("network", "an interface needs network, bridge, or user: true")
        if strict(info):
            self._check_options()
        return self

    @property
    def discovered(self) -> bool:
        """True for an entry that ``start`` added from the running guest: it asks for nothing."""
        return self.addrs is not None and not any(getattr(self, name) for name in _SOURCES)

    def _check_options(self) -> None:
        if self.vlan and self.bridge and not self.virtualport:
            raise missing("vlan", _PLAIN_BRIDGE)
        if self.vlan and (self.user or self.passt or self.tap or self.vhostuser):
            raise missing("vlan", "VLANs are of Open vSwitch bridges and SR-IOV devices")
        if self.forwards and not self.passt:
            raise missing("forwards", "ports are forwarded by passt; set passt: true instead of the other source")
        if self.portgroup and not self.network:
            raise missing("portgroup", "a port group is a network's; give network")
        if self.type and self.model and self.type != self.model:
            raise missing("model", "model and type say the same; give one of them")
