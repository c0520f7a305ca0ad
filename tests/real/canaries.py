"""Secrets that are planted, and the search for them: in files, in what is said, in what libvirt shows."""

from __future__ import annotations

import base64
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt

from tests.real.conftest import Host

# Another one in each run, as others may plant theirs on the same machine. By the place that it is planted in.
# No hexadecimal digits: checksums and UUIDs are full of these.
_RUN = "".join(secrets.choice("ghijkmnpqrstuvwxyz") for _ in range(6))
CANARIES = {
    name: f"canary-{number:02d}-{_RUN}"
    for number, name in enumerate((
        "cloud-init password", "user data", "key of a disk", "CHAP", "image URL", "URI", "ISO files",
        "cloud-init password, updated",
    ))
} | {"screen": f"0c{_RUN}", "screen, updated": f"0d{_RUN}"}  # fmt: skip  # VNC takes 8 characters.
LIBVIRTS = (Path("/var/log/libvirt"), Path("/run/libvirt"), Path("/etc/libvirt"), Path("/var/lib/libvirt"),
            Path("/var/cache/libvirt"))  # fmt: skip
SHARED = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run/lock"))


def _forms(canary: str) -> Iterator[bytes]:
    """The text, in hex, and in base64 wherever in it it begins."""
    plain = canary.encode()
    yield from (plain, plain.hex().encode())
    for before in range(3):
        # Without the characters that what stands beside it has a part in.
        whole = base64.b64encode(bytes(before) + plain).rstrip(b"=")
        yield whole[-(-before * 4 // 3) : (before + len(plain)) * 4 // 3]


FORMS = {name: tuple(_forms(canary)) for name, canary in CANARIES.items()}


def found_in(content: bytes) -> set[str]:
    return {name for name, forms in FORMS.items() if any(form in content for form in forms)}


def documents(host: Host) -> list[str]:
    """All that libvirt shows without its flag for secrets."""
    connection = host.connection
    domains = connection.listAllDomains()
    every: list[Any] = [*domains, *connection.listAllNetworks(), *connection.listAllStoragePools()]
    volumes = [
        volume for pool in connection.listAllStoragePools() if pool.isActive() for volume in pool.listAllVolumes()
    ]
    inactive = [domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) for domain in domains]
    return [thing.XMLDesc(0) for thing in [*every, *volumes, *connection.listAllSecrets()]] + inactive


@dataclass
class Search:
    """Counts what was looked through."""

    since: float = field(default_factory=time.time)
    files: int = 0
    texts: int = 0

    def said(self, text: str) -> set[str]:
        """Look through what somebody was told."""
        self.texts += 1
        return found_in(text.encode())

    def holders(self, *places: Path) -> dict[Path, set[str]]:
        """Return the files below the places that hold a secret, each with those that it holds."""
        return self._among(path for place in places for path in place.rglob("*"))

    def new_in_shared(self, *without: Path) -> dict[Path, set[str]]:
        """Return the same of what was made or changed since the search began where every program puts its files."""
        return self._among(path for place in SHARED for path in self._fresh(place, without))

    def _fresh(self, place: Path, without: tuple[Path, ...]) -> Iterator[Path]:
        for directory, inner, names in os.walk(place):
            inner[:] = [name for name in inner if Path(directory, name) not in without]
            for path in (Path(directory, name) for name in names):
                try:
                    fresh = path.lstat().st_ctime >= self.since - 1
                except FileNotFoundError:  # somebody else's
                    continue
                if fresh:
                    yield path

    def _among(self, paths: Iterator[Path]) -> dict[Path, set[str]]:
        found = {}
        for path in paths:
            try:
                if not stat.S_ISREG(path.lstat().st_mode):
                    continue
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            self.files += 1
            if names := found_in(content):
                found[path] = names
        return found


def open_to_all(path: Path, below: Path) -> bool:
    """Tell whether everybody may read a file, and walk to it from ``below``, which itself may be anybody's."""
    if not path.stat().st_mode & stat.S_IROTH:
        return False
    ways = path.parents[: len(path.relative_to(below).parts) - 1]
    return all(way.stat().st_mode & stat.S_IXOTH for way in ways)
