"""Networks: collisions with the host, DHCP host entries, life cycle."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any

from lxml import etree

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import Conflict, CoreError, InvalidSpec, Missing, libvirt_call, quiet, unless_gone
from cloudify_libvirt.core.host import hostnet, networks
from cloudify_libvirt.core.resource import Resource
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.update.network_entries import ADD, DELETE, MODIFY, Entry

Subnet = hostnet.Subnet

# Where free subnets for `cidr: auto` are taken from; RFC 1918 space that default set-ups rarely use.
AUTO_RANGE = ipaddress.IPv4Network("10.64.0.0/12")
# Local addresses: 0xfd, 40 bits of one's own choice, 16 bits of subnet. Source: https://www.rfc-editor.org/rfc/rfc4193
_ULA_FIRST_BYTE, _ULA_CHOICES = 0xFD << 120, 2**40
_MOST_TRIES = 100

_COMMANDS = {ADD: "ADD_LAST", DELETE: "DELETE", MODIFY: "MODIFY"}

_START_REMEDY = "Is its bridge or subnet used by something else on the host?"
# libvirt has one code for all of these; the words are those of its helpers: tc, firewalld.
_START_REMEDIES = {
    "tc qdisc": "The host's kernel cannot limit rates (sch_htb, sch_sfq, sch_ingress): leave out params.bandwidth.",
    "tc filter": "The host's kernel cannot limit rates (act_police, cls_u32): leave out params.bandwidth.",
    "accept_ra": "On the host: sysctl -w net.ipv6.conf.INTERFACE.accept_ra=2, or give this network no IPv6 addresses.",
    "firewalld is not active": "Start firewalld on the host, or leave out params.zone.",
    "vlan_filtering": "The host's kernel has no bridges that filter VLANs: leave out params.mac_table: libvirt.",
}


class Network(Resource):
    """A virtual network."""

    noun = "network"
    by_name = "networkLookupByName"
    by_uuid = "networkLookupByUUIDString"
    define_call = "networkDefineXML"

    @classmethod
    def _define(cls, session: Session, xml: str) -> Any:
        handle = session.connection.networkDefineXML(xml)
        networks.forget(session, str(handle.UUIDString()))
        return handle

    def facts(self) -> parse.NetworkFacts:
        """Read the definition: the running one when it runs."""
        return parse.network(self.xml())

    def start(self) -> None:
        """Activate the network unless it is active."""
        if self.active:
            return
        try:
            with libvirt_call("start", self.target, _START_REMEDY):
                self.handle.create()
        except CoreError as error:
            # Another process may have been quicker.
            if self.active:
                return
            for words, remedy in _START_REMEDIES.items():
                if words in error.reason:
                    raise CoreError("start", self.target, error.reason, remedy) from error
            raise

    def stop(self) -> None:
        """Deactivate the network; guests on it lose their link."""
        if self.active:
            with libvirt_call("stop", self.target):
                self.handle.destroy()

    def undefine(self) -> None:
        """Remove the definition."""
        if unless_gone(self.handle.isPersistent, "read", self.target, False):
            with libvirt_call("undefine", self.target):
                self.handle.undefine()

    def users(self) -> list[str]:
        """Return the names of the running domains that have a card on this network."""
        facts = self.facts()
        # A bridge that the host brought has users of its own.
        bridge = "" if facts.forward == "bridge" else facts.bridge
        return [
            name
            for name, cards in self._running()
            if any(card.network == self.name or (bridge and card.bridge == bridge) for card in cards)
        ]

    def _running(self) -> Iterator[tuple[str, tuple[parse.InterfaceFacts, ...]]]:
        """Yield name and cards of every running domain of the host."""
        for domain in self.session.all_domains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            xml = unless_gone(domain.XMLDesc, "read", f"domain '{domain.name()}'", "")
            if xml:
                yield domain.name(), parse.domain(xml).interfaces

    def unplugged(self, cards: Iterable[parse.InterfaceFacts]) -> list[str]:
        """Return the host's ends of running guests' cards that are no port of the bridge, as after it was made anew.

        Only where the host's interfaces can be seen.
        """
        bridge = self.facts().bridge if self.session.shares_files else ""
        ends = [card.host_device for card in cards if card.network == self.name and card.host_device]
        return [end for end in ends if bridge and hostnet.kind(end) and hostnet.bridge_of(end) != bridge]

    def plug(self) -> list[str]:
        """Make all such cards ports of the bridge again; return those that could not be.

        libvirt takes the cards of running guests for plugged as long as the bridge's name is the same.
        """
        bridge, cards = self.facts().bridge, [card for _name, cards in self._running() for card in cards]
        return [end for end in self.unplugged(cards) if not hostnet.join_bridge(end, bridge)]

    def leases(self, mac: str) -> list[dict[str, Any]]:
        """Return the leases of one card: {ipaddr, prefix, mac, expirytime (seconds since 1970), ...}."""
        return list(quiet(lambda: self.handle.DHCPLeases(mac, 0), None) or [])

    def reserved(self, mac: str, ip: str) -> bool:
        """Tell whether the card with that MAC has this fixed address."""
        return any((entry.mac, entry.ip) == (mac, ip) for entry in self.facts().hosts)

    def reserve(self, mac: str, ip: str, name: str) -> None:
        """Give the card with that MAC a fixed address, now and after restarts.

        Raises:
            InvalidSpec: the address is not of a subnet with DHCP here.
            Conflict: the address belongs to another MAC.
        """
        facts = self.facts()
        address = ipaddress.ip_address(ip)
        if not facts.dhcp or not any(address in subnet for subnet in facts.subnets):
            known = ", ".join(map(str, facts.subnets)) or "none"
            raise InvalidSpec(
                "reserve",
                f"address {ip} on {self.target}",
                f"it is in no subnet with DHCP of this network (subnets: {known})",
                "Choose an address of the network's subnet.",
            )
        for entry in facts.hosts:
            if entry.ip == ip and entry.mac != mac:
                raise Conflict(
                    "reserve",
                    f"address {ip} on {self.target}",
                    f"it is reserved for {entry.mac} ({entry.name or 'no name'})",
                    "Choose another ip for this interface.",
                )
        if not any(entry.mac == mac and entry.ip == ip for entry in facts.hosts):
            self._forget(mac, facts.hosts)
            self._update(libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, mac, ip, name)

    def release(self, mac: str, ip: str) -> None:
        """Drop the fixed address; fine when it is not there."""
        self._forget(mac, [entry for entry in self.facts().hosts if entry.ip == ip])

    def _forget(self, mac: str, entries: Iterable[parse.HostEntry]) -> None:
        for entry in entries:
            if entry.mac == mac:
                self._update(libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, entry.mac, entry.ip, entry.name)

    def change(self, entry: Entry) -> None:
        """Change one entry of the lists of the active network; the definition stays."""
        command = getattr(libvirt, f"VIR_NETWORK_UPDATE_COMMAND_{_COMMANDS[entry.command]}")
        section = getattr(libvirt, f"VIR_NETWORK_SECTION_{entry.section}")
        with libvirt_call(f"{entry.command} {entry.xml} of", self.target):
            self.handle.update(command, section, entry.place, entry.xml, libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE)

    def _update(self, command: int, mac: str, ip: str, name: str) -> None:
        element = etree.Element("host", {"mac": mac, "ip": ip})
        if name:
            element.set("name", name)
        flags = libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG if self.persistent else 0
        if self.active:
            flags |= libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
        with libvirt_call(f"change the reservation of {ip} on", self.target):
            self.handle.update(
                command, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST, -1, etree.tostring(element).decode(), flags
            )


def others(session: Session, uuid: str) -> Iterator[tuple[str, parse.NetworkFacts]]:
    """Yield name and facts of every network of the host but the one with that UUID."""
    for other, named in networks.of_host(session).items():
        if other != uuid:
            yield named


def taken_bridges(session: Session, uuid: str) -> dict[str, str]:
    """Return bridge names in use, each with who uses it, in words."""
    taken = {facts.bridge: f"network '{name}'" for name, facts in others(session, uuid) if facts.bridge}
    if session.is_local:
        for interface in hostnet.interfaces():
            taken.setdefault(interface, f"the host's interface {interface}")
    return taken


def taken_subnets(session: Session, uuid: str) -> list[tuple[Subnet, str]]:
    """Return subnets in use, each with who uses it, in words; the host's own only where it is this machine."""
    taken: list[tuple[Subnet, str]] = []
    for name, facts in others(session, uuid):
        taken += [(subnet, f"network '{name}'") for subnet in facts.subnets]
        taken += [(subnet, f"a route of network '{name}'") for subnet in facts.routes]
    return [*taken, *hostnet.used()] if session.is_local else taken


def check_bridge(session: Session, uuid: str, bridge: str, label: str) -> None:
    """Raise ``Conflict`` when somebody else has that bridge name."""
    user = taken_bridges(session, uuid).get(bridge)
    if user:
        raise Conflict(
            "define",
            label,
            f"bridge {bridge} is used by {user}",
            "Choose another params.dev, or leave it out to get a free one.",
        )


def check_subnets(session: Session, uuid: str, wanted: Iterable[Subnet], label: str, own: str = "") -> None:
    """Raise ``Conflict`` when a wanted subnet overlaps with one that the host or a network has.

    ``own`` names a bridge whose subnets do not count.
    """
    looked_for = list(wanted)
    taken = taken_subnets(session, uuid) if looked_for else []
    for subnet in looked_for:
        for other, user in taken:
            counts = not (own and user.endswith(f" {own}"))
            if counts and subnet.version == other.version and subnet.overlaps(other):
                raise Conflict(
                    "define",
                    label,
                    f"subnet {subnet} overlaps with {other} of {user}",
                    "Choose another address or cidr, or cidr: auto to get a free one.",
                )


def check_routes(session: Session, uuid: str, wanted: Iterable[Subnet], label: str) -> None:
    """Raise ``Conflict`` when somebody else leads to a wanted destination; larger and smaller ones may stand."""
    looked_for = list(wanted)
    taken = dict(reversed(taken_subnets(session, uuid))) if looked_for else {}
    for destination in looked_for:
        if destination in taken:
            remedy = "Remove it from params.routes, or remove the other one."
            raise Conflict("define", label, f"a route to {destination} is there: {taken[destination]}", remedy)


def check_host_bridge(session: Session, bridge: str, *, openvswitch: bool, label: str) -> None:
    """Raise when the host has no bridge of that name and kind; only for hypervisors on this machine.

    Raises:
        Missing: there is no such interface.
        InvalidSpec: it is another kind of interface.
    """
    kind = hostnet.kind(bridge) if session.is_local else None
    if kind == "":
        remedy = "Make it on the host, or leave out mode: bridge to have a bridge made."
        raise Missing("use", f"bridge {bridge} for {label}", "the host has no such interface", remedy)
    if kind == "other" and not openvswitch:
        remedy = "For an Open vSwitch bridge add virtualport: openvswitch; for an interface see forwards[].interfaces."
        raise InvalidSpec("use", f"bridge {bridge} for {label}", "it is not a Linux bridge", remedy)
    if kind == "bridge" and openvswitch:
        remedy = "Remove virtualport, or name a bridge of Open vSwitch."
        raise InvalidSpec(
            "use", f"bridge {bridge} for {label}", "it is a Linux bridge, not one of Open vSwitch", remedy
        )


def check_devices(session: Session, devices: Iterable[str], label: str) -> None:
    """Raise ``Missing`` when the host lacks an interface; only for hypervisors on this machine."""
    for device in devices if session.is_local else ():
        if not hostnet.kind(device):
            remedy = f"It has: {', '.join(hostnet.interfaces())}."
            raise Missing("use", f"interface {device} for {label}", "the host has no such interface", remedy)


def free_subnet(session: Session, uuid: str, preferred: int, label: str) -> str:
    """Return a free /24; ``preferred`` decides where the search starts, so that it comes out the same."""
    taken = [other for other, _user in taken_subnets(session, uuid) if isinstance(other, ipaddress.IPv4Network)]
    count, first = AUTO_RANGE.num_addresses // 256, int(AUTO_RANGE.network_address)
    for step in range(count):
        candidate = ipaddress.IPv4Network((first + (preferred + step) % count * 256, 24))
        if not any(candidate.overlaps(other) for other in taken):
            return str(candidate)
    raise CoreError("choose a subnet for", label, f"no /24 of {AUTO_RANGE} is free", "Give params.cidr.")


def free_subnet6(session: Session, uuid: str, preferred: int, label: str) -> str:
    """Return a free /64 of the local range; ``preferred`` decides, so that it comes out the same."""
    taken = [other for other, _user in taken_subnets(session, uuid) if isinstance(other, ipaddress.IPv6Network)]
    for step in range(_MOST_TRIES):
        choice = (preferred + step) % _ULA_CHOICES
        candidate = ipaddress.IPv6Network((_ULA_FIRST_BYTE | choice << 80, 64))
        if not any(candidate.overlaps(other) for other in taken):
            return str(candidate)
    raise CoreError("choose an IPv6 subnet for", label, "the derived ones are taken", "Give params.cidr6.")
