"""Which failed tests may be tried once more: prints them, or exits with 1.

What a loaded machine makes fail must not decide about a change, so scripts/test tries a few failed tests again, in a
new process, and names them at its end. A kill or a race that was not survived is a fault, however seldom.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

LAST_FAILED = Path(__file__).resolve().parents[1] / ".pytest_cache/v/cache/lastfailed"
MOST = 4
NEVER = ("tests/chaos/", "tests/pure/", "tests/driver/", "races", "outages", "killed", "parallel", "macs")


def may_be_tried_again(failed: list[str]) -> bool:
    """Tell whether these few are of those that depend on guests and daemons."""
    return 0 < len(failed) <= MOST and not any(words in name for name in failed for words in NEVER)


def main() -> int:
    """Print the failed tests of the last run, a line each."""
    try:
        failed = sorted(json.loads(LAST_FAILED.read_text(encoding="utf-8")))
    except FileNotFoundError:
        failed = []
    print("\n".join(failed))
    return 0 if may_be_tried_again(failed) else 1


if __name__ == "__main__":
    sys.exit(main())
