"""What the image cache remembers: which source gave which file, and how to ask whether it changed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cloudify_libvirt.core.image.web import Validators


@dataclass(frozen=True)
class Entry:
    """One source and the image that came from it.

    ``digests`` are of the file at the source, ``sha256`` of the file here; they differ where the source was
    compressed. ``file`` is a name in the cache, or the absolute path of a local image. ``declared``: the
    format is what a user said, not what was found.
    """

    source: str
    validators: Validators
    digests: dict[str, str]
    fetched_at: float
    file: str
    sha256: str
    format: str
    size_bytes: int
    file_bytes: int
    mtime_ns: int
    declared: bool = False

    def seen_now(self) -> Entry:
        """Return the entry as confirmed by its source at this moment."""
        return replace(self, fetched_at=time.time())


class Index:
    """Entries as one small file each, replaced atomically; write only under the lock of the key."""

    def __init__(self, directory: Path, images: Path) -> None:
        """Keep the files in ``directory``; names in entries are below ``images``."""
        self.directory = directory
        self._images = images

    def read(self, key: str) -> Entry | None:
        """Return the entry, or None where it is unknown or its image is gone, cut or changed."""
        return self._load(self.directory / f"{key}.json")

    def find(self, algorithm: str, value: str, *, declared: bool) -> Entry | None:
        """Return an entry of any source whose file had this digest; ``declared``: as a raw image."""
        same = (entry for _, entry in self.entries() if entry.digests.get(algorithm) == value)
        return next((e for e in same if e.declared == declared or (declared and e.format == "raw")), None)

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Yield ``(key, entry)`` of every image that is there, unchanged."""
        for path in self.directory.glob("*.json"):
            entry = self._load(path)
            if entry:
                yield path.stem, entry

    def keys(self) -> set[str]:
        """Return the keys of all entries, also of images that are gone."""
        return {path.stem for path in self.directory.glob("*.json")}

    def forget(self, key: str) -> None:
        """Drop the entry."""
        (self.directory / f"{key}.json").unlink(missing_ok=True)

    def write(self, key: str, entry: Entry) -> None:
        """Remember the entry."""
        path = self.directory / f"{key}.json"
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(entry), indent=1))
        draft.replace(path)

    def _load(self, path: Path) -> Entry | None:
        try:
            values = json.loads(path.read_text())
            entry = Entry(**{**values, "validators": Validators(**values["validators"])})
            status = (self._images / entry.file).stat()
        except (OSError, ValueError, TypeError, KeyError):
            return None
        if (status.st_size, status.st_mtime_ns) != (entry.file_bytes, entry.mtime_ns):
            return None
        return entry
