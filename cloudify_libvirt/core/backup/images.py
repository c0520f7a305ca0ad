"""The files of points as disks: checked, put together, compared. By qemu-img, on this machine.

A chain is named to qemu-img in one argument: no file of a point says on which other one it stands, or is changed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloudify_libvirt.core.backup.store import file_digest
from cloudify_libvirt.core.errors import BackupBroken, CoreError, LibraryMissing, TimedOut
from cloudify_libvirt.core.units import human_size

_TIMEOUT_S = 6 * 3600.0
# Source: qemu-img(1), check: 3 is leaked clusters, which lose space but no data.
_SOUND = (0, 3)


def qemu_img(label: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run qemu-img on files of this machine; what it returns is for the caller to judge."""
    words = ["qemu-img", *map(str, arguments)]
    try:
        return subprocess.run(words, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except FileNotFoundError as error:
        raise LibraryMissing("read", label, "qemu-img is not installed", "apt-get install qemu-utils") from error
    except subprocess.TimeoutExpired as error:
        raise TimedOut("read", label, f"qemu-img took more than {_TIMEOUT_S:g} s") from error


def _chain(paths: Sequence[Path]) -> str:
    """Return qemu-img's name of a disk whose files are those, the one with everything first."""
    node: dict[str, Any] = {}
    for path in paths:
        below = {"backing": node} if node else {}
        node = {"driver": "qcow2", "file": {"driver": "file", "filename": str(path.absolute())}, **below}
    return f"json:{json.dumps(node)}"


def check(path: Path, label: str) -> None:
    """Raise ``BackupBroken`` when a file's own structure is damaged."""
    done = qemu_img(label, "check", "-q", "-f", "qcow2", path)
    if done.returncode not in _SOUND:
        reason = f"qemu-img check finds it damaged: {(done.stderr or done.stdout).strip()[:300]}"
        raise BackupBroken("use", label, reason, "Restore another point.")


def flatten(paths: Sequence[Path], destination: Path, format_: str, label: str) -> None:
    """Write one file with all that a disk had."""
    destination.touch(mode=0o600)
    done = qemu_img(label, "convert", "-q", "-O", format_, _chain(paths), destination)
    if "No space left" in done.stderr:
        free = human_size(shutil.disk_usage(destination.parent).free)
        reason = f"no space left in {destination.parent}: {free} are not enough"
        raise CoreError("put together", label, reason, "Free some space there.")
    if done.returncode:
        raise BackupBroken("put together", label, done.stderr.strip()[:300], "Is there room? Else verify its chain.")


def content_digest(paths: Sequence[Path], scratch: Path, label: str) -> str:
    """Return the sha256 of what a guest sees on the disk."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        raw = Path(directory, "content")
        flatten(paths, raw, "raw", label)
        return file_digest(raw)[1]
