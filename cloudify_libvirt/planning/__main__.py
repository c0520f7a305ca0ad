"""Reads an order as JSON from standard input and prints the plan, or the error, as JSON; for ``cfy-libvirt plan``."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from cloudify_libvirt.core.document import compiled
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.planning.making import Order, make


def main() -> int:
    """Make the plan; what libraries print meanwhile is no part of the answer."""
    compiled.keeping = False
    asked = json.load(sys.stdin)
    order = Order(Path(asked["blueprint"]), tuple(asked["inputs"]), asked["deployment"])
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answer: dict[str, Any] = {"plan": make(order).plain()}
        except CoreError as error:
            answer = {"error": str(error)}
    json.dump(answer, sys.stdout)
    return int("error" in answer)


if __name__ == "__main__":
    sys.exit(main())
