"""A web server for images, and an empty cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from image_server import Server, running

from cloudify_libvirt.core.image import files as image_files
from cloudify_libvirt.core.image.cache import ImageCache


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    image_files.release_all()
    return ImageCache(tmp_path / "cache")
