"""A process that has everything imported, and forks one child for each run of cfy: a run costs less than half a second.

Reads lines of JSON: {"arguments": [...], "trace": PATH, "said": PATH, "at": N, "during_s": S or null}; answers each
with the child's wait status. A child does what the script cfy does, with its points counted.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import random
import sys
from typing import Any

from tests.chaos.fuse import Fuse


def prepare() -> Any:
    """Import what cfy imports, and all of the plugin; open nothing."""
    main = importlib.import_module("cloudify_cli.main")
    for name in ("install", "uninstall", "executions", "deployments", "init"):
        importlib.import_module(f"cloudify_cli.commands.{name}")
    for name in ("lifecycle", "workflows"):
        importlib.import_module(f"cloudify.plugins.{name}")
    import cloudify_libvirt

    for module in pkgutil.walk_packages(cloudify_libvirt.__path__, "cloudify_libvirt."):
        importlib.import_module(module.name)
    libvirt = importlib.import_module("libvirt")
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    importlib.import_module("libvirt_qemu")
    return main


def run(main: Any, order: dict[str, Any]) -> None:
    """Be cfy."""
    random.seed()
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number in (1, 2):
        os.dup2(said, number)
    trace = os.open(order["trace"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    sys.argv = ["cfy", *order["arguments"]]
    Fuse(trace, order["at"], order["during_s"]).arm()
    sys.exit(main._cfy())


if __name__ == "__main__":
    cfy = prepare()
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    while line := sys.stdin.readline():
        child = os.fork()
        if not child:
            run(cfy, json.loads(line))
        print(os.waitpid(child, 0)[1], file=answers, flush=True)
