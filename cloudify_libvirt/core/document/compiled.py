"""Packaged templates in their compiled form, kept between runs: compiling those of a domain takes longer than the rest.

A file counts only as its owner's own work: of this user, with nobody else allowed to write, and whole.
"""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import os
import stat
import threading
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket, BytecodeCache

from cloudify_libvirt.core.host.cachedir import cache_directory

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
# False in a process that may write nothing.
keeping = True
_DIGEST_BYTES = hashlib.sha256().digest_size


class CompiledTemplates(BytecodeCache):
    """Jinja's place for compiled templates: a directory of this user's, one file for each template."""

    def __init__(self, *compilers: str, directory: Path | None = None) -> None:
        """Look at nothing yet; ``compilers`` are the Python files that decide what a template is compiled to."""
        self._compilers = compilers
        # Bytecode as Python's own, so beside nothing else.
        self._directory = directory or cache_directory() / "__pycache__"

    @cached_property
    def _stamp(self) -> bytes:
        """What compiled: another one makes other code of the same template."""
        versions = jinja2.__version__.encode() + importlib.util.MAGIC_NUMBER
        return versions + b"".join(Path(file).read_bytes() for file in self._compilers)

    def _digest(self, bucket: Bucket, code: bytes) -> bytes:
        return hashlib.sha256(b"\0".join((self._stamp, bucket.checksum.encode(), code))).digest()

    def load_bytecode(self, bucket: Bucket) -> None:
        """Give Jinja the code of a template, unless it is of another text, or not surely ours."""
        with suppress(OSError):
            found = _own(self._directory / bucket.key)
            digest, code = found[:_DIGEST_BYTES], found[_DIGEST_BYTES:]
            if digest == self._digest(bucket, code):
                bucket.code = marshal.loads(code)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code that Jinja made; where that cannot be, it is made again the next time."""
        if not keeping:
            return
        code = marshal.dumps(bucket.code)
        draft = self._directory / f".{bucket.key}.{os.getpid()}.{threading.get_native_id()}"
        with suppress(OSError):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(self._digest(bucket, code) + code)
                draft.replace(self._directory / bucket.key)
            finally:
                draft.unlink(missing_ok=True)


def _own(path: Path) -> bytes:
    """Return the content of a file that only this user can have written.

    Raises:
        OSError: there is none.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if found.st_uid != os.geteuid() or found.st_mode & _OTHERS_WRITE or not stat.S_ISREG(found.st_mode):
            raise PermissionError(str(path))
        return file.read()
