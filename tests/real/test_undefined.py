"""A domain that somebody undefined while files stood on its disks: no heal loses what the guest wrote."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError, OperationRetry

from cloudify_libvirt import domain_tasks, pool_tasks, volume_tasks
from cloudify_libvirt.core import parse
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.snapshot import above
from cloudify_libvirt.core.uri import ALLOWED_VARIABLE
from tests.driver.conftest import Node
from tests.driver.test_adoption import Installed
from tests.real.conftest import IMAGES, QEMU, Host, virsh

PLACE, IMAGE = IMAGES / "undef", IMAGES / "undef-image.raw"
ROOT, DATA = PLACE / "undef-root.qcow2", PLACE / "undef-data"
NAME, MIB = "undef", 1024 * 1024


@pytest.fixture
def nodes(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[dict[str, Node]]:
    """A machine without an operating system that runs, with a disk of its own and a volume."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = host.everything()
    IMAGES.mkdir(exist_ok=True)
    IMAGE.write_bytes(b"image".ljust(MIB, b"\0"))
    made = {
        "pool": Node(name="pool", params={"name": NAME, "path": str(PLACE)}),
        "data": Node(name="data", params={"name": DATA.name, "pool": NAME, "size": "4 MiB", "format": "qcow2",
                                          **getattr(request, "param", {})}),
        "vm": Installed(name="vm", home=tmp_path, params={
            "name": NAME, "memory": "64 MiB", "pool": NAME, "image": str(IMAGE), "wait_for_ip": False,
            "shutdown_timeout_s": 0, "disks": [{"volume": DATA.name, "pool": NAME}],
        }),
    }  # fmt: skip
    for node in made.values():
        node.deployment, node.properties = "undef", {"libvirt_auth": QEMU}
    pool, data, domain = made["pool"], made["data"], made["vm"]
    assert isinstance(domain, Installed)
    domain.there()
    try:
        for operation in (pool_tasks.create, pool_tasks.configure, pool_tasks.start):
            pool.run(operation)
        data.run(volume_tasks.create)
        for operation in (domain_tasks.create, domain_tasks.configure, domain_tasks.start):
            domain.run(operation)
        yield made
    finally:
        domain.run(domain_tasks.stop)
        domain.run(domain_tasks.delete)
        for path in (one for one in PLACE.iterdir() if one != DATA):
            path.unlink()
        data.run(volume_tasks.delete)
        pool.run(pool_tasks.delete)
        IMAGE.unlink()
    assert host.everything() == before


@pytest.fixture
def vm(nodes: dict[str, Node]) -> Installed:
    found = nodes["vm"]
    assert isinstance(found, Installed)
    return found


def snapshot(vm: Node, operation: str, name: str) -> None:
    run = getattr(domain_tasks, f"snapshot_{operation}")
    vm.run(run, snapshot_name=name, snapshot_kind="external", snapshot_memory="false")


def by_virsh(name: str) -> list[Path]:
    """Do what a tool does that leaves nothing but files."""
    virsh("snapshot-create-as", NAME, name, "--disk-only", "--no-metadata")
    return [PLACE / f"{ROOT.stem}.{name}", PLACE / f"{DATA.name}.{name}"]


def files(*, stored: bool = True) -> list[Path]:
    """The files of the disks, of the definition or of the machine that runs."""
    handle = libvirt.open(QEMU).lookupByName(NAME)
    text = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE if stored else 0)
    return [Path(disk.path) for disk in parse.domain(text).disks if disk.device == "disk"]


def io(path: Path, command: str) -> str:
    run = ["qemu-io", "-f", "qcow2", "-c", command, path]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def wrote(*paths: Path) -> None:
    for path in paths:
        io(path, "write -P 7 65536 4096")


def holds(*paths: Path) -> bool:
    return all("Pattern verification failed" not in io(path, "read -P 7 65536 4096") for path in paths)


def gone(*, transient: bool = False) -> None:
    if not transient:
        virsh("destroy", NAME)
    virsh("undefine", NAME, "--snapshots-metadata") if not transient else virsh("undefine", NAME)


def defined() -> bool:
    return NAME in {domain.name() for domain in libvirt.open(QEMU).listAllDomains()}


def refused(vm: Node, *words: str) -> None:
    """No workflow defines it, and none has a reason to put another in its place; the files are as they were."""
    before = {path: path.read_bytes() for path in PLACE.iterdir()}
    for operation in (domain_tasks.check_status, domain_tasks.heal):
        with pytest.raises(NonRecoverableError) as told:
            vm.run(operation)
        assert all(word in str(told.value) for word in words), told.value
    vm.workflow = "heal"
    with pytest.raises(OperationRetry, match="its definition is gone"):
        vm.run(domain_tasks.check_status)
    vm.workflow = ""
    assert not defined()
    assert {path: path.read_bytes() for path in PLACE.iterdir()} == before


def well(vm: Node) -> None:
    vm.run(domain_tasks.check_status)
    assert not vm.run(domain_tasks.check_drift)


def test_it_is_defined_on_the_files_of_our_snapshots(vm: Node) -> None:
    snapshot(vm, "create", "one")
    snapshot(vm, "create", "two")
    snapshot(vm, "apply", "two")
    tops = files()
    assert [path.name for path in tops] == ["undef-root@vm_a-two.2.qcow2", "undef-data@vm_a-two.2.qcow2"]
    virsh("destroy", NAME)
    wrote(*tops)
    virsh("undefine", NAME, "--snapshots-metadata")
    with pytest.raises(NonRecoverableError, match="Heal it"):
        vm.run(domain_tasks.check_status)
    vm.run(domain_tasks.heal)
    assert files() == files(stored=False) == tops
    virsh("destroy", NAME)
    assert holds(*tops)
    vm.run(domain_tasks.heal)
    well(vm)


@pytest.mark.parametrize("nodes", [{"encryption": {"passphrase": "hidden"}}], indirect=True)
def test_files_on_an_encrypted_disk_keep_their_key(vm: Installed) -> None:
    """The definition says what each file stands on, with the key, or it could not start."""
    snapshot(vm, "create", "one")
    snapshot(vm, "create", "two")
    tops = files()
    gone()
    vm.run(domain_tasks.heal)
    assert files() == files(stored=False) == tops
    well(vm)
    virsh("undefine", NAME)
    vm.run(domain_tasks.heal)
    vm.run(domain_tasks.stop)
    vm.run(domain_tasks.start)
    assert files() == files(stored=False) == tops


def test_files_of_another_tool_are_named_and_taken_only_when_told(vm: Node) -> None:
    snapshot(vm, "create", "ours")
    tops = by_virsh("theirs")
    tops = files()
    gone()
    wrote(*tops)
    refused(vm, "we did not make", *map(str, tops), "disk_files", json.dumps({"vda": str(tops[0])})[1:-1])
    with pytest.raises(NonRecoverableError, match=r"its definition is gone.*disk vdb"):
        vm.run(domain_tasks.heal, disk_files={"vda": str(tops[0])})
    assert not defined()
    vm.run(domain_tasks.heal, disk_files={"vda": str(tops[0]), str(DATA): str(tops[1])})
    assert files() == files(stored=False) == tops
    well(vm)
    virsh("destroy", NAME)
    assert holds(*tops)


def test_a_machine_that_runs_without_a_definition_gets_its_files(vm: Node) -> None:
    tops = by_virsh("theirs")
    before = Path(f"/run/libvirt/qemu/{NAME}.pid").read_text()
    gone(transient=True)
    with pytest.raises(NonRecoverableError, match="its definition is gone: it ends when it is stopped"):
        vm.run(domain_tasks.check_status)
    vm.run(domain_tasks.heal)
    assert files() == tops and before == Path(f"/run/libvirt/qemu/{NAME}.pid").read_text()
    well(vm)


def create(name: str, below: Path) -> None:
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, PLACE / name]
    subprocess.run(command, check=True)


def merged_by_hand(vm: Node) -> None:
    snapshot(vm, "create", "one")
    for target in ("vda", "vdb"):
        virsh("blockcommit", NAME, target, "--active", "--pivot", "--wait")
    gone()
    wrote(ROOT, DATA)


def pulled_by_hand(vm: Node) -> None:
    snapshot(vm, "create", "one")
    for target in ("vda", "vdb"):
        virsh("blockpull", NAME, target, "--wait")
    gone()


def two_at_once(vm: Node) -> None:
    gone()
    create("a.qcow2", ROOT)
    create("b.qcow2", ROOT)


def cut_off(vm: Node) -> None:
    snapshot(vm, "create", "one")
    gone()
    vm.runtime["snapshot_job"] = {"operation": "delete", "name": "one", "off": False}


UNCLEAR: dict[str, tuple[Callable[[Node], None], str]] = {
    "merged by hand": (merged_by_hand, "was written to after what stands on it"),
    "pulled by hand": (pulled_by_hand, "stand on no disk of it any more"),
    "two at once": (two_at_once, "nobody can tell which one"),
    "a snapshot cut off": (cut_off, "a snapshot was being made, gone back to or deleted"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_nobody_can_tell_is_refused(name: str, vm: Node) -> None:
    happen, words = UNCLEAR[name]
    happen(vm)
    refused(vm, words, str(ROOT))
    vm.run(domain_tasks.heal, disk_files={"vda": str(ROOT), "vdb": str(DATA)})
    assert files() == [ROOT, DATA]


def test_a_look_starts_no_pool_that_somebody_stopped(vm: Node, host: Host) -> None:
    """It says what it cannot see; what heals starts the pool, and finds the file of another tool."""
    tops = by_virsh("theirs")
    gone()
    pool = host.connection.storagePoolLookupByName(NAME)
    pool.destroy()
    words = f"the hypervisor does not know it any more; whether files stand on its disks .* pool {NAME} is off"
    with pytest.raises(NonRecoverableError, match=words):
        vm.run(domain_tasks.check_status)
    assert vm.run(domain_tasks.check_drift)
    assert not pool.isActive() and NAME not in host.domains()
    vm.workflow = "heal"
    with pytest.raises(OperationRetry, match="we did not make"):
        vm.run(domain_tasks.check_status)
    vm.workflow = ""
    pool.destroy()
    with pytest.raises(NonRecoverableError, match="we did not make"):
        vm.run(domain_tasks.heal)
    assert not defined() and pool.isActive()
    vm.run(domain_tasks.heal, disk_files={"vda": str(tops[0]), "vdb": str(tops[1])})
    well(vm)


def test_a_directory_that_another_host_has_not(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a connection that knows nothing of the host's files: nothing stands on a disk there."""
    monkeypatch.setenv(ALLOWED_VARIABLE, "command")
    helper = tmp_path / "helper"
    helper.write_text("#!/bin/sh\nexec virt-ssh-helper qemu:///system\n")
    helper.chmod(0o755)
    far = connect(f"qemu+ext:///system?command={helper}")
    assert not far.shares_files
    before = host.pools()
    assert above.stacks(far, "/nowhere/at/all/disk.qcow2", "4dea22b3-1d52-d8f3-2516-782e98ab3fa0") == []
    assert host.pools() == before


def test_what_another_machine_has_is_none_of_it(vm: Node, host: Host) -> None:
    gone()
    create("other.qcow2", DATA)
    other: Any = host.connection.defineXML(
        f"<domain type='qemu'><name>other</name><memory>32768</memory><os><type>hvm</type></os><devices><disk "
        f"type='file'><driver name='qemu' type='qcow2'/><source file='{PLACE}/other.qcow2'/><target dev='vda'/></disk>"
        "</devices></domain>"
    )
    try:
        vm.run(domain_tasks.heal)
        assert files() == [ROOT, DATA]
        well(vm)
    finally:
        other.undefine()


@pytest.mark.parametrize("undefined", [False, True])
def test_a_second_install_is_not_made_below_what_the_guest_wrote(undefined: bool, vm: Installed) -> None:
    tops = by_virsh("theirs")
    virsh("destroy", NAME)
    wrote(*tops)
    if undefined:
        virsh("undefine", NAME)
    again = vm.anew()
    again.run(domain_tasks.create)
    with pytest.raises(NonRecoverableError, match=rf"files stand on its disk {ROOT}: {tops[0]}"):
        again.run(domain_tasks.configure)
    assert files() == tops if not undefined else not defined()
    # The journal is still that of the first.
    vm.there()


def sizes(*paths: Path) -> list[int]:
    told = [subprocess.check_output(["qemu-img", "info", "-U", "--output=json", path]) for path in paths]
    return [json.loads(one)["virtual-size"] // MIB for one in told]


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_what_grows_is_the_file_that_the_guest_uses(whose: str, running: bool, vm: Installed) -> None:
    snapshot(vm, "create", "one") if whose == "ours" else by_virsh("one")
    top = files()[0]
    if not running:
        vm.run(domain_tasks.stop)
    assert sizes(ROOT, top) == [1, 1] and top != ROOT
    vm.params["image"] = {"source": str(IMAGE), "size": "3 MiB"}
    found: Any = vm.run(domain_tasks.check_drift)
    assert [(one["field"], one["found"]) for one in found] == [("image.size", MIB)]
    vm.run(domain_tasks.update)
    assert sizes(ROOT, top) == [1, 3] and not vm.run(domain_tasks.check_drift)
    if running:
        assert libvirt.open(QEMU).lookupByName(NAME).blockInfo("vda")[0] == 3 * MIB
    vm.params["image"]["size"] = "2 MiB"
    with pytest.raises(NonRecoverableError, match=f"file {top}, which stands on"):
        vm.run(domain_tasks.update)
    vm.params["image"]["size"] = "3 MiB"
    if whose == "ours":
        snapshot(vm, "delete", "one")
        assert files()[0] == ROOT and sizes(ROOT) == [3] and not vm.run(domain_tasks.check_drift)
    else:
        assert not vm.run(domain_tasks.check_drift)


def test_a_volume_below_a_file_is_not_grown(vm: Installed, nodes: dict[str, Node]) -> None:
    tops = by_virsh("one")
    nodes["data"].params["size"] = "8 MiB"
    with pytest.raises(NonRecoverableError, match=rf"it is used by .*{tops[1].name}"):
        nodes["data"].run(volume_tasks.update)
    assert sizes(DATA, tops[1]) == [4, 4]
    nodes["data"].params["size"] = "4 MiB"
