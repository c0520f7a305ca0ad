"""What one machine costs on a real host does not grow with their number: counted in questions, not in seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from bench.counting import counted
from bench.scale import CURVES, MOST_GROWTH, sample
from cloudify_libvirt import domain_tasks
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.storage.users import Users
from tests.driver.conftest import Node
from tests.real.conftest import IMAGES, QEMU, Host

POOL = IMAGES / "scale"
MIB = 1024**2
FEW, MANY = 4, 12


@pytest.fixture
def pool(clean_host: Host) -> Iterator[libvirt.virStoragePool]:
    xml = f"<pool type='dir'><name>scale</name><target><path>{POOL}</path></target></pool>"
    found = clean_host.connection.storagePoolDefineXML(xml)
    found.build()
    found.create()
    yield found
    found.destroy()
    found.undefine()
    POOL.rmdir()


def machines(count: int, image: Path) -> list[Node]:
    """Machines with an overlay each, that are defined and never run."""
    params = {"memory": "32 MiB", "image": str(image), "pool": "scale", "networks": [], "wait_for_ip": False}
    properties = {"libvirt_auth": QEMU}
    return [
        Node(name="m", index=number + 1, params={"name": f"scale-{number}", **params}, properties=properties)
        for number in range(count)
    ]


def test_one_more_machine_asks_the_host_no_more_than_the_others_did(
    pool: libvirt.virStoragePool, tmp_path: Path
) -> None:
    (image := tmp_path / "empty.raw").write_bytes(os.urandom(MIB))
    made, install, delete = machines(MANY, image), [], []
    for node in made:
        with counted() as cost:
            for operation in (domain_tasks.validate, domain_tasks.create, domain_tasks.configure):
                node.run(operation)
        install.append(cost)
    for node in made:
        with counted() as cost:
            node.run(domain_tasks.delete)
        delete.append(cost)
    # The first brings the image.
    assert install[-1].called <= install[FEW].called + 2, (install[FEW].calls, install[-1].calls)
    # The first reads every volume once for all; each reads the definitions of the others.
    early, late = delete[1], delete[1 + FEW]
    assert early.calls["virStorageVolGetXMLDesc"] <= 4, early.calls
    assert early.calls["virDomainGetXMLDesc"] <= MANY
    assert early.called - late.called <= 3 * FEW, (early.calls, late.calls)
    assert pool.listVolumes() == []


def test_a_volume_whose_file_is_as_it_was_is_read_once(pool: libvirt.virStoragePool) -> None:
    xml = "<volume><name>{0}</name><capacity>1048576</capacity><target><format type='qcow2'/></target>{1}</volume>"
    for number in range(10):
        pool.createXML(xml.format(f"v{number}", ""))
    session = connect(QEMU)
    path = str(POOL / "v0")
    for _ in range(2):
        with counted() as cost:
            assert Users(session).overlays(path) == []
    assert cost.calls["virStorageVolGetXMLDesc"] == 0, cost.calls
    # Another one by the same name, as another client makes it: seen at once, though the name was known.
    pool.storageVolLookupByName("v9").delete()
    below = f"<backingStore><path>{path}</path><format type='qcow2'/></backingStore>"
    pool.createXML(xml.format("v9", below))
    with counted() as cost:
        assert [user.words for user in Users(session).overlays(path)] == ["volume 'v9' of pool 'scale'"]
    assert cost.calls["virStorageVolGetXMLDesc"] == 1, cost.calls
    for number in range(10):
        pool.storageVolLookupByName(f"v{number}").delete()


def test_a_hundred_paused_guests_come_and_go_with_no_more_questions_each(clean_host: Host) -> None:
    few_of, *_, many_of = CURVES["real"].sizes
    few, many = sample("real", few_of), sample("real", many_of)
    for phase in ("install", "uninstall"):
        allowed = 2 * (many_of - few_of) if phase == "uninstall" else 2
        assert many[phase]["calls"] <= few[phase]["calls"] + allowed, f"{phase}: {few[phase]} -> {many[phase]}"
        assert many[phase]["written_bytes"] <= 1.1 * few[phase]["written_bytes"] + 4096, phase
    one_of_few, one_of_many = (sum(cost["memory_kib"] for cost in phases.values()) for phases in (few, many))
    assert one_of_many <= MOST_GROWTH * one_of_few, (few, many)
