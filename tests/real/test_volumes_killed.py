"""kill -9 in the middle of making a volume: the next run finishes it, and delete leaves nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cloudify_libvirt import volume_tasks
from tests.real.conftest import PYTHON, ROOT
from tests.real.shelf import MIB, Shelf, as_raw

# Runs create with the runtime properties kept in a file at each update, and dies at the N-th call of one function.
CHILD = """
import json, os, signal, sys
from pathlib import Path
from cloudify_libvirt import volume_tasks
from cloudify_libvirt.core import volume
from cloudify_libvirt.core.storage import stream
from cloudify_libvirt.core.secret import Secret
from tests.driver import conftest

given = json.loads(sys.argv[1])
class Instance(conftest.CountingInstance):
    def update(self):
        super().update()
        Path(given["journal"]).write_text(json.dumps(dict(self.runtime_properties)))
conftest.CountingInstance = Instance

owner, name = {"Secret": (Secret, "define"), "create": (volume.Volume, "create"), "send": (stream.Writing, "data"),
               "grow": (volume.Volume, "grow")}[given["function"]]
original, left = getattr(owner, name), [given["calls"]]
def dying(*arguments, **more):
    result = original(*arguments, **more)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, dying)
node = conftest.Node(**given["node"])
node.run(volume_tasks.create)
"""
KEY = {"encryption": {"passphrase": "killed"}}
POINTS = [
    ("empty", {"size": "16 MiB"}, "create", 1),
    ("zeros", {"size": "16 MiB", "preallocation": "full"}, "send", 5),
    ("copy", {"file": "FILE"}, "create", 1),
    ("copy", {"file": "FILE"}, "send", 1),
    ("copy", {"file": "FILE", "size": "20 MiB"}, "grow", 1),
    ("converted", {"file": "FILE", "format": "qcow2"}, "create", 1),
    ("converted", {"file": "FILE", "format": "qcow2"}, "send", 2),
    ("converted", {"file": "FILE", "format": "qcow2"}, "create", 2),
    ("overlay", {"image": "FILE", "mode": "overlay"}, "create", 1),
    ("overlay", {"image": "FILE", "mode": "overlay"}, "create", 2),
    ("locked", {"size": "16 MiB", **KEY}, "Secret", 1),
    ("locked", {"size": "16 MiB", **KEY}, "create", 1),
]


@pytest.mark.parametrize("then", ["goes on", "is removed"])
@pytest.mark.parametrize(("name", "params", "function", "calls"), POINTS)
def test_killed(
    pools: Shelf,
    raw_file: Path,
    tmp_path: Path,
    name: str,
    params: dict[str, Any],
    function: str,
    calls: int,
    then: str,
) -> None:
    params = {key: str(raw_file) if value == "FILE" else value for key, value in params.items()}
    node = pools.node(name, **params)
    journal = tmp_path / "journal"
    given = {
        "journal": str(journal), "function": function, "calls": calls,
        "node": {"name": name, "params": node.params, "properties": node.properties, "deployment": node.deployment},
    }  # fmt: skip
    done = subprocess.run(
        [PYTHON, "-c", CHILD, json.dumps(given)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -9, done.stderr[-2000:]
    node.runtime.update(json.loads(journal.read_text()))
    assert node.runtime["secret" if function == "Secret" else "resource_id"], "recorded before anything is made"
    if then == "goes on":
        node.run(volume_tasks.create)
        assert node.runtime["filled"] is True
        if "encryption" not in params:
            expected = raw_file.read_bytes() if str(raw_file) in params.values() else bytes(16 * MIB)
            assert as_raw(pools.path(name))[: 16 * MIB] == expected
        assert len(pools.names()) == (2 if "overlay" in params.values() else 1)
    node.run(volume_tasks.delete)
    assert pools.names() == []
    listed = subprocess.run(["virsh", "-q", "secret-list"], capture_output=True, text=True, check=True)
    assert listed.stdout.strip() == ""
