"""Fixtures of the tests with real cfy processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.local.test_local_setup import Home
from tests.local.things import Things


@pytest.fixture(scope="session")
def set_up_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory after local-setup."""
    home = Home(tmp_path_factory.mktemp("set-up"))
    run = home.cfy_libvirt("local-setup")
    assert run.returncode == 0, run.stdout + run.stderr
    return home.path


@pytest.fixture
def things(set_up_home: Path, tmp_path: Path) -> Things:
    shutil.copytree(set_up_home, tmp_path, dirs_exist_ok=True)
    return Things(Home(tmp_path))
