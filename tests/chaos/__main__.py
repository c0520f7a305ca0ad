"""Kill at every point, and fill the disk before each write, inside a lab; scripts/chaos runs this in several of them.

    scripts/lab exec .venv/bin/python -m tests.chaos [--kill | --full] [--shard 1/2] [--results FILE] [POINTS] [PHASES]

POINTS: -20 for twenty of each phase, 100:200 for those from the 100th to the 200th, changes for those that do more than
read, reads for the others; else all. Phases of one argument are killed in turn. What FILE has already of this product,
survived, is not tried again; python -m tests.chaos.figures FILE prints what came of it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.chaos.phases import Ground
from tests.chaos.results import Results
from tests.chaos.shop import one_small_disk, open_shop
from tests.chaos.test_kills import TOURS
from tests.chaos.trials import Choice, changes, every, reads, shard, some, tour, writes


def chosen(words: str) -> Choice | None:
    """What an argument says of points; None when it names phases."""
    if re.fullmatch(r"-\d+", words):
        return some(int(words[1:]))
    if words in ("changes", "reads"):
        return changes if words == "changes" else reads
    if re.fullmatch(r"\d+:\d+", words):
        first, last = map(int, words.split(":"))
        return lambda points: [point for point in every(points) if first <= point <= last]
    return None


def main() -> int:
    """Kill, and say what came of it; the exit code is 1 when something was not survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard", default="1/1", help="only a part of the points, such as 1/2")
    parser.add_argument("--results", type=Path, help="add to this file, and leave out what is in it")
    parser.add_argument("--kill", dest="full", action="append_const", const=False, help="kill only")
    parser.add_argument("--full", dest="full", action="append_const", const=True, help="fill the disk only")
    options, words = parser.parse_known_args()
    choice = next((choice for choice in map(chosen, words) if choice), every)
    tours = [tuple(one.split("+")) for one in words if chosen(one) is None] or list(TOURS)
    results, failed = Results(options.results), 0
    for full in options.full or (False, True):
        wanted = shard(options.shard, and_writes(choice) if full else choice)
        with ground(full) as here:
            for names in tours:
                for name, figures in tour(here, names, wanted, say, results, full).items():
                    say("FIGURES " + json.dumps({"phase": name, **vars(figures), "failures": len(figures.failures)}))
                    failed += len(figures.failures)
                here.reach("empty")
    return 1 if failed else 0


@contextmanager
def ground(full: bool) -> Iterator[Ground]:
    """An empty host; with all on one small disk, if that is to be filled."""
    with ExitStack() as stack:
        aside = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        home = stack.enter_context(one_small_disk(aside / "disk")) if full else aside / "shop"
        shop = stack.enter_context(open_shop(home, aside=aside))
        shop.sweep()
        yield Ground(shop)


def and_writes(choice: Choice) -> Choice:
    """Of what is chosen that which may need room."""
    return lambda points: [point for point in choice(points) if point in writes(points)]


def say(text: str) -> None:
    """Print, though not all of a long one."""
    print(text[:4000], flush=True)


if __name__ == "__main__":
    sys.exit(main())
