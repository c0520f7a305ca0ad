"""What one object costs does not grow with their number: counted in calls, bytes and looks, and CPU time of our own."""

from __future__ import annotations

import pytest

from bench.counting import counted
from bench.scale import CURVES, MOST_GROWTH, sample
from cloudify_libvirt import network_tasks, volume_tasks
from cloudify_libvirt.core import network as host_networks
from cloudify_libvirt.core.host import networks
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.wait import wait_until
from tests.driver.conftest import Node, define
from tests.driver.test_session import until_events_end


@pytest.mark.parametrize("curve", ["templates", "paused", "parts"])
def test_the_cost_of_one_does_not_grow_with_their_number(curve: str) -> None:
    """The smallest size of the measurement against the largest: 200 templates, 500 of the others."""
    few_of, *_, many_of = CURVES[curve].sizes
    few, many = (sample(curve, count) for count in (few_of, many_of))
    assert set(few) == {"parse", "install", "uninstall", *(["pause"] if CURVES[curve].pauses else [])}
    for phase in few.keys() - {"parse"}:
        # What is read of the engine's files once for all is a smaller part of many.
        for what in ("written_bytes", "read_bytes"):
            assert many[phase][what] <= 1.1 * few[phase][what], f"{phase}: {what} {few[phase]} -> {many[phase]}"
        # The guard of a volume's deletion reads the other volumes: at most once each, half of them on average.
        allowed = (many_of - few_of) / 2 if (curve, phase) == ("parts", "uninstall") else 0
        assert many[phase]["calls"] <= 1.05 * few[phase]["calls"] + allowed + 1, f"{few[phase]} -> {many[phase]}"
    # Not the wall's time: whatever else the machine does is no part of these.
    for what in ("cpu_seconds", "memory_kib"):
        one_of_few, one_of_many = (sum(cost[what] for cost in phases.values()) for phases in (few, many))
        assert one_of_many <= MOST_GROWTH * one_of_few, f"{what}: {few} -> {many}"


def test_a_network_reads_no_other_network_that_has_not_changed(session: Session) -> None:
    nodes = [Node(name="net", index=i + 1, params={"name": f"net-{i}", "cidr": "auto"}) for i in range(12)]
    for node in nodes:
        node.run(network_tasks.create)
    until_events_end(session)
    more = Node(name="net", index=20, params={"name": "one-more", "cidr": "auto", "cidr6": "auto"})
    with counted() as cost:
        more.run(network_tasks.validate)
        more.run(network_tasks.create)
    # Its own, and the one whose event may still have been on its way.
    assert cost.calls["virNetworkGetXMLDesc"] <= 6, cost.calls
    taken = [node.runtime["cidr"] for node in [*nodes, more]]
    assert len(set(taken)) == len(taken)


def test_a_change_of_a_network_is_seen(session: Session) -> None:
    nobody = "00000000-0000-4000-8000-000000000000"
    xml = "<network><name>odd</name><bridge name='{0}'/><ip address='10.9.{1}.1' prefix='24'/></network>"
    first = host_networks.Network.define(session, xml.format("odd0", 1), "odd", "")
    assert "odd0" in host_networks.taken_bridges(session, nobody)
    again = xml.replace("</name>", f"</name><uuid>{first.uuid}</uuid>", 1).format("odd1", 2)
    host_networks.Network.define(session, again, "odd", first.uuid)
    bridges = host_networks.taken_bridges(session, nobody)
    assert "odd1" in bridges
    assert "odd0" not in bridges
    # As another client's change is: told by an event alone.
    session.connection.networkDefineXML(again.replace("odd1", "odd2"))
    assert networks._known_of(session).complete
    found = wait_until(
        lambda: "odd2" in host_networks.taken_bridges(session, nobody), timeout_s=120, signal=session.changed
    )
    assert found
    first.handle.undefine()
    assert "odd2" not in host_networks.taken_bridges(session, nobody)


def test_deleting_a_volume_reads_each_definition_once(session: Session) -> None:
    for number in range(5):
        define(session, f"idle-{number}")
    params = {"pool": "default-pool", "size": "1 MiB"}
    nodes = [Node(name="vol", index=i + 1, params={"name": f"vol-{i}", **params}) for i in range(8)]
    for node in nodes:
        node.run(volume_tasks.create)
    with counted() as cost:
        nodes[0].run(volume_tasks.delete)
    # The driver's own domain besides; it runs, so it has two definitions.
    assert cost.calls["virDomainGetXMLDesc"] <= 5 * 2 + 2, cost.calls
    assert cost.calls["virStorageVolGetXMLDesc"] <= 8 + 2, cost.calls
    assert cost.calls["virStoragePoolListAllVolumes"] <= 2, cost.calls
