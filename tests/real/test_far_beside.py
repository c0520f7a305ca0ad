"""Backups of a machine of another host that has UEFI, a TPM and an encrypted disk: nothing of it is a file of ours."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from cloudify_libvirt.core.backup.create import Hooks, create
from cloudify_libvirt.core.backup.keeping import Place
from cloudify_libvirt.core.backup.plan import Order
from cloudify_libvirt.core.backup.restore import restore
from cloudify_libvirt.core.backup.store import Store
from cloudify_libvirt.core.backup.verify import verify
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.session import connect
from tests.real.conftest import virsh
from tests.real.far import Far
from tests.real.test_backup_luks import KEY, make

PLACE = "/var/lib/libvirt/far-beside"
NVRAM = "/var/lib/libvirt/qemu/nvram/far-beside_VARS.fd"
DEFINITION = """
<domain type='qemu'><name>far-beside</name><memory unit='MiB'>64</memory>
<os firmware='efi'><type machine='q35'>hvm</type></os><features><acpi/></features><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{place}/vda.qcow2'>
<encryption format='luks'><secret type='passphrase' uuid='{secret}'/></encryption></source>
<target dev='vda' bus='virtio'/></disk>
<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices></domain>
"""


class Machine:
    """A domain of the other host, whose files are looked at by ssh."""

    def __init__(self, far: Far, uuid: str) -> None:
        self.far = far
        self.domain = Domain.get(connect(far.uri), "far-beside")
        self.tpm = f"/var/lib/libvirt/swtpm/{uuid}/tpm2/tpm2-00.permall"

    def states(self) -> dict[str, str]:
        return {path: self.far.sha256(path) for path in (NVRAM, self.tpm, f"{PLACE}/vda.qcow2")}

    def change(self) -> None:
        for path in (NVRAM, self.tpm):
            self.far.sh(f"printf boot | dd of={path} bs=1 seek=4096 conv=notrunc status=none")
        self.far.sh(f"printf other | dd of={PLACE}/vda.qcow2 bs=1 seek=2500000 conv=notrunc status=none")

    def settle(self) -> None:
        """Wait until the firmware has written its variables of the first boot."""
        deadline, seen = time.monotonic() + 90, ""
        while time.monotonic() < deadline:
            now = self.far.sh(f"stat -c %y {NVRAM} {self.tpm}")
            if now == seen:
                return
            seen = now
            time.sleep(3)
        raise AssertionError("the firmware goes on writing")


@pytest.fixture
def machine(far: Far, tmp_path: Path) -> Iterator[Machine]:
    """The machine, running; after the test nothing of it is on its host."""
    disk = tmp_path / "vda.qcow2"
    make(disk, "qcow2")
    far.sh(f"mkdir -m 0711 {PLACE}")
    with disk.open("rb") as data:
        subprocess.run([*far.login(), f"cat > {PLACE}/vda.qcow2"], stdin=data, check=True)
    virsh("pool-create-as", "far-beside", "dir", "--target", PLACE, uri=far.uri)
    connection = libvirt.open(far.uri)
    secret = connection.secretDefineXML("<secret ephemeral='yes' private='yes'/>")
    secret.setValue(KEY.encode())
    handle = connection.defineXML(DEFINITION.format(place=PLACE, secret=secret.UUIDString()))
    try:
        handle.create()
        yield Machine(far, handle.UUIDString())
    finally:
        found = connection.lookupByName("far-beside")
        if found.isActive():
            found.destroy()
        found.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
        secret.undefine()
        virsh("pool-destroy", "far-beside", uri=far.uri)
        far.sh(f"rm -r {PLACE}; rm -f {NVRAM}")


def stores(far: Far, tmp_path: Path) -> dict[str, Store]:
    """A directory here, and a pool of the other host."""
    return {
        "here": Place(directory=str(tmp_path / "kept")).store("local", "far-beside"),
        "there": Place(pool="far-beside", uri=far.uri).store("local", "far-beside"),
    }


def test_all_of_it_comes_back(machine: Machine, clean_far: Far, tmp_path: Path) -> None:
    """From a directory of this host and from a pool of that one; the key never leaves its host."""
    machine.settle()
    places = stores(clean_far, tmp_path)
    made = create(machine.domain, places["there"], Order(point="on"))
    assert [one.kind for one in made.beside] == ["nvram", "tpm"]
    assert [(disk.file, disk.incremental) for disk in made.disks] == [("vda.qcow2", False)]
    machine.domain.destroy()
    was = machine.states()
    for name, store in places.items():
        create(machine.domain, store, Order(point="off"))
        assert verify(store, "", lambda *_: None, deep=True).sound, name
        machine.change()
        assert not set(machine.states().items()) & set(was.items())
        assert restore(machine.domain, store, "off", Hooks()).lacking == ()
        assert machine.states() == was, name
        machine.domain.start()
        machine.domain.destroy()
        restore(machine.domain, store, "off", Hooks())
    owner = clean_far.sh(f"stat -c '%U %a' {shlex.quote(machine.tpm)} {NVRAM}").split()
    assert owner[0] == "tss" and {owner[1], owner[3]} == {"600"}, owner
    kept = clean_far.sh(f"ls -l {PLACE}").splitlines()
    assert {line[:10] for line in kept if "backup~" in line} == {"-rw-------"}
    files = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert files and {path.stat().st_mode & 0o077 for path in files} == {0}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert not Path(PLACE).exists()
