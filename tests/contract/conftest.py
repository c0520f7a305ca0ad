"""Parts that need a real libvirt host run inside a lab; those that only need a libvirt inside and outside of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.places import INSIDE, booting, defaults, session  # noqa: F401 - fixtures
from tests.real.attempts import attempt, foreign, shelf, web  # noqa: F401 - fixtures
from tests.real.conftest import cfy, clean_host, container_root, host, key, prepared_home, tiny  # noqa: F401 - fixtures
from tests.real.shelf import pools, raw_file  # noqa: F401 - fixtures

HERE = Path(__file__).parent
# Whoever asks for one of these needs the lab.
OF_A_HOST = {"attempt", "cfy", "clean_host", "container_root", "foreign", "host", "shelf", "tiny", "web"}


def runs_here(item: pytest.Item) -> bool:
    asked = set(getattr(item, "fixturenames", ()))
    if item.get_closest_marker("lab") is not None or OF_A_HOST & asked:
        return INSIDE
    if "session" in asked and item.get_closest_marker("test_driver") is None:
        return True
    return not INSIDE


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    others = [item for item in items if HERE in item.path.parents and not runs_here(item)]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]
