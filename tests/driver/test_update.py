"""Updates of networks and pools, on the test driver: only the differences happen."""

from __future__ import annotations

import time

import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import network_tasks, pool_tasks
from cloudify_libvirt.core.parse import document
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.update.network_entries import entries
from tests.driver.conftest import Node, running_network


def test_nothing_differs_nothing_happens(net: Node, session: Session) -> None:
    before = running_network(session, "upd")
    net.run(network_tasks.update, allow_restart=True, allow_replace="yes")
    assert running_network(session, "upd") == before and not net.runtime.get("update_pending")


def test_autostart_alone(net: Node, session: Session) -> None:
    net.params["autostart"] = False
    net.run(network_tasks.update)
    assert not session.connection.networkLookupByName("upd").autostart()
    assert net.run(network_tasks.check_drift) is None


def test_what_another_name_takes_is_said_and_nothing_is_done(net: Node, session: Session) -> None:
    before = running_network(session, "upd")
    net.params.update(name="other", autostart=False)
    with pytest.raises(NonRecoverableError, match=r"name \(upd to other\) of node net: .*allow_replace: true"):
        net.run(network_tasks.update)
    assert running_network(session, "upd") == before
    assert net.runtime["update_pending"]["name"]["how"] == "replace"


@pytest.mark.parametrize("workflow", ["update", "csys_new_deployment_update"])
def test_a_refusal_is_no_failure_where_the_workflow_would_reinstall(net: Node, workflow: str) -> None:
    net.params["name"], net.workflow = "other", workflow
    net.run(network_tasks.update)
    assert "allow_replace: true" in net.runtime["update_refused"]
    assert [one["field"] for one in net.run(network_tasks.check_drift)] == ["name"]
    net.params["name"] = "upd"
    net.run(network_tasks.update)
    assert "update_refused" not in net.runtime and not net.runtime["update_pending"]


def test_what_nobody_made_is_left(session: Session) -> None:
    node = Node(name="net", params={"name": "default"}, properties={"use_external_resource": True})
    node.run(network_tasks.create)
    before = running_network(session, "default")
    node.params["mtu"] = 1300
    node.run(network_tasks.update, allow_restart=True)
    assert running_network(session, "default") == before


def test_a_pool_that_is_off_is_started(session: Session) -> None:
    node = Node(name="pool", params={"name": "updpool", "autostart": False})
    node.run(pool_tasks.create)
    assert not session.connection.storagePoolLookupByName("updpool").isActive()
    node.run(pool_tasks.update)
    assert session.connection.storagePoolLookupByName("updpool").isActive()
    assert node.run(pool_tasks.check_drift) is None


def test_a_thousand_entries_take_a_moment() -> None:
    hosts = "".join(f"<host mac='52:54:00:00:{n // 256:02x}:{n % 256:02x}' ip='10.1.{n // 250}.{n % 250 + 1}'/>"
                    for n in range(1000))  # fmt: skip
    text = "<network><ip address='10.1.255.1' prefix='16'><dhcp>{}</dhcp></ip></network>"
    begin = time.process_time()
    found = list(entries(document(text.format(hosts.replace("10.1.2.7'", "10.1.9.7'"))), document(text.format(hosts))))
    assert [one.command for one in found] == ["delete", "add"]
    assert time.process_time() - begin < 10
