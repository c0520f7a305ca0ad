"""What all tests share: an orchestrator of their own, not that of the user who runs them; and the option --chaos."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# The same examples each time, however slow the machine: a new one would fail somebody else's change.
settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for what takes hours."""
    parser.addoption("--chaos", action="store_true", help="disturb at every moment, not only at some: hours")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that are marked so, unless asked for."""
    if config.getoption("--chaos"):
        return
    left_out = [item for item in items if item.get_closest_marker("chaos")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
