"""Checksums of files as they are served: given as a value, or found in a list such as SHA256SUMS."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from cloudify_libvirt.core.errors import ImageFailed, InvalidSpec

HEX_DIGITS = {"sha256": 64, "sha512": 128}
FORMS = "sha256:HEX, sha512:HEX, the HEX alone, or the URL of a list such as SHA256SUMS"

# `HEX  name`, `HEX *name` (binary mode), `\HEX  name` (escaped name), as sha256sum writes them.
_GNU = re.compile(r"\\?(?P<hex>[0-9a-fA-F]{64,128})(?:[ \t]+\*?(?P<name>\S.*?))?\s*")
# `SHA256 (name) = HEX`, as sha256sum --tag and the BSDs write them.
_BSD = re.compile(r"\\?(?P<algorithm>SHA-?(?:256|512))\s*\((?P<name>.+)\)\s*=\s*(?P<hex>[0-9a-fA-F]{64,128})\s*")


@dataclass(frozen=True)
class Checksum:
    """What the file at a source must have: a value, or the list that names it; neither: anything will do."""

    algorithm: str = ""
    value: str = ""
    list_url: str = ""

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """Read ``sha256:HEX``, ``sha512:HEX``, HEX of one of these lengths, or a URL or absolute path of a list.

        Raises:
            InvalidSpec: it is none of them.
        """
        text = text.strip()
        if text.split(":", 1)[0].lower() in ("http", "https", "file") or text.startswith("/"):
            if _is_url(text):
                return cls(list_url=text)
            raise InvalidSpec("use", "checksum", "it is not a URL", f"Give {FORMS}.")
        text = text.lower()
        algorithm, _, value = text.rpartition(":")
        algorithm = algorithm or _algorithm(value)
        if text and (HEX_DIGITS.get(algorithm) != len(value) or not re.fullmatch("[0-9a-f]+", value)):
            raise InvalidSpec("use", f"checksum {text!r}", "it is not one", f"Give {FORMS}.")
        return cls(algorithm, value) if text else cls()

    def __str__(self) -> str:
        """Return the text that ``parse`` reads; "" for none."""
        return self.list_url or (f"{self.algorithm}:{self.value}" if self.algorithm else "")

    @property
    def algorithms(self) -> set[str]:
        """Return the digests to compute: sha256 names the files, the other is what the user has."""
        return {"sha256"} | ({self.algorithm} if self.algorithm else set())

    def matches(self, digests: Mapping[str, str]) -> bool:
        """Tell whether the digests are known and right."""
        return not self.algorithm or digests.get(self.algorithm) == self.value

    def verify(self, source: str, digests: Mapping[str, str], *, retryable: bool = False) -> None:
        """Raise ``ImageFailed`` with both values where they differ."""
        if self.matches(digests):
            return
        raise ImageFailed(
            "verify",
            source,
            f"its {self.algorithm} is {digests[self.algorithm]}, expected {self.value}",
            "Nothing was kept. Check that URL and checksum are of the same release.",
            retryable=retryable,
        )


def _is_url(text: str) -> bool:
    try:
        urlsplit(text).port  # noqa: B018 - raises for what is no port
    except ValueError:
        return False
    return "\0" not in unquote(text)


def _algorithm(digits: str) -> str:
    return next((name for name, length in HEX_DIGITS.items() if length == len(digits)), "")


def file_name(source: str) -> str:
    """Return the name of the file that a URL or path ends in."""
    return PurePosixPath(unquote(urlsplit(source).path if "://" in source else source)).name


def _lines(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield ``(file name, algorithm, HEX)`` of each line that is one; signatures and comments are passed over."""
    for line in text.splitlines():
        match = _BSD.fullmatch(line) or _GNU.fullmatch(line)
        algorithm = _algorithm(match["hex"]) if match else ""
        if match and algorithm and match.groupdict().get("algorithm", algorithm).replace("-", "").lower() == algorithm:
            yield PurePosixPath(match["name"] or "").name, algorithm, match["hex"].lower()


def find_in_list(text: str, name: str, shown: str) -> Checksum | None:
    """Return the checksum that the list has for the file of that name (sha256 before sha512), or None.

    A list of one value without a name, as some put beside each file, is that file's.

    Args:
        text: content of the list, GNU or BSD lines, maybe signed.
        name: file name without directory.
        shown: how errors call the list.

    Raises:
        ImageFailed: the list has two values for the name, or no line of a list at all.
    """
    lines = list(_lines(text))
    if not lines:
        raise ImageFailed("read", f"the checksums {shown}", "it has no line with a sha256 or sha512", f"Give {FORMS}.")
    if len(lines) == 1 and not lines[0][0]:
        return Checksum(*lines[0][1:])
    found: dict[str, str] = {}
    for listed, algorithm, value in lines:
        if listed == name and found.setdefault(algorithm, value) != value:
            raise ImageFailed("read", f"the checksums {shown}", f"it has two values for {name}", f"Give {FORMS}.")
    algorithm = min(found, default="")
    return Checksum(algorithm, found[algorithm]) if found else None


def not_listed(text: str, name: str, shown: str) -> ImageFailed:
    """Return the error for a file that the list lacks; it names those that are nearest."""
    names = sorted({listed for listed, _, _ in _lines(text) if listed})
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    return ImageFailed(
        "verify",
        f"the image {name}",
        f"{shown} does not list it",
        f"It lists {', '.join(near)}{' and more' if len(names) > len(near) else ''}. Correct the URL of one of them.",
    )
