"""What the machine does with a lab: start, ask, enter, stop."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from lib_lab import apparmor
from lib_lab.cgroups import join, leaf, make_cgroups, remove_cgroups
from lib_lab.model import PATH, STATE, STOP_TIMEOUT_S, Lab, LabError, NotRunningError, write

START_TIMEOUT_S = 60
ANSWER_TIMEOUT_S = 20
# Nothing of the caller's environment goes into the daemons.
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
PACKAGES = (
    "libvirt-daemon-system libvirt-daemon-driver-lxc libvirt-clients qemu-system-x86 qemu-utils "
    "dnsmasq-base iptables iproute2 util-linux mount"
)
COMMANDS = (
    *("libvirtd", "virtlogd", "virtlockd", "virsh", "dnsmasq", "iptables", "ip"),
    *("mount", "umount", "nsenter", "unshare", "setsid", "setpriv"),
)
# libvirt creates the rest, but not these, which come with the packages.
FOLDERS = ("lib/images", "lib/boot", "cache", "log/qemu", "log/lxc", "run")

LIBVIRTD_CONF = """\
host_uuid = "{host_uuid}"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
max_clients = 5000
max_workers = 20
log_level = 3
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""
# QEMU's own user and libvirt's chown of disks stay on, so that permission bugs show.
QEMU_CONF = """\
user = "libvirt-qemu"
group = "libvirt-qemu"
dynamic_ownership = 1
namespaces = []
"""
LXC_CONF = 'security_driver = "none"\n'
HOSTS = """\
127.0.0.1 localhost
127.0.1.1 {name}
::1 localhost ip6-localhost ip6-loopback
"""


def preflight(lab: Lab) -> None:
    """Refuse early what would fail late."""
    missing = [name for name in COMMANDS if shutil.which(name, path=PATH) is None]
    missing += [path for path in STATE.values() if not Path(path).is_dir()]
    if "libvirt-qemu" not in {group.gr_name for group in grp.getgrall()}:
        missing.append("group libvirt-qemu")
    if missing:
        raise LabError(
            f"cannot start lab {lab.name}: {', '.join(missing)} missing; "
            f"run `apt-get install --no-install-recommends {PACKAGES}`"
        )


@contextlib.contextmanager
def locked(lab: Lab) -> Iterator[None]:
    """Let one `up` or `down` of this lab run at a time."""
    lab.home.mkdir(parents=True, exist_ok=True)
    with (lab.home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_etc(lab: Lab) -> None:
    """Create the lab's /etc/libvirt once, without the machine's objects and hooks; edits survive."""
    if (lab.home / "etc").exists():
        return
    draft, packaged = lab.home / "etc.new", Path(STATE["etc"])
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    for path in packaged.glob("*.conf"):
        shutil.copy2(path, draft)
    if (packaged / "nwfilter").is_dir():
        shutil.copytree(packaged / "nwfilter", draft / "nwfilter")
    (draft / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(host_uuid=uuid.uuid4()))
    (draft / "qemu.conf").write_text(QEMU_CONF + apparmor.driver())
    (draft / "lxc.conf").write_text(LXC_CONF)
    draft.rename(lab.home / "etc")


def prepare(lab: Lab) -> None:
    """Create what is missing of the lab's directory, and its control groups."""
    make_etc(lab)
    apparmor.prepare(lab)
    for name in FOLDERS:
        (lab.home / name).mkdir(parents=True, exist_ok=True)
    if not (lab.home / "hosts").exists():
        write(lab.home / "hosts", HOSTS.format(name=lab.name))
    make_cgroups(lab)


def launch(lab: Lab) -> subprocess.Popen[bytes]:
    """Start PID 1 of the lab and return the process that waits for it."""
    unshare = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
    init = [sys.executable, str(Path(sys.argv[0]).resolve()), *lab.init_arguments]
    with lab.console.open("wb") as console:
        return subprocess.Popen(
            ["setsid", *unshare, *init],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env=ENVIRONMENT,
            cwd="/",
        )


def entering(pid: int, command: list[str]) -> list[str]:
    """Wrap a command so that it runs in the lab, in the same directory, and ends with its wrapper."""
    namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
    wrapper = ["nsenter", f"--target={pid}", *namespaces, f"--wdns={Path.cwd()}", "--"]
    return [*wrapper, "setpriv", "--pdeathsig", "TERM", "--", *command]


def answers(lab: Lab) -> bool:
    """Tell whether libvirtd in the lab lets a client in."""
    pid = lab.pid()
    if pid is None or not (lab.home / "run" / "libvirt-sock").exists():
        return False
    command = entering(pid, ["virsh", "-q", "-c", "qemu:///system", "uri"])
    try:
        done = subprocess.run(command, capture_output=True, env=ENVIRONMENT, timeout=ANSWER_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def tail(path: Path, lines: int = 15) -> str:
    """Return the end of a log, for a message; empty when there is none."""
    with contextlib.suppress(FileNotFoundError):
        last = path.read_text(errors="replace").splitlines()[-lines:]
        return "".join(f"\n  {path.name}: {line}" for line in last)
    return ""


def start_error(lab: Lab, reason: str) -> LabError:
    logs = lab.home / "log"
    return LabError(
        f"cannot start lab {lab.name}: {reason}; the logs in {logs} end as below; "
        f"mend {lab.home}/etc, or start afresh with `down --purge`, then run `up` again"
        f"{tail(logs / 'libvirtd.log')}{tail(lab.console)}"
    )


def wait_ready(lab: Lab, holder: subprocess.Popen[bytes] | None) -> None:
    """Wait until libvirtd answers; ends early when PID 1 (watched through `holder`) or a daemon does."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers(lab):
        if holder is not None and holder.poll() is not None:
            raise start_error(lab, "its PID 1 ended")
        if lab.failure.exists():
            raise start_error(lab, lab.failure.read_text())
        if time.monotonic() > deadline:
            raise start_error(lab, f"libvirtd did not answer within {START_TIMEOUT_S} s")
        time.sleep(0.02)


def kill(lab: Lab, pid: int) -> None:
    """Kill PID 1; when its end is reported the kernel has ended all other processes of the lab."""
    with contextlib.suppress(ProcessLookupError):
        watch = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        ended = select.select([watch], [], [], STOP_TIMEOUT_S)[0]
        os.close(watch)
        if not ended:
            raise LabError(
                f"cannot stop lab {lab.name}: PID 1 ({pid}) is still there {STOP_TIMEOUT_S} s after SIGKILL; "
                f"see with `ps -o stat,wchan -p {pid}` what it waits for, then run `down` again"
            )


def power_off(lab: Lab) -> None:
    """End the lab, if it runs, and remove what is left of a run, also of one that was killed."""
    pid = lab.pid()
    if pid is not None:
        kill(lab, pid)
    remove_cgroups(lab)
    apparmor.unload(lab)
    shutil.rmtree(lab.home / "run", ignore_errors=True)
    (lab.home / "pid").unlink(missing_ok=True)


def start(lab: Lab) -> None:
    power_off(lab)
    prepare(lab)
    try:
        wait_ready(lab, launch(lab))
    except LabError:
        power_off(lab)
        raise


def restart_daemons(lab: Lab, pid: int) -> None:
    lab.failure.unlink(missing_ok=True)
    os.kill(pid, signal.SIGHUP)
    wait_ready(lab, None)


def up(lab: Lab) -> int:
    """Start the lab; if it runs, what is missing of it."""
    preflight(lab)
    # QEMU's user must get through the lab's directories whatever the caller's umask.
    os.umask(0o022)
    with locked(lab):
        pid = lab.pid()
        if pid is None:
            start(lab)
        elif not answers(lab):
            restart_daemons(lab, pid)
    return 0


def down(lab: Lab, purge: bool) -> int:
    """Stop the lab; its objects and disks stay, unless purged."""
    if not lab.home.exists():
        return 0
    with locked(lab):
        power_off(lab)
        if purge:
            shutil.rmtree(lab.home)
    return 0


def status(lab: Lab) -> int:
    """Print the state of the lab."""
    pid, answered = lab.pid(), answers(lab)
    state = "running" if answered else "stopped" if pid is None else "libvirtd does not answer"
    print(f"name: {lab.name}\nstate: {state}\npid: {pid or '-'}\nuri: {lab.uri}\ndir: {lab.home}")
    return 0 if answered else NotRunningError.exit_code


def execute(lab: Lab, command: list[str]) -> NoReturn:
    """Become the command, inside."""
    pid = lab.pid()
    if pid is None:
        raise NotRunningError(f"cannot run {command[0]} in lab {lab.name}: it is not running; run `up`")
    join([leaf(group) for group in lab.cgroups()])
    wrapped = entering(pid, command)
    os.execvp(wrapped[0], wrapped)
