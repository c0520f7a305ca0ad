"""Lists of checksums (SHA256SUMS and the like) as the servers have them; the last copy when they do not answer."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cloudify_libvirt.core.errors import ImageFailed
from cloudify_libvirt.core.host import files as host_files
from cloudify_libvirt.core.image import web
from cloudify_libvirt.core.image.checksum import Checksum, file_name, find_in_list, not_listed
from cloudify_libvirt.core.image.urls import public_url, without_login
from cloudify_libvirt.core.image.web import Validators

# All machines of one install shall get the same image, also when the list changes meanwhile.
FRESH_S = 600.0
_LOCAL_MAX = 4 << 20


@dataclass(frozen=True)
class _Copy:
    text: str
    validators: Validators
    seen_at: float


class ChecksumLists:
    """The lists that images were looked up in, kept in one directory of the cache."""

    def __init__(self, directory: Path, *, offline: bool, warn: Callable[[str], None]) -> None:
        """Keep copies in ``directory``; with ``offline`` never ask a server."""
        self._directory, self._offline, self._warn = directory, offline, warn

    def resolve(self, checksum: Checksum, source: str, *, anew: bool = False) -> Checksum:
        """Return the value for ``source``: what the list has for its file name, before or after redirects.

        A copy that was confirmed in the last ten minutes is good, unless ``anew``. Where the server does not answer,
        the last copy is used, with a warning.

        Raises:
            ImageFailed: no list and no copy of one, or the file is not in it.
        """
        if not checksum.list_url:
            return checksum
        text, shown = self._text(checksum.list_url, anew=anew), public_url(checksum.list_url)
        found = find_in_list(text, file_name(source), shown)
        if found is None and urlsplit(source).scheme in web.SCHEMES and not self._offline:
            found = find_in_list(text, file_name(web.final_url(source)), shown)
        if found is None:
            raise not_listed(text, file_name(source), shown)
        return found

    def _text(self, url: str, *, anew: bool) -> str:
        if urlsplit(url).scheme not in web.SCHEMES:
            return _read_local(Path(unquote(urlsplit(url).path) if "://" in url else url))
        key = hashlib.sha256(without_login(url).encode()).hexdigest()
        path = self._directory / f"{key}.list"
        copy = _load(path)
        if copy and not anew and 0 <= time.time() - copy.seen_at < FRESH_S:
            return copy.text
        try:
            copy = self._confirmed(url, copy)
        except ImageFailed as error:
            if copy is None or not error.retryable:
                raise
            self._warn(f"{error} The list as it was on {_day(copy.seen_at)} is used.")
            return copy.text
        _store(path, copy)
        return copy.text

    def _confirmed(self, url: str, copy: _Copy | None) -> _Copy:
        if self._offline:
            raise ImageFailed("fetch", public_url(url), "no server is asked (offline)", retryable=True)
        answer = web.text(url, copy.validators if copy else Validators())
        if answer is None and copy is not None:
            return _Copy(copy.text, copy.validators, time.time())
        if answer is None:
            raise ImageFailed(
                "fetch", public_url(url), "the server says that it has not changed, but it was never here"
            )
        return _Copy(*answer, time.time())


def _day(timestamp: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(timestamp))


def _load(path: Path) -> _Copy | None:
    try:
        values = json.loads(path.read_text())
        return _Copy(values["text"], Validators(**values["validators"]), values["seen_at"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _store(path: Path, copy: _Copy) -> None:
    draft = path.with_suffix(f".{os.getpid()}.new")
    draft.write_text(json.dumps(asdict(copy)))
    draft.replace(path)


def _read_local(path: Path) -> str:
    try:
        if reason := host_files.closed_here(path):
            raise ImageFailed("read", f"the checksums {path}", reason)
        with path.open("rb") as file:
            return file.read(_LOCAL_MAX).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageFailed("read", f"the checksums {path}", reason) from error
