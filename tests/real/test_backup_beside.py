"""What a domain has beside its disks, in backups and dumps: the firmware's variables and the state of its TPM."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from cloudify_libvirt.core.backup import fulldump
from cloudify_libvirt.core.backup.create import Hooks, create
from cloudify_libvirt.core.backup.filestore import Store as Files
from cloudify_libvirt.core.backup.plan import Order
from cloudify_libvirt.core.backup.restore import restore, restore_as
from cloudify_libvirt.core.backup.store import DirectoryStore
from cloudify_libvirt.core.backup.verify import verify
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.snapshot.overlay import NO_JOURNAL
from tests.real.conftest import IMAGES, QEMU, Host, virsh

PLACE = IMAGES / "beside"
NVRAM, SWTPM = Path("/var/lib/libvirt/qemu/nvram"), Path("/var/lib/libvirt/swtpm")
DEFINITION = """
<domain type='qemu'><name>beside</name><memory unit='MiB'>64</memory><os {os}<type machine='q35'>hvm</type>{files}</os>
<features><acpi/></features><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
<source file='{directory}/beside.qcow2'/><target dev='vda' bus='virtio'/></disk>
<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices></domain>
"""
FILES = """<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'/>"""


@dataclass
class Machine:
    """A domain with UEFI, a TPM and no operating system."""

    handle: libvirt.virDomain
    store: DirectoryStore

    @property
    def domain(self) -> Domain:
        return Domain(connect(QEMU), self.handle)

    @property
    def nvram(self) -> Path:
        return NVRAM / f"{self.handle.name()}_VARS.fd"

    @property
    def tpm(self) -> Path:
        return SWTPM / self.handle.UUIDString() / "tpm2/tpm2-00.permall"

    def states(self) -> tuple[bytes, bytes]:
        return self.nvram.read_bytes(), self.tpm.read_bytes()

    def change(self) -> None:
        """As a guest would: a boot entry, a key in the TPM; the file grows."""
        data = bytearray(self.nvram.read_bytes())
        data[4096:4100] = b"boot"
        self.nvram.write_bytes(data)
        self.tpm.write_bytes(self.tpm.read_bytes() + b"more")


@pytest.fixture(params=["firmware named", "firmware chosen"])
def beside(host: Host, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    before = host.everything()
    PLACE.mkdir(mode=0o711)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", PLACE / "beside.qcow2", "4M"], check=True)
    virsh("pool-create-as", "beside", "dir", "--target", str(PLACE))
    os_, files = (">", FILES) if request.param == "firmware named" else ("firmware='efi'>", "")
    handle = host.connection.defineXML(DEFINITION.format(os=os_, files=files, directory=PLACE))
    handle.create()
    yield Machine(handle, DirectoryStore(tmp_path / "kept", "one", "beside"))
    for name in ("beside", "beside-then"):
        if name in host.domains():
            found = host.domain(name)
            if found.isActive():
                found.destroy()
            found.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
    virsh("pool-destroy", "beside")
    shutil.rmtree(PLACE)
    # What libvirt takes the name of from the domain, and does not know of one that has not run since.
    for path in NVRAM.glob("beside*"):
        path.unlink()
    assert host.everything() == before


def settled(machine: Machine) -> None:
    """Wait until the firmware has written its variables of the first boot, and let it write no more."""
    deadline = time.monotonic() + 180
    seen: tuple[float, ...] = ()
    while time.monotonic() < deadline:
        now = machine.nvram.stat().st_mtime, machine.tpm.stat().st_mtime
        if now == seen and time.time() - max(now) > 4:
            machine.handle.suspend()
            return
        seen = now
        time.sleep(0.3)
    raise AssertionError("the firmware goes on writing")


def test_points_have_them_and_give_them_back(beside: Machine) -> None:
    settled(beside)
    made = create(beside.domain, beside.store, Order(point="on"))
    assert [one.kind for one in made.beside] == ["nvram", "tpm"]
    assert {path.name for path in (beside.store.root / "on").iterdir()} >= {"nvram", "tpm"}
    beside.domain.destroy()
    was = beside.states()
    create(beside.domain, beside.store, Order(point="off"))
    for point in ("on", "off"):
        beside.change()
        assert beside.states() != was
        done = restore(beside.domain, beside.store, point, Hooks())
        assert (done.lacking, beside.states()) == ((), was), point
    assert beside.tpm.owner() == "tss" and beside.nvram.stat().st_mode & 0o077 == 0
    beside.domain.start()
    done = restore_as(beside.domain.session, beside.store, "off", "beside-then", Hooks())
    assert done.lacking == ("the state of the TPM",)
    copy = Path(NVRAM / "beside-then_VARS.fd")
    assert copy.read_bytes() == was[0]
    (beside.store.root / "on/nvram").write_bytes(b"other")
    report = verify(beside.store, "", lambda *_: None)
    assert [(one.point, "nvram has 5 bytes" in one.reason) for one in report.findings] == [("on", True)]


def test_tpm_of_a_domain_that_was_defined_anew(beside: Machine, host: Host) -> None:
    """Undefined, its state is gone with its directory; that of the point is there again, and the TPM starts with it."""
    settled(beside)
    beside.domain.destroy()
    was = beside.states()
    create(beside.domain, beside.store, Order(point="p1"))
    xml = beside.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    beside.handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    assert not (SWTPM / beside.domain.uuid).exists() and not beside.nvram.exists()
    beside.handle = host.connection.defineXML(xml)
    assert restore(beside.domain, beside.store, "p1", Hooks()).lacking == ()
    assert beside.states() == was
    beside.domain.start()
    assert beside.handle.isActive() and beside.tpm.owner() == "tss" and beside.tpm.stat().st_mode & 0o077 == 0


def test_dump_has_them(beside: Machine, tmp_path: Path) -> None:
    settled(beside)
    files = Files(tmp_path / "files", "one", "dump", "beside", beside.domain.uuid)
    fulldump.dump(beside.domain, files)
    held = fulldump.manifest(files)
    assert held is not None and held.with_memory and held.beside == ("nvram", "tpm")
    was = files.path("_nvram").read_bytes(), files.path("_tpm").read_bytes()
    assert files.path("_tpm").stat().st_mode & 0o077 == 0 and was[0] == beside.nvram.read_bytes()
    beside.domain.destroy()
    beside.change()
    fulldump.restore(beside.domain.session, beside.domain, files, held, NO_JOURNAL)
    assert beside.handle.isActive()
    beside.domain.destroy()
    assert beside.nvram.read_bytes() == was[0] and b"more" not in beside.tpm.read_bytes()[-4:]
