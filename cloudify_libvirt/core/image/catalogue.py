"""Images by name: a packaged catalogue, extended and overridden by files of the user."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import platformdirs
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.image.checksum import Checksum

VARIABLE = "CLOUDIFY_LIBVIRT_CATALOGUE"
PACKAGED = Path(__file__).resolve().parents[2] / "images.yaml"
SYSTEM = Path("/etc/cloudify-libvirt/images.yaml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
# Debian's names of the architectures that libvirt calls otherwise.
_ARCHES = {"amd64": "x86_64", "arm64": "aarch64"}


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=r"^(https?://|file://|/)")
    checksum: str = ""

    @model_validator(mode="after")
    def _readable(self) -> _File:
        try:
            Checksum.parse(self.checksum)
        except InvalidSpec as error:
            raise ValueError(f"checksum: {error.reason}. {error.remedy}") from error
        return self


class Entry(BaseModel):
    """One name of the catalogue: a file for all architectures, one for each, or another name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = ""
    ssh_user: str = ""
    format: Literal["raw", "qcow2", "tar"] | None = None
    url: str = Field(default="", pattern=r"^(https?://|file://|/|$)")
    checksum: str = ""
    files: dict[str, _File] = Field(default_factory=dict)
    same_as: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> Entry:
        if [bool(self.url), bool(self.files), bool(self.same_as)].count(True) != 1:
            raise ValueError("give one of url, files (by architecture) and same_as")
        if self.url:
            _File(url=self.url, checksum=self.checksum)
        return self

    def file(self, arch: str) -> _File | None:
        """Return the file for an architecture."""
        if self.url:
            return _File(url=self.url, checksum=self.checksum)
        by_arch = {_ARCHES.get(name, name): file for name, file in self.files.items()}
        return by_arch.get(_ARCHES.get(arch, arch))


@dataclass(frozen=True)
class Found:
    """What a name means on an architecture; ``origin`` is the file that says so."""

    name: str
    url: str
    checksum: str
    ssh_user: str
    format: str
    origin: str


_ENTRIES = TypeAdapter(dict[str, Entry])


def is_name(source: str) -> bool:
    """Tell whether a source can be a name: no path, no URL."""
    return _NAME.fullmatch(source) is not None


def parse(text: str, origin: str) -> dict[str, Entry]:
    """Read a catalogue file's content.

    Raises:
        InvalidSpec: it is not one; the message names file and place.
    """
    target, remedy = (
        f"the image catalogue {origin}",
        "Each name has url or files, and checksum, ssh_user, title, format.",
    )
    try:
        found = yaml.safe_load(text)
        return _ENTRIES.validate_python({} if found is None else found)
    except yaml.YAMLError as error:
        mark: Any = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise InvalidSpec("read", target, f"{where}{getattr(error, 'problem', None) or 'it is not YAML'}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidSpec("read", target, f"{place}: {first['msg']}" if place else first["msg"], remedy) from None


@lru_cache(maxsize=16)
def _parsed(path: Path, _mtime_ns: int) -> dict[str, Entry]:
    return parse(path.read_text(encoding="utf-8"), str(path))


def _load(path: Path) -> dict[str, Entry]:
    try:
        return _parsed(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise InvalidSpec("read", f"the image catalogue {path}", error.strerror or str(error)) from error


def _files() -> Iterator[Path]:
    """Yield the catalogue files of this host, the first of which wins."""
    yield from (Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part)
    own = platformdirs.user_config_path("cloudify-libvirt") / "images.yaml"
    yield from (path for path in (own, SYSTEM) if path.is_file())
    yield PACKAGED


class Catalogue:
    """All names: those of a blueprint's file before those of this host's files."""

    def __init__(self, text: str = "", origin: str = "") -> None:
        """Read the host's files, and ``text`` of the file ``origin`` of a blueprint.

        Raises:
            InvalidSpec: one of them cannot be read.
        """
        layers = [(path, _load(path)) for path in _files()]
        self._origins: dict[str, str] = {}
        self.entries: dict[str, Entry] = {}
        for layer, entries in [(origin, parse(text, origin)), *((str(path), found) for path, found in layers)]:
            for name, entry in entries.items():
                if name not in self.entries:
                    self.entries[name], self._origins[name] = entry, layer

    def origin(self, name: str) -> str:
        """Return the file that a name comes from."""
        return self._origins[name]

    def final(self, name: str) -> Entry:
        """Return the entry that a name leads to.

        Raises:
            InvalidSpec: no such name, or a circle of ``same_as``.
        """
        seen = [name]
        while True:
            entry = self.entries.get(seen[-1])
            if entry is None:
                raise self._unknown(seen[-1])
            if not entry.same_as:
                return entry
            if entry.same_as in seen:
                raise InvalidSpec("find", f"the image '{name}'", f"{' -> '.join([*seen, entry.same_as])} is a circle")
            seen.append(entry.same_as)

    def resolve(self, name: str, arch: str) -> Found:
        """Return what the name means on an architecture (libvirt's or Debian's name of it).

        Raises:
            InvalidSpec: no such name, or not for this architecture.
        """
        entry = self.final(name)
        file = entry.file(arch)
        if file is None:
            reason = f"the catalogue has it for {', '.join(sorted(entry.files))}, not for {arch}"
            raise InvalidSpec("use", f"the image '{name}'", reason, "Set params.arch, or give a URL.")
        return Found(name, file.url, file.checksum, entry.ssh_user, entry.format or "", self.origin(name))

    def _unknown(self, name: str) -> InvalidSpec:
        near = difflib.get_close_matches(name, self.entries, n=3) or sorted(self.entries)
        reason = "it is neither a name of the image catalogue nor a file in this directory"
        remedy = f"Names: {', '.join(near)} (all: cfy-libvirt image list). A path has a slash, as in ./{name}."
        return InvalidSpec("find", f"the image '{name}'", reason, remedy)
