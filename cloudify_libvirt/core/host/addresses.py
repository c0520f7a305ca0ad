"""A guest's addresses: from DHCP leases, from the agent, from the host's ARP table, merged by MAC."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.host import hostnet
from cloudify_libvirt.core.identity import normalise_mac
from cloudify_libvirt.core.parse import DomainFacts

IPV4, IPV6 = 0, 1


@dataclass
class Interface:
    """One network card and what is known of it now."""

    mac: str
    network: str
    host_device: str
    addresses: list[dict[str, Any]] = field(default_factory=list)

    @property
    def has_ipv4(self) -> bool:
        """Tell whether an IPv4 address is known."""
        return any(entry["type"] == IPV4 for entry in self.addresses)


def usable(address: str) -> bool:
    """Tell whether others can reach the address: no loopback, link-local, multicast or unspecified one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified)


def merge(cards: list[Interface], reported: dict[str, Any]) -> None:
    """Add what one source reported to the cards with the same MAC; each address once, in order."""
    by_mac = {card.mac: card for card in cards}
    for entry in reported.values():
        card = by_mac.get(normalise_mac(entry.get("hwaddr") or ""))
        if card is None:
            continue
        known = {address["addr"] for address in card.addresses}
        for address in entry.get("addrs") or []:
            if address["addr"] not in known and usable(address["addr"]):
                known.add(address["addr"])
                card.addresses.append(
                    {"addr": address["addr"], "prefix": int(address["prefix"]), "type": int(address["type"])}
                )


def cards_of(facts: DomainFacts) -> list[Interface]:
    """Return the cards in the order of the definition, without addresses."""
    return [Interface(i.mac, i.network or i.bridge, i.host_device) for i in facts.interfaces]


def look_up(domain: Domain) -> list[Interface]:
    """Return all cards with the addresses known now."""
    facts = domain.facts()
    cards = cards_of(facts)
    merge(cards, domain.reported_addresses("LEASE"))
    if facts.agent_connected:
        merge(cards, domain.reported_addresses("AGENT"))
    if not all(card.has_ipv4 for card in cards):
        merge(cards, heard_of(domain))
    return cards


def heard_of(domain: Domain) -> dict[str, Any]:
    """Return what the host's ARP table says, in the shape of ``Domain.reported_addresses``.

    libvirt 9.0 stumbles over the end of the table ("wrong nlmsg len") where the kernel, from 6.9 on, sends it with
    the entries. Where the host is this machine, its table is read without libvirt then.
    """
    return domain.reported_addresses("ARP") or neighbours(domain)


def neighbours(domain: Domain) -> dict[str, Any]:
    """Return what the ARP table of this machine says, in the same shape; {} where the host is another one."""
    if not domain.session.shares_files:
        return {}
    return {
        f"{device} {address}": {"hwaddr": mac, "addrs": [{"addr": address, "prefix": 0, "type": IPV4}]}
        for address, mac, device in hostnet.neighbours()
    }


def first_address(cards: Iterable[Interface], family: int = IPV4) -> str:
    """Return the first address of that family, or ""."""
    return next((a["addr"] for card in cards for a in card.addresses if a["type"] == family), "")
