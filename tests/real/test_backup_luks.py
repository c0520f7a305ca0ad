"""Backups of disks that are encrypted with LUKS: the store never has a byte in the clear, nor needs the key."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from cloudify_libvirt.core.backup.create import Hooks, create
from cloudify_libvirt.core.backup.definition import alone
from cloudify_libvirt.core.backup.plan import Order
from cloudify_libvirt.core.backup.restore import restore, restore_as
from cloudify_libvirt.core.backup.store import DirectoryStore
from cloudify_libvirt.core.backup.verify import verify
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import Conflict, Unsupported
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.snapshot.delete import delete
from cloudify_libvirt.core.snapshot.plan import Wish as SnapshotWish
from cloudify_libvirt.core.snapshot.revert import revert
from cloudify_libvirt.core.snapshot.snapshots import create as snapshot
from cloudify_libvirt.steps.snapshot import start
from tests.real.conftest import IMAGES, QEMU, Host, virsh

PLACE = IMAGES / "vaults"
KEY = "the key of these disks"
DISKS = {"vda": "qcow2", "vdb": "raw"}
STORED = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
DEFINITION = """
<domain type='qemu'><name>vaults</name><memory unit='MiB'>32</memory><os><type machine='q35'>hvm</type></os>
<devices>{disks}<graphics type='vnc' passwd='hidden'><listen type='socket'/></graphics></devices></domain>
"""
DISK = """<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{path}'>
<encryption format='luks'><secret type='passphrase' uuid='{secret}'/></encryption></source>
<target dev='{target}' bus='virtio'/></disk>"""


def io(path: Path, format_: str, command: str) -> str:
    """Read or write as a guest would, with the key."""
    driver, key = ("qcow2", "encrypt.key-secret") if format_ == "qcow2" else ("luks", "key-secret")
    options = f"driver={driver},{key}=key,file.driver=file,file.filename={path}"
    call = ["qemu-io", "--object", f"secret,id=key,data={KEY}", "-c", command, "--image-opts", options]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert "Could not" not in done.stderr and "can't" not in done.stderr, done.stderr
    return done.stdout


def make(path: Path, format_: str) -> None:
    """Make an encrypted disk, with so little work for the key that it is quick, unlike libvirt."""
    kind, prefix = ("qcow2", "encrypt.") if format_ == "qcow2" else ("luks", "")
    options = f"{prefix}key-secret=key,{prefix}iter-time=10" + (",encrypt.format=luks" if prefix else "")
    call = ["qemu-img", "create", "-q", "--object", f"secret,id=key,data={KEY}", "-f", kind, "-o", options, path, "4M"]
    for _ in range(100):
        # Its measurement of the processor's speed fails now and then.
        if subprocess.run(call, capture_output=True, check=False).returncode == 0:
            path.chmod(0o600)
            return
    raise AssertionError(f"{path} was not made")


@dataclass
class Machine:
    handle: libvirt.virDomain
    store: DirectoryStore

    @property
    def domain(self) -> Domain:
        return Domain(connect(QEMU), self.handle)

    def write(self, pattern: int) -> None:
        for target, format_ in DISKS.items():
            io(PLACE / f"{target}.{format_}", format_, f"write -P {pattern} 0 64k")

    def hold(self, pattern: int) -> bool:
        return all(holds(PLACE / f"{target}.{format_}", format_, pattern) for target, format_ in DISKS.items())


def holds(path: Path, format_: str, pattern: int) -> bool:
    return "Pattern verification failed" not in io(path, format_, f"read -P {pattern} 0 64k")


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disks as they are at first: making them takes long."""
    place = tmp_path_factory.mktemp("blank")
    for target, format_ in DISKS.items():
        make(place / f"{target}.{format_}", format_)
    return place


@pytest.fixture
def vaults(host: Host, tmp_path: Path, blank: Path) -> Iterator[Machine]:
    before = host.everything()
    PLACE.mkdir(mode=0o711)
    secret = host.connection.secretDefineXML("<secret ephemeral='yes' private='yes'/>")
    secret.setValue(KEY.encode())
    disks = ""
    for target, format_ in DISKS.items():
        name = f"{target}.{format_}"
        shutil.copy2(blank / name, PLACE)
        disks += DISK.format(format=format_, path=PLACE / name, secret=secret.UUIDString(), target=target)
    virsh("pool-create-as", "vaults", "dir", "--target", str(PLACE))
    handle = host.connection.defineXML(DEFINITION.format(disks=disks))
    yield Machine(handle, DirectoryStore(tmp_path / "kept", "one", "vaults"))
    for name in host.domains() & {"vaults", "then"}:
        found = host.domain(name)
        if found.isActive():
            found.destroy()
        found.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)  # fmt: skip
    virsh("pool-destroy", "vaults")
    secret.undefine()
    left = sorted(path.name for path in PLACE.iterdir() if not path.name.startswith("restore-"))
    shutil.rmtree(PLACE)
    assert left == ["vda.qcow2", "vdb.raw"] and host.everything() == before


def in_the_clear(place: Path, pattern: int) -> list[str]:
    return [str(path) for path in place.rglob("*") if path.is_file() and bytes([pattern]) * 512 in path.read_bytes()]


def test_points_are_encrypted_and_are_put_back(vaults: Machine) -> None:
    vaults.write(65)
    off = create(vaults.domain, vaults.store, Order(point="off", content=True))
    vaults.domain.start()
    on = create(vaults.domain, vaults.store, Order(point="on"))
    assert [disk.file for disk in off.disks] == [disk.file for disk in on.disks] == ["vda.qcow2", "vdb.raw"]
    assert (on.kind, on.checkpoint) == ("full", ""), "what changed could be put together with the key alone"
    assert verify(vaults.store, "", lambda *_: None, deep=True).sound
    for point in ("off", "on"):
        assert holds(vaults.store.root / point / "vda.qcow2", "qcow2", 65)
        assert holds(vaults.store.root / point / "vdb.raw", "raw", 65)
    assert in_the_clear(vaults.store.base, 65) == [] and in_the_clear(PLACE, 65) == []
    vaults.domain.destroy()
    for point in ("off", "on"):
        vaults.write(66)
        restore(vaults.domain, vaults.store, point, Hooks())
        assert vaults.hold(65), point
        vaults.domain.start()
        vaults.domain.destroy()
    assert in_the_clear(PLACE, 65) == []


def test_copy_has_the_same_key(vaults: Machine, host: Host) -> None:
    vaults.write(65)
    create(vaults.domain, vaults.store, Order(point="p1"))
    restore_as(vaults.domain.session, vaults.store, "p1", "then", Hooks())
    vaults.write(66)
    host.domain("then").create()
    host.domain("then").destroy()
    for path in PLACE.glob("restore-*"):
        assert holds(path, path.suffix[1:], 65)
    assert len(list(PLACE.glob("restore-*"))) == 2 and in_the_clear(PLACE, 65) == []


def test_what_is_declared_otherwise_today_is_refused(vaults: Machine, host: Host) -> None:
    create(vaults.domain, vaults.store, Order(point="p1"))
    xml = vaults.handle.XMLDesc()
    begin, end = xml.index("<encryption"), xml.index("</encryption>") + len("</encryption>")
    host.connection.defineXML(xml[:begin] + xml[end:])
    with pytest.raises(Unsupported, match=r"was encrypted .*, and is not encrypted"):
        restore(vaults.domain, vaults.store, "p1", Hooks())
    host.connection.defineXML(xml)


def test_external_snapshots_have_the_same_key(vaults: Machine, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made of a guest that is off and of one that runs, gone back to, deleted from the middle: never in the clear."""
    vaults.write(65)
    wish = SnapshotWish("s1", kind="external")

    def refused(*_arguments: object) -> Domain:
        raise Conflict("define", vaults.domain.target, "somebody was quicker")

    with monkeypatch.context() as failing, pytest.raises(Conflict, match=r"quicker\. It was made, .* once more"):
        failing.setattr(Domain, "define", refused)
        snapshot(vaults.domain, wish)
    assert beside() == {"vda--at--s1.qcow2", "vdb--at--s1.qcow2"}
    assert "completed" in snapshot(vaults.domain, wish)
    named = vaults.handle.XMLDesc(STORED)
    assert "passwd='hidden'" in named, "the key for what is below does not cost the password of the screen"
    with pytest.raises(Conflict, match="there is one of this name"):
        snapshot(vaults.domain, wish)
    # libvirt 9 alone finds no key for what is below: the start notes what is lacking.
    host.connection.defineXML(alone(named, DISKS))
    start(vaults.domain)
    assert vaults.handle.XMLDesc(STORED) == named
    snapshot(vaults.domain, SnapshotWish("s2", kind="external", memory=False, exclude=("vdb",)))
    vaults.domain.destroy()
    chain = ["vda--at--s2.qcow2", "vda--at--s1.qcow2", "vda.qcow2"]
    below = dict.fromkeys(chain, "qcow2")
    layers(below, "write -P 66 64k 64k")
    assert right(layers(below, "read -P 65 0 64k")) and in_the_clear(PLACE, 65) == in_the_clear(PLACE, 66) == []

    delete(vaults.domain, "s1", keep_below=True)
    vaults.domain.start()
    vaults.domain.destroy()
    below = dict.fromkeys(["vda--at--s2.qcow2", "vda.qcow2"], "qcow2")
    assert right(layers(below, "read -P 66 64k 64k")) and beside() == {"vda--at--s2.qcow2"}

    revert(vaults.domain, "s2")
    (fresh,) = beside()
    vaults.domain.start()
    vaults.domain.destroy()
    below = dict.fromkeys([fresh, "vda.qcow2"], "qcow2")
    assert right(layers(below, "read -P 0 64k 64k")) and right(layers(below, "read -P 65 0 64k"))
    delete(vaults.domain, "s2")
    assert beside() == set() and vaults.hold(65)
    vaults.domain.start()


def beside() -> set[str]:
    return {path.name for path in PLACE.iterdir()} - {"vda.qcow2", "vdb.raw"}


def layers(files: dict[str, str], command: str) -> str:
    """Read or write a file that stands on others, the last one on none, as a guest would."""
    options = []
    for number, (name, format_) in enumerate(files.items()):
        at = "backing." * number
        options += [f"{at}driver={format_}", f"{at}encrypt.key-secret=key", f"{at}file.driver=file",
                    f"{at}file.filename={PLACE / name}"]  # fmt: skip
    call = ["qemu-io", "--object", f"secret,id=key,data={KEY}", "-c", command, "--image-opts", ",".join(options)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert "Could not" not in done.stderr and "can't" not in done.stderr, done.stderr
    return done.stdout


def right(said: str) -> bool:
    return "Pattern verification failed" not in said


def test_one_whose_key_is_in_no_secret_is_refused(vaults: Machine, host: Host) -> None:
    xml = vaults.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    secret = host.connection.listAllSecrets()[0].UUIDString()
    host.connection.defineXML(xml.replace(f"uuid='{secret}'", "usage='of somebody'"))
    with pytest.raises(Unsupported, match=r"disk vda is encrypted, with a key that is not in a secret by UUID"):
        snapshot(vaults.domain, SnapshotWish("s1", kind="external"))
    host.connection.defineXML(xml)
    assert beside() == set()
