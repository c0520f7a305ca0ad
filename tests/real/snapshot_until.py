"""Run one operation of a snapshot, and kill the process right after its n-th call that changes something.

snapshot_until.py STATE OPERATION INPUTS COUNT: STATE is a file with {params, properties, runtime}; it is written when
the operation stores runtime properties, as the engine does. COUNT 0 never kills. Prints the changing calls.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from cloudify_libvirt import domain_tasks
from tests.driver.conftest import CountingInstance, Node

CHANGES = ("Create", "Delete", "Destroy", "Define", "BlockCommit", "JobAbort", "Revert", "Restore", "SaveFlags",
           "Upload", "StreamFinish")  # fmt: skip


def main(path: Path, operation: str, inputs: str, count: int) -> None:
    state: dict[str, Any] = json.loads(path.read_text())
    node = Node(params=state["params"], properties=state["properties"], runtime=state["runtime"])
    calls: list[str] = []

    def store(_self: Any) -> None:
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({**state, "runtime": node.runtime}))
        draft.replace(path)

    def watch(_frame: Any, event: str, called: Any) -> None:
        name = str(getattr(called, "__name__", ""))
        if event != "c_return" or not name.startswith("vir") or not any(word in name for word in CHANGES):
            return
        calls.append(name)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    CountingInstance.update = store  # type: ignore[method-assign]
    sys.setprofile(watch)
    try:
        node.run(getattr(domain_tasks, f"snapshot_{operation}"), **json.loads(inputs))
    finally:
        sys.setprofile(None)
    store(None)
    print(json.dumps(calls))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
