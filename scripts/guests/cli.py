"""Command line of scripts/build-guest."""

import argparse
import sys
from pathlib import Path

from . import cache, container, debian, tiny
from .tools import BuildError

GUESTS = {guest.kind: guest for guest in (tiny.GUEST, container.GUEST, debian.GUEST)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="build-guest", description="Build a guest to test on, or find it in the cache."
    )
    parser.add_argument(
        "kind",
        choices=GUESTS,
        help="tiny: disk image, boots in seconds under TCG; container: root of a small LXC container; "
        "debian: disk image of Debian 12 with systemd and cloud-init",
    )
    parser.add_argument("--cache", type=Path, default=cache.default_directory(), help="directory (%(default)s)")
    parser.add_argument("--force", action="store_true", help="build even when the cache has it")
    return parser.parse_args()


def main() -> int:
    """Print the path of the guest."""
    arguments = _arguments()
    try:
        path = cache.obtain(GUESTS[arguments.kind], arguments.cache.absolute(), arguments.force)
    except BuildError as error:
        print(f"build-guest {arguments.kind}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"build-guest {arguments.kind}: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(path)
    return 0
