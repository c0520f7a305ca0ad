"""The lab's libvirtd, taken away and brought back; its guests go on."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from pathlib import Path

import libvirt

PID_FILE = Path("/run/libvirt/libvirtd.pid")
QEMU = "qemu:///system"
GUESTS = Path("/run/libvirt/qemu")


def pid() -> int:
    return int(PID_FILE.read_text())


def send(number: signal.Signals) -> None:
    os.kill(pid(), number)


def stop(how: signal.Signals = signal.SIGTERM, patience_s: float = 5.0) -> None:
    """End libvirtd, and wait until it has ended; as systemd does it, by force where it takes too long (in a job)."""
    watched = os.pidfd_open(pid())
    signal.pidfd_send_signal(watched, how)
    if not select.select([watched], [], [], patience_s)[0]:
        signal.pidfd_send_signal(watched, signal.SIGKILL)
        assert select.select([watched], [], [], 60)[0], "libvirtd does not end"
    os.close(watched)
    # It removes the file itself when it ends in peace.
    PID_FILE.unlink(missing_ok=True)


def start(*, wait: bool = True) -> None:
    """Have the lab's first process start what is missing."""
    os.kill(1, signal.SIGHUP)
    deadline = time.monotonic() + 90
    while wait and not answers():
        assert time.monotonic() < deadline, "libvirtd does not start"
        time.sleep(0.05)


def answers() -> bool:
    try:
        libvirt.open(QEMU).close()
    except libvirt.libvirtError:
        return False
    return True


def restart() -> None:
    """As an upgrade of its package does; who is connected notices at the next call."""
    stop()
    start(wait=False)


def gone(seconds: float) -> None:
    """Take it away now, and bring it back later."""
    stop(signal.SIGKILL)
    threading.Timer(seconds, lambda: start(wait=False)).start()


def hung(seconds: float) -> None:
    """Let it answer nothing for a while, its connections open."""
    send(signal.SIGSTOP)
    threading.Timer(seconds, lambda: send(signal.SIGCONT)).start()


def guests() -> dict[str, int]:
    """The process of each running guest, by name."""
    return {path.stem: int(path.read_text()) for path in GUESTS.glob("*.pid") if path.stem != "driver"}


def emulators() -> list[int]:
    """Every QEMU process of the lab that runs a guest, known to libvirt or not."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"qemu-system" in words[0] and b"-name" in words:
                found.append(int(path.parent.name))
    return found
