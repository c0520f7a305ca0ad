"""What is ours is what this instance recorded: not a name, not today's property, not what came in between."""

from __future__ import annotations

from typing import Any

import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import domain_tasks, iso9660_tasks, pool_tasks, volume_tasks
from cloudify_libvirt.core.errors import Conflict
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.spec.variables import Backing
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.storage.bases import Claim, Wish
from cloudify_libvirt.core.volume import Volume
from tests.driver.conftest import Node, define, define_network

PASSWORD = "correct horse"


def volumes(session: Session, pool: str) -> list[str]:
    return sorted(v.name() for v in session.connection.storagePoolLookupByName(pool).listAllVolumes())


def test_a_name_alone_is_nobodys_claim(session: Session) -> None:
    define(session, "theirs").start()
    node = Node(params={"name": "theirs"}, runtime={"resource_id": "theirs"})
    for name in ("prestop", "stop", "delete"):
        node.run(getattr(domain_tasks, name))
    assert session.connection.lookupByName("theirs").isActive()
    with pytest.raises(NonRecoverableError, match="never made, or is gone"):
        Node(params={"name": "theirs"}, runtime={"resource_id": "theirs"}).run(domain_tasks.reboot)


def test_a_volume_is_removed_from_the_pool_that_it_was_made_in(session: Session) -> None:
    for name in ("one", "two"):
        pool = Node(name=name, params={"name": name, "path": f"/nowhere/{name}"})
        for operation in ("create", "configure", "start"):
            pool.run(getattr(pool_tasks, operation))
    session.connection.storagePoolLookupByName("two").createXML(
        "<volume><name>data</name><capacity unit='MiB'>1</capacity></volume>"
    )
    node = Node(name="vol", params={"name": "data", "pool": "one", "capacity": 1})
    node.run(volume_tasks.create)
    node.params = {**node.params, "pool": "two"}
    node.run(volume_tasks.delete)
    assert (volumes(session, "one"), volumes(session, "two")) == ([], ["data"])


def test_a_volume_that_came_in_between_is_a_conflict(session: Session) -> None:
    """The name was free when it was looked at, and taken when the image was there."""
    pool = Pool.get(session, "default-pool")
    pool.handle.createXML("<volume><name>data</name><capacity unit='MiB'>1</capacity></volume>")
    recorded: list[str] = []
    with pytest.raises(Conflict, match="a volume of this name exists"):
        storage.empty(pool, Wish("data", 1024), Claim(False, lambda: recorded.append("data")))
    assert (recorded, volumes(session, "default-pool")) == ([], ["data"])


def test_a_volumes_name_alone_is_nobodys_claim(session: Session) -> None:
    """A script wrote ``resource_id`` before ``create``: the volume is not made anew over the one that is there."""
    pool = session.connection.storagePoolLookupByName("default-pool")
    pool.createXML("<volume><name>data</name><capacity unit='MiB'>7</capacity></volume>")
    params = {"name": "data", "pool": "default-pool", "capacity": 1}
    node = Node(name="vol", params=params, runtime={"resource_id": "data"})
    with pytest.raises(NonRecoverableError, match="a volume of this name exists"):
        node.run(volume_tasks.create)
    node.run(volume_tasks.delete)
    assert pool.storageVolLookupByName("data").info()[1] == 7 << 20


def test_a_volume_that_may_hold_data_is_not_zeroed(session: Session) -> None:
    """``zero_wipe`` is for the first start; asked for later it would hit what a guest wrote."""
    node = Node(name="vol", params={"name": "data", "pool": "default-pool", "capacity": 1})
    for operation in (volume_tasks.create, volume_tasks.start):
        node.run(operation)
    node.params = {**node.params, "zero_wipe": True, "allocation": 1}
    # The test driver cannot write to volumes: an attempt would be an error.
    node.run(volume_tasks.start)


def test_a_refused_volume_is_not_claimed(session: Session) -> None:
    pool = session.connection.storagePoolLookupByName("default-pool")
    pool.createXML("<volume><name>data</name><capacity unit='MiB'>1</capacity></volume>")
    node = Node(name="vol", params={"name": "data", "pool": "default-pool", "capacity": 1})
    with pytest.raises(NonRecoverableError):
        node.run(volume_tasks.create)
    assert not node.runtime.get("resource_id")


def test_a_reservation_that_was_there_stays(session: Session, vm: Node) -> None:
    network = define_network(session, "net")
    network.reserve("52:54:00:00:00:09", "10.99.1.40", "")
    cards = [
        {"network": "net", "mac": "52:54:00:00:00:09", "ip": "10.99.1.40"},
        {"network": "net", "mac": "52:54:00:00:00:0a", "ip": "10.99.1.41"},
    ]
    vm.params = {**vm.params, "networks": cards}
    for name in ("create", "configure"):
        vm.run(getattr(domain_tasks, name))
    assert [entry.ip for entry in network.facts().hosts] == ["10.99.1.40", "10.99.1.41"]
    vm.run(domain_tasks.delete)
    assert [entry.ip for entry in network.facts().hosts] == ["10.99.1.40"]


@pytest.mark.parametrize(
    ("format_", "backing", "reason"),
    [
        ("qcow2", "", "it is qcow2, and an ISO image would lie over its header"),
        ("raw", "", "running domain 'theirs' writes to it"),
        ("raw", "disk", "it is used by volume 'above'"),
    ],
)
def test_an_iso_image_is_not_written_over_a_disk(session: Session, format_: str, backing: str, reason: str) -> None:
    pool = Pool.get(session, "default-pool")
    disk = Volume.create(pool, Wish("disk", format=format_).xml(1 << 20), "disk")
    if backing:
        Volume.create(pool, Wish("above").xml(1 << 20, Backing(disk.path, format_)), "above")
    else:
        source = "<source pool='default-pool' volume='disk'/><target dev='vda'/>"
        define(session, "theirs", extra=f"<disk type='volume'>{source}</disk>").start()
    iso = Node(name="iso", params={"volume": "disk", "pool": "default-pool", "files": {"user-data": "x"}})
    with pytest.raises(NonRecoverableError, match=reason):
        iso.run(iso9660_tasks.create)


def test_seeds_of_properties_are_not_recorded(session: Session, vm: Node) -> None:
    vm.params = {**vm.params, "cloud_init": {"user_data": {"password": PASSWORD}}}
    for name in ("validate", "create"):
        vm.run(getattr(domain_tasks, name))
    iso = Node(name="iso", params={"volume": "v", "pool": "p", "files": {"user-data": PASSWORD}})
    iso.run(iso9660_tasks.validate)
    assert PASSWORD not in repr((vm.runtime, vm.stored, iso.runtime, iso.stored))


def test_a_seed_given_at_create_is_kept_as_it_was_given(session: Session, vm: Node) -> None:
    seed: dict[str, Any] = {"user_data": {"runcmd": ["echo {% raw %}{{ ds }}{% endraw %} {{ name }}"]}}
    vm.run(domain_tasks.create, params={"cloud_init": seed})
    assert vm.runtime["params"]["cloud_init"] == seed
    vm.run(domain_tasks.create)
    assert vm.runtime["params"]["cloud_init"] == seed


def test_create_if_missing_keeps_the_name(session: Session, vm: Node) -> None:
    vm.properties = {"use_external_resource": True, "create_if_missing": True, "resource_id": "wanted"}
    vm.params = {key: value for key, value in vm.params.items() if key != "name"}
    for _ in range(2):
        vm.run(domain_tasks.configure)
    assert vm.runtime["resource_id"] == "wanted"
    assert session.connection.lookupByName("wanted").UUIDString() == vm.runtime["uuid"]
