"""Uploads that were begun and not ended: what a lost host keeps of one is told from what is somebody else's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.host.lock import host_lock
from cloudify_libvirt.core.ownership.mark import make_private, state_directory, unwritable
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.storage.bases import Claim
from cloudify_libvirt.core.volume import Volume

LOCK_TIMEOUT_S = 2.0


@contextmanager
def begun(pool: Pool, name: str) -> Iterator[Claim]:
    """Give the right to a volume's name, kept until the upload inside ends well, or nothing is left of it.

    Raises:
        Busy: another run of this machine uploads to that name.
        CoreError: it cannot be written down; nothing was made then.
    """
    with host_lock(pool.session.uri, f"upload {pool.uuid}/{name}", LOCK_TIMEOUT_S):
        key = json.dumps([pool.session.uri, pool.uuid, name])
        record = state_directory() / "uploads" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
        try:
            yield Claim(record.exists(), lambda: _write(record, key))
        except CoreError:
            with suppress(CoreError):
                if Volume.find(pool, name) is None:
                    record.unlink(missing_ok=True)
            raise
        record.unlink(missing_ok=True)


def _write(record: Path, text: str) -> None:
    try:
        make_private(record.parent)
        record.touch(mode=0o600)
        record.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(record, error) from error
