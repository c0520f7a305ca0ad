"""Images for volumes: found by name or URL, fetched through the cache, with progress that a person can follow."""

from __future__ import annotations

import time
from pathlib import Path

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.image import catalogue
from cloudify_libvirt.core.image.cache import Image, ImageCache, Progress
from cloudify_libvirt.core.image.urls import public_url
from cloudify_libvirt.core.spec.volume import Image as ImageSpec
from cloudify_libvirt.core.units import human_size
from cloudify_libvirt.request import Request

# The first line of a download comes soon, the others ever later: a line every half minute is enough of an hour.
_FIRST_LINE_S, _SLOWEST_S = 2.0, 30.0


def fetch(request: Request, wanted: ImageSpec) -> Image:
    """Return the image, downloaded and verified once per cache.

    Raises:
        InvalidSpec: a name that the catalogue does not have.
        ImageFailed: it cannot be had, or is not what was said of it.
    """
    wanted = named(request, wanted)
    return ImageCache().fetch(
        wanted.source,
        checksum=wanted.checksum or "",
        format_=wanted.format or "",
        max_bytes=wanted.max_size,
        progress=_Reporter(request, wanted.source),
        warn=request.record.warn,
    )


def named(request: Request, wanted: ImageSpec) -> ImageSpec:
    """Return what a name of the catalogue stands for; a URL or path as it is.

    A source without a slash is a name first, and a file of the working directory second.
    """
    if not catalogue.is_name(wanted.source):
        _keep_user(request, "")
        return wanted
    origin = wanted.catalogue or ""
    text = request.resource(origin).decode("utf-8", "replace") if origin else ""
    names = catalogue.Catalogue(text, origin)
    if wanted.source not in names.entries and Path(wanted.source).is_file():
        _keep_user(request, "")
        return wanted
    found = names.resolve(wanted.source, _arch(request))
    request.record.note(f"image {wanted.source}: {public_url(found.url)} ({found.origin})")
    _keep_user(request, found.ssh_user)
    given = {"checksum": wanted.checksum or found.checksum, "format": wanted.format or found.format or None}
    return wanted.model_copy(update={"source": found.url, **given})


def _keep_user(request: Request, user: str) -> None:
    if request.kind == "domain" and (user or request.record.get("image_user")):
        request.record.assign(image_user=user or None)


def _arch(request: Request) -> str:
    session = request.session
    host = parse.host_arch(session.fact("capabilities", session.connection.getCapabilities))
    return str(request.params.get("arch") or host)


class _Reporter:
    """Log a line now and then, of each stage."""

    def __init__(self, request: Request, source: str) -> None:
        self._record, self._source = request.record, public_url(source).rsplit("/", 1)[-1]
        self._period = _FIRST_LINE_S
        self._next = time.monotonic() + self._period

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() < self._next:
            return
        self._period = min(2 * self._period, _SLOWEST_S)
        self._next = time.monotonic() + self._period
        done, rate = human_size(progress.done_bytes), human_size(int(progress.rate_bytes_s))
        of = f" of {human_size(progress.total_bytes)}" if progress.total_bytes else ""
        self._record.note(f"image {self._source}: {progress.stage} {done}{of}, {rate}/s")
