"""Kill at every point, and print the figures: scripts/lab exec .venv/bin/python -m tests.chaos [POINTS] [PHASE+...]

POINTS: -20 for twenty of each phase, 100:200 for those from the 100th to the 200th. Phases of one argument are killed
in turn.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

from tests.chaos.phases import Ground
from tests.chaos.shop import open_shop
from tests.chaos.test_kills import TOURS
from tests.chaos.trials import Choice, every, some, tour


def chosen(words: str) -> Choice | None:
    """What an argument says of points; None when it names phases."""
    if re.fullmatch(r"-\d+", words):
        return some(int(words[1:]))
    if re.fullmatch(r"\d+:\d+", words):
        first, last = map(int, words.split(":"))
        return lambda points: every(points)[first - 1 : last]
    return None


def main(arguments: list[str]) -> int:
    choices = [choice for choice in map(chosen, arguments) if choice]
    tours = [tuple(words.split("+")) for words in arguments if chosen(words) is None] or list(TOURS)
    failed = 0
    with tempfile.TemporaryDirectory() as home, open_shop(Path(home) / "shop") as shop:
        shop.sweep()
        ground = Ground(shop)
        for names in tours:
            for name, figures in tour(ground, names, choices[0] if choices else every, say).items():
                say("FIGURES " + json.dumps({"phase": name, **vars(figures), "failures": len(figures.failures)}))
                failed += len(figures.failures)
        ground.reach("empty")
    return 1 if failed else 0


def say(text: str) -> None:
    print(text[:4000], flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
