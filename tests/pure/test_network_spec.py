"""Networks: what does not go together is refused in advance, with the way out."""

from typing import Any

import pytest
from lxml import etree

from cloudify_libvirt.core.document.render import TemplateSource, render
from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.spec import NetworkFacts, NetworkSpec, parse_spec, template_variables

UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
CIDR: dict[str, Any] = {"cidr": "10.0.0.0/24"}
SIX: dict[str, Any] = {"ips": [{"address": "fd00::1", "prefix": 64, "dhcp": {"start": "fd00::2", "end": "fd00::9"}}]}
HOST: dict[str, Any] = {"mac": "52:54:00:00:00:01", "ip": "10.0.0.9"}
OVS = {"mode": "bridge", "dev": "ovs0", "virtualport": "openvswitch"}


def network(complete: bool = True, **params: Any) -> NetworkSpec:
    found: NetworkSpec = parse_spec("network", {"name": "net", **params}, node="web", extra=False, complete=complete)
    return found


def refused(**params: Any) -> str:
    with pytest.raises(InvalidSpec) as caught:
        network(**params)
    return str(caught.value)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        # one way each
        ({"cidr6": "auto", "ips": [{"address": "10.0.0.1"}]}, "cidr6 and ips"),
        ({"forwards": [{"mode": "nat"}, {"mode": "route"}], **CIDR}, "params.forwards[1]: has one way to others"),
        ({"forwards": [{"mode": "nat"}]}, "params.cidr: mode nat needs addresses"),
        ({"mode": "route"}, "params.cidr: mode route needs addresses"),
        ({"forwards": [{"mode": "open"}]}, "params.cidr: mode open needs addresses"),
        # forwards
        ({"forwards": [{"mode": "open", "dev": "eth0"}], **CIDR},
         "forwards[0].dev: mode open has none; it is for bridge"),
        ({"forwards": [{"mode": "route", "nat": {}}], **CIDR}, "forwards[0].nat: mode route has none; it is for nat"),
        ({"forwards": [{"mode": "nat", "interfaces": ["eth0"]}], **CIDR}, "forwards[0].interfaces: mode nat has none"),
        ({"forwards": [{"mode": "vepa"}]}, "forwards[0].interfaces: mode vepa needs devices of the host"),
        ({"forwards": [{"mode": "hostdev"}]}, "forwards[0].pf: mode hostdev needs devices"),
        ({"forwards": [{"mode": "bridge", "pci": ["06:10.0"]}]}, "forwards[0].pci: mode bridge has none"),
        ({"forwards": [{"mode": "hostdev", "pf": "eth0", "pci": ["06:10.0"]}]}, "pf and pci exclude each other"),
        ({"forwards": [{"mode": "hostdev", "pci": ["6:10"]}]}, "as in 0000:06:10.0"),
        ({"forwards": [{"mode": "vepa", "interfaces": ["eth0"], "managed": True}]}, "managed: it is for hostdev"),
        ({"forwards": [{"nat": {"ports": {"start": 9, "end": 8}}}], **CIDR}, "nat.ports.end: is below start"),
        ({"forwards": [{"nat": {"ports": {"start": 0, "end": 8}}}], **CIDR},
         "nat.ports.start: greater than or equal to 1"),
        ({"forwards": [{"nat": {"addresses": {"start": "10.9.0.9", "end": "10.9.0.8"}}}], **CIDR},
         "addresses.end: below"),
        # the host's own bridge and devices
        ({"mode": "bridge"}, "params.dev: needs a bridge that the host has macvtap"),
        ({"mode": "bridge", "dev": "br0", **CIDR}, "params.cidr: leaves addresses, DHCP, DNS"),
        ({"mode": "bridge", "dev": "br0", "mtu": 1400}, "params.mtu: mode bridge leaves"),
        ({"mode": "bridge", "dev": "br0", "bandwidth": {"inbound": {"average_kb_s": 1}}}, "params.bandwidth: leaves"),
        ({"mode": "bridge", "dev": "br0", "stp": True}, "params.stp: leaves"),
        ({"forwards": [{"mode": "bridge", "interfaces": ["eth0"]}], "dev": "br0"}, "params.dev: exclude each other"),
        ({"forwards": [{"mode": "vepa", "interfaces": ["eth0"]}], "dev": "br0"}, "params.dev: mode vepa has no bridge"),
        ({"virtualport": "openvswitch", **CIDR}, "params.virtualport: mode nat makes a Linux bridge"),
        # VLANs
        ({"vlan": 42, **CIDR}, "params.vlan: a plain Linux bridge openvswitch hostdev type vlan id 42"),
        ({"vlan": 42, "mode": "bridge", "dev": "br0"}, "params.vlan: a plain Linux bridge"),
        ({"vlan": 42, "forwards": [{"mode": "bridge", "interfaces": ["eth0"]}]}, "params.vlan: macvtap sets no VLAN"),
        ({"portgroups": [{"name": "a", "vlan": 42}], **CIDR}, "params.portgroups[0].vlan: a plain Linux bridge"),
        ({"vlan": 4, "forwards": [{"mode": "passthrough", "interfaces": ["eth0"]}],
          "portgroups": [{"name": "a", "virtualport": {"type": "802.1Qbh"}}]},
         "params.portgroups[0].virtualport: sets no VLAN tags"),
        ({"portgroups": [{"name": "a", "vlan": 4, "virtualport": {"type": "802.1Qbh"}}],
          "forwards": [{"mode": "hostdev", "pf": "eth0"}]}, "params.portgroups[0].vlan: sets no VLAN tags"),
        ({"vlan": [42], **OVS}, "params.vlan: must be a mapping"),
        ({"vlan": 4095, **OVS}, "less than or equal to 4094"),
        ({"vlan": {"tags": []}, **OVS}, "params.vlan.tags: at least 1 item"),
        ({"vlan": {"tags": [1], "native": 2}, **OVS}, "params.vlan.native: is not among tags"),
        ({"vlan": {"tags": [1, 2]}, "forwards": [{"mode": "hostdev", "pf": "eth0"}]}, "only Open vSwitch has trunks"),
        ({**OVS, "virtualport": {"type": "openvswitch", "manager_id": 1}}, "manager_id: interface_id, profile_id"),
        ({**OVS, "virtualport": "midonet"}, "virtualport.interface_id: a midonet port needs its id"),
        ({**OVS, "virtualport": "vswitch"}, "virtualport.type: must be one of 'openvswitch'"),
        # port groups
        ({"portgroups": [{"name": "a"}, {"name": "a"}], **CIDR}, "params.portgroups[1].name: another one"),
        ({"portgroups": [{"name": "a", "default": 1}, {"name": "b", "default": 1}], **CIDR},
         "only one can be the default"),
        ({"portgroups": [{"name": "a b"}], **CIDR}, "a port group's name"),
        ({"isolated_ports": True, **OVS}, "params.isolated_ports: Linux bridge"),
        ({"isolated_ports": True, "forwards": [{"mode": "vepa", "interfaces": ["eth0"]}]}, "params.isolated_ports"),
        ({"bandwidth": {"inbound": {"peak_kb_s": 1}}, **CIDR}, "bandwidth.inbound.average_kb_s: is required"),
        ({"bandwidth": {"inbound": {"average_kb_s": 2, "peak_kb_s": 1}}, **CIDR}, "peak_kb_s: is below average_kb_s"),
        # addresses and DHCP
        ({"cidr6": "10.0.0.0/24"}, "IPv6 network of /64 to /120"),
        ({"cidr6": "fd00::/48"}, "IPv6 network of /64 to /120"),
        ({"cidr6": "fd00::"}, "IPv6 network of /64 to /120"),
        ({"cidr6": "fd00::/80"}, "params.cidr6: in a /64 only; give one, or dhcp6: true"),
        ({"ips": [{"address": "10.0.0.1", "family": "ipv6"}]}, "ips[0].family: is an address of ipv4"),
        ({"ips": [{"address": "10.0.0.1", "dhcp": {"start": "10.0.0.2"}}]}, "ips[0].dhcp.end: has start and end"),
        ({"ips": [{"address": "10.0.0.1", "dhcp": {"ranges": [{"start": "11.0.0.2", "end": "11.0.0.3"}]}}]},
         "outside of"),
        ({"ips": [{"address": f"10.{at}.0.1", "prefix": 24, "dhcp": {}} for at in range(2)]},
         "params.ips[1].dhcp: serves one IPv4 network by DHCP; it is ips[0]"),
        ({"ips": [{"address": "10.0.0.1", "dhcp": {"start": "10.0.0.2", "end": "10.1.0.1"}}]},
         "ips[0].dhcp.end: 65535 addresses at most"),
        ({"lease_s": 60, **CIDR}, "params.lease_s: 120 seconds or more; 0 is for ever"),
        ({"lease_s": "60", **CIDR}, "params.lease_s: 120 seconds or more"),
        ({"hosts": [{**HOST, "lease_s": 1}], **CIDR}, "hosts[0].lease_s: 120 seconds or more"),
        ({"hosts": [{"ip": "10.0.0.9"}], **CIDR}, "hosts[0].mac: needs mac or name"),
        ({"hosts": [{"ip": "10.0.0.9", "id": "0:1"}], **CIDR}, "hosts[0].id: give mac"),
        ({"hosts": [{"ip": "fd00::5", "mac": "52:54:00:00:00:01"}], **SIX}, "hosts[0].mac: by id (their DUID) or name"),
        ({"hosts": [{"ip": "fd00::5"}], **SIX}, "hosts[0].id: needs id or name"),
        ({"hosts": [{"ip": "fd00::5", "id": "x"}], **SIX}, "must be a DUID"),
        ({"hosts": [{"ip": "fd01::5", "name": "a"}], **SIX}, "hosts[0].ip: in no range"),
        ({"hosts": [HOST, {**HOST, "mac": "52:54:00:00:00:02"}], **CIDR},
         "params.hosts[1].ip: 10.0.0.9 is given twice"),
        ({"hosts": [HOST, {**HOST, "ip": "10.0.0.8"}], **CIDR}, "params.hosts[1].mac: is given twice"),
        ({"bootp": {"file": "a"}, "dhcp": False, **CIDR}, "params.bootp: needs IPv4 addresses with DHCP"),
        ({"tftp": "/srv", "cidr6": "auto"}, "params.tftp: needs IPv4 addresses with DHCP"),
        ({"tftp": "srv", **CIDR}, "params.tftp: absolute path"),
        ({"zone": "a b", **CIDR}, "params.zone"),
        ({"dnsmasq": ["a\nb"], **CIDR}, "params.dnsmasq[0]: must be one line"),
        # routes
        ({"routes": [{"to": "10.5.0.1/16", "via": "10.0.0.5"}], **CIDR}, "routes[0].to: no bits after its prefix"),
        ({"routes": [{"to": "10.5.0.0/16", "via": "10.1.0.5"}], **CIDR}, "routes[0].via: in no subnet of this network"),
        ({"routes": [{"to": "10.5.0.0/16", "via": "10.0.0.1"}], **CIDR}, "routes[0].via: is the host itself"),
        ({"routes": [{"to": "fd01::/64", "via": "10.0.0.5"}], **CIDR}, "routes[0].via: of the family of fd01::/64"),
        # DNS
        ({"dns": {"forwarders": [{}]}, **CIDR}, "dns.forwarders[0].addr: addr, or domain, or both"),
        ({"dns": {"enable": False, "txt": [{"name": "a", "value": "b"}]}, **CIDR}, "dns.txt: leaves nobody to answer"),
        ({"dns": {"hosts": [{"ip": "10.0.0.5", "names": []}]}, **CIDR}, "dns.hosts[0].names: at least 1"),
        ({"dns": {"hosts": [{"ip": "10.0.0.5", "names": ["a_b"]}]}, **CIDR}, "dns.hosts[0].names[0]: DNS name"),
        ({"dns": {"srv": [{"service": "a", "protocol": "sctp"}]}, **CIDR}, "dns.srv[0].protocol: 'tcp' or 'udp'"),
        ({"dns": {"srv": [{"service": "a", "protocol": "tcp", "port": 1}]}, **CIDR},
         "srv[0].target: port needs the host"),
        ({"dns": {"srv": [{"service": "a", "protocol": "tcp", "target": "b", "port": 0}]}, **CIDR}, "dns.srv[0].port"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(params: dict[str, Any], words: str) -> None:
    text = refused(**params)
    key, _, rest = words.partition(": ")
    for word in [key, *filter(None, rest.split(" "))] if rest else [words]:
        assert word in text


def test_what_is_still_to_come_is_not_asked_for() -> None:
    """The property may hold the mode and the inputs of create the addresses."""
    assert network(complete=False, mode="nat").forward_mode == "nat"
    assert network(complete=False, mode="bridge").forward_mode == "bridge"


@pytest.mark.parametrize(
    ("params", "mode", "linux_bridge"),
    [
        ({}, "isolated", True), (CIDR, "nat", True), ({"cidr6": "auto"}, "nat", True),
        ({"mode": "isolated", **CIDR}, "isolated", True), ({"mode": "open", **CIDR}, "open", True),
        (OVS, "bridge", False), ({"forwards": [{"mode": "vepa", "dev": "eth0"}]}, "vepa", False),
        ({"forwards": [{"mode": "bridge"}], "dev": "br0"}, "bridge", False),
    ],
)  # fmt: skip
def test_the_mode_in_force(params: dict[str, Any], mode: str, linux_bridge: bool) -> None:
    spec = network(**params)
    assert (spec.forward_mode, spec.linux_bridge) == (mode, linux_bridge)


@pytest.mark.parametrize(
    ("cidr", "last"),
    [("10.0.0.0/8", "10.0.255.255"), ("10.0.0.0/16", "10.0.255.254"), ("10.0.0.0/30", "10.0.0.2")],
)
def test_dhcp_serves_as_many_addresses_as_libvirt_can(cidr: str, last: str) -> None:
    """libvirt refuses a range of more than 65535."""
    (entry,) = network(cidr=cidr).expanded(cidr).ips
    assert entry.dhcp is not None and (entry.dhcp.start, entry.dhcp.end) == ("10.0.0.2", last)


def test_short_forms_stand_for_mappings() -> None:
    spec = network(**OVS, vlan="42")
    assert spec.virtualport is not None and spec.virtualport.type == "openvswitch"
    assert spec.vlan is not None and spec.vlan.tags == (42,) and not spec.vlan.is_trunk


def test_the_templates_variables_keep_their_old_shape() -> None:
    mask = "255.255.255.0"
    served = {"address": "10.0.0.1", "netmask": mask, "dhcp": {"start": "10.0.0.2", "end": "10.0.0.9"}}
    spec = network(ips=[served, {"address": "10.1.0.1", "netmask": mask}])
    first, second = template_variables(spec, NetworkFacts("u"))["ips"]
    assert (first["dhcp"]["start"], first["dhcp"]["end"], first["netmask"]) == ("10.0.0.2", "10.0.0.9", "255.255.255.0")
    assert second["dhcp"] == ""


def test_an_automatic_subnet_must_be_chosen_first() -> None:
    for key in ("cidr", "cidr6"):
        with pytest.raises(InvalidSpec, match="still auto"):
            template_variables(network(**{key: "auto"}), NetworkFacts("u"))


def test_a_template_of_the_users_can_extend_the_packaged_one() -> None:
    """What the blocks share is there for a block that stands in another template, too."""
    own = """{% extends "network.xml.j2" %}
    {% block ports %}{{ super() }}{% endblock %}
    {% block dns %}<dns><host ip="{{ ips[0].address }}"><hostname>gateway</hostname></host></dns>{% endblock %}
    """
    spec = network(**CIDR, bandwidth={"inbound": {"average_kb_s": 7}}, portgroups=[{"name": "a"}])
    text = render(
        TemplateSource(own, "own", "own"), template_variables(spec, NetworkFacts(UUID)), schema="network", node="web"
    )
    root = etree.fromstring(text)
    assert root.find("bandwidth/inbound").get("average") == "7" and root.find("portgroup").get("name") == "a"
    assert root.findtext("dns/host/hostname") == "gateway" and root.find("dns/host").get("ip") == "10.0.0.1"
