"""A guest that is written to through its agent, and what its disks hold, seen with no code of the product."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import libvirt
import libvirt_qemu

from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.session import connect

QEMU = "qemu:///system"
# Its own one prints each question that is asked too early.
libvirt.registerErrorHandler(lambda _context, _error: None, None)
DEFINITION = """
<domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory><os><type machine='q35'>hvm</type></os>
<features><acpi/></features><on_crash>destroy</on_crash><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='{root}'/>
<target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{data}'/>
<target dev='vdb' bus='virtio'/></disk>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
<controller type='usb' model='none'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>
"""


@dataclass
class Guest:
    """A domain with a qcow2 overlay (vda), a small raw disk (vdb) and an empty drive."""

    name: str
    directory: Path
    base: Path

    def __post_init__(self) -> None:
        self.connection = libvirt.open(QEMU)

    @property
    def root(self) -> Path:
        return self.directory / f"{self.name}-root.qcow2"

    @property
    def data(self) -> Path:
        return self.directory / f"{self.name}-data.raw"

    @property
    def handle(self) -> libvirt.virDomain:
        return self.connection.lookupByName(self.name)

    @property
    def domain(self) -> Domain:
        return Domain.get(connect(QEMU), self.name)

    def define(self) -> None:
        create = ["qemu-img", "create", "-q", "-f", "qcow2"]
        subprocess.run([*create, "-F", "qcow2", "-b", self.base, self.root, "600M"], check=True)
        subprocess.run(["truncate", "-s", "8M", self.data], check=True)
        self.connection.storagePoolLookupByName("default").refresh()
        self.connection.defineXML(DEFINITION.format(name=self.name, root=self.root, data=self.data))

    def boot(self) -> None:
        self.handle.create()
        deadline = time.monotonic() + 300
        while True:
            try:
                self.agent("guest-ping")
                return
            except libvirt.libvirtError:
                assert time.monotonic() < deadline, "no agent"
                time.sleep(0.2)

    def agent(self, command: str, **arguments: object) -> object:
        call = {"execute": command, **({"arguments": arguments} if arguments else {})}
        return json.loads(libvirt_qemu.qemuAgentCommand(self.handle, json.dumps(call), 60, 0))["return"]

    def sh(self, command: str) -> str:
        given = {"path": "/bin/sh", "arg": ["-c", command], "capture-output": True}
        pid = self.agent("guest-exec", **given)["pid"]  # type: ignore[index]
        while True:
            state: dict[str, object] = self.agent("guest-exec-status", pid=pid)  # type: ignore[assignment]
            if state["exited"]:
                out, err = (base64.b64decode(str(state.get(key, ""))).decode() for key in ("out-data", "err-data"))
                assert state["exitcode"] == 0, f"{command}: {err}"
                return out
            time.sleep(0.05)

    def files(self) -> set[str]:
        return set(self.sh("ls /root").split())

    def remove(self) -> None:
        handle = self.handle
        # One that was killed may be about to be found dead.
        with contextlib.suppress(libvirt.libvirtError):
            handle.destroy()
        handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
        for path in (self.root, self.data):
            path.unlink(missing_ok=True)
        self.connection.storagePoolLookupByName("default").refresh()


def content(path: Path, scratch: Path, *, drop: bool = False) -> str:
    """The sha256 of what a guest sees on a disk, base included; the guest is paused or off."""
    raw = scratch / f"{path.name}.content"
    subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", path, raw], check=True)
    with raw.open("rb") as data:
        found = hashlib.file_digest(data, "sha256").hexdigest()
    raw.unlink()
    if drop:
        path.unlink()
    return found


def listed(image: Path, directory: str, scratch: Path) -> set[str]:
    """The names in a directory of a disk's first partition, read without a guest."""
    raw, part = scratch / "whole.raw", scratch / "part.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
    table = json.loads(subprocess.run(["sfdisk", "-J", raw], check=True, capture_output=True).stdout)
    first = table["partitiontable"]["partitions"][0]
    skip, count = first["start"] * 512, first["size"] * 512
    part.touch()
    os.truncate(part, count)
    with raw.open("rb") as source, part.open("r+b") as target:
        source.seek(skip)
        for _ in range(0, count, 1 << 20):
            chunk = source.read(1 << 20)
            target.write(chunk[: count - target.tell()])
    call = ["debugfs", "-R", f"ls -p {directory}", str(part)]
    out = subprocess.run(call, check=True, capture_output=True, text=True).stdout
    raw.unlink()
    part.unlink()
    return {line.split("/")[5] for line in out.splitlines() if line.count("/") > 5}
