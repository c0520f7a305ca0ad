"""A domain's addresses, written to runtime properties in the contract's places."""

from __future__ import annotations

from typing import Any

from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.host import addresses
from cloudify_libvirt.core.host.addresses import IPV4, IPV6, Interface
from cloudify_libvirt.core.identity import normalise_mac
from cloudify_libvirt.request import Request


def link(request: Request) -> None:
    """Read the source domain's addresses now, for relationships that are established late."""
    uuid = request.record.get("uuid")
    domain = Domain.find_by_uuid(request.session, uuid) if uuid else None
    if domain is not None:
        write(request, addresses.look_up(domain))


def unlink(request: Request) -> None:
    """Forget the source's address."""
    request.record.assign(ip=None)


def write(request: Request, cards: list[Interface]) -> None:
    """Write what is known of the domain's cards."""
    first = addresses.first_address(cards) or addresses.first_address(cards, IPV6)
    if not first:
        return
    user = (request.record.get("params") or {}).get("ssh_user") or request.record.get("image_user")
    request.record.assign(
        ssh_command=f"ssh {user}@{first}" if user else None,
        ip=first,
        public_ip_address=first,
        ipv4_addresses=_all(cards, IPV4),
        ipv6_addresses=_all(cards, IPV6),
        networks=[
            {"network": card.network, "mac": card.mac, "dev": card.host_device, "addresses": card.addresses}
            for card in cards
        ],
        params=_with_addresses(dict(request.record.get("params") or {}), cards),
    )


def _all(cards: list[Interface], family: int) -> list[str]:
    return [entry["addr"] for card in cards for entry in card.addresses if entry["type"] == family]


def _with_addresses(params: dict[str, Any], cards: list[Interface]) -> dict[str, Any]:
    """Return params with dev, mac and addrs in ``networks``; cards that the list lacks are appended."""
    networks = [dict(entry) for entry in params.get("networks") or []]
    by_mac = {normalise_mac(str(entry["mac"])): entry for entry in networks if entry.get("mac")}
    for card in cards:
        found = {"dev": card.host_device, "mac": card.mac, "addrs": card.addresses}
        if card.mac in by_mac:
            by_mac[card.mac].update(found)
        else:
            networks.append(found)
    return {**params, "networks": networks}
