"""HTTP requests that follow redirects safely, keep secrets out of messages, and fail with a remedy."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions

from cloudify_libvirt.core.errors import ImageFailed, InvalidSpec
from cloudify_libvirt.core.image.urls import public_url

SCHEMES = ("http", "https")
NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError)
_TIMEOUTS_S = (15.0, 60.0)  # to connect; between two pieces of data
_REDIRECTS = 10
_RETRYABLE = {408, 425, 429, 500, 502, 503, 504}
_TEXT_MAX = 4 << 20


class ServerBusy(ImageFailed):
    """The server wants the request again later; ``retry_after_s`` is None where it does not say when."""

    retryable = True
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Validators:
    """What a server (or a file's ``stat``) says to tell one version of a document from another."""

    etag: str = ""
    modified: str = ""

    @classmethod
    def of(cls, response: requests.Response) -> Validators:
        """Take them from the headers of a response."""
        return cls(response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))

    def if_changed(self) -> dict[str, str]:
        """Return the headers that ask for the document only if it is another version."""
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.modified}
        return {name: value for name, value in headers.items() if value}

    def if_range(self) -> str:
        """Return the value that makes a range safe to append, or ``""`` (RFC 9110 13.1.5: no weak tags)."""
        return self.modified if not self.etag or self.etag.startswith("W/") else self.etag

    def contradict(self, other: Validators) -> bool:
        """Tell whether both sides name a version, and not the same one (some servers ignore If-Range)."""
        pairs = ((self.etag, other.etag), (self.modified, other.modified))
        return any(ours and theirs and ours != theirs for ours, theirs in pairs)


@contextmanager
def opened(session: requests.Session, url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
    """Get ``url``, following redirects, but never from https to http nor to another scheme.

    A login in the URL goes to its own host only.

    Raises:
        ImageFailed: a redirect that is not followed.
    """
    for _ in range(_REDIRECTS + 1):
        response = session.get(url, headers=headers, stream=True, timeout=_TIMEOUTS_S, allow_redirects=False)
        with response:
            if not response.is_redirect:
                response.url = url
                yield response
                return
            url = _redirected(url, response.headers["Location"])
    raise ImageFailed("fetch", public_url(url), f"more than {_REDIRECTS} redirects", "Give the final URL.")


def _redirected(url: str, location: str) -> str:
    target = urljoin(url, location)
    scheme, old = urlsplit(target).scheme, urlsplit(url).scheme
    if scheme not in SCHEMES or (old == "https" and scheme != "https"):
        reason = f"it redirects to {public_url(target)}, from {old} to {scheme}"
        raise ImageFailed("fetch", public_url(url), reason, "Give the final URL, if you trust it.")
    return target


def check_status(url: str, response: requests.Response) -> None:
    """Raise for every answer that brings no content.

    Raises:
        ServerBusy: it may be another answer later.
        ImageFailed: it will not.
    """
    status = response.status_code
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    where, reason = public_url(url), f"the server answers {status} {response.reason}"
    if status not in _RETRYABLE:
        remedy = "Check the URL."
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            remedy = "Check the URL; a login goes into it (https://USER:PASSWORD@HOST/...) or into ~/.netrc."
        raise ImageFailed("fetch", where, reason, remedy)
    after_s = _retry_after(response.headers.get("Retry-After", ""))
    busy = ServerBusy("fetch", where, reason, f"Try again in {after_s:g} s." if after_s else "Try again later.")
    busy.retry_after_s = after_s
    raise busy


def _retry_after(header: str) -> float | None:
    """Return the seconds of a Retry-After header: a number, or a date (RFC 9110 10.2.3)."""
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, round(email.utils.parsedate_to_datetime(header).timestamp() - time.time()))
    except ValueError:
        return None


def network_failure(url: str, error: Exception) -> Exception:
    """Return the error of ours that says what one of ``NETWORK_ERRORS`` means.

    The text of these repeats the URL with its query, which may hold a token; so must not be chained.
    """
    where = public_url(url)
    if isinstance(error, requests.exceptions.SSLError):
        remedy = "Check the host name, or name your CA file in REQUESTS_CA_BUNDLE."
        return ImageFailed("fetch", where, "the server's certificate is not trusted", remedy)
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema):
        return InvalidSpec("fetch", where, "it is not a URL", "Example: https://example.org/image.qcow2")
    reason = f"the connection failed ({_root_cause(error)})"
    remedy = "Check the host and the network; a next try goes on where this one stopped."
    return ImageFailed("fetch", where, reason, remedy, retryable=True)


def _root_cause(error: BaseException) -> str:
    text, cause = type(error).__name__, _next_cause(error)
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            text = cause.strerror
        cause = _next_cause(cause)
    return text


def _next_cause(error: BaseException) -> Any:
    return error.__cause__ or error.__context__


@contextmanager
def document(url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
    """Get ``url`` once; its failures are errors of ours."""
    try:
        with requests.Session() as session, opened(session, url, headers) as response:
            yield response
    except NETWORK_ERRORS as error:
        raise network_failure(url, error) from None


def text(url: str, unless: Validators) -> tuple[str, Validators] | None:
    """Return a small document and its version; None where it still is the version ``unless``.

    Raises:
        ImageFailed: it cannot be had, or is larger than 4 MiB.
    """
    with document(url, unless.if_changed()) as response:
        if response.status_code == HTTPStatus.NOT_MODIFIED:
            return None
        check_status(url, response)
        data = bytearray()
        for piece in response.iter_content(1 << 16):
            data += piece
            if len(data) > _TEXT_MAX:
                reason = f"it is larger than {_TEXT_MAX >> 20} MiB"
                raise ImageFailed("read", public_url(url), reason, "Give the URL of a list of checksums.")
        return data.decode("utf-8", "replace"), Validators.of(response)


def final_url(url: str) -> str:
    """Return where the redirects of ``url`` end."""
    with document(url, {}) as response:
        check_status(url, response)
        return response.url
