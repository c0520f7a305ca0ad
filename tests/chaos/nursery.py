"""A process that has everything imported, and forks one child for each run of cfy: it begins at once.

Its arguments are blueprints, which it reads once. Reads lines of JSON: {"arguments": [...], "trace": PATH,
"said": PATH, "at": N, "during_s": S or null, "full": PATH or null}; answers each with the child's wait status. A child
does what the script cfy does, with its points counted.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pickle
import pkgutil
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from tests.chaos.fuse import Fuse

# A run that takes longer hangs: it is ended, and counts as failed.
PATIENCE_S = 300
# Read and compiled once: they are only read.
SCHEMAS = ("domain", "network", "storagepool", "storagevol", "domainsnapshot", "domainbackup", "domaincheckpoint")


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
    schema = importlib.import_module("cloudify_libvirt.core.document.schema")
    for name in SCHEMAS:
        schema._compiled(schema.directory(), name)
    return main


def read(blueprints: list[str]) -> None:
    """Parse what each run would parse again, a third of an install: parsing only reads. Each run gets a copy."""
    from dsl_parser import parser

    from cloudify_libvirt.local_resolver import LocalResolver

    parse = parser.parse_from_path
    known = {
        Path(name).read_bytes(): pickle.dumps(parse(dsl_file_path=name, resolver=LocalResolver()))
        for name in blueprints
    }

    def parsed(dsl_file_path: str, **how: Any) -> Any:
        found = known.get(Path(dsl_file_path).read_bytes())
        return pickle.loads(found) if found else parse(dsl_file_path=dsl_file_path, **how)

    parser.parse_from_path = parsed


def run(main: Any, order: dict[str, Any]) -> None:
    """Be cfy."""
    random.seed()
    signal.alarm(PATIENCE_S)
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number in (1, 2):
        os.dup2(said, number)
    trace = os.open(order["trace"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    sys.argv = ["cfy", *order["arguments"]]
    Fuse(trace, order["at"], order["during_s"], order["full"] and Path(order["full"])).arm()
    code = 0
    try:
        main._cfy()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    # What an interpreter does at its end, but for taking itself to pieces.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    cfy = prepare()
    read(sys.argv[1:])
    # A child's collector would copy every page of all this.
    gc.collect()
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    while line := sys.stdin.readline():
        child = os.fork()
        if not child:
            run(cfy, json.loads(line))
        print(os.waitpid(child, 0)[1], file=answers, flush=True)
