"""The doctor on a real host: healthy, then with one thing broken at a time; what it advises is run, and mends it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.attempts import Attempt, foreign_domain, node, says, vm
from tests.real.conftest import IMAGES, LXC, QEMU, ROOT, Host

TOOL = str(ROOT / ".venv/bin/cfy-libvirt")
# What this lab lacks for good: there is no KVM in it, and it cannot ask anybody for the time.
USUAL = {"accelerator", "clock"}
NOBODY = 65534
Finding = dict[str, Any]


class Report:
    """What one run said."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        assert done.stdout.lstrip().startswith("["), (done.stdout, done.stderr)
        self.code, self.hosts = done.returncode, json.loads(done.stdout)

    @property
    def findings(self) -> list[Finding]:
        return [finding for host in self.hosts for finding in host["findings"]]

    def bad(self) -> dict[str, str]:
        """What is wrong beside the usual: check -> state."""
        wrong = [one for one in self.findings if one["state"] in ("warning", "problem")]
        return {one["check"]: one["state"] for one in wrong if one["check"] not in USUAL or one["state"] == "problem"}

    def the(self, check: str, state: str) -> Finding:
        found = [one for one in self.findings if (one["check"], one["state"]) == (check, state)]
        assert len(found) == 1, self.findings
        return found[0]


def doctor(*arguments: str, within: tuple[str, ...] = (), program: tuple[str, ...] = (TOOL,)) -> Report:
    command = [*within, *program, "doctor", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd="/")
    return Report(done)


def run(command: str) -> str:
    """Do what was advised, as a person would: in a shell."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@contextlib.contextmanager
def hidden(*paths: str) -> Iterator[None]:
    """Put something empty over files and directories of this lab, for libvirtd, too."""
    empty = Path("/run/empty")
    empty.touch(mode=0o644)
    with contextlib.ExitStack() as stack:
        for path in paths:
            what = ["-t", "tmpfs", "hidden"] if Path(path).is_dir() else ["--bind", str(empty)]
            subprocess.run(["mount", *what, path], check=True)
            stack.callback(subprocess.run, ["umount", "-l", path], check=True)
        yield
    empty.unlink()


def in_own_mounts(*commands: str) -> tuple[str, ...]:
    """A shell whose mounts nobody else sees; runs the commands, then what comes behind."""
    script = " && ".join([*commands, 'exec "$@"'])
    return ("unshare", "--mount", "--propagation", "private", "bash", "-c", script, "doctor")


# --- a healthy host ------------------------------------------------------------------------------------------


def test_a_healthy_host(clean_host: Host) -> None:
    begin = time.monotonic()
    report = doctor(QEMU, LXC)
    assert report.code == 0 and report.bad() == {}
    assert time.monotonic() - begin < 60
    qemu, lxc = ({one["check"] for one in host["findings"]} for host in report.hosts)
    assert qemu >= {
        "library", "names", "connection", "version", "drivers", "accelerator", "firmware", "tpm", "security",
        "dnsmasq", "forwarding", "memory", "room", "clock", "network disks",
    }  # fmt: skip
    assert lxc < qemu and not lxc & {"accelerator", "firmware", "tpm"}
    user = next(one for one in report.findings if one["looked_at"] == "guests' user")
    assert user["found"].startswith(f"uid {pwd_of('libvirt-qemu')},")


def pwd_of(name: str) -> int:
    import pwd

    return pwd.getpwnam(name).pw_uid


def test_a_host_far_away(tmp_path: Path) -> None:
    """Over a connection whose other end could be anywhere: files and programs there are not those here."""
    way = tmp_path / "ssh"
    way.write_text("#!/bin/sh\nexec virt-ssh-helper qemu:///system\n")
    way.chmod(0o755)
    with hidden("/usr/sbin/dnsmasq"):
        path = f"PATH={tmp_path}:{os.environ['PATH']}"
        report = doctor("qemu+ssh://root@localhost/system", "--image", "/nowhere", within=("env", path))
    assert report.code == 0 and report.bad() == {}
    unseen = {one["check"] for one in report.findings if one["state"] == "unknown"}
    assert unseen == {"dnsmasq", "forwarding", "paths", "clock", "network disks"}
    assert report.the("accelerator", "warning")["found"] == "the host offers no KVM"
    assert report.the("version", "ok")["found"].startswith("libvirt ")


def test_a_person_reads_it() -> None:
    with hidden("/usr/sbin/dnsmasq"):
        done = subprocess.run([TOOL, "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert any(line.startswith("PROBLEM") and "dnsmasq" in line for line in lines)
    assert "$ apt-get install dnsmasq-base" in lines
    assert lines[-1].startswith("1 problems, ")


# --- no way to the hypervisor --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "words", "command"),
    [
        ("qemu:///systemx", ["unexpected qemu URI path", "qemu:///system"], ""),
        ("nonsense:///system", ["no connection driver"], ""),
        ("xen:///system", ["no connection driver"], "apt-get install libvirt-daemon-driver-xen"),
        ("qemu+ssh://root@nosuch.invalid/system", ["nosuch.invalid"], "virsh -c 'qemu+ssh://root@nosuch.invalid/"),
    ],
)
def test_wrong_uri(uri: str, words: list[str], command: str) -> None:
    report = doctor(uri, QEMU)
    assert report.code == 2
    found = report.the("connection", "problem")
    says(found["found"], *words)
    assert found["command"].startswith(command) and bool(found["command"]) == bool(command)
    # The other host is looked at all the same.
    assert report.the("connection", "ok")["looked_at"] == QEMU


def test_a_name_of_a_host_that_does_not_resolve() -> None:
    found = doctor("qemu+ssh://root@nosuch.invalid/system").the("names", "problem")
    assert found["looked_at"] == "host name nosuch.invalid" and "/etc/hosts" in found["command"]


def test_own_name_that_does_not_resolve() -> None:
    hosts, name = Path("/etc/hosts"), socket.gethostname()
    kept = hosts.read_text()
    try:
        hosts.write_text("127.0.0.1 localhost\n")
        report = doctor()
        assert report.bad() == {"names": "warning"} and report.code == 0
        found = report.the("names", "warning")
        assert found["looked_at"] == f"host name {name}"
        run(found["command"])
        assert doctor().bad() == {}
    finally:
        hosts.write_text(kept)


def test_library_is_missing() -> None:
    code = "import sys; sys.modules['libvirt'] = None; from cloudify_libvirt.cli.main import main; main()"
    report = doctor(program=(sys.executable, "-c", code))
    assert report.code == 2 and set(report.bad()) == {"library"}
    says(report.the("library", "problem")["command"], "apt-get install", "pip install libvirt-python")


def test_daemon_does_not_run() -> None:
    report = doctor(within=in_own_mounts("mount -t tmpfs none /run/libvirt"))
    assert report.code == 2 and report.bad() == {"connection": "problem"}
    found = report.the("connection", "problem")
    assert found["command"] == "systemctl enable --now libvirtd"
    says(found["found"], "libvirtd does not answer", "libvirt-sock")


def test_daemon_is_not_installed() -> None:
    gone = "mount -t tmpfs none /run/libvirt && cp -a /usr/sbin /run/libvirt/sbin && rm /run/libvirt/sbin/*virt*d"
    report = doctor(LXC, within=in_own_mounts(gone, "mount --bind /run/libvirt/sbin /usr/sbin"))
    assert report.code == 2
    found = report.the("connection", "problem")
    says(found["found"], "no libvirt daemon is installed")
    says(found["command"], "apt-get install libvirt-daemon-system", "libvirt-daemon-driver-lxc")


def test_a_daemon_that_never_answers(tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(mute))
        server.listen()
        begin = time.monotonic()
        report = doctor(f"qemu+unix:///system?socket={mute}")
        assert time.monotonic() - begin < 90
    assert report.code == 2
    says(report.the("connection", "problem")["found"], "no answer within 20 s")


@pytest.fixture
def open_socket() -> Iterator[Path]:
    """The socket, for its group: as Debian has it."""
    path = Path("/run/libvirt/libvirt-sock")
    before = path.stat()
    shutil.chown(path, group="libvirt")
    path.chmod(0o770)
    yield path
    os.chown(path, before.st_uid, before.st_gid)
    path.chmod(stat.S_IMODE(before.st_mode))


def as_nobody(groups: str) -> tuple[str, ...]:
    return ("env", "HOME=/nonexistent", "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", groups)


def test_socket_for_a_group(open_socket: Path, tmp_path: Path) -> None:
    report = doctor(within=as_nobody("--clear-groups"))
    assert report.code == 2 and report.bad() == {"connection": "problem"}
    found = report.the("connection", "problem")
    says(found["found"], "Permission denied", "nobody is not in group libvirt")
    says(found["command"], "usermod -aG libvirt nobody")
    # The machine's /etc is not the lab's own: the advice is followed on a copy that only this process sees.
    copy = shlex.quote(str(tmp_path / "etc"))
    shell = in_own_mounts(f"cp -a /etc {copy}", f"mount --bind {copy} /etc", f"eval {shlex.quote(found['command'])}")
    report = doctor(within=(*shell, *as_nobody("--init-groups")))
    assert report.code == 0 and "connection" not in report.bad()


def test_socket_for_root_alone() -> None:
    found = doctor(within=as_nobody("--clear-groups")).the("connection", "problem")
    says(found["found"], "for root alone, this is nobody")
    assert found["command"] == "sudo -i"


# --- what guests need ----------------------------------------------------------------------------------------


@pytest.fixture
def closed(foreign: Callable[[str, str], Any]) -> Iterator[Path]:
    """A pool and an image below a directory that only root may enter."""
    directory = IMAGES / "closed"
    (directory / "deep").mkdir(parents=True)
    (directory / "deep/disk.raw").write_bytes(bytes(512))
    directory.chmod(0o700)
    pool = foreign("pool", f"<pool type='dir'><name>closed</name><target><path>{directory}/deep</path></target></pool>")
    pool.create()
    yield directory
    shutil.rmtree(directory)


def test_directory_that_guests_may_not_enter(closed: Path) -> None:
    image = ("--image", f"{closed}/deep/disk.raw")
    report = doctor(*image)
    assert report.code == 1 and report.bad() == {"paths": "problem"}
    ways = [one for one in report.findings if one["state"] == "problem"]
    assert [one["looked_at"] for one in ways] == ["way to pool 'closed'", f"way to image {image[1]}"]
    assert {one["command"] for one in ways} == {f"chmod o+x {closed}"}
    run(ways[0]["command"])
    assert doctor(*image).bad() == {}


def test_image_that_is_not_there() -> None:
    found = doctor("--image", "/nowhere/disk.qcow2")
    assert found.code == 1
    assert found.the("paths", "problem")["looked_at"] == "image /nowhere/disk.qcow2"


def test_forwarding_is_off(foreign: Callable[[str, str], Any]) -> None:
    switch = Path("/proc/sys/net/ipv4/ip_forward")
    try:
        switch.write_text("0")
        found = doctor()
        assert found.code == 0 and found.bad() == {"forwarding": "warning"}
        net = foreign(
            "network", "<network><name>out</name><forward mode='nat'/><bridge name='outbr0'/>"
            "<ip address='10.93.1.1' prefix='24'/></network>",
        )  # fmt: skip
        net.create()
        assert doctor().bad() == {}, "libvirt switches it on"
        switch.write_text("0")
        report = doctor()
        assert report.code == 1 and report.bad() == {"forwarding": "problem"}
        found = report.the("forwarding", "problem")
        says(found["why"], "guests on out do not reach")
        assert found["command"] == "sysctl -w net.ipv4.ip_forward=1"
        run(found["command"])
        assert doctor().bad() == {}
    finally:
        switch.write_text("1")


def test_dnsmasq_is_missing() -> None:
    with hidden("/usr/sbin/dnsmasq"):
        report = doctor()
        assert report.code == 1 and report.bad() == {"dnsmasq": "problem"}
        assert report.the("dnsmasq", "problem")["command"] == "apt-get install dnsmasq-base"
    assert doctor().bad() == {}


@pytest.fixture
def small(foreign: Callable[[str, str], Any]) -> Iterator[Path]:
    """A pool on a file system of 4 MiB."""
    directory = IMAGES / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "small", directory], check=True)
    pool = foreign("pool", f"<pool type='dir'><name>small</name><target><path>{directory}</path></target></pool>")
    pool.create()
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)
    directory.rmdir()


def test_full_disk(small: Path) -> None:
    (small / "junk").write_bytes(bytes(3 << 20))
    report = doctor()
    assert report.code == 1 and report.bad() == {"room": "problem"}
    found = report.the("room", "problem")
    assert found["looked_at"] == f"pool 'small' ({small})" and found["found"] == "1 MiB left"
    assert str(small) in run(found["command"])
    subprocess.run(["mount", "-o", "remount,size=1g", small], check=True)
    assert doctor().bad() == {"room": "warning"}
    subprocess.run(["mount", "-o", "remount,size=3g", small], check=True)
    assert doctor().bad() == {}


def test_no_firmware_and_no_tpm() -> None:
    with hidden("/usr/share/qemu/firmware", "/usr/bin/swtpm"):
        report = doctor()
        assert report.code == 0 and report.bad() == {"firmware": "warning", "tpm": "warning"}
        assert report.the("firmware", "warning")["command"] == "apt-get install ovmf"
        assert report.the("tpm", "warning")["command"] == "apt-get install swtpm swtpm-tools"
    assert doctor().bad() == {}


def test_disks_over_the_network_need_a_part_of_qemu(host: Host) -> None:
    parts = "/usr/lib/x86_64-linux-gnu/qemu"
    without = in_own_mounts(f"mount -t tmpfs hidden {parts}", f"touch {parts}/accel-tcg-x86_64.so")
    said = "QEMU has no part for rbd, gluster, iscsi; no pool needs it"
    assert doctor(within=without).the("network disks", "ok")["found"] == said
    source = "<source><host name='192.0.2.1'/><name>guests</name></source>"
    pool = host.connection.storagePoolDefineXML(f"<pool type='rbd'><name>far</name>{source}</pool>")
    try:
        found = doctor(within=without).the("network disks", "warning")
        assert found["command"] == "apt-get install qemu-block-extra" and "type rbd do not start" in found["why"]
        assert doctor().the("network disks", "ok")["found"] == "by rbd, gluster, iscsi"
    finally:
        pool.undefine()


def test_kvm_that_is_no_kvm() -> None:
    """A device of that name is there; it is measured, not believed."""
    device = Path("/dev/kvm")
    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    try:
        found = doctor().the("accelerator", "warning")
        says(found["found"], "KVM is offered, but a test guest does not run", "Inappropriate ioctl")
        assert found["command"] == "", "no command of this host makes one"
    finally:
        device.unlink()
    says(doctor().the("accelerator", "warning")["found"], "/dev/kvm is missing")


# --- the same before a node is made --------------------------------------------------------------------------


def test_a_network_without_dnsmasq(attempt: Attempt) -> None:
    bad = node("network", params={"name": "net", "cidr": "auto"})
    with hidden("/usr/sbin/dnsmasq"):
        said = attempt.refused(bad, "validate")
        says(said, "cannot use dnsmasq of qemu:///system", "not installed", "apt-get install dnsmasq-base")
        # One that needs none.
        bare = node("network", params={"name": "net"})
        assert attempt.install({"thing": bare}).code == 0
        attempt.cfy.uninstall("bad")


def test_memory_larger_than_the_host(attempt: Attempt) -> None:
    says(attempt.refused(vm(memory="4 TiB"), "validate"), "domain 'vm'", "it needs 4 TiB, the host has")


def test_a_pool_on_a_full_disk(attempt: Attempt, small: Path) -> None:
    bad = node("pool", params={"name": "full", "path": f"{small}/pool"})
    says(attempt.refused(bad, "validate"), "pool 'full'", "4 MiB left", f"du -xh --max-depth=2 {small}")


def test_a_pool_behind_a_closed_directory(attempt: Attempt, closed: Path) -> None:
    """It is made, as somebody else may use it; that guests cannot is said."""
    result = attempt.install({"thing": node("pool", params={"name": "behind", "path": f"{closed}/own"})})
    assert result.code == 0
    warnings = result.lines("may not enter", str(closed))
    assert len(warnings) == 1 and f"chmod o+x {closed}" in warnings[0]
    attempt.cfy.uninstall("bad")


def test_all_problems_at_once(attempt: Attempt, closed: Path, foreign: Callable[[str, str], Any]) -> None:
    foreign("domain", foreign_domain("vm"))
    disk = {"file": f"{closed}/deep/disk.raw", "type": "raw"}
    bad = vm(memory="4 TiB", disks=[disk], firmware="uefi", tpm={"model": "tpm-crb"})
    with hidden("/usr/share/qemu/firmware", "/usr/bin/swtpm"):
        said = attempt.refused(bad, "validate")
    says(said, "5 problems: (1) cannot", "another domain (UUID", f"may not enter directory {closed}", "chmod o+x")
    says(said, "UEFI", "apt install ovmf", "TPM", "swtpm-tools", "it needs 4 TiB")


def test_nodes_that_are_installed_are_checked_again(attempt: Attempt) -> None:
    """Any time later, by the engine's own workflow; nothing is changed, and what is used up already is not missed."""
    nodes = {
        "vm": vm(memory="64 MiB"), "net": node("network", params={"name": "net", "cidr": "auto"}),
        "pool": node("pool", params={"name": "pool", "path": f"{IMAGES}/checked"}),
    }  # fmt: skip
    assert attempt.install(nodes).code == 0
    before = attempt.host.everything()
    call = ("executions", "start", "execute_operation", "-b", "bad", "-p",
            json.dumps({"operation": "cloudify.interfaces.validation.create"}))  # fmt: skip
    result = attempt.cfy(*call)
    assert all(result.lines("Task succeeded", f"{kind}_tasks.validate") for kind in ("domain", "network", "pool"))
    with hidden("/usr/sbin/dnsmasq"):
        result = attempt.cfy(*call, check=False)
    assert result.code == 1
    assert len(result.lines("Task failed '", "network_tasks.validate", "apt-get install dnsmasq-base")) == 1
    assert attempt.host.everything() == before
    attempt.cfy.uninstall("bad")


def test_a_network_on_a_host_that_forwards_nothing(attempt: Attempt) -> None:
    switch = Path("/proc/sys/net/ipv4/ip_forward")
    net = node("network", params={"name": "net", "cidr": "auto"})
    try:
        switch.write_text("0")
        result = attempt.install({"thing": net})
        warnings = result.lines("WARNING", "IPv4 forwarding of qemu:///system: off", "sysctl -w net.ipv4.ip_forward=1")
        assert result.code == 0 and len(warnings) == 1, result.output
    finally:
        switch.write_text("1")
        attempt.cfy.uninstall("bad")


def test_machines_that_get_no_kvm(attempt: Attempt) -> None:
    """Said once, however many there are; and not where emulation was asked for."""
    result = attempt.install({"one": vm(name="one"), "two": vm(name="two")})
    assert result.code == 0
    assert len(result.lines("WARNING", "KVM of qemu:///system", "/dev/kvm is missing")) == 1, result.output
    attempt.cfy.uninstall("bad")
    result = attempt.install({"one": vm(name="one", accelerator="tcg")})
    assert result.code == 0 and not result.lines("KVM")
    attempt.cfy.uninstall("bad")
