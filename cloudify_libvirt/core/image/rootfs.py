"""Unpack a container's root from a tar archive that may come from anywhere.

Python 3.11.2, Debian 12's, has no extraction filters yet (PEP 706 came with 3.11.4), and the ones that
came drop what a root needs: owners and set-id bits.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from cloudify_libvirt.core.errors import Conflict, ImageFailed
from cloudify_libvirt.core.image.format import CHUNK, open_stream

_LINKS_MAX = 40  # as Linux (MAXSYMLINKS)


def extract_root(tar: Path, target: Path, extra: Mapping[str, bytes] | None = None) -> None:
    """Unpack ``tar`` (plain, gz, xz, zst or bz2) to the directory ``target``, which appears when all is there.

    Modes, symbolic links and, for root, numeric owners are kept; device nodes are left out, for libvirt
    makes a container's own. Nothing outside ``target`` is written, whatever names and links say.
    ``extra``: {path: content} of files that are added, readable by their owner only.

    Raises:
        ImageFailed: no tar archive, cut short, or with names or links that leave the root.
        Conflict: ``target`` has content.
    """
    if target.is_dir() and any(target.iterdir()):
        raise Conflict("unpack", f"{tar} to {target}", "the directory is not empty", "Remove it, or name another one.")
    draft = target.with_name(f"{target.name}.partial")
    try:
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(parents=True, mode=0o755)
        unpacker = _Unpacker(tar, draft)
        unpacker.run()
        for name, content in (extra or {}).items():
            unpacker.add(name, content)
        draft.replace(target)
    except tarfile.TarError as error:
        raise _failed(tar, f"it is not a complete tar archive ({error})") from error
    except OSError as error:
        raise _failed(tar, str(error)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _failed(tar: Path, reason: str) -> ImageFailed:
    return ImageFailed("unpack", str(tar), reason, "Nothing of it was kept.")


class _Unpacker:
    def __init__(self, tar: Path, root: Path) -> None:
        self._tar, self._root = tar, root
        self._directories: dict[Path, tarfile.TarInfo] = {}

    def run(self) -> None:
        with open_stream(self._tar) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                self._member(archive, member)
            # Every archive ends with blocks of zeros; tarfile takes a cut between two members for the end.
            if archive.fileobj.tell() == archive.offset:
                raise tarfile.ReadError("it ends too early")
            while stream.read(CHUNK):  # to the checksum of the compression
                pass
        # Last, and the deepest first: a directory may be read-only, and its time changes with its content.
        for path in sorted(self._directories, key=lambda path: len(path.parts), reverse=True):
            _finish(path, self._directories[path])

    def add(self, name: str, content: bytes) -> None:
        """Write a file of our own, where the container would find it under that name."""
        path = self._place(name)
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = self._place(member.name)
        if member.isdir():
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
                path.mkdir(mode=0o700)
            self._directories[path] = member
            return
        if member.ischr() or member.isblk():
            return
        if path == self._root or (path.is_dir() and not path.is_symlink()):
            raise _failed(self._tar, f"{member.name} is a directory and something else")
        path.unlink(missing_ok=True)
        if member.issym():
            self._check_link(member)
            path.symlink_to(member.linkname)
        elif member.islnk():
            os.link(self._place(member.linkname), path, follow_symlinks=False)
            return  # its owner and mode are those of the file that it is
        elif member.isfifo():
            os.mkfifo(path, 0o600)
        else:
            self._file(archive, member, path)
        _finish(path, member)

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        source = archive.extractfile(member)
        with path.open("xb") as file:
            if source is not None:
                shutil.copyfileobj(source, file, CHUNK)

    def _place(self, name: str) -> Path:
        """Return where ``name`` lies, its parents resolved as the container would see them."""
        if name.startswith("/") or ".." in name.split("/"):
            raise _failed(self._tar, f"the name {name!r} leaves the root")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts:
            return self._root
        parent = self._resolve(parts[:-1])
        parent.mkdir(parents=True, exist_ok=True)
        return parent / parts[-1]

    def _resolve(self, parts: list[str]) -> Path:
        pending, done, links = parts[::-1], list[str](), 0
        while pending:
            part = pending.pop()
            path = self._root.joinpath(*done, part)
            if part == "..":
                done = done[:-1]
            elif path.is_symlink():
                links += 1
                if links > _LINKS_MAX:
                    raise _failed(self._tar, f"{path.relative_to(self._root)} is a loop of links")
                link = str(path.readlink())
                done = [] if link.startswith("/") else done
                pending += [piece for piece in reversed(link.split("/")) if piece not in ("", ".")]
            else:
                done.append(part)
        return self._root.joinpath(*done)

    def _check_link(self, member: tarfile.TarInfo) -> None:
        """Refuse ``../..`` over the root; an absolute target is meant inside the container."""
        depth = len([part for part in member.name.split("/") if part not in ("", ".")]) - 1
        for part in _steps(member.linkname):
            depth += -1 if part == ".." else 1
            if depth < 0:
                raise _failed(self._tar, f"the link {member.name!r} to {member.linkname!r} leaves the root")


def _steps(link: str) -> Iterator[str]:
    if not link.startswith("/"):
        yield from (part for part in link.split("/") if part not in ("", "."))


def _finish(path: Path, member: tarfile.TarInfo) -> None:
    """Set owner, mode and time, in this order: a change of the owner clears set-id bits."""
    if os.geteuid() == 0:
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
    if not member.issym():
        path.chmod(member.mode & 0o7777)
    os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)
