"""Where copies are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "CLOUDIFY_LIBVIRT_CACHE"


def cache_directory() -> Path:
    """Return $CLOUDIFY_LIBVIRT_CACHE, else this user's cache directory."""
    given = os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("cloudify-libvirt")
    return Path(given).absolute()
