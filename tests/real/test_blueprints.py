"""Every blueprint of the repository, installed on a real host, logged into, and gone again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.conftest import BLUEPRINTS, IMAGES, Cfy, Host, public_key, ssh, virsh
from tests.real.test_classic import record


def common(image: Path, key: Path, **more: object) -> dict[str, object]:
    return {"image": str(image), "ssh_public_key": public_key(key), "ssh_user": "root", "memory": "128 MiB", **more}


def test_hello(cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    said = cfy.install(BLUEPRINTS / "hello.yaml", "hello", **common(tiny, key))
    outputs = cfy.outputs("hello")
    assert outputs["ssh"] == f"ssh root@{outputs['address']}"
    assert ssh(key, str(outputs["address"]), "hostname") == "hello"
    assert clean_host.domains() == {"hello"}
    told = next(one for one in map(record, cfy.instances("hello")) if "accelerator" in one)
    chosen, why = told["domain_type"], told["accelerator"]
    assert said.lines("defined domain 'hello'", f"({chosen}: {why})"), said.output
    assert why and f"<domain type='{chosen}'" in virsh("dumpxml", "hello")
    cfy.uninstall("hello")


def test_cluster(cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    cfy.install(BLUEPRINTS / "cluster.yaml", "cluster", **common(tiny, key, machines=3, disk="256 MiB"))
    outputs = cfy.outputs("cluster")
    names, addresses = list(outputs["names"]), list(outputs["addresses"])  # type: ignore[call-overload]
    assert sorted(names) == ["node-1", "node-2", "node-3"]
    assert len(set(addresses)) == 3
    for name, address in zip(names, addresses, strict=True):
        said = ssh(key, address, "hostname; cat /sys/block/vda/size")
        assert said.split() == [name, str(256 * 2048)]
    bases = list((IMAGES / "cluster").glob("base-*"))
    assert len(bases) == 1
    cfy.uninstall("cluster")


def test_template_override(cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    cfy.install(BLUEPRINTS / "template-override.yaml", "override", **common(tiny, key))
    xml = virsh("dumpxml", "override")
    assert "<watchdog model='i6300esb' action='reset'>" in xml
    assert "<input type='keyboard' bus='virtio'>" in xml
    assert ssh(key, str(cfy.outputs("override")["address"]), "hostname") == "override"
    cfy.uninstall("override")


def test_container(cfy: Cfy, clean_host: Host, container_root: Path, key: Path) -> None:
    cfy.install(BLUEPRINTS / "container.yaml", "container", **common(container_root, key))
    assert ssh(key, str(cfy.outputs("container")["address"]), "hostname") == "container"
    cfy.uninstall("container")


@pytest.fixture
def existing(host: Host) -> None:
    network = host.connection.networkDefineXML(
        "<network><name>old-net</name><forward mode='nat'/><bridge name='oldbr' stp='off' delay='0'/>"
        "<ip address='10.99.7.1' netmask='255.255.255.0'><dhcp><range start='10.99.7.10' end='10.99.7.90'/></dhcp></ip>"
        "</network>"
    )
    network.create()
    (IMAGES / "old").mkdir()
    (IMAGES / "old" / "precious").write_text("data of somebody else\n")
    pool = host.connection.storagePoolDefineXML(
        f"<pool type='dir'><name>old-pool</name><target><path>{IMAGES}/old</path></target></pool>"
    )
    pool.create()
    yield
    pool.destroy()
    pool.undefine()
    network.destroy()
    network.undefine()
    for path in (IMAGES / "old").iterdir():
        path.unlink()
    (IMAGES / "old").rmdir()


def test_external(cfy: Cfy, existing: None, host: Host, tiny: Path, key: Path) -> None:
    before = host.everything()
    described = (virsh("net-dumpxml", "old-net"), virsh("pool-dumpxml", "old-pool").split("<target>")[1])
    cfy.install(BLUEPRINTS / "external.yaml", "external", **common(tiny, key, network="old-net", pool="old-pool"))
    assert ssh(key, str(cfy.outputs("external")["address"]), "hostname") == "guest"
    cfy.uninstall("external")
    assert host.everything() == before
    assert (virsh("net-dumpxml", "old-net"), virsh("pool-dumpxml", "old-pool").split("<target>")[1]) == described
    assert (IMAGES / "old" / "precious").read_text() == "data of somebody else\n"
