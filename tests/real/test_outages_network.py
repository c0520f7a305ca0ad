"""The network cut while an image comes in: the packets vanish, nobody says so; it ends in time, and goes on later."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudify_libvirt.core.errors import ImageFailed
from cloudify_libvirt.core.image import download, web
from cloudify_libvirt.core.image.cache import ImageCache
from tests.pure.image_server import Server, images, leftovers
from tests.pure.image_server import running as serving

CONTENT = hashlib.shake_256(b"a large disk").digest(24 << 20)
CUT_AT = 5 << 20


class Cable:
    """What lies between us and the server."""

    def __init__(self, port: int) -> None:
        self.rules = [
            ["INPUT", "-i", "lo", "-p", "tcp", side, str(port), "-j", "DROP"] for side in ("--dport", "--sport")
        ]
        self.is_cut = False

    def cut(self) -> None:
        if not self.is_cut:
            self._each("-I")
        self.is_cut = True

    def mend(self) -> None:
        if self.is_cut:
            self._each("-D")
        self.is_cut = False

    def _each(self, action: str) -> None:
        for rule in self.rules:
            subprocess.run(["iptables", "-w", action, *rule], check=True)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.behaviour.content = CONTENT
        yield server


@pytest.fixture
def cable(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cable]:
    """It is cut the first time that so much has come in."""
    cable = Cable(server.server_address[1])
    append: Callable[[download.Partial, bytes], None] = download.Partial.append
    cuts = [cable.cut]

    def noticed(partial: download.Partial, piece: bytes) -> None:
        append(partial, piece)
        if partial.size >= CUT_AT and cuts:
            cuts.pop()()

    monkeypatch.setattr(download.Partial, "append", noticed)
    yield cable
    cable.mend()


def cut_and_mended(server: Server, cable: Cable, cache: ImageCache, most_s: float) -> None:
    begin = time.monotonic()
    with pytest.raises(ImageFailed) as failed:
        cache.fetch(server.url())
    seconds = time.monotonic() - begin
    print(f"cut: {seconds:.1f} s, {failed.value}")
    assert seconds < most_s
    assert failed.value.retryable, "the engine tries again"
    assert server.url() in str(failed.value) and "connection failed" in str(failed.value)
    assert images(cache) == [] and len(leftovers(cache)) == 2, "what came in is kept, and published is nothing"
    cable.mend()
    image = cache.fetch(server.url())
    assert image.path.read_bytes() == CONTENT
    _path, asked = server.behaviour.requests[-1]
    assert int(asked["Range"].removeprefix("bytes=").removesuffix("-")) >= CUT_AT, "it goes on where it was cut"
    assert leftovers(cache) == []


def test_packets_vanish(server: Server, cable: Cable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With shorter patience; the same with all of it below."""
    monkeypatch.setattr(web, "_TIMEOUTS_S", (1.0, 2.0))
    cut_and_mended(server, cable, ImageCache(tmp_path), 60)


@pytest.mark.chaos
def test_packets_vanish_for_long(server: Server, cable: Cable, tmp_path: Path) -> None:
    cut_and_mended(server, cable, ImageCache(tmp_path), 100)
