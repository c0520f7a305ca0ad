"""What the tests of storage pools share: nodes of pools, a look at libvirt and devices, server processes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt

from cloudify_libvirt import pool_tasks
from tests.driver.conftest import Node

QEMU = "qemu:///system"
IMAGES = Path("/var/lib/libvirt/images")
TARGET = "iqn.2024-01.org.example:disks"
INITIATOR = "iqn.2024-01.org.example:host1"
LIFE = ("validate", "create", "configure", "start")


def run(*command: object, text: str | None = None) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, input=text)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def pool_node(name: str, type_: str, **params: Any) -> Node:
    """A node of a pool on the lab's hypervisor."""
    return Node(name="pool", params={"name": name, "type": type_, **params}, properties={"libvirt_auth": QEMU})


def install(node: Node, *operations: str) -> Any:
    """Run the operations that an install runs; return libvirt's pool."""
    for operation in operations or LIFE:
        node.run(getattr(pool_tasks, operation))
    return libvirt.open(QEMU).storagePoolLookupByName(node.params["name"])


def uninstall(node: Node) -> None:
    for operation in ("stop", "delete"):
        node.run(getattr(pool_tasks, operation))


def pools() -> set[str]:
    return {pool.name() for pool in libvirt.open(QEMU).listAllStoragePools()}


def secrets() -> set[str]:
    return set(libvirt.open(QEMU).listSecrets())


def digest(device: str) -> str:
    with Path(device).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def signature(device: str) -> str:
    """What blkid says is on the device, "" if nothing."""
    done = subprocess.run(["blkid", "-p", "-o", "export", device], capture_output=True, text=True, check=False)
    keys = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return keys.get("TYPE") or keys.get("PTTYPE") or ""


@contextmanager
def mounted(device: str, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    run("mount", device, place)
    try:
        yield place
    finally:
        run("umount", place)


class Daemon:
    """One server process of a test, ended by its pid."""

    def __init__(self, *command: object, ready: Callable[[], bool]) -> None:
        self.process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not ready():
            assert self.process.poll() is None and time.monotonic() < deadline, f"{command} does not answer"
            time.sleep(0.1)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def answers(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def restart_libvirtd() -> None:
    """Kill the lab's libvirtd and have its PID 1 start it again; returns when it answers."""
    os.kill(int(Path("/run/libvirt/libvirtd.pid").read_text()), signal.SIGKILL)
    deadline = time.monotonic() + 120
    while not answers("virsh", "-c", QEMU, "list"):
        assert time.monotonic() < deadline, "libvirtd does not come back"
        # It starts what is missing, also when the last one was not yet reaped.
        os.kill(1, signal.SIGHUP)
        time.sleep(0.2)
