"""What is known of an image without a fetch: a local file's header, or what the cache remembers; nothing is written."""

from __future__ import annotations

from cloudify_libvirt.core.errors import CoreError, ImageFailed
from cloudify_libvirt.core.image.cache import ImageCache, local_path
from cloudify_libvirt.core.image.checksum import Checksum
from cloudify_libvirt.core.image.format import detect_format
from cloudify_libvirt.core.image.urls import public_url


def glance(source: str, checksum: str = "", format_: str = "") -> tuple[str, int] | None:
    """Return ``(format, size in bytes that a guest sees)``, or None where only a fetch would tell.

    Raises:
        ImageFailed: there is no such file.
        InvalidSpec: the source is none, or of a directory that nobody may read images from.
    """
    path = local_path(source)
    if path is None:
        return _remembered(source, checksum)
    try:
        return detect_format(path, expected=format_)
    except (ImageFailed, OSError):
        # Compressed, or no image: what is wrong, the fetch says.
        return None


def _remembered(source: str, checksum: str) -> tuple[str, int] | None:
    entries = [entry for _, entry in ImageCache().index.entries()]
    try:
        wanted = Checksum.parse(checksum)
    except CoreError:
        wanted = Checksum.parse("")
    same = [one for one in entries if wanted.algorithm and one.digests.get(wanted.algorithm) == wanted.value]
    same = same or [one for one in entries if public_url(one.source) == public_url(source)]
    newest = max(same, key=lambda one: one.fetched_at, default=None)
    return (newest.format, newest.size_bytes) if newest else None
