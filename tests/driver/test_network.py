"""Networks, on the test driver."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import network_tasks
from cloudify_libvirt.core.errors import Conflict, InvalidSpec, Missing
from cloudify_libvirt.core.host import hostnet
from cloudify_libvirt.core.network import (
    AUTO_RANGE,
    Network,
    check_bridge,
    check_devices,
    check_host_bridge,
    check_routes,
    check_subnets,
    free_subnet,
    free_subnet6,
    taken_bridges,
    taken_subnets,
)
from cloudify_libvirt.core.session import Session
from tests.driver.conftest import Node, define, define_network, network_xml

NOBODY = "00000000-0000-4000-8000-000000000000"


def test_life_cycle_may_come_twice(session: Session) -> None:
    network = define_network(session, "net")
    for _ in range(2):
        network.start()
        assert network.active
    for _ in range(2):
        network.stop()
        assert not network.active
    network.undefine()
    assert Network.find(session, "net") is None


def test_get_says_what_to_do(session: Session) -> None:
    with pytest.raises(Missing, match=r"cannot find network 'nope' on test:///default: it does not exist. Install it."):
        Network.get(session, "nope", "Install it.")


def test_facts(session: Session) -> None:
    facts = define_network(session, "net", "10.99.1.1", "brx").facts()
    assert (facts.bridge, facts.forward, facts.dhcp, facts.hosts) == ("brx", "", True, ())
    assert facts.subnets == (ipaddress.ip_network("10.99.1.0/24"),)


def test_users_are_the_running_domains(session: Session) -> None:
    network = define_network(session, "net")
    network.start()
    domain = define(session, "user", network="net")
    define(session, "elsewhere").start()
    assert network.users() == []
    domain.start()
    assert network.users() == ["user"]


def test_bridges_of_networks_and_of_the_host_are_taken(session: Session) -> None:
    network = define_network(session, "net", bridge="brx")
    taken = taken_bridges(session, NOBODY)
    assert taken["brx"] == "network 'net'" and taken["virbr0"] == "network 'default'"
    assert set(hostnet.interfaces()) <= set(taken)
    with pytest.raises(Conflict, match="cannot define mine: bridge brx is used by network 'net'"):
        check_bridge(session, NOBODY, "brx", "mine")
    check_bridge(session, network.uuid, "brx", "mine")
    check_bridge(session, NOBODY, "bry", "mine")


def test_the_hosts_own_interface_is_taken(session: Session) -> None:
    with pytest.raises(Conflict, match="bridge lo is used by the host's interface lo"):
        check_bridge(session, NOBODY, "lo", "mine")


def test_subnets_of_networks_and_of_the_host_are_taken(session: Session) -> None:
    network = define_network(session, "net", "10.99.1.1")
    taken = [subnet for subnet, _user in taken_subnets(session, NOBODY)]
    assert {subnet for subnet, _device in hostnet.routes()} <= set(taken)
    inside = ipaddress.ip_network("10.99.1.128/25")
    with pytest.raises(Conflict, match=r"subnet 10.99.1.128/25 overlaps with 10.99.1.0/24 of network 'net'"):
        check_subnets(session, NOBODY, [inside], "mine")
    check_subnets(session, network.uuid, [inside], "mine")
    check_subnets(
        session, NOBODY, [ipaddress.ip_network("10.99.2.0/24"), ipaddress.ip_network("fdab:cdef:1::/64")], "mine"
    )


def test_a_free_subnet_is_the_same_each_time_and_steps_over_taken_ones(session: Session) -> None:
    subnets = list(AUTO_RANGE.subnets(new_prefix=24))
    first = free_subnet(session, NOBODY, 77, "mine")
    assert first == free_subnet(session, NOBODY, 77, "mine") == str(subnets[77])
    define_network(session, "net", str(subnets[77][1]))
    assert free_subnet(session, NOBODY, 77, "mine") == str(subnets[78])
    assert free_subnet(session, NOBODY, len(subnets) + 77, "mine") == str(subnets[78])


def test_a_free_ipv6_subnet_is_local_and_steps_over_taken_ones(session: Session) -> None:
    first = free_subnet6(session, NOBODY, 0x12345678, "mine")
    assert first == "fd00:1234:5678::/64" == free_subnet6(session, NOBODY, 2**40 + 0x12345678, "mine")
    xml = network_xml("six", "10.99.1.1", NOBODY).replace(
        "</network>", "<ip family='ipv6' address='fd00:1234:5678::1' prefix='64'/></network>"
    )
    Network.define(session, xml, "six", NOBODY)
    assert free_subnet6(session, "other", 0x12345678, "mine") == "fd00:1234:5679::/64"


def test_a_destination_has_one_route(session: Session) -> None:
    xml = network_xml("far", "10.99.1.1", NOBODY).replace(
        "</network>", "<route address='10.98.0.0' prefix='16' gateway='10.99.1.9'/></network>"
    )
    Network.define(session, xml, "far", NOBODY)
    taken = ipaddress.ip_network("10.98.0.0/16")
    with pytest.raises(Conflict, match=r"a route to 10.98.0.0/16 is there: a route of network 'far'"):
        check_routes(session, "other", [taken], "mine")
    check_routes(session, "other", list(taken.subnets()), "mine")
    with pytest.raises(Conflict, match=r"overlaps with 10.98.0.0/16 of a route of network 'far'"):
        check_subnets(session, "other", [ipaddress.ip_network("10.98.7.0/24")], "mine")


def test_the_hosts_bridges_and_devices_must_be_there(session: Session) -> None:
    with pytest.raises(Missing, match="cannot use bridge no-such for mine: the host has no such interface"):
        check_host_bridge(session, "no-such", openvswitch=False, label="mine")
    with pytest.raises(InvalidSpec, match="cannot use bridge lo for mine: it is not a Linux bridge"):
        check_host_bridge(session, "lo", openvswitch=False, label="mine")
    check_host_bridge(session, "lo", openvswitch=True, label="mine")
    with pytest.raises(Missing, match="cannot use interface no-such for mine"):
        check_devices(session, ["lo", "no-such"], "mine")


def test_reservations_come_and_go(session: Session) -> None:
    network = define_network(session, "net")
    network.start()
    for _ in range(2):
        network.reserve("52:54:00:00:00:01", "10.99.1.50", "one")
    network.reserve("52:54:00:00:00:02", "10.99.1.51", "two")
    assert [(h.mac, h.ip, h.name) for h in network.facts().hosts] == [
        ("52:54:00:00:00:01", "10.99.1.50", "one"),
        ("52:54:00:00:00:02", "10.99.1.51", "two"),
    ]
    network.reserve("52:54:00:00:00:01", "10.99.1.60", "one")
    assert {(h.mac, h.ip) for h in network.facts().hosts} == {
        ("52:54:00:00:00:01", "10.99.1.60"),
        ("52:54:00:00:00:02", "10.99.1.51"),
    }
    for _ in range(2):
        network.release("52:54:00:00:00:01", "10.99.1.60")
    network.release("52:54:00:00:00:99", "10.99.1.51")
    assert [h.ip for h in network.facts().hosts] == ["10.99.1.51"]


def test_an_address_that_cannot_be_reserved(session: Session) -> None:
    network = define_network(session, "net")
    network.reserve("52:54:00:00:00:01", "10.99.1.50", "one")
    with pytest.raises(Conflict, match=r"address 10.99.1.50 on network 'net'.*reserved for 52:54:00:00:00:01 \(one\)"):
        network.reserve("52:54:00:00:00:02", "10.99.1.50", "two")
    with pytest.raises(InvalidSpec, match=r"no subnet with DHCP of this network \(subnets: 10.99.1.0/24\)"):
        network.reserve("52:54:00:00:00:02", "10.98.1.50", "two")
    assert len(network.facts().hosts) == 1


def test_a_driver_without_leases_has_none(session: Session) -> None:
    assert Network.get(session, "default").leases("52:54:00:00:00:01") == []


@pytest.mark.parametrize(
    "more",
    [
        {"hosts": [{"mac": "52:54:00:00:00:01", "ip": "192.168.50.5"}]},
        {"cidr6": "auto", "dhcp6": True, "hosts": [{"name": "six", "ip": "fd77::5"}]},
        {"routes": [{"to": "10.50.0.0/16", "via": "192.168.50.5"}]},
    ],
)
def test_what_is_outside_of_the_chosen_subnet_is_not_dropped(session: Session, more: dict[str, Any]) -> None:
    node = Node(name="net", params={"name": "net", "cidr": "auto", **more})
    node.run(network_tasks.validate)
    with pytest.raises(NonRecoverableError, match=r"is outside of its subnets \(10\..*Give a certain cidr"):
        node.run(network_tasks.create)
    assert Network.find(session, "net") is None
