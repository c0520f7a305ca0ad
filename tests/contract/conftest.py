"""Parts that need a real libvirt host run inside a lab, the others outside: scripts/test runs both."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.driver.conftest import session, vm  # noqa: F401 - fixtures
from tests.real.attempts import attempt, foreign, shelf, web  # noqa: F401 - fixtures
from tests.real.conftest import cfy, clean_host, container_root, host, key, prepared_home, tiny  # noqa: F401 - fixtures
from tests.real.shelf import pools, raw_file  # noqa: F401 - fixtures

HERE = Path(__file__).parent
# Whoever asks for one of these needs the lab.
OF_A_HOST = {"attempt", "cfy", "clean_host", "container_root", "foreign", "host", "shelf", "tiny", "web"}


def inside_lab() -> bool:
    return Path("/proc/sys/kernel/hostname").read_text().strip() == os.environ.get("CLOUDIFY_LIBVIRT_LAB")


def needs_lab(item: pytest.Item) -> bool:
    return item.get_closest_marker("lab") is not None or bool(OF_A_HOST & set(getattr(item, "fixturenames", ())))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = inside_lab()
    others = [item for item in items if HERE in item.path.parents and needs_lab(item) is not here]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]
