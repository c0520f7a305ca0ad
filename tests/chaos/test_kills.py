"""cfy killed (kill -9) at its points of blueprints/cluster.yaml: the next run ends as if nothing had happened.

Some points of each phase; scripts/chaos tries all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.conftest import shown
from tests.chaos.phases import Ground
from tests.chaos.shop import open_shop
from tests.chaos.trials import some, tour

# Phases that follow each other are killed in turn; and how many points of each the short run tries.
TOURS = {
    ("install", "uninstall"): 10,
    ("install, and installed anew",): 3,
    ("install, then uninstall",): 3,
    ("update",): 3,
    ("update, with a restart",): 2,
    ("scale",): 3,
    ("backup",): 3,
    ("restore",): 2,
    ("snapshot",): 3,
    ("snapshot applied",): 2,
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with open_shop(tmp_path_factory.mktemp("chaos") / "shop") as shop:
        ground = Ground(shop)
        yield ground
        ground.sweep()


@pytest.mark.parametrize(("names", "most"), TOURS.items(), ids=lambda value: str(value))
def test_some_points(ground: Ground, names: tuple[str, ...], most: int) -> None:
    found = tour(ground, names, some(most), print)
    ground.reach("empty")
    shown.update(found)
    for name, figures in found.items():
        assert figures.tried, f"{name} was never killed"
        assert not figures.failures, "\n\n".join(figures.failures)
        assert figures.survived == figures.tried
