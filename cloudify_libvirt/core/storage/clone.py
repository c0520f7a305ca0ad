"""Disks made from image files on this host: copies, overlays and full clones, each there whole or not at all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cloudify_libvirt.core.errors import Conflict, ImageFailed, InvalidSpec
from cloudify_libvirt.core.host.lock import host_lock
from cloudify_libvirt.core.image.format import detect_format
from cloudify_libvirt.core.units import check_growth

MODES = ("overlay", "clone")
_TIMEOUT_S = 3600.0
_DISK_MODE = 0o600  # libvirt gives the file to QEMU's user when the domain starts


@dataclass(frozen=True)
class Disk:
    """A disk file, always qcow2."""

    path: Path
    size_bytes: int
    format: str = "qcow2"


def plan_clone(source: Path, mode: str, size_bytes: int | None, source_format: str = "") -> tuple[str, int]:
    """Check what is asked for; return the format of ``source`` and the size of the disk.

    Raises:
        InvalidSpec: no such mode.
        Conflict: a size that would cut the image.
        ImageFailed: ``source`` is no disk image.
    """
    if mode not in MODES:
        raise InvalidSpec("clone", str(source), f"{mode!r} is not a mode", f"Modes: {', '.join(MODES)}.")
    if not source.is_file():
        raise ImageFailed("clone", str(source), "there is no such file on this host", "Download the image first.")
    found, virtual_bytes = detect_format(source, expected=source_format)
    if found == "tar":
        raise ImageFailed("clone", str(source), "it is a tar archive, not a disk image", "Give a qcow2 or raw image.")
    if size_bytes is not None:
        check_growth("clone", str(source), virtual_bytes, size_bytes, "the image's")
    return found, size_bytes or virtual_bytes


def clone_image(
    source: Path, destination: Path, *, mode: str = "overlay", size_bytes: int | None = None, source_format: str = ""
) -> Disk:
    """Make a qcow2 disk above ``source`` (``overlay``) or with all its content (``clone``).

    Raises:
        Conflict: there is a file at ``destination``.
    """
    source = source.resolve()
    found, size = plan_clone(source, mode, size_bytes, source_format)

    def make(draft: Path) -> None:
        if mode == "overlay":
            _qemu_img(source, "create", "-q", "-f", "qcow2", "-F", found, "-b", source, draft, size)
        else:
            _qemu_img(source, "convert", "-q", "-f", found, "-O", "qcow2", source, draft)
            _qemu_img(source, "resize", "-q", "-f", "qcow2", draft, size)

    place(destination, make)
    return Disk(destination, size)


def copy_image(source: Path, destination: Path) -> None:
    """Copy an image, sharing blocks and keeping holes where the file system can."""
    place(destination, lambda draft: _run(source, "cp", "--reflink=auto", "--sparse=auto", "--", source, draft))


def place(destination: Path, make: Callable[[Path], None]) -> None:
    """Have ``make`` write a draft beside ``destination``, which gets its name when it is whole.

    Raises:
        Conflict: there is a file already; it may be a disk in use.
        Busy: another process is writing it.
    """
    with host_lock("", f"file {destination.absolute()}"):
        # Another writer's draft is left alone, and what a killed one left goes.
        _place(destination, make)


def _place(destination: Path, make: Callable[[Path], None]) -> None:
    draft = destination.with_name(f".{destination.name}.partial")
    try:
        if destination.exists():
            raise FileExistsError
        destination.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        make(draft)
        draft.chmod(_DISK_MODE)
        # Unlike a rename this fails where a file came meanwhile.
        os.link(draft, destination)
    except FileExistsError as error:
        remedy = "Remove it, or give another destination."
        reason = "there is a file already, not made by this instance"
        raise Conflict("write", str(destination), reason, remedy) from error
    except OSError as error:
        raise ImageFailed("write", str(destination), error.strerror or str(error), "Check space and rights.") from error
    finally:
        draft.unlink(missing_ok=True)


def _qemu_img(target: Path, *arguments: object) -> None:
    _run(target, "qemu-img", *arguments)


def _run(target: Path, *command: object) -> None:
    words = [str(word) for word in command]
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except FileNotFoundError as error:
        raise ImageFailed("clone", str(target), f"{words[0]} is not installed", "apt-get install qemu-utils") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or f"{words[0]} ended with {error.returncode}").strip()
        raise ImageFailed("clone", str(target), reason, "Check space and rights of the destination.") from error
    except subprocess.TimeoutExpired as error:
        raise ImageFailed("clone", str(target), f"{words[0]} took more than {_TIMEOUT_S:g} s") from error
