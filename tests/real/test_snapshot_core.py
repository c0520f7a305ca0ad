"""Snapshots of guests without an operating system: what the disks hold, which files there are, what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from click.testing import CliRunner

from cloudify_libvirt.cli.main import main
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import Conflict, CoreError, InUse, Missing, Unsupported
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.snapshot.delete import delete
from cloudify_libvirt.core.snapshot.overlay import MOMENTARY, Journal
from cloudify_libvirt.core.snapshot.plan import Wish
from cloudify_libvirt.core.snapshot.revert import revert
from cloudify_libvirt.core.snapshot.snapshots import create, current, listed
from cloudify_libvirt.core.storage import growth
from cloudify_libvirt.core.uri import ALLOWED_VARIABLE
from cloudify_libvirt.core.volume import Volume
from tests.real.conftest import IMAGES, QEMU, Host, virsh
from tests.real.netlab import eventually

PLACE = IMAGES / "snapshots"
SIZE = 1 << 22
UEFI = " firmware='efi'"


def disk(target: str, format_: str, *, file: str = "", device: str = "disk") -> str:
    bus = "virtio" if target.startswith("v") else "scsi"
    return (
        f"<disk type='file' device='{device}'><driver name='qemu' type='{format_}'/>"
        f"<source file='{PLACE}/{file or target}'/><target dev='{target}' bus='{bus}'/></disk>"
    )


def image(name: str, format_: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", format_, PLACE / name, str(SIZE)], check=True)


class Machine:
    """A domain, its files, and the journal of what was made for it."""

    def __init__(self, handle: Any) -> None:
        self.domain = Domain(connect(QEMU), handle)
        self.made: list[str] = []
        self.journal = Journal(self._add, self.made.remove, lambda: list(self.made))

    def _add(self, path: str) -> None:
        if path not in self.made:
            self.made.append(path)

    def paths(self) -> dict[str, str]:
        return {disk.target: disk.path for disk in self.domain.facts().disks}

    def write(self, target: str, pattern: int, offset: int = 0) -> None:
        self._io(target, f"write -P {pattern} {offset} 4096")

    def holds(self, target: str, pattern: int, offset: int = 0) -> bool:
        return "Pattern verification failed" not in self._io(target, f"read -P {pattern} {offset} 4096")

    def _io(self, target: str, command: str) -> str:
        path = self.paths()[target]
        told = "raw" if path.endswith("raw") else "qcow2"
        done = subprocess.run(["qemu-io", "-f", told, "-c", command, path], capture_output=True, text=True, check=False)
        assert "Could not" not in done.stdout + done.stderr and "can't" not in done.stderr, done.stderr
        return done.stdout

    def snapshot(self, name: str, **how: Any) -> str:
        return create(self.domain, Wish(name, **how), self.journal)

    def revert(self, name: str) -> None:
        revert(self.domain, name, self.journal)

    def delete(self, name: str, **how: Any) -> None:
        delete(self.domain, name, self.journal, **how)

    def names(self) -> list[tuple[str, str]]:
        return [(one.name, one.parent) for one in listed(self.domain)]


def files() -> set[str]:
    return {path.name for path in PLACE.iterdir()}


@pytest.fixture
def machine(host: Host) -> Iterator[Callable[..., Machine]]:
    before = host.everything()
    PLACE.mkdir()
    made: list[Any] = []

    def define(*devices: str, vcpu: str = "<vcpu>1</vcpu>", uefi: bool = False) -> Machine:
        made.append(host.connection.defineXML(
            f"<domain type='qemu'><name>snapped</name><memory unit='MiB'>{64 if uefi else 32}</memory>{vcpu}"
            f"{'<features><acpi/></features>' if uefi else ''}<os{UEFI if uefi else ''}><type machine='q35'>hvm"
            f"</type></os><devices>{''.join(devices)}<controller type='scsi' model='virtio-scsi'/></devices></domain>"
        ))  # fmt: skip
        return Machine(made[-1])

    yield define
    for handle in made:
        if handle.isActive():
            handle.destroy()
        handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                             | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                             | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)  # fmt: skip
    shutil.rmtree(PLACE)
    assert host.everything() == before
    assert not any(name.startswith(MOMENTARY) for name in host.pools())


@pytest.fixture
def plain(machine: Callable[..., Machine]) -> Machine:
    image("vda", "qcow2")
    return machine(disk("vda", "qcow2"))


@pytest.fixture
def mixed(machine: Callable[..., Machine]) -> Machine:
    """qcow2, raw, and a seed: as blueprints of the existing plugin attach them."""
    image("vda.qcow2", "qcow2")
    image("vdb.raw", "raw")
    (PLACE / "seed.iso").write_bytes(bytes(1 << 16))
    return machine(
        disk("vda", "qcow2", file="vda.qcow2"), disk("vdb", "raw", file="vdb.raw"),
        disk("sda", "raw", file="seed.iso", device="cdrom"),
    )  # fmt: skip


@pytest.mark.parametrize("running", [False, True])
def test_internal(plain: Machine, running: bool) -> None:
    plain.write("vda", 1)
    if running:
        plain.domain.start()
    assert plain.snapshot("one") == ("internal of vda, with memory" if running else "internal of vda")
    plain.domain.destroy()
    plain.write("vda", 2)
    plain.revert("one")
    assert plain.domain.active == running, "with its memory it runs again"
    plain.domain.destroy()
    assert plain.holds("vda", 1)
    plain.delete("one")
    assert plain.names() == [] and files() == {"vda"} and plain.made == []


@pytest.mark.parametrize("memory", ["off", "disk only", "with memory"])
def test_mixed_formats_are_external_without_the_seed(mixed: Machine, memory: str) -> None:
    before = files()
    for target in ("vda", "vdb"):
        mixed.write(target, 1)
    if memory != "off":
        mixed.domain.start()
    told = mixed.snapshot("one", memory=None if memory == "with memory" else False)
    assert "external of vda, vdb" in told and "(without sda)" in told and ("with memory" in told) == (memory[0] == "w")
    new = {"vda@one.qcow2", "vdb@one.qcow2"} | ({"snapped@one.mem"} if memory == "with memory" else set())
    assert files() - before == new == {Path(path).name for path in mixed.made}
    assert all((PLACE / name).stat().st_mode & 0o077 == 0 for name in new), "least access"
    mixed.domain.destroy()
    for target in ("vda", "vdb"):
        mixed.write(target, 2)
    mixed.revert("one")
    assert mixed.domain.active == (memory == "with memory")
    mixed.domain.destroy()
    assert mixed.holds("vda", 1) and mixed.holds("vdb", 1) and current(mixed.domain) == "one"
    for target in ("vda", "vdb"):
        mixed.write(target, 3)
    if memory == "disk only":
        mixed.domain.start()
    mixed.delete("one")
    assert mixed.domain.active == (memory == "disk only"), "a guest that is off is off again"
    mixed.domain.destroy()
    assert mixed.holds("vda", 3) and mixed.holds("vdb", 3), "the present state stays"
    assert mixed.paths()["vdb"] == str(PLACE / "vdb.raw") and files() == before and mixed.made == []


def test_tree_of_external_snapshots(plain: Machine) -> None:
    """one - two, and back at one a branch: three."""
    for number, name in enumerate(("one", "two"), start=1):
        plain.write("vda", number)
        plain.snapshot(name, kind="external")
    plain.write("vda", 9)
    plain.revert("one")
    assert plain.holds("vda", 1)
    plain.write("vda", 3)
    plain.snapshot("three", kind="external")
    # Two of one second have no order.
    assert sorted(plain.names()) == [("one", ""), ("three", "one"), ("two", "one")]
    plain.write("vda", 9)
    plain.revert("two")
    assert plain.holds("vda", 2) and current(plain.domain) == "two"
    plain.revert("three")
    assert plain.holds("vda", 3)
    with pytest.raises(InUse, match=r"it has children: (two, three|three, two)"):
        plain.delete("one")
    plain.delete("two")
    assert plain.holds("vda", 3)
    plain.revert("one")
    assert plain.holds("vda", 1)
    plain.delete("one", children=True)
    assert plain.holds("vda", 1) and plain.names() == [] and files() == {"vda"} and plain.made == []


@pytest.mark.parametrize("running", [False, True])
def test_one_in_the_middle_may_go(plain: Machine, running: bool) -> None:
    for number, name in enumerate(("one", "two", "three"), start=1):
        plain.write("vda", number, offset=number * 8192)
        plain.snapshot(name, kind="external")
    if running:
        plain.domain.start()
    plain.delete("two", keep_below=True)
    assert plain.names() == [("one", ""), ("three", "one")]
    assert files() == {"vda", "vda@one.qcow2", "vda@three.qcow2"}
    plain.revert("three")
    assert plain.holds("vda", 2, 16384) and plain.holds("vda", 3, 24576)
    plain.revert("one")
    assert plain.holds("vda", 1, 8192) and plain.holds("vda", 0, 16384)
    plain.delete("three")
    plain.delete("one")
    assert files() == {"vda"} and plain.made == []


def test_refusals_leave_everything_as_it_was(mixed: Machine) -> None:
    before = files()
    for how, words in (
        ({"kind": "internal"}, "disk vdb is raw, not qcow2"),
        ({"exclude": ("vdz",)}, "it has no disk vdz"),
        ({"exclude": ("vda", "vdb")}, "no disk is left"),
        ({"quiesce": True}, "it is off"),
    ):
        with pytest.raises(CoreError, match=words):
            mixed.snapshot("one", **how)
    mixed.domain.start()
    with pytest.raises(Unsupported, match="the guest agent does not answer"):
        mixed.snapshot("one", quiesce=True)
    (PLACE / "snapped@one.mem").touch()
    with pytest.raises(Conflict, match=r"snapped@one.mem exists"):
        mixed.snapshot("one")
    (PLACE / "snapped@one.mem").unlink()
    with pytest.raises(CoreError, match="name"):
        mixed.snapshot("with/slash", memory=False)
    assert files() == before and mixed.names() == [] and mixed.made == []
    mixed.snapshot("one", memory=False)
    with pytest.raises(Conflict, match="there is one of this name"):
        mixed.snapshot("one")
    with pytest.raises(Missing, match="There is: one"):
        mixed.revert("two")
    with pytest.raises(Missing, match="There is: one"):
        mixed.delete("two")


def test_excluded_disk_goes_on_as_it_is(mixed: Machine) -> None:
    mixed.snapshot("one", exclude=("vdb",))
    mixed.write("vdb", 5)
    mixed.revert("one")
    assert mixed.holds("vdb", 5)
    mixed.delete("one")


def test_revert_is_refused_where_it_cannot_work(machine: Callable[..., Machine]) -> None:
    image("vda", "qcow2")
    found = machine(disk("vda", "qcow2"), vcpu="<vcpu current='1'>2</vcpu>")
    found.domain.start()
    found.snapshot("before")
    virsh("setvcpus", "snapped", "2", "--live")
    found.snapshot("after")
    pid = virsh("qemu-monitor-command", "snapped", "--hmp", "info status")
    with pytest.raises(Unsupported, match="CPUs that had been plugged in"):
        found.revert("after")
    assert virsh("qemu-monitor-command", "snapped", "--hmp", "info status") == pid, "the guest runs on"
    found.revert("before")
    assert found.domain.active
    found.snapshot("outside", kind="external", memory=False)
    with pytest.raises(Conflict, match="Delete snapshot outside first"):
        found.revert("before")
    with pytest.raises(Conflict, match="Delete snapshot outside first"):
        found.delete("before", keep_below=True)
    found.delete("outside")
    virsh("checkpoint-create-as", "snapped", "first")
    with pytest.raises(Conflict, match=r"checkpoints of another tool \(first\)"):
        found.revert("before")
    virsh("checkpoint-delete", "snapped", "first")
    for name in ("after", "before"):
        found.delete(name)
    assert files() == {"vda"}


def test_memory_with_plugged_cpus_is_loaded_from_a_file(machine: Callable[..., Machine]) -> None:
    image("vda", "qcow2")
    found = machine(disk("vda", "qcow2"), vcpu="<vcpu current='1'>2</vcpu>")
    found.domain.start()
    virsh("setvcpus", "snapped", "2", "--live")
    found.snapshot("after", kind="external")
    found.revert("after")
    assert found.domain.active and found.domain.handle.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE) == 2


@pytest.mark.parametrize("memory", [True, False])
def test_disk_that_only_the_running_guest_had(plain: Machine, memory: bool) -> None:
    """It is no part of the stored definition: the guest goes on with it where its memory knows it."""
    image("vdb", "qcow2")
    plain.domain.start()
    virsh("attach-disk", "snapped", str(PLACE / "vdb"), "vdb", "--driver", "qemu", "--subdriver", "qcow2", "--live")
    assert "external of vda, vdb" in plain.snapshot("one", kind="external", memory=memory)
    assert plain.paths()["vdb"] == str(PLACE / "vdb@one.qcow2")
    plain.revert("one")
    assert plain.domain.active and plain.paths() == {"vda": str(PLACE / "vda@one.2.qcow2")} | (
        {"vdb": str(PLACE / "vdb@one.2.qcow2")} if memory else {}
    )
    plain.delete("one")
    assert files() == {"vda", "vdb"} and plain.made == []


@pytest.fixture
def stocked(machine: Callable[..., Machine]) -> Iterator[Machine]:
    """As many a template has it: the disk is a volume of a pool, whose directory has a second name."""
    image("vda", "qcow2")
    (PLACE / "link").symlink_to(PLACE)
    virsh("pool-create-as", "stock", "dir", "--target", str(PLACE / "link"))
    given = "<driver name='qemu' type='qcow2'/><source pool='stock' volume='vda'/><target dev='vda' bus='virtio'/>"
    try:
        yield machine(f"<disk type='volume' device='disk'>{given}</disk>")
    finally:
        if "stock" in virsh("pool-list", "--name").split():
            virsh("pool-destroy", "stock")
        (PLACE / "link").unlink()


def grows(found: Machine, name: str) -> None:
    growth.check(Volume.get(Pool.get(found.domain.session, "stock"), name), 2 * SIZE)


@pytest.mark.parametrize("running", [False, True])
def test_disk_that_is_a_volume_of_a_pool(stocked: Machine, running: bool) -> None:
    if running:
        stocked.domain.start()
    stocked.snapshot("one", kind="external")
    top = stocked.paths()["vda"]
    grows(stocked, Path(top).name)
    with pytest.raises(InUse):
        grows(stocked, "vda")
    stocked.revert("one")
    assert stocked.domain.active == running and stocked.paths()["vda"] not in (top, str(PLACE / "link/vda"))
    if running:
        stocked.domain.destroy()
    virsh("pool-destroy", "stock")
    for action in (stocked.revert, stocked.delete):
        with pytest.raises(Missing, match=r"its disk vda was volume 'vda' of pool 'stock', .* pool is off"):
            action("one")
    virsh("pool-create-as", "stock", "dir", "--target", str(PLACE / "link"))
    stocked.delete("one")
    assert stocked.paths()["vda"] == str(PLACE / "link/vda") and files() == {"vda", "link"}


@pytest.mark.parametrize("way", ["volume", "link"])
def test_what_an_internal_snapshot_needs_is_not_grown(stocked: Machine, host: Host, way: str) -> None:
    """Whether the disk is called by its pool, or by another name of its directory."""
    if way == "link":
        xml = stocked.domain.xml().replace("pool='stock' volume='vda'", f"file='{PLACE}/vda'")
        host.connection.defineXML(xml.replace("<disk type='volume'", "<disk type='file'"))
    grows(stocked, "vda")
    stocked.snapshot("one", kind="internal")
    with pytest.raises(InUse, match="snapshot 'one' of domain 'snapped'"):
        grows(stocked, "vda")
    stocked.delete("one")
    grows(stocked, "vda")


NVRAM = Path("/var/lib/libvirt/qemu/nvram/snapped_VARS.fd")
# At the end of what the firmware keeps for moving its variables about.
MARK = slice(-4096, -4092)


def mark_variables() -> None:
    """Write where the firmware has its variables, while it is off."""
    data = bytearray(NVRAM.read_bytes())
    data[MARK] = b"mark"
    NVRAM.write_bytes(data)


def test_guest_with_uefi(machine: Callable[..., Machine]) -> None:
    """Off, inside its disk. On, outside, and the variables come back with the memory; with disks alone they stay."""
    image("vda", "qcow2")
    found = machine(disk("vda", "qcow2"), uefi=True)
    found.write("vda", 1)
    assert found.snapshot("cold") == "internal of vda"
    found.write("vda", 2)
    found.domain.start()
    with pytest.raises(Unsupported, match=r"cannot be internal: the firmware's variables .*\(pflash\)"):
        found.snapshot("inside", kind="internal")
    assert found.snapshot("hot") == "external of vda, with memory"
    assert files() == {"vda", "vda@hot.qcow2", "snapped@hot.mem"}
    found.domain.destroy()
    found.write("vda", 3)
    mark_variables()
    found.revert("hot")
    assert found.domain.active
    assert eventually(lambda: NVRAM.read_bytes()[MARK] != b"mark")
    found.delete("hot")
    assert found.domain.active and files() == {"vda"}
    found.domain.destroy()
    assert found.holds("vda", 2)
    found.snapshot("disks", kind="external")
    found.write("vda", 4)
    mark_variables()
    found.revert("disks")
    assert found.holds("vda", 2) and NVRAM.read_bytes()[MARK] == b"mark"
    found.delete("disks")
    found.domain.start()
    found.revert("cold")
    assert not found.domain.active and found.holds("vda", 1)
    found.delete("cold")
    assert found.names() == [] and files() == {"vda"} and found.made == []


def test_internal_ones_inside_an_overlay_hold_it(plain: Machine) -> None:
    plain.snapshot("one", kind="external")
    plain.snapshot("two", kind="internal")
    with pytest.raises(InUse, match="holds snapshot two"):
        plain.delete("one", keep_below=True)
    plain.delete("one", children=True)
    assert files() == {"vda"} and plain.made == []


def test_lost_file_is_seen_before_anything_is_touched(plain: Machine) -> None:
    plain.domain.start()
    plain.snapshot("one", kind="external")
    (PLACE / "snapped@one.mem").rename(PLACE / "away")
    with pytest.raises(Missing, match=r"snapped@one.mem is gone"):
        plain.revert("one")
    assert plain.domain.active
    (PLACE / "away").rename(PLACE / "snapped@one.mem")


def test_somebody_elses_overlay_on_a_frozen_file(plain: Machine) -> None:
    plain.snapshot("one", kind="external")
    pool = f"<pool type='dir'><name>other</name><target><path>{PLACE}</path></target></pool>"
    handle = plain.domain.session.connection.storagePoolCreateXML(pool)
    try:
        virsh("vol-create-as", "other", "theirs", "4M", "--format", "qcow2", "--backing-vol", "vda",
              "--backing-vol-format", "qcow2")  # fmt: skip
        with pytest.raises(InUse, match="theirs"):
            plain.delete("one")
        (PLACE / "theirs").unlink()
        plain.delete("one")
        assert files() == {"vda"}
    finally:
        handle.destroy()


def test_command_line(plain: Machine) -> None:
    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["snapshot", *words])
        return done.exit_code, done.output

    assert run("create", "snapped", "one", "--description", "first")[0] == 0
    plain.domain.start()
    code, said = run("create", "snapped", "two", "--kind", "external")
    assert code == 0 and "external of vda, with memory" in said, said
    code, said = run("list", "snapped")
    assert [line.split()[:2] for line in said.splitlines()] == [["one", said.splitlines()[0].split()[1]], ["*", "two"]]
    assert "internal" in said.splitlines()[0] and re.search(r"external with memory, [\d.]+ MiB", said.splitlines()[1])
    rows = json.loads(run("list", "snapped", "--json")[1])
    assert [(row["name"], row["parent"], row["description"]) for row in rows] == [
        ("one", "", "first"),
        ("two", "one", ""),
    ]
    assert rows[1]["bytes"] > 0 and rows[0]["bytes"] is None and not rows[0]["files"]
    for words, reason in (
        (("revert", "snapped", "one", "-y"), "Delete snapshot two first"),
        (("delete", "snapped", "one", "-y"), "children: two"), (("delete", "snapped", "one"), "Aborted!"),
        (("create", "snapped", "../x"), "leave its directory"), (("list", "nobody"), "does not exist"),
    ):  # fmt: skip
        code, said = run(*words)
        assert code == 1 and reason in said, said
    assert run("revert", "snapped", "two", "-y")[1].endswith("is running\n")
    assert run("revert", "snapped", "two", "--json")[0] == 64, "a program is not asked"
    assert json.loads(run("delete", "snapped", "one", "--children", "--yes", "--json")[1]) == {"deleted": "one"}
    assert files() == {"vda"} and plain.names() == [], "without a journal, too"


def test_remote(machine: Callable[..., Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a connection that knows nothing of the host's files."""
    monkeypatch.setenv(ALLOWED_VARIABLE, "command")
    image("vda", "qcow2")
    helper = tmp_path / "helper"
    helper.write_text("#!/bin/sh\nexec virt-ssh-helper qemu:///system\n")
    helper.chmod(0o755)
    found = machine(disk("vda", "qcow2"))
    found.write("vda", 1)
    found.domain = Domain.get(connect(f"qemu+ext:///system?command={helper}"), "snapped")
    assert not found.domain.session.is_local
    found.domain.start()
    found.snapshot("one", kind="external")
    found.domain.destroy()
    found.write("vda", 2)
    found.revert("one")
    assert found.domain.active
    found.delete("one")
    found.domain.destroy()
    assert found.holds("vda", 1) and files() == {"vda"} and found.made == []


def test_what_a_cut_off_attempt_left_is_made_anew(plain: Machine) -> None:
    """Killed between the overlay and the snapshot; then between the snapshot and its end; then while merging."""
    left = PLACE / "vda@one.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", left, "1M"], check=True)
    with_number = plain.snapshot("one", kind="external")
    assert with_number and plain.paths()["vda"].endswith("vda@one.2.qcow2"), "a stranger's file is left alone"
    plain.delete("one")
    assert left.exists()
    plain.made.append(str(left))
    plain.snapshot("one", kind="external")
    assert plain.paths()["vda"] == str(left), "its own is made anew"
    plain.domain.start()
    virsh("blockcommit", "snapped", "vda", "--active", "--wait")
    plain.delete("one")
    assert files() == {"vda"} and plain.made == [] and plain.paths()["vda"] == str(PLACE / "vda")
