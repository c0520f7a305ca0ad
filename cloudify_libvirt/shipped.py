"""Which imports of a blueprint this package answers itself in local mode, and with which file.

Pure: the command line prints it, and the import resolver uses it.
"""

from __future__ import annotations

import re
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# In a wheel the files stand inside the package, in a checkout beside it.
_ROOTS = (_PACKAGE, _PACKAGE.parent)

_HOSTS = r"https?://(?:www\.)?(?:getcloudify\.org|cloudify\.co)"
_TYPES_FILE = r"types(?:_\d_\d)?\.yaml"
_PUBLIC_TYPES = rf"{_HOSTS}/spec/cloudify/[^/]+/{_TYPES_FILE}"
_PLUGIN_FILE = r"(?:v2_)?plugin(?:_\d_\d)?\.yaml"
_OLD_PLUGIN = r"[^/]+/cloudify-libvirt-plugin"

# What the imports look like, for a reader, and how they are recognised. The version varies in the
# middle, which the engine's own rules (a prefix and its replacement) cannot express.
BASE_TYPES: tuple[tuple[str, str], ...] = (
    # The parser turns a relative import that no file answers into resource:, at last.
    ("cloudify/types/types.yaml", rf"resource:cloudify/types/{_TYPES_FILE}"),
    ("http(s)://(www.)getcloudify.org/spec/cloudify/VERSION/types.yaml", _PUBLIC_TYPES),
    ("http(s)://(www.)cloudify.co/spec/cloudify/VERSION/types.yaml", _PUBLIC_TYPES),
    ("http(s)://HOST/.../cloudify/types/types.yaml", rf"https?://[^?]+/cloudify/types/{_TYPES_FILE}"),
)
PLUGIN: tuple[tuple[str, str], ...] = (
    ("plugin:cloudify-libvirt-plugin(?version=...)", r"plugin:cloudify-libvirt-plugin(?:\?.*)?"),
    (
        "https://raw.githubusercontent.com/OWNER/cloudify-libvirt-plugin/VERSION/plugin.yaml",
        rf"https?://raw\.githubusercontent\.com/{_OLD_PLUGIN}/.+/{_PLUGIN_FILE}",
    ),
    (
        "https://github.com/OWNER/cloudify-libvirt-plugin/.../plugin.yaml",
        rf"https?://(?:www\.)?github\.com/{_OLD_PLUGIN}/.+/{_PLUGIN_FILE}",
    ),
    (
        "http(s)://(www.)getcloudify.org/spec/libvirt-plugin/VERSION/plugin.yaml",
        rf"{_HOSTS}/spec/(?:cloudify-)?libvirt-plugin/[^/]+/{_PLUGIN_FILE}",
    ),
)
_OLD_UTILITIES = r"[^/]+/cloudify-utilities-plugin"
_UTILITIES_FILE = rf"(?:cloudify_suspend/types\.yaml|{_PLUGIN_FILE})"
UTILITIES: tuple[tuple[str, str], ...] = (
    ("plugin:cloudify-utilities-plugin(?version=...)", r"plugin:cloudify-utilities-plugin(?:\?.*)?"),
    (
        "https://raw.githubusercontent.com/OWNER/cloudify-utilities-plugin/VERSION/plugin.yaml",
        rf"https?://raw\.githubusercontent\.com/{_OLD_UTILITIES}/.+/{_UTILITIES_FILE}",
    ),
    (
        "https://github.com/OWNER/cloudify-utilities-plugin/.../plugin.yaml",
        rf"https?://(?:www\.)?github\.com/{_OLD_UTILITIES}/.+/{_UTILITIES_FILE}",
    ),
    (
        "http(s)://(www.)getcloudify.org/spec/utilities-plugin/VERSION/plugin.yaml",
        rf"{_HOSTS}/spec/(?:cloudify-)?utilities-plugin/[^/]+/{_PLUGIN_FILE}",
    ),
)


def _first(*names: str) -> Path | None:
    candidates = (root / name for name in names for root in _ROOTS)
    return next((path for path in candidates if path.is_file()), None)


def types_file() -> Path | None:
    """Find the base types."""
    return _first("types/types.yaml")


def utilities_file() -> Path | None:
    """Find what stands in for the utilities plugin: its workflows, which come with this plugin."""
    return _first("types/utilities.yaml")


def plugin_file(dsl_version: str | None = None) -> Path | None:
    """Find the plugin's definitions for a DSL version such as ``1_4``, as a Manager would choose them."""
    return _first(f"plugin_{dsl_version}.yaml", "plugin.yaml")


def answer(import_url: str, dsl_version: str | None = None) -> Path | None:
    """Return the file that answers an import, or None where the import is not ours."""
    if any(re.fullmatch(pattern, import_url) for _, pattern in BASE_TYPES):
        return types_file()
    if any(re.fullmatch(pattern, import_url) for _, pattern in PLUGIN):
        return plugin_file(dsl_version)
    if any(re.fullmatch(pattern, import_url) for _, pattern in UTILITIES):
        return utilities_file()
    return None
