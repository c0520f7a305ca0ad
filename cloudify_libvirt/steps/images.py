"""Images for volumes: fetched through the cache, with progress that a person can follow."""

from __future__ import annotations

import time
from dataclasses import replace

from cloudify_libvirt.core.download import public_url
from cloudify_libvirt.core.errors import ImageFailed
from cloudify_libvirt.core.image import Image, ImageCache, Progress
from cloudify_libvirt.core.units import human_size
from cloudify_libvirt.request import Request

REPORT_PERIOD_S = 2.0


def fetch(request: Request, source: str, checksum: str | None, format_: str | None = None) -> Image:
    """Return the image, downloaded and verified once per cache.

    ``format_``: what the user says it is. A raw image is not looked into then: a guest can write the header
    of another format to its disk.

    Raises:
        ImageFailed: it is of another format.
    """
    image = ImageCache().fetch(source, checksum=checksum or "", progress=_Reporter(request, source))
    if format_ == "raw":
        return replace(image, format="raw", size_bytes=image.file_bytes)
    if format_ not in (None, image.format):
        raise ImageFailed(
            "use",
            f"image {public_url(source)}",
            f"it is {image.format}, not {format_}",
            "Correct image.format, or leave it out.",
        )
    return image


class _Reporter:
    """Log a line every few seconds of a download."""

    def __init__(self, request: Request, source: str) -> None:
        self._record, self._source = request.record, public_url(source).rsplit("/", 1)[-1]
        self._next = time.monotonic() + REPORT_PERIOD_S

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REPORT_PERIOD_S
        of = f" of {human_size(progress.total_bytes)}" if progress.total_bytes else ""
        rate = human_size(int(progress.rate_bytes_s))
        self._record.note(f"image {self._source}: {human_size(progress.done_bytes)}{of}, {rate}/s")
