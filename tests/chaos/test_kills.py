"""cfy killed, or its disk full, at points of blueprints/cluster.yaml: the next run ends as if nothing had happened.

Some points of each phase; scripts/chaos tries all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.chaos.conftest import FIGURES
from tests.chaos.phases import Ground
from tests.chaos.shop import one_small_disk, open_shop
from tests.chaos.trials import Figures, some, tour, writes

Recorder = Callable[[str, object], None]

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


# The same of a disk that is full from a point on.
FULL = {
    ("install", "uninstall"): 6,
    ("update, with a restart",): 2,
    ("scale",): 2,
    ("backup",): 2,
    ("restore",): 2,
    ("snapshot",): 2,
    ("snapshot applied",): 1,
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with open_shop(tmp_path_factory.mktemp("chaos") / "shop") as shop:
        ground = Ground(shop)
        yield ground
        ground.sweep()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    aside = tmp_path_factory.mktemp("chaos")
    with one_small_disk(aside / "disk") as home, open_shop(home, aside=aside) as shop:
        ground = Ground(shop)
        yield ground
        ground.sweep()


@pytest.mark.parametrize(("names", "most"), TOURS.items(), ids=lambda value: str(value))
def test_some_points(ground: Ground, names: tuple[str, ...], most: int, record_property: Recorder) -> None:
    held(tour(ground, names, some(most), print), record_property)
    ground.reach("empty")


@pytest.mark.parametrize(("names", "most"), FULL.items(), ids=lambda value: str(value))
def test_full_at_some_points(small: Ground, names: tuple[str, ...], most: int, record_property: Recorder) -> None:
    held(tour(small, names, some(most, writes), print, full=True), record_property)
    small.reach("empty")


def held(found: dict[str, Figures], record: Recorder) -> None:
    for name, figures in found.items():
        record(FIGURES, f"{name}: {figures}")
        assert figures.tried, f"{name} was never harmed"
        assert not figures.failures, "\n\n".join(figures.failures)
        assert figures.survived == figures.tried
