"""Images for volumes: fetched through the cache, with progress that a person can follow."""

from __future__ import annotations

import time

from cloudify_libvirt.core.download import public_url
from cloudify_libvirt.core.image import Image, ImageCache, Progress
from cloudify_libvirt.core.units import human_size
from cloudify_libvirt.request import Request

REPORT_PERIOD_S = 2.0


def fetch(request: Request, source: str, checksum: str | None) -> Image:
    """Return the image, downloaded and verified once per cache."""
    return ImageCache().fetch(source, checksum=checksum or "", progress=_Reporter(request, source))


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
