"""What a host lacks for a type of pool, said before anything is defined.

libvirt is asked for its storage backends, also remote. Tools, file systems and devices are seen here only.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.errors import CoreError, Missing, Unsupported
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.spec.pool import PoolSpec
from cloudify_libvirt.core.storage import device

# The packages are Debian's. Source: packages.debian.org, libvirt's src/storage/storage_backend_*.c
_BACKENDS = {
    name: f"libvirt-daemon-driver-storage-{name}" for name in ("gluster", "iscsi-direct", "rbd", "zfs")
}  # fmt: skip
# Commands that the backend of a type runs.
_TOOLS = {
    "fs": {"mount": "mount"},
    "netfs": {"mount": "mount"},
    "logical": {"vgs": "lvm2", "lvs": "lvm2", "pvcreate": "lvm2"},
    "disk": {"parted": "parted"},
    "iscsi": {"iscsiadm": "open-iscsi"},
    "zfs": {"zpool": "zfsutils-linux", "zfs": "zfsutils-linux"},
    "mpath": {"multipath": "multipath-tools"},
}
_MOUNTERS = {
    "nfs": {"mount.nfs": "nfs-common"},
    "cifs": {"mount.cifs": "cifs-utils"},
    "glusterfs": {"mount.glusterfs": "glusterfs-client"},
}
_MAKERS = {
    **{f"ext{n}": "e2fsprogs" for n in (2, 3, 4)},
    "xfs": "xfsprogs", "vfat": "dosfstools", "ocfs2": "ocfs2-tools", "gfs2": "gfs2-utils", "udf": "udftools",
}  # fmt: skip
# Parts of the kernel that a type stands on: a module, and what shows that it is there.
_KERNEL = {
    "logical": ("dm_mod", "/sys/class/misc/device-mapper"),
    "mpath": ("dm_mod", "/sys/class/misc/device-mapper"),
    "iscsi": ("iscsi_tcp", "/sys/module/iscsi_tcp"),
    "zfs": ("zfs", "/dev/zfs"),
}
_FILE_SYSTEM_MODULES = {"hfs+": "hfsplus", "glusterfs": "fuse"}
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"


def check(session: Session, spec: PoolSpec, label: str) -> None:
    """Raise what the host lacks for such a pool, with what mends it."""
    _check_backend(session, spec.type, label)
    if not session.shares_files:
        return
    need_tools(_TOOLS.get(spec.type, {}), spec.type, label)
    if spec.type in _KERNEL:
        module, proof = _KERNEL[spec.type]
        if not Path(proof).exists() and not _has_module(module):
            raise _lacking(label, f"the kernel has no {module}, which {_pools(spec.type)} stand on", _modprobe(module))
    _check_file_system(spec, label)
    check_devices(spec.wanted_source.devices, label)
    _check_adapter(spec, label)


def _check_backend(session: Session, type_: str, label: str) -> None:
    try:
        xml = session.fact("storage pool capabilities", session.connection.getStoragePoolCapabilities)
    except Unsupported:
        # Before libvirt 5.2, and the test driver: the definition itself tells.
        return
    if type_ not in parse.pool_types(xml):
        package = _BACKENDS.get(type_)
        remedy = f"Install it there: apt-get install {package}" if package else "Use a libvirt built with it"
        raise _lacking(label, f"its libvirt has no storage backend for {_pools(type_)}", f"{remedy}; restart libvirtd.")


def need_tools(tools: dict[str, str], type_: str, label: str) -> None:
    """Raise when a command is not there; ``tools`` has the package of each."""
    for command, package in tools.items():
        if shutil.which(command, path=_PATH) is None:
            reason = f"the command {command}, which {_pools(type_)} need, is not installed"
            raise _lacking(label, reason, f"Install it: apt-get install {package}.")


def need_maker(file_system: str, label: str) -> None:
    """Raise when no command makes such a file system."""
    need_tools({f"mkfs.{file_system}": _MAKERS.get(file_system, "that has it")}, "fs", label)


def _check_file_system(spec: PoolSpec, label: str) -> None:
    if spec.type not in ("fs", "netfs"):
        return
    name = spec.wanted_source.format or ("nfs" if spec.type == "netfs" else "auto")
    wanted = "nfs" if (spec.type, name) == ("netfs", "auto") else name
    if wanted == "auto":
        return
    need_tools(_MOUNTERS.get(wanted, {}), spec.type, label)
    module = _FILE_SYSTEM_MODULES.get(wanted, wanted)
    if module not in _file_systems() and not _has_module(module):
        raise _lacking(label, f"the kernel cannot mount {wanted}", _modprobe(module))


def check_devices(devices: Iterable[str], label: str) -> None:
    """Raise when one of these is not a block device of this machine."""
    for path in devices:
        if not Path(path).exists():
            raise Missing(
                "use", f"device {path} for {label}", "there is no such device", "Check params.source.devices."
            )
        if not device.is_block(path):
            reason = "it is not a block device"
            raise CoreError("use", f"device {path} for {label}", reason, "A file becomes one by losetup.")


def _check_adapter(spec: PoolSpec, label: str) -> None:
    adapter = spec.wanted_source.adapter
    if adapter is None:
        return
    name = adapter.name or (adapter.parent or "").removeprefix("scsi_")
    place = Path("/sys/class", "scsi_host" if adapter.name else "fc_host")
    found = sorted(entry.name for entry in place.iterdir()) if place.is_dir() else []
    if not found or (name and name.removeprefix("scsi_") not in found):
        there = f"it has {', '.join(found)}" if found else "it has none"
        kind = "SCSI host" if adapter.name else "fibre channel adapter"
        raise _lacking(label, f"there is no {kind} {name}; {there}".replace("  ", " "), "Check params.source.adapter.")


def _lacking(label: str, reason: str, remedy: str) -> Unsupported:
    return Unsupported("make", label, reason, remedy)


def _pools(type_: str) -> str:
    return f"pools of type {type_}"


def _modprobe(module: str) -> str:
    return f"Load it (modprobe {module}), or use a kernel that has it."


def _file_systems() -> set[str]:
    return {line.split("\t")[-1] for line in Path("/proc/filesystems").read_text(encoding="utf-8").splitlines()}


def _has_module(name: str) -> bool:
    """Tell whether the running kernel has the module, loaded or not."""
    return Path("/sys/module", name).exists() or name in _modules(os.uname().release)


@lru_cache(maxsize=2)
def _modules(release: str) -> frozenset[str]:
    found: set[str] = set()
    for index in ("modules.dep", "modules.builtin"):
        path = Path("/lib/modules", release, index)
        if path.exists():
            text = path.read_text(encoding="utf-8")
            found |= {name.replace("-", "_") for name in re.findall(r"^[^:\n]*?([^/:\n]+)\.ko", text, re.MULTILINE)}
    return frozenset(found)
