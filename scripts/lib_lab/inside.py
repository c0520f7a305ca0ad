"""PID 1 of a lab: sets up its namespaces, starts the daemons, reaps."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from lib_lab import apparmor
from lib_lab.cgroups import Hierarchy, hierarchies, join, leaf
from lib_lab.model import STATE, Lab, write

DAEMONS = ("virtlogd", "virtlockd", "libvirtd")
# Without kvm: where it does not work, libvirt believes in it all the same, and a /dev/null mounted
# over it makes libvirt probe QEMU again at every start.
DEVICES = (
    *("null", "zero", "full", "random", "urandom", "tty", "hwrng", "fuse", "userfaultfd"),
    *("net/tun", "vhost-net", "mapper/control", "loop-control", *(f"loop{n}" for n in range(8))),
)
LINKS = {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
CLONE_NEWCGROUP = 0x02000000


def say(text: str) -> None:
    """Write a line to the console log."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)


def mount(*arguments: object) -> None:
    """Run mount(8), which says on the console log what it could not do."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def detach(path: str) -> None:
    """Take the machine's mounts at and below `path` out: libvirt reads the mount table."""
    subprocess.run(["umount", "--recursive", "--lazy", path], check=True)


def enter_cgroups(lab: Lab) -> None:
    """Make the lab's groups the roots that it sees, so that its /machine is its own."""
    join(lab.cgroups())
    # os.unshare() comes with Python 3.12.
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWCGROUP):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWCGROUP) failed")
    join([leaf(group) for group in lab.cgroups()])


def copy_node(node: Path, source: os.stat_result) -> None:
    os.mknod(node, source.st_mode, source.st_rdev)
    node.chmod(source.st_mode & 0o7777)
    os.chown(node, source.st_uid, source.st_gid)


def mount_dev() -> None:
    """Mount a /dev with copies of DEVICES, as far as the machine has them."""
    dev = Path("/dev")
    sources = {name: (dev / name).stat() for name in DEVICES if (dev / name).exists()}
    detach("/dev")
    mount("-t", "tmpfs", "-o", "mode=755", "dev", dev)
    for name in ("net", "mapper", "pts", "shm", "hugepages"):
        (dev / name).mkdir()
    for name, source in sources.items():
        copy_node(dev / name, source)
    for name, target in LINKS.items():
        (dev / name).symlink_to(f"/proc/self/{target}")
    (dev / "ptmx").symlink_to("pts/ptmx")
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620,gid=5", "devpts", dev / "pts")
    mount("-t", "tmpfs", "-o", "mode=1777", "shm", dev / "shm")
    if Path("/proc/sys/vm/nr_hugepages").exists():
        # libvirt looks for it when it starts; how many pages there are is the whole machine's affair.
        mount("-t", "hugetlbfs", "hugetlbfs", dev / "hugepages")


def mount_sys(found: list[Hierarchy]) -> None:
    """Mount a /sys that shows the lab's own network devices, and its control groups."""
    detach("/sys")
    mount("-t", "sysfs", "sysfs", "/sys")
    if found and found[0].kind == "cgroup2":
        mount("-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
        return
    mount("-t", "tmpfs", "-o", "mode=755", "cgroup", "/sys/fs/cgroup")
    for one in found:
        target = Path("/sys/fs/cgroup", one.mountpoint.name)
        target.mkdir()
        mount("-t", "cgroup", "-o", one.options, "cgroup", target)


def mount_state(lab: Lab) -> None:
    """Put the lab's directories where libvirt looks.

    All of /run is new: through the machine's D-Bus socket libvirt would register guests with the
    machine's own systemd-machined and firewalld.
    """
    mount("-t", "tmpfs", "-o", "mode=755", "run", "/run")
    for name in ("lock", "libvirt"):
        Path("/run", name).mkdir()
    # As on Debian: everybody's, so that locks are the lab's own.
    Path("/run/lock").chmod(0o1777)
    for name, target in {**STATE, "run": "/run/libvirt", "hosts": "/etc/hosts"}.items():
        mount("--bind", lab.home / name, target)


def mount_all(lab: Lab) -> None:
    found = hierarchies()
    mount_dev()
    mount_sys(found)
    mount("-t", "proc", "proc", "/proc")
    if Path("/proc/sysrq-trigger").exists():
        # A fencing daemon that panics its host writes here, and would reboot the real machine.
        mount("--bind", "/dev/null", "/proc/sysrq-trigger")
    mount_state(lab)
    for arguments in apparmor.mounts(lab):
        mount(*arguments)


class Daemons:
    """The daemons of a lab, as children of its PID 1."""

    def __init__(self, failure: Path) -> None:
        self.failure = failure
        self.running: dict[int, str] = {}

    def serve(self) -> None:
        """Start the daemons, again on SIGHUP; reap at once: destroying a guest waits for that."""
        awaited = {signal.SIGCHLD, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        self.start_missing()
        while True:
            asked = signal.sigwait(awaited) == signal.SIGHUP
            # First: of a child that has just ended the signal may come second.
            self.reap()
            if asked:
                self.start_missing()

    def start_missing(self) -> None:
        for name in DAEMONS:
            if name not in self.running.values():
                command = [f"/usr/sbin/{name}", "-p", f"/run/libvirt/{name}.pid"]
                pid = os.posix_spawn(command[0], command, os.environ, setsid=True, setsigmask=[])
                self.running[pid] = name
                say(f"{name} started, pid {pid} inside the lab")

    def reap(self) -> None:
        """Take the exit status of every child that has ended: daemons and adopted orphans."""
        while self.has_children():
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            name = self.running.pop(pid, None)
            if name is not None:
                self.report(name, os.waitstatus_to_exitcode(status))

    @staticmethod
    def has_children() -> bool:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def report(self, name: str, code: int) -> None:
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        say(f"{name} ended with {how}; `lab up` starts it again")
        if code > 0:
            write(self.failure, f"{name} ended with {how}")


def claim(lab: Lab) -> int:
    """Take the lock that PID 1 holds for life; an `up` killed too early may have left another PID 1."""
    lock = os.open(lab.home / "init.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError("another PID 1 of it is starting; run `down`, then `up` again") from error
    return lock


def run(lab: Lab) -> None:
    """Set the lab up and serve until killed."""
    claim(lab)
    # /proc is still the machine's and shows the pid that the machine knows.
    write(lab.home / "pid", str(Path("/proc/self").readlink()))
    enter_cgroups(lab)
    mount_all(lab)
    socket.sethostname(lab.name)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    say(f"lab {lab.name} is set up")
    Daemons(Path("/run/libvirt/failed")).serve()


def init(lab: Lab) -> int:
    """Be PID 1 of the lab; returns only when it cannot be set up."""
    try:
        run(lab)
    except (OSError, subprocess.CalledProcessError) as error:
        say(f"lab {lab.name} cannot be set up: {error}")
    return 1
