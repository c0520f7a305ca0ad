"""Kill at every point, inside a lab; scripts/chaos runs this in several of them.

    scripts/lab exec .venv/bin/python -m tests.chaos [POINTS] [--shard 1/2] [--results FILE] [PHASE+...]

POINTS: -20 for twenty of each phase, 100:200 for those from the 100th to the 200th, changes for those that do more than
read; else all. Phases of one argument are killed in turn. What FILE has already of this product, survived, is not tried
again; python -m tests.chaos.figures FILE prints what came of it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

from tests.chaos.phases import Ground
from tests.chaos.results import Results
from tests.chaos.shop import open_shop
from tests.chaos.test_kills import TOURS
from tests.chaos.trials import Choice, changes, every, shard, some, tour


def chosen(words: str) -> Choice | None:
    """What an argument says of points; None when it names phases."""
    if re.fullmatch(r"-\d+", words):
        return some(int(words[1:]))
    if words == "changes":
        return changes
    if re.fullmatch(r"\d+:\d+", words):
        first, last = map(int, words.split(":"))
        return lambda points: [point for point in every(points) if first <= point <= last]
    return None


def main() -> int:
    """Kill, and say what came of it; the exit code is 1 when something was not survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard", default="1/1", help="only a part of the points, such as 1/2")
    parser.add_argument("--results", type=Path, help="add to this file, and leave out what is in it")
    options, words = parser.parse_known_args()
    choice = next((choice for choice in map(chosen, words) if choice), every)
    tours = [tuple(one.split("+")) for one in words if chosen(one) is None] or list(TOURS)
    results, failed = Results(options.results), 0
    with tempfile.TemporaryDirectory() as home, open_shop(Path(home) / "shop") as shop:
        shop.sweep()
        ground = Ground(shop)
        for names in tours:
            for name, figures in tour(ground, names, shard(options.shard, choice), say, results).items():
                say("FIGURES " + json.dumps({"phase": name, **vars(figures), "failures": len(figures.failures)}))
                failed += len(figures.failures)
            ground.reach("empty")
    return 1 if failed else 0


def say(text: str) -> None:
    """Print, though not all of a long one."""
    print(text[:4000], flush=True)


if __name__ == "__main__":
    sys.exit(main())
