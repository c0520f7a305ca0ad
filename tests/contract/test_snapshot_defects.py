"""Section 9, snapshots and backups: one test for each defect that must not come back, named by its id."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import domain_tasks, network_tasks, pool_tasks, volume_tasks
from cloudify_libvirt.core.uri import ALLOWED_VARIABLE
from tests.driver.conftest import Node
from tests.real.conftest import IMAGES, LXC, QEMU, Host, virsh

pytestmark = pytest.mark.lab
PLACE = IMAGES / "defects"
TASKS = {"vm": domain_tasks, "net": network_tasks, "pool": pool_tasks, "volume": volume_tasks}


def made(node: Node) -> Node:
    for name in ("validate", "create", "configure", "start"):
        if hasattr(TASKS[node.name], name):
            node.run(getattr(TASKS[node.name], name))
    return node


def gone(node: Node) -> None:
    for name in ("stop", "delete"):
        if hasattr(TASKS[node.name], name):
            node.run(getattr(TASKS[node.name], name))


def call(node: Node, operation: str, name: str = "one", incremental: Any = True, **more: Any) -> None:
    """Call one operation as the workflows of the utilities plugin do."""
    node.run(
        getattr(TASKS[node.name], f"snapshot_{operation}"), snapshot_name=name, snapshot_incremental=incremental,
        snapshot_type="irregular", snapshot_rotation=1, include_instances=[], include_node_types=[],
        exclude_node_types=[], **more,
    )  # fmt: skip


@pytest.fixture
def place(clean_host: Host) -> Iterator[Path]:
    PLACE.mkdir()
    yield PLACE
    for handle in clean_host.connection.listAllStoragePools():
        assert handle.name() != "defects"
    shutil.rmtree(PLACE)


@pytest.fixture
def classic(place: Path, tmp_path: Path) -> Iterator[Node]:
    """What a blueprint of the existing plugin attaches: a qcow2 disk, and a raw seed as a plain disk."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", place / "disk.qcow2", "4M"], check=True)
    (place / "seed.raw").write_bytes(b"seed" + bytes((1 << 20) - 4))
    disks = [{"bus": "virtio", "dev": "vda", "file": str(place / "disk.qcow2"), "type": "qcow2"},
             {"bus": "virtio", "dev": "vdb", "file": str(place / "seed.raw"), "type": "raw"}]  # fmt: skip
    params = {"name": "classic", "memory_size": 32768, "disks": disks, "wait_for_ip": False, "shutdown_timeout_s": 0}
    node = made(Node(params=params, properties={"libvirt_auth": QEMU, "backup_dir": str(tmp_path / "backups")}))
    yield node
    gone(node)
    assert {path.name for path in place.iterdir()} <= {"disk.qcow2", "seed.raw", "away"}, "no file is left"


def files(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "backups").rglob("*") if path.is_file())


def test_a4_a_restore_checks_the_dump_before_it_touches_the_domain(classic: Node, host: Host, tmp_path: Path) -> None:
    dump = {"incremental": "false", "params": {"full_dump": True}}
    call(classic, "create", **dump)
    assert host.domain("classic").isActive(), "the guest goes on afterwards"
    memory = next(path for path in files(tmp_path) if path.name.endswith("_raw"))
    content = memory.read_bytes()
    identity = host.domain("classic").ID()
    for broken, words in ((content[: len(content) // 2], "SHA-256"), (None, "is gone")):
        memory.unlink()
        if broken is not None:
            memory.write_bytes(broken)
        with pytest.raises(NonRecoverableError, match=words):
            call(classic, "apply", **dump)
        assert host.domain("classic").ID() == identity, "the same QEMU runs on"
        memory.write_bytes(content)
    call(classic, "apply", **dump)
    assert host.domain("classic").isActive() and host.domain("classic").ID() != identity
    call(classic, "delete", **dump)
    assert files(tmp_path) == []


def test_b5_a_raw_seed_disk_does_not_keep_a_snapshot_from_being_made(classic: Node, place: Path) -> None:
    before = {path.name for path in place.iterdir()}
    call(classic, "create")
    assert virsh("snapshot-list", "classic", "--name").split() == ["vm_x0-one"]
    assert virsh("domblklist", "classic").count("@vm_x0-one.qcow2") == 2
    call(classic, "apply")
    call(classic, "delete")
    assert {path.name for path in place.iterdir()} == before
    assert str(place / "seed.raw") in virsh("domblklist", "classic")


def test_b5_a_snapshot_that_fails_leaves_nothing(classic: Node, place: Path) -> None:
    """The second of two overlays cannot be made: the first goes, and the guest runs on its own disks."""
    (place / "seed.raw").rename(place / "away")
    with pytest.raises(NonRecoverableError, match=r"seed\.raw .* does not exist"):
        call(classic, "create")
    (place / "away").rename(place / "seed.raw")
    assert {path.name for path in place.iterdir()} == {"disk.qcow2", "seed.raw"}
    assert classic.runtime["snapshot_files"] == [] and virsh("snapshot-list", "classic", "--name").split() == []
    call(classic, "create")


def test_b5_existing_and_unknown_names_are_errors_that_no_retry_helps(classic: Node) -> None:
    call(classic, "create")
    with pytest.raises(NonRecoverableError, match="there is one of this name"):
        call(classic, "create")
    for operation in ("apply", "delete"):
        for incremental in (True, "false"):
            with pytest.raises(NonRecoverableError, match="it does not exist"):
                call(classic, operation, "two", incremental)
    with pytest.raises(NonRecoverableError, match="it is empty"):
        call(classic, "create", "")


def test_b7_a_definition_is_restored(classic: Node, host: Host, tmp_path: Path) -> None:
    call(classic, "create", incremental="false")
    virsh("setmaxmem", "classic", "131072", "--config")
    virsh("desc", "classic", "--config", "changed since")
    call(classic, "apply", incremental="false")
    now = host.domain("classic").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert "changed since" not in now and "<memory unit='KiB'>65536</memory>" in now
    virsh("destroy", "classic")
    virsh("undefine", "classic")
    call(classic, "apply", incremental="false")
    assert host.domain("classic").UUIDString() == classic.runtime["uuid"], "also when it is gone"
    (PLACE / "disk.qcow2").rename(PLACE / "away")
    with pytest.raises(NonRecoverableError, match=r"disk\.qcow2\) is gone, and its content is not in this backup"):
        call(classic, "apply", incremental="false")
    (PLACE / "away").rename(PLACE / "disk.qcow2")


@pytest.mark.parametrize("incremental", [True, "false"])
def test_b7_networks_and_pools_come_back(clean_host: Host, tmp_path: Path, incremental: Any) -> None:
    at = {"libvirt_auth": QEMU, "backup_dir": str(tmp_path / "backups")}
    net = made(Node("net", {"name": "kept", "ips": [{"address": "10.98.31.1", "netmask": "255.255.255.0"}]}, at))
    pool = made(Node("pool", {"name": "kept"}, at))
    for node in (net, pool):
        call(node, "create", incremental=incremental)
        assert ("net_x0-one" in node.runtime.get("backups", {})) == (incremental is True and node is net)
    virsh("net-update", "kept", "add", "dns-txt", "<txt name='since' value='then'/>", "--config")
    call(net, "apply", incremental=incremental)
    assert "since" not in virsh("net-dumpxml", "kept", "--inactive")
    for command in ("net-destroy", "net-undefine", "pool-destroy", "pool-undefine"):
        virsh(command, "kept")
    for node in (net, pool):
        call(node, "apply", incremental=incremental)
        call(node, "delete", incremental=incremental)
    assert clean_host.connection.networkLookupByName("kept").isActive()
    assert clean_host.connection.storagePoolLookupByName("kept").UUIDString() == pool.runtime["uuid"]
    for node in (pool, net):
        gone(node)
        assert node.runtime == {"resource_id": None, **({"backups": {}} if incremental is True else {})}


def test_b7_a_volumes_definition_does_not_pretend_to_hold_its_content(clean_host: Host, tmp_path: Path) -> None:
    at = {"libvirt_auth": QEMU, "backup_dir": str(tmp_path / "backups")}
    pool = made(Node("pool", {"name": "shelf"}, at))
    volume = made(Node("volume", {"name": "data", "pool": "shelf", "capacity": 1}, at))
    call(volume, "create")
    call(volume, "apply")
    virsh("vol-resize", "data", "2M", "--pool", "shelf")
    with pytest.raises(NonRecoverableError, match="and is raw of 2 MiB; its content is not in this backup"):
        call(volume, "apply")
    virsh("vol-delete", "data", "--pool", "shelf")
    with pytest.raises(NonRecoverableError, match="it does not exist"):
        call(volume, "apply")
    gone(volume)
    gone(pool)


def test_b19_everything_that_blocks_undefine_goes(classic: Node, host: Host) -> None:
    call(classic, "create")
    call(classic, "create", "two")
    virsh("checkpoint-create-as", "classic", "point", "--diskspec", "vda", "--diskspec", "vdb")
    virsh("managedsave", "classic")
    gone(classic)
    assert "classic" not in host.domains()


def test_b22_a_memory_dump_of_a_remote_host_is_refused_before_anything(
    classic: Node, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOWED_VARIABLE, "command")
    remote = remote_uri(tmp_path)
    identity = host.domain("classic").ID()
    with pytest.raises(NonRecoverableError, match="would be written on the host of"):
        call(classic, "create", incremental=False, params={"full_dump": True}, libvirt_auth=remote)
    assert host.domain("classic").ID() == identity and files(tmp_path) == []
    for operation in ("create", "apply", "delete"):
        call(classic, operation, libvirt_auth=remote)
    call(classic, "create", "definition", incremental=False, params={"full_dump": False}, libvirt_auth=remote)
    assert len(files(tmp_path)) == 1
    classic.run(domain_tasks.get_state, libvirt_auth=QEMU)


def remote_uri(directory: Path) -> str:
    """A connection that knows nothing of the host's files: libvirt's own helper of its ssh transport."""
    helper = directory / "helper"
    helper.write_text("#!/bin/sh\nexec virt-ssh-helper qemu:///system\n")
    helper.chmod(0o755)
    return f"qemu+ext:///system?command={helper}"


@pytest.mark.parametrize("name", ["../out", "a/../../out", "..", "/etc/out", ".", "x" * 200])
def test_b24_names_stay_inside(classic: Node, tmp_path: Path, name: str) -> None:
    for operation in ("create", "apply", "delete"):
        for incremental in (True, "false"):
            with pytest.raises(NonRecoverableError, match=r"leave its directory|has 200 bytes"):
                call(classic, operation, name, incremental)
    assert not (tmp_path / "backups").exists() and not list(tmp_path.glob("out*"))


def test_b24_two_deployments_do_not_collide(classic: Node, tmp_path: Path) -> None:
    call(classic, "create", "daily/1", incremental="false")
    other = Node(params=classic.params, properties=classic.properties, deployment="other")
    other.runtime.update({**classic.runtime, "snapshots": {}})
    call(other, "create", "daily/1", incremental="false")
    written = files(tmp_path)
    assert [path.parent.parent.name for path in written] == ["dep", "other"]
    assert {path.parent.name for path in written} == {"daily_1"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in written)
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in (tmp_path / "backups").rglob("*") if path.is_dir())
    call(other, "delete", "daily/1", incremental="false")
    call(classic, "apply", "daily/1", incremental="false")
    with pytest.raises(NonRecoverableError, match="there is one of this name"):
        call(classic, "create", "daily/1", incremental="false")
    call(classic, "create", "daily/2", incremental="false")


def test_b24_a_backup_of_an_earlier_release_is_restored_if_it_is_of_this_object(
    classic: Node, host: Host, tmp_path: Path
) -> None:
    old = tmp_path / "backups" / "old" / "classic.xml"
    old.parent.mkdir(parents=True)
    old.write_text(host.domain("classic").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    virsh("desc", "classic", "--config", "changed since")
    call(classic, "apply", "old", incremental="false")
    assert "changed since" not in host.domain("classic").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    (old.parent / "classic_raw").write_bytes(b"memory without disks")
    with pytest.raises(NonRecoverableError, match="would ruin their file systems"):
        call(classic, "apply", "old", incremental="false")
    old.write_text(old.read_text().replace(classic.runtime["uuid"], "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"))
    with pytest.raises(NonRecoverableError, match="it is of another object"):
        call(classic, "apply", "old", incremental="false")


def test_rotation_of_one_keeps_all_and_of_two_keeps_two(classic: Node) -> None:
    """Workflows send 1 when nobody asked: no snapshot of a user may go for that."""
    for number in range(3):
        call(classic, "create", f"day-{number}")
    assert len(virsh("snapshot-list", "classic", "--name").split()) == 3
    classic.run(domain_tasks.snapshot_create, snapshot_name="day-3", snapshot_type="irregular", snapshot_rotation="2")
    assert virsh("snapshot-list", "classic", "--name").split() == ["vm_x0-day-2", "vm_x0-day-3"]
    assert virsh("domblklist", "classic").count("@vm_x0-day-3.qcow2") == 2
    for name in ("day-2", "day-3"):
        call(classic, "apply", name)


def test_a_call_that_was_cut_off_is_completed(classic: Node, host: Host, place: Path) -> None:
    """Killed after libvirt had made it, and before that was written down; then the same for the delete."""
    call(classic, "create")
    classic.runtime["snapshot_job"] = {"operation": "create", "name": "vm_x0-one", "off": False}
    call(classic, "create")
    assert classic.runtime["snapshot_job"] is None
    virsh("destroy", "classic")
    classic.runtime["snapshot_job"] = {"operation": "apply", "name": "vm_x0-one", "off": False}
    call(classic, "apply")
    assert host.domain("classic").isActive()
    call(classic, "delete")
    classic.runtime["snapshot_job"] = {"operation": "delete", "name": "vm_x0-one", "off": False}
    call(classic, "delete")
    assert {path.name for path in place.iterdir()} == {"disk.qcow2", "seed.raw"}


def test_a4_a_guest_whose_dump_was_cut_off_gets_its_memory_back(classic: Node, host: Host, tmp_path: Path) -> None:
    """Killed while the memory was only in the file."""
    dump = {"incremental": "false", "params": {"full_dump": True}}
    call(classic, "create", **dump)
    stem = next(path for path in files(tmp_path) if path.suffix == ".xml")
    raw = stem.with_name(stem.name.removesuffix(".xml") + "_raw")
    part = raw.with_name(f"{raw.name}.part")
    raw.rename(part)
    stem.unlink()
    virsh("destroy", "classic")
    call(classic, "create", **dump)
    assert host.domain("classic").isActive() and raw.exists() and not part.exists()
    call(classic, "apply", **dump)


def test_user_templates_of_snapshots(classic: Node) -> None:
    """The contract's variables, params beside them; what it does not say of the disks is added."""
    text = ("<domainsnapshot><name>{{ snapshot_name }}</name><description>{{ snapshot_description }} of {{ name }} in "
            "{{ ctx.deployment.id }}</description></domainsnapshot>")  # fmt: skip
    call(classic, "create", template_content=text)
    shown = virsh("snapshot-dumpxml", "classic", "vm_x0-one")
    assert "<description>irregular of classic in dep</description>" in shown and shown.count("snapshot='external'") == 3
    classic.resources["templates/snapshot.xml"] = text.replace("{{ snapshot_name }}", "fixed").encode()
    with pytest.raises(NonRecoverableError, match="its name would be 'fixed'"):
        call(classic, "create", "two", template_resource="templates/snapshot.xml")
    call(classic, "delete")


def test_containers_say_that_they_have_none(clean_host: Host) -> None:
    domain = clean_host.containers.defineXML(
        "<domain type='lxc'><name>box</name><memory>65536</memory>"
        "<os><type>exe</type><init>/bin/sh</init></os></domain>"
    )
    node = Node(params={"name": "box"}, properties={"libvirt_auth": LXC})
    node.runtime.update(resource_id="box", uuid=domain.UUIDString())
    try:
        for operation in ("create", "apply", "delete"):
            with pytest.raises(NonRecoverableError, match="containers have no snapshots in libvirt"):
                call(node, operation)
    finally:
        domain.undefine()
