"""Which files of a host a blueprint may turn into disks: not those that hold its keys, passwords and settings.

Whoever may talk to libvirt's system daemon is as good as root. This keeps a careless or hostile blueprint from making
a disk of a password file; it is no wall around a hypervisor.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path

# The operator's word for all blueprints of a machine: directories with colons between them.
ALLOWED_VARIABLE = "CLOUDIFY_LIBVIRT_HOST_FILES"

# Source: File System Hierarchy Standard 3.0; what is no disk's place.
_CLOSED = ("/boot", "/etc", "/proc", "/root/.ssh", "/run", "/sys", "/var/log", "/var/spool", "/var/lib/libvirt/secrets")
_CLOSED_PARTS = frozenset({".ssh", ".gnupg", ".aws", ".kube", ".docker", ".cloudify"})


def closed(path: str) -> str:
    """Return why a file must not become a disk, or ""; as the path is written, for a host that may be far."""
    path = posixpath.normpath(path).replace("//", "/", 1)
    if any(_below(path, root) for root in os.environ.get(ALLOWED_VARIABLE, "").split(":") if root):
        return ""
    place = next((root for root in _CLOSED if _below(path, root)), "") or next(
        (part for part in path.split("/") if part in _CLOSED_PARTS), ""
    )
    if not place:
        return ""
    return f"{place} is no place of disks; the operator of this machine can open it in {ALLOWED_VARIABLE}"


def closed_here(path: Path) -> str:
    """Return why a file of this machine must not become a disk, or ""; where its links lead counts."""
    return closed(str(path)) or closed(str(path.resolve()))


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
