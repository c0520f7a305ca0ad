"""A hypervisor on another host, whose files are not this one's: scripts/test starts a second lab, and links it.

By hand: scripts/lab up; scripts/lab --name far up; ADDRESSES=$(scripts/lab link far); then in the background
scripts/lab --name far exec .venv/bin/python -m tests.real.sshd DIRECTORY ${ADDRESSES#* }
and the tests with CLOUDIFY_LIBVIRT_FAR=DIRECTORY.
"""

from __future__ import annotations

import hashlib
import json
import os
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
from cloudify_libvirt.core.backup.verify import verify
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.host.console import tail
from cloudify_libvirt.core.session import connect
from tests.real.backups import Guest, content
from tests.real.conftest import BLUEPRINTS, IMAGES, ROOT, Cfy, Host, Result, public_key, ssh, virsh
from tests.real.far import Far

# Keepalive ends a silent connection after 20 s; the rest is for beginning and end of what runs.
CUT_OFF_S = 90


@pytest.fixture(scope="module")
def shelf(far: Far) -> Iterator[str]:
    """A pool of the other host."""
    virsh("pool-create-as", "shelf", "dir", "--target", "/var/lib/libvirt/shelf", "--build", uri=far.uri)
    yield "shelf"
    virsh("pool-destroy", "shelf", uri=far.uri)
    far.sh("rm -r /var/lib/libvirt/shelf")


def tool(*arguments: object, check: bool = True, timeout_s: float = 600) -> Result:
    begin = time.monotonic()
    done = subprocess.run(
        [ROOT / ".venv/bin/cfy-libvirt", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False, timeout=timeout_s,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout
    return Result(done.returncode, done.stdout, time.monotonic() - begin)


def test_a_machine_on_another_host(cfy: Cfy, clean_far: Far, clean_host: Host, tiny: Path, key: Path) -> None:
    """Its image goes there as a stream; nothing is made here, and nothing stays there."""
    far, uploaded = clean_far, {"image": str(tiny), "ssh_public_key": public_key(key), "ssh_user": "root"}
    here = clean_host.everything()
    try:
        cfy.install(BLUEPRINTS / "hello.yaml", "far", libvirt_uri=far.uri, memory="256 MiB", **uploaded)
        assert clean_host.everything() == here
        address = str(cfy.outputs("far")["address"])
        jump = ("-o", f"ProxyCommand={shlex.join([*far.login()[:-1], '-W', '%h:%p', far.login()[-1]])}")
        assert ssh(key, address, "hostname", options=jump) == "hello"
        uuid = far.sh("virsh domuuid hello").strip()
        assert f"{uuid}-console.log" in far.everything()
        assert "MARK" in tail(connect(far.uri), f"/var/log/libvirt/qemu/{uuid}-console.log")
    finally:
        said = cfy.uninstall("far", check=False)
    assert said.code == 0 and not said.lines("left "), said.output[-3000:]


def test_volumes_to_another_host_and_back(far: Far, shelf: str, tmp_path: Path) -> None:
    """With a hole in the middle."""
    source, back = tmp_path / "source.raw", tmp_path / "back.raw"
    with source.open("wb") as data:
        data.write(os.urandom(3 << 20))
        data.seek(40 << 20)
        data.write(os.urandom(1 << 20))
    tool("volume", "upload", source, shelf, "goods", "--uri", far.uri)
    assert far.sha256("/var/lib/libvirt/shelf/goods") == digest(source)
    assert int(far.sh("du -k /var/lib/libvirt/shelf/goods").split()[0]) < 8 << 10
    tool("volume", "download", shelf, "goods", back, "--uri", far.uri)
    assert digest(back) == digest(source) and back.stat().st_blocks * 512 < 8 << 20, "the hole came back as one"
    assert not Path("/var/lib/libvirt/shelf").exists()
    virsh("vol-delete", "goods", "--pool", shelf, uri=far.uri)


def digest(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def test_an_upload_that_is_cut_off(far: Far, shelf: str, tmp_path: Path) -> None:
    """It ends in time, says what to do, and goes on when the host is back."""
    source = tmp_path / "large.raw"
    with source.open("wb") as data:
        for _ in range(30):
            data.write(os.urandom(10 << 20))
    there = "/var/lib/libvirt/shelf/large"
    command = [ROOT / ".venv/bin/cfy-libvirt", "volume", "upload", source, shelf, "large", "--uri", far.uri]
    with far.cut_off():
        upload = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        # As soon as something is there: the rest is to take much longer than this answer.
        begun = f"until [ $(stat -c %b {there} 2>/dev/null || echo 0) -gt 4000 ]; do sleep 0.01; done; echo begun"
        with subprocess.Popen([*far.login(), begun], stdout=subprocess.PIPE) as look:
            assert look.stdout is not None and look.stdout.readline() == b"begun\n"
            far.cable("down")
            look.kill()
        begin = time.monotonic()
        said, _ = upload.communicate(timeout=300)
        assert time.monotonic() - begin < CUT_OFF_S
    assert upload.returncode == 1 and "Traceback" not in said, said
    assert "keepalive" in said and "again" in said, said
    assert 0 < int(far.sh(f"stat -c %b {there}")) * 512 < source.stat().st_size
    tool("volume", "upload", source, shelf, "large", "--uri", far.uri)
    assert far.sha256(there) == digest(source)
    # What stands whole is nobody's to replace.
    again = tool("volume", "upload", source, shelf, "large", "--uri", far.uri, check=False)
    assert again.code == 1 and "exists" in again.output
    virsh("vol-delete", "large", "--pool", shelf, uri=far.uri)


@pytest.fixture(scope="module")
def guest(tiny: Path) -> Iterator[Guest]:
    """A guest of this host that runs, its pool, and a base image."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    virsh("pool-create-as", "default", "dir", "--target", str(IMAGES))
    base = IMAGES / "far-base.qcow2"
    base.write_bytes(tiny.read_bytes())
    base.chmod(0o644)
    found = Guest("keeper", IMAGES, base)
    found.define()
    try:
        found.boot()
        yield found
    finally:
        found.remove()
        base.unlink()
        virsh("pool-destroy", "default")


def test_backups_on_another_host(far: Far, shelf: str, guest: Guest, tmp_path: Path) -> None:
    """Made from here, checked from here, restored to here and to there."""
    at = ("--pool", shelf, "--pool-uri", far.uri)
    tool("backup", "create", "keeper", "--point", "one", *at)
    guest.sh("echo more > /root/more; sync")
    guest.handle.suspend()
    second = json.loads(tool("backup", "create", "keeper", "--point", "two", "--no-quiesce", "--json", *at).output)
    assert second["kind"] == "incremental"
    wanted = content(guest.root, tmp_path)
    guest.handle.resume()
    files = [line for line in far.sh("ls -l /var/lib/libvirt/shelf").splitlines() if "~keeper~" in line]
    assert {line.split("~")[3] for line in files} == {"one", "two"}
    assert {line[:10] for line in files} == {"-rw-------"}
    assert "2 points, 0 faults" in tool("backup", "verify", "keeper", "--deep", *at).output

    tool("backup", "restore", "keeper", "--as", "here", "--to-pool", "default", *at)
    disks = dict(line.split() for line in virsh("domblklist", "here").splitlines() if ".qcow2" in line)
    assert content(Path(disks["vda"]), tmp_path, drop=True) == wanted
    Path(disks["vda"].replace("vda.qcow2", "vdb.raw")).unlink()
    virsh("pool-refresh", "default")
    virsh("undefine", "here")

    tool("backup", "restore", "keeper", "--as", "there", "--to-pool", shelf, "--uri", far.uri, *at)
    disks = dict(line.split() for line in virsh("domblklist", "there", uri=far.uri).splitlines() if "restore" in line)
    assert set(disks) == {"vda", "vdb"}
    assert far.content(disks["vda"]) == wanted
    virsh("undefine", "there", "--remove-all-storage", uri=far.uri)


def test_a_backup_that_is_cut_off(far: Far, shelf: str, guest: Guest) -> None:
    """The points that were there stay, no half one is one, and the next run removes the remains."""
    store = Place(pool=shelf, uri=far.uri).store("local", "cut")
    former = create(guest.domain, store, Order()).point
    before = {volume.name() for volume in guest.connection.storagePoolLookupByName("default").listAllVolumes()}
    cut: list[float] = []

    def cut_now(what: str, done: int, _total: int) -> None:
        if what == "storing vda" and done and not cut:
            cut.append(time.monotonic())
            far.cable("down")

    with far.cut_off(), pytest.raises(CoreError) as failed:
        create(guest.domain, store, Order(kind="full"), Hooks(progress=cut_now))
    assert time.monotonic() - cut[0] < CUT_OFF_S
    assert failed.value.retryable and "keepalive" in str(failed.value), failed.value
    pool = guest.connection.storagePoolLookupByName("default")
    pool.refresh()
    assert {volume.name() for volume in pool.listAllVolumes()} == before
    assert guest.handle.state()[0] == libvirt.VIR_DOMAIN_RUNNING

    store = Place(pool=shelf, uri=far.uri).store("local", "cut")
    assert store.points() == [former]
    report = verify(store, former, Hooks().progress, deep=True)
    assert report.points == (former,) and report.findings == ()
    notes: list[str] = []
    made = create(guest.domain, store, Order(), Hooks(note=notes.append))
    assert store.points() == [former, made.point] and "removed what an earlier run left" in notes[0]
    there = {name.split("~")[3] for name in far.sh("ls /var/lib/libvirt/shelf").split() if "~cut~" in name}
    assert there == {former, made.point}
    assert verify(store, "", Hooks().progress).findings == ()
