"""`scripts/lab` on the real machine: libvirtd, QEMU, LXC and dnsmasq in namespaces."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "lab"
sys.path.insert(0, str(SCRIPT.parent))

from lib_lab import apparmor  # noqa: E402 - found by the line above

NOT_RUNNING = 3
NETWORK = """
<network><name>nat</name><forward mode='nat'/><bridge name='virbr7' stp='off' delay='0'/>
<ip address='10.5.0.1' netmask='255.255.255.0'><dhcp><range start='10.5.0.10' end='10.5.0.99'/></dhcp></ip>
</network>"""
DOMAIN = """
<domain type='qemu'><name>guest</name><memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices>
<disk type='file'><driver name='qemu' type='raw'/><source file='/var/lib/libvirt/images/guest.img'/>
<target dev='vda' bus='virtio'/></disk>
<serial type='pty'><log file='/var/log/libvirt/qemu/guest-serial.log'/></serial>
</devices></domain>"""
# A boot sector that writes to the serial port and halts.
HELLO = b"\xba\xf8\x03" + b"".join(b"\xb0%c\xee" % letter for letter in b"hello\n") + b"\xf4\xeb\xfd"
BOOT_SECTOR = HELLO.ljust(510, b"\0") + b"\x55\xaa"

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and mounts need root"),
]

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Script:
    """`scripts/lab` for one lab."""

    name: str
    directory: Path

    @property
    def home(self) -> Path:
        return self.directory / self.name

    def command(self, *arguments: str) -> list[str]:
        return [str(SCRIPT), "--name", self.name, "--dir", str(self.directory), *arguments]

    def try_to(self, *arguments: str, **options: object) -> Done:
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload, no-any-return]

    def run(self, *arguments: str, **options: object) -> str:
        done = self.try_to(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def virsh(self, *arguments: str) -> str:
        return self.run("exec", "virsh", "-q", "-c", "qemu:///system", *arguments)

    def define(self, kind: str, xml: str) -> None:
        self.run("exec", "virsh", "-q", "-c", "qemu:///system", kind, "/dev/stdin", input=xml)

    def facts(self) -> dict[str, str]:
        lines = self.try_to("status").stdout.splitlines()
        return dict(line.split(": ", 1) for line in lines)

    def pid(self) -> int:
        return int(self.facts()["pid"])


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Script]:
    """A running lab that the tests of this file share; each leaves it running and without domains."""
    script = Script(f"lab-test-{os.getpid()}", tmp_path_factory.mktemp("labs"))
    script.run("up")
    yield script
    script.run("down", "--purge")


@pytest.fixture
def guest(lab: Script) -> Iterator[Script]:
    """The lab with a defined domain `guest`, whose disk belongs to root."""
    (lab.home / "lib" / "images" / "guest.img").write_bytes(BOOT_SECTOR.ljust(1 << 20, b"\0"))
    lab.define("define", DOMAIN)
    yield lab
    lab.try_to("exec", "virsh", "destroy", "guest")
    lab.virsh("undefine", "guest")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Script]:
    """A lab that is not running."""
    script = Script(f"other-{os.getpid()}", tmp_path)
    yield script
    script.run("down")


def wait_dead(pid: int) -> None:
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, f"process {pid} does not end"
        time.sleep(0.01)


def disk_owner(lab: Script) -> str:
    return lab.run("exec", "stat", "-c", "%U:%G", "/var/lib/libvirt/images/guest.img").strip()


# --- up, status, exec -----------------------------------------------------------------------------


def test_status_of_a_running_lab(lab: Script) -> None:
    done = lab.try_to("status")
    facts = lab.facts()
    assert done.returncode == 0
    assert (facts["name"], facts["state"]) == (lab.name, "running")
    assert Path(f"/proc/{facts['pid']}").exists()


def test_starts_without_objects(other: Script) -> None:
    other.run("up")
    for listing in (["list", "--all"], ["net-list", "--all"], ["pool-list", "--all"]):
        assert other.virsh(*listing).strip() == ""


def test_up_again_changes_nothing(lab: Script) -> None:
    pid, started = lab.pid(), time.monotonic()
    before = processes_of(lab, pid)
    lab.run("up")
    assert time.monotonic() - started < 20
    assert lab.pid() == pid
    assert set(processes_of(lab, pid)) <= set(before), "nothing was started"


def test_two_ups_at_once_start_one_lab(other: Script) -> None:
    starts = [subprocess.Popen(other.command("up")) for _ in range(2)]
    assert [start.wait(300) for start in starts] == [0, 0]
    assert_one_lab(other)


def test_lxc_answers(lab: Script) -> None:
    assert "State" in lab.run("exec", "virsh", "-c", "lxc:///system", "list")


def test_uri_of_status_works_from_outside(guest: Script) -> None:
    done = subprocess.run(["virsh", "-q", "-c", guest.facts()["uri"], "list", "--all"], capture_output=True, text=True)
    assert "guest" in done.stdout, done.stderr


def test_exec_keeps_directory_input_environment_and_exit_code(lab: Script, tmp_path: Path) -> None:
    done = lab.try_to(
        *("exec", "sh", "-c", "cat; pwd; echo $COLOUR; echo oops >&2; exit 7"),
        input="hello\n",
        cwd=tmp_path,
        env={**os.environ, "COLOUR": "green"},
    )
    assert done.stdout.splitlines() == ["hello", str(tmp_path), "green"]
    assert (done.stderr, done.returncode) == ("oops\n", 7)


def test_exec_ends_with_its_caller(lab: Script) -> None:
    command = lab.command("exec", "sh", "-c", "echo on; exec sleep 600")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        caller.stdout.readline()
        caller.kill()
        # The output closes when the command has ended.
        assert caller.communicate(timeout=120)[0] == b""


def test_exec_enters_all_namespaces(lab: Script) -> None:
    kinds = ["cgroup", "ipc", "mnt", "net", "pid", "uts"]
    inside = lab.run("exec", "readlink", *(f"/proc/self/ns/{kind}" for kind in kinds)).split()
    init = [str(Path(f"/proc/{lab.pid()}/ns/{kind}").readlink()) for kind in kinds]
    machine = [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in kinds]
    assert inside == init
    assert not set(inside) & set(machine)
    assert all(line.endswith(":/") for line in lab.run("exec", "cat", "/proc/self/cgroup").splitlines())


def test_host_of_its_own(lab: Script) -> None:
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    assert lab.run("exec", "hostname").strip() == lab.name
    assert "127.0.1.1" in lab.run("exec", "getent", "hosts", lab.name)
    assert lab.run("exec", "getent", "hosts", "localhost")
    assert lab.run("exec", "cat", str(forwarding)).strip() == "1"
    links = set(lab.run("exec", "ls", "/sys/class/net").split())
    cards = {link.name for link in Path("/sys/class/net").iterdir() if (link / "device").exists()}
    assert "lo" in links and not links & cards
    assert lab.try_to("exec", "test", "-e", "/dev/kvm").returncode == 1


@pytest.mark.skipif(not Path("/proc/sysrq-trigger").exists(), reason="this kernel has no SysRq")
def test_sysrq_stays_inside(lab: Script) -> None:
    assert lab.run("exec", "stat", "-c", "%F %t:%T", "/proc/sysrq-trigger").strip() == "character special file 1:3"


def test_unusable_name_is_refused(tmp_path: Path) -> None:
    done = Script("../up", tmp_path).try_to("up")
    assert done.returncode == 2
    assert "'../up'" in done.stderr


# --- what libvirt does inside ---------------------------------------------------------------------


def test_labs_side_by_side_do_not_collide(lab: Script, other: Script) -> None:
    other.run("up")
    for one in (lab, other):
        one.define("net-define", NETWORK)
        one.virsh("net-start", "nat")
        assert "10.5.0.1/24" in one.run("exec", "ip", "-br", "address", "show", "virbr7")
        assert "dnsmasq" in one.run("exec", "ps", "-eo", "args")
        assert "MASQUERADE" in one.run("exec", "iptables", "-t", "nat", "-S")
    uuids = {one.run("exec", "grep", "host_uuid", "/etc/libvirt/libvirtd.conf") for one in (lab, other)}
    assert len(uuids) == 2
    other.run("down")
    assert "nat" in lab.virsh("net-list")
    lab.virsh("net-destroy", "nat")
    lab.virsh("net-undefine", "nat")


def test_guests_are_confined_where_the_kernel_can(lab: Script, tmp_path: Path) -> None:
    """Without AppArmor in the kernel, or without libvirt's profiles, libvirt is told not to look for it."""
    enabled = tmp_path / apparmor.ENABLED
    needed = [tmp_path / path for path in apparmor.NEEDED]
    for path in (enabled, *needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("Y\n")
    assert apparmor.usable(tmp_path)
    for path in needed:
        path.unlink()
        assert not apparmor.usable(tmp_path) and "none" in apparmor.driver(tmp_path)
        path.touch()
    enabled.write_text("N\n")
    assert not apparmor.usable(tmp_path)
    enabled.unlink()
    assert not apparmor.usable(tmp_path)
    here = apparmor.driver()
    assert bool(here) != (apparmor.usable() and shutil.which("apparmor_parser", path=apparmor.PATH) is not None)
    settings = lab.run("exec", "cat", "/etc/libvirt/qemu.conf")
    assert ("security_driver" in settings) == bool(here) and "dynamic_ownership = 1" in settings
    models = lab.virsh("capabilities")
    assert "<model>dac</model>" in models and ("<model>apparmor</model>" not in models or not here)


def cables(script: Script) -> list[str]:
    return [one for one in script.run("exec", "ls", "/sys/class/net").split() if one.startswith("lab-")]


def knock(address: str, patience_s: int = 60) -> list[str]:
    """Say what somebody says who listens there."""
    return ["timeout", str(patience_s), "bash", "-c", f"head -1 < /dev/tcp/{address}/9"]


LISTEN = """
import socket
with socket.create_server(("", 9)) as server:
    print("listening", flush=True)
    while True:
        server.accept()[0].sendall(b"of the lab\\n")
"""


def test_linked_labs_reach_each_other_and_nobody_else(lab: Script) -> None:
    far = Script("far", lab.directory)
    far.run("up")
    before = machine()
    mine, its = lab.run("link", "far").split()
    assert far.run("link", lab.name).split() == [its, mine], "the same cable, seen from there"
    assert len(cables(lab)) == len(cables(far)) == 1
    assert_as_before(before)
    for one, address in ((lab, its), (far, mine)):
        # Nobody listens: who is reached says so.
        assert "refused" in one.try_to("exec", *knock(address)).stderr
    # With somebody who listens, what the machine's own firewalls and proxies answer does not count.
    with subprocess.Popen(far.command("exec", sys.executable, "-c", LISTEN), stdout=subprocess.PIPE) as listener:
        try:
            assert listener.stdout is not None and listener.stdout.readline() == b"listening\n"
            assert lab.run("exec", *knock(its)) == "of the lab\n"
            assert b"of the lab" not in subprocess.run(knock(its, 2), capture_output=True).stdout
        finally:
            listener.kill()
    far.run("down", "--purge")
    deadline = time.monotonic() + 60
    while cables(lab):
        assert time.monotonic() < deadline, "the cable stays"
        time.sleep(0.05)
    done = lab.try_to("link", "far")
    assert (done.returncode, far.home.exists()) == (NOT_RUNNING, False)
    assert "cannot link lab far: it is not running" in done.stderr
    assert "itself" in lab.try_to("link", lab.name).stderr


def test_disk_belongs_to_qemu_while_it_runs(guest: Script) -> None:
    assert disk_owner(guest) == "root:root"
    guest.virsh("start", "guest", "--paused")
    assert disk_owner(guest) == "libvirt-qemu:libvirt-qemu"
    assert "libvirt-qemu" in guest.run("exec", "sh", "-c", "ps -o user:20= -p $(cat /run/libvirt/qemu/guest.pid)")
    guest.virsh("destroy", "guest")
    assert disk_owner(guest) == "root:root"


@pytest.mark.parametrize("options", [[], ["--paused"]], ids=["running", "paused"])
def test_destroyed_guest_is_reaped_at_once(guest: Script, options: list[str]) -> None:
    guest.virsh("start", "guest", *options)
    # libvirt waits 15 s for a process that nobody reaps, and then says that it could not end it.
    started = time.monotonic()
    guest.virsh("destroy", "guest")
    assert time.monotonic() - started < 10


def test_console_of_a_guest_is_logged(guest: Script) -> None:
    guest.virsh("start", "guest")
    log, deadline = guest.home / "log" / "qemu" / "guest-serial.log", time.monotonic() + 180
    while not log.exists() or b"hello" not in log.read_bytes():
        assert time.monotonic() < deadline, "virtlogd has logged nothing"
        time.sleep(0.1)


def test_domain_survives_power_cycle_and_stops_running(guest: Script) -> None:
    guest.virsh("start", "guest", "--paused")
    guest.run("down")
    assert guest.try_to("status").returncode == NOT_RUNNING
    guest.run("up")
    assert guest.virsh("domstate", "guest").strip() == "shut off"


# --- down, and what goes wrong --------------------------------------------------------------------


def test_exec_in_a_stopped_lab_says_so(other: Script) -> None:
    done = other.try_to("exec", "true")
    assert done.returncode == NOT_RUNNING
    assert f"cannot run true in lab {other.name}: it is not running; run `up`" in done.stderr


def test_up_after_a_killed_pid_1(guest: Script) -> None:
    guest.virsh("start", "guest", "--paused")
    pid = guest.pid()
    os.kill(pid, signal.SIGKILL)
    wait_dead(pid)
    assert guest.try_to("status").returncode == NOT_RUNNING
    assert guest.facts()["state"] == "stopped"
    guest.run("up")
    assert guest.virsh("list", "--name").strip() == ""


@pytest.mark.parametrize("delay_s", [0.05, 0.1, 0.15, 0.2])
def test_up_after_a_killed_up(other: Script, delay_s: float) -> None:
    with subprocess.Popen(other.command("up")) as first:
        time.sleep(delay_s)
        first.kill()
    other.run("up")
    assert_one_lab(other)


def test_up_starts_a_killed_libvirtd_and_guests_live_on(guest: Script) -> None:
    guest.virsh("start", "guest", "--paused")
    pid = guest.pid()
    kill = "pid=$(cat /run/libvirt/libvirtd.pid); kill -9 $pid; while kill -0 $pid; do sleep 0.05; done"
    guest.run("exec", "sh", "-c", kill)
    assert guest.try_to("status").returncode == NOT_RUNNING
    assert guest.facts()["state"] == "libvirtd does not answer"
    guest.run("up")
    assert guest.pid() == pid
    assert guest.virsh("list", "--name").strip() == "guest"


def test_failed_start_shows_why_and_leaves_nothing(other: Script) -> None:
    other.run("up")
    other.run("down")
    groups_before = cgroups_of(other)
    with (other.home / "etc" / "libvirtd.conf").open("a") as settings:
        settings.write("max_clients = many\n")
    done = other.try_to("up")
    assert done.returncode == 1
    assert f"cannot start lab {other.name}: libvirtd ended with exit code" in done.stderr
    assert "libvirtd.conf" in done.stderr, "the reason from the log"
    assert f"mend {other.home}/etc" in done.stderr
    assert other.facts()["state"] == "stopped"
    assert cgroups_of(other) == groups_before == []


def output(*command: str) -> set[str]:
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())


def cgroups_of(script: Script) -> list[Path]:
    name = f"cloudify-lab-{script.name}-"
    found = (Path(folder) / child for folder, below, _ in os.walk("/sys/fs/cgroup") for child in below)
    return [path for path in found if path.name.startswith(name)]


def machine() -> list[set[str]]:
    """What a lab could leave behind or change, other than processes."""
    # First: a firewall that is looked at may make its lock file in /run.
    rules = output("iptables", "-S") | output("iptables", "-t", "nat", "-S")
    ways = output("ip", "route") | {"forwarding " + Path("/proc/sys/net/ipv4/ip_forward").read_text()}
    links = {line.split()[0] for line in output("ip", "-br", "link")}
    mounts = set(Path("/proc/self/mountinfo").read_text().splitlines())
    return [mounts, links, output("ip", "netns", "list"), rules, ways, set(os.listdir("/run"))]  # noqa: PTH208


def assert_as_before(before: list[set[str]]) -> None:
    """Of what came since, nothing may stay; what others of the machine had and gave up is their affair."""
    deadline = time.monotonic() + 30
    while any(added := [now - then for now, then in zip(machine(), before, strict=True)]):
        assert time.monotonic() < deadline, added
        time.sleep(0.1)


def assert_one_lab(script: Script) -> None:
    """One PID 1, and who waits for it; those of an attempt that was killed may be about to end."""
    deadline = time.monotonic() + 30
    while len(found := processes_of(script, script.pid(), named="_init")) != 2:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def in_namespace(process: Path, namespace: str) -> bool:
    try:
        return str((process / "ns" / "net").readlink()) == namespace
    except OSError:
        return False


def processes_of(script: Script, pid: int, named: str = "") -> list[int]:
    """Processes that name the lab's directory, or that are in the network namespace of `pid`."""
    namespace = str(Path(f"/proc/{pid}/ns/net").readlink()) if Path(f"/proc/{pid}/ns/net").exists() else "none"
    return [number for number in pids() if belongs(script, Path(f"/proc/{number}"), namespace, named)]


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def belongs(script: Script, process: Path, namespace: str, named: str) -> bool:
    try:
        command = (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return named in command and (str(script.home) in command or in_namespace(process, namespace))


def test_down_leaves_nothing_but_its_directory(other: Script) -> None:
    before = machine()
    other.run("up")
    other.define("net-define", NETWORK)
    other.virsh("net-start", "nat")
    (other.home / "lib" / "images" / "guest.img").write_bytes(BOOT_SECTOR.ljust(1 << 20, b"\0"))
    other.define("define", DOMAIN)
    other.virsh("start", "guest", "--paused")
    pid = other.pid()
    namespace = str(Path(f"/proc/{pid}/ns/net").readlink())
    assert len(processes_of(other, pid)) >= 6, "PID 1, three daemons, dnsmasq, QEMU"
    assert cgroups_of(other) != []
    other.run("down")
    assert_as_before(before)
    assert cgroups_of(other) == []
    left = [number for number in pids() if belongs(other, Path(f"/proc/{number}"), namespace, "")]
    assert left == []
    assert not (other.home / "run").exists()
    assert (other.home / "etc" / "qemu" / "guest.xml").exists()
    other.run("down")
    other.run("down", "--purge")
    assert not other.home.exists()
