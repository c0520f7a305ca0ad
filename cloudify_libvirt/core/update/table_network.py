"""How a change of each field of a network is carried out. Pure.

Sources: https://libvirt.org/formatnetwork.html and virNetworkUpdate, whose sections are all that libvirt changes of
an active network; a new definition of one counts from its next start. A restart of a network takes its bridge away:
libvirt does not plug the cards of running guests in again, we do.
"""

from __future__ import annotations

from cloudify_libvirt.core.update.rows import How, Row

_CALLS = "https://libvirt.org/html/libvirt-libvirt-network.html#"
_FORMAT = "https://libvirt.org/formatnetwork.html#"
_UPDATE = f"{_CALLS}virNetworkUpdateSection"


def _live(field: str, note: str = "", source: str = _UPDATE) -> Row:
    return Row("network", field, How.LIVE, source=source, note=note)


def _restart(field: str, section: str, note: str = "") -> Row:
    return Row("network", field, How.RESTART, source=f"{_FORMAT}{section}", note=note)


_NEW_CARDS = "guests' cards take it when they are plugged in again"

# The first row that answers counts.
ROWS: tuple[Row, ...] = (
    _live("autostart", source=f"{_CALLS}virNetworkSetAutostart"),
    _live("state", "started, and running guests plugged in again", f"{_CALLS}virNetworkCreate"),
    _live("existence", "defined again, as heal does", f"{_CALLS}virNetworkDefineXML"),
    _live("cards", "running guests plugged in again, where a restart was interrupted", f"{_FORMAT}elementsConnect"),
    _live("ips[*].hosts[*]*", "a guest has it with its next lease"),
    _live("ips[*].ranges[*]*", "leases stay; libvirt starts dnsmasq anew"),
    _live("ips[*].dhcp", "on or off; libvirt starts dnsmasq anew"),
    _live("hosts[*]*", "names of the DNS server"),
    _live("dns.txt*", "libvirt starts dnsmasq anew"),
    _live("dns.srv*", "libvirt starts dnsmasq anew"),
    _live("portgroups[*]*", _NEW_CARDS),
    _live("forwards[0].interfaces[*]", "for cards that are plugged in from now on"),
    Row("network", "name", How.REPLACE, How.REPLACE, f"{_CALLS}virNetworkDefineXML", "libvirt keeps name and UUID"),
    _restart("dnsmasq[*]", "elementsNamespaces"),
    _restart("dns*", "elementsAddress", "forwarders, and whether there is a DNS server"),
    _restart("ips[*]*", "elementsAddress", "addresses, DHCP on or off, boot by network"),
    _restart("routes[*]*", "elementsStaticroute"),
    _restart("mode", "elementsConnect"),
    _restart("forward*", "elementsConnect"),
    _restart("dev", "elementsConnect", "the bridge's name"),
    _restart("stp", "elementsConnect"),
    _restart("delay_s", "elementsConnect"),
    _restart("bridge*", "elementsConnect", "zone, table of MAC addresses"),
    _restart("domain*", "elementsConnect"),
    _restart("mtu*", "elementsConnect"),
    _restart("mac", "elementsAddress", "guests ask for their gateway's address again"),
    _restart("bandwidth*", "elementQoS"),
    _restart("virtualport*", "elementsVirtualport", _NEW_CARDS),
    _restart("vlan*", "elementVlanTag", _NEW_CARDS),
    _restart("tag[*]*", "elementVlanTag", _NEW_CARDS),
    _restart("port*", "elementPort", _NEW_CARDS),
    _restart("ipv6", "elementsMetadata"),
    _restart("trustGuestRxFilters", "elementsMetadata", _NEW_CARDS),
    _restart("*", "elementsMetadata", "the definition has it at once"),
)
