"""Snapshots and backups of guests that run, through the operations that workflows call."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import IMAGES, Cfy, Host, Result, public_key, ssh, virsh
from tests.real.nodes import blueprint, node

POOL = IMAGES / "snapping"
# In the memory of the guest, on no disk: there when the memory is back.
ALIVE = "/dev/alive"


class Guests:
    """One installed deployment: ``pure`` has qcow2 alone, ``mixed`` a raw disk, too; both have a seed."""

    def __init__(self, cfy: Cfy, key: Path) -> None:
        self.cfy, self.key = cfy, key

    def call(self, operation: str, name: str, *nodes: str, check: bool = True, **kwargs: Any) -> Result:
        given = {"snapshot_name": name, "snapshot_type": "irregular", "snapshot_rotation": 1, **kwargs}
        parameters = {
            "operation": f"cloudify.interfaces.snapshot.{operation}", "operation_kwargs": given,
            "allow_kwargs_override": True, "node_ids": list(nodes),
        }  # fmt: skip
        return self.cfy("executions", "start", "execute_operation", "-b", "snapping",
                        "-p", json.dumps(parameters), check=check)  # fmt: skip

    def runtime(self, node_id: str) -> dict[str, Any]:
        found = next(one for one in self.cfy.instances("snapping") if one["node_id"] == node_id)
        return dict(found["runtime_properties"])  # type: ignore[call-overload]

    def instance(self, node_id: str) -> str:
        return str(next(one["id"] for one in self.cfy.instances("snapping") if one["node_id"] == node_id))

    def run(self, node_id: str, command: str) -> str:
        return ssh(self.key, str(self.runtime(node_id)["ip"]), command)

    def write(self, node_id: str, *names: str) -> None:
        for name in names:
            self.run(node_id, f"echo {name} > /root/{name}; sync")

    def present(self, node_id: str) -> set[str]:
        return set(self.run(node_id, "ls /root | grep '^file' || true").split())


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory, prepared_home: Path, tiny: Path, key: Path) -> Iterator[Guests]:
    host = Host()
    before = host.everything()
    home = tmp_path_factory.mktemp("snapping") / "home"
    shutil.copytree(prepared_home, home)
    tool = Cfy(home)
    vm: dict[str, Any] = {
        "image": {"source": str(tiny)}, "pool": "snapping", "memory": "128 MiB", "networks": [{"network": "snapping"}],
        "cloud_init": {"ssh_authorized_keys": [public_key(key)]}, "shutdown_timeout_s": 1,
    }  # fmt: skip
    kept = {"backup_dir": str(home / "backups")}
    path = blueprint(
        home, "snapping", pool=node("pool", name="snapping", properties=kept),
        network=node("network", name="snapping", cidr="10.98.21.0/24", properties=kept),
        data=node("volume", "pool", name="data.raw", pool="snapping", size="4 MiB", properties=kept),
        pure=node("domain", "pool", "network", name="pure", properties=kept, **vm),
        mixed=node("domain", "pool", "network", "data", name="mixed", properties=kept,
                   **vm, disks=[{"pool": "snapping", "volume": "data.raw"}]),
    )  # fmt: skip
    tool.install(path, "snapping")
    yield Guests(tool, key)
    tool.uninstall("snapping", check=False)
    assert host.everything() == before


def test_internal_with_memory(guests: Guests) -> None:
    guests.write("pure", "file-1")
    guests.run("pure", f"touch {ALIVE}")
    assert "internal of vda, with memory" in guests.call("create", "before", "pure").output
    name = f"{guests.instance('pure')}-before"
    assert virsh("snapshot-list", "pure", "--name").split() == [name]
    assert "there is one of this name" in guests.call("create", "before", "pure", check=False).output
    guests.write("pure", "file-2")
    guests.run("pure", f"rm {ALIVE}")
    guests.call("apply", "before", "pure")
    assert guests.present("pure") == {"file-1"}
    guests.run("pure", f"test -e {ALIVE}")
    for unknown in ("apply", "delete"):
        told = guests.call(unknown, "never", "pure", check=False)
        assert told.code == 1 and "it does not exist" in told.output and not told.lines("Task rescheduled")
    guests.call("delete", "before", "pure")
    assert virsh("snapshot-list", "pure", "--name").split() == [] and guests.present("pure") == {"file-1"}


def test_external_of_mixed_formats_with_memory(guests: Guests) -> None:
    before = {path.name for path in POOL.iterdir()}
    guests.write("mixed", "file-1")
    guests.run("mixed", "echo disk-1 > /dev/vdb; sync")
    told = guests.call("create", "both", "mixed").output
    assert "external of vda, vdb, with memory (without sda)" in told
    assert len({path.name for path in POOL.iterdir()} - before) == 3
    guests.write("mixed", "file-2")
    guests.run("mixed", "echo disk-2 > /dev/vdb; sync")
    guests.call("apply", "both", "mixed")
    assert guests.present("mixed") == {"file-1"}
    assert guests.run("mixed", "head -c 6 /dev/vdb") == "disk-1"
    guests.write("mixed", "file-3")
    guests.call("delete", "both", "mixed")
    assert {path.name for path in POOL.iterdir()} == before and guests.runtime("mixed")["snapshot_files"] == []
    assert guests.present("mixed") == {"file-1", "file-3"}, "merged while the guest ran"


def test_disk_only_is_quiesced_by_the_agent(guests: Guests) -> None:
    before = {path.name for path in POOL.iterdir()}
    kept = guests.present("mixed")
    told = guests.call("create", "quiet", "mixed", snapshot_memory="false").output
    assert "external of vda, vdb, file systems frozen (without sda)" in told
    guests.write("mixed", "file-4")
    guests.call("apply", "quiet", "mixed")
    assert guests.present("mixed") == kept, "booted from the disks as they were"
    guests.run("mixed", "kill -STOP $(pidof qemu-ga)")
    told = guests.call("create", "deaf", "mixed", snapshot_memory="false").output
    assert "external of vda, vdb (without sda)" in told, "an agent that hangs does not keep it from being made"
    guests.run("mixed", "kill -CONT $(pidof qemu-ga)")
    assert "it has children" in guests.call("delete", "quiet", "mixed", check=False).output
    guests.call("delete", "quiet", "mixed", snapshot_children=True)
    assert {path.name for path in POOL.iterdir()} == before


def test_full_dump_brings_memory_and_disks_back(guests: Guests) -> None:
    """Restore really restores: what was written and started since is gone, what ran then runs."""
    full = {"snapshot_incremental": "false", "params": {"full_dump": True}}
    guests.write("pure", "file-8")
    before = guests.present("pure")
    guests.run("pure", f"touch {ALIVE}")
    assert "definition, disks, memory" in guests.call("create", "whole", "pure", **full).output
    guests.write("pure", "file-9")
    guests.run("pure", f"rm {ALIVE}")
    files = sorted(path for path in Path(guests.cfy.directory, "backups").rglob("*") if path.is_file())
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600] * 4
    assert {path.parent.name for path in files} == {"whole"} and files[0].parent.parent.name == "snapping"
    disk = next(path for path in files if path.name.endswith(".disk"))
    content = disk.read_bytes()
    disk.write_bytes(content[:-1] + b"x")
    refused = guests.call("apply", "whole", "pure", check=False, **full)
    assert "SHA-256" in refused.output and guests.present("pure") == {*before, "file-9"}, "the guest runs on"
    disk.write_bytes(content)
    virsh("destroy", "pure")
    guests.call("apply", "whole", "pure", **full)
    assert guests.present("pure") == before and guests.run("pure", f"test -e {ALIVE}") == ""
    virsh("destroy", "pure")
    virsh("undefine", "pure")
    (POOL / "pure-root.qcow2").unlink()
    guests.call("apply", "whole", "pure", **full)
    assert guests.present("pure") == before, "also when domain and disk are gone"
    guests.call("delete", "whole", "pure", **full)
    assert not [path for path in Path(guests.cfy.directory, "backups").rglob("*") if path.is_file()]


def test_uninstall_in_every_state(guests: Guests) -> None:
    """A tree of internal ones, external ones with memory, one paused; everything goes."""
    guests.call("create", "one", "pure", "mixed")
    guests.call("create", "two", "pure", "mixed")
    guests.call("apply", "one", "pure", "mixed")
    guests.call("create", "three", "pure", "mixed")
    virsh("suspend", "mixed")
    assert len(list(POOL.glob("*@*"))) >= 7
    guests.cfy.uninstall("snapping")
    assert not POOL.exists()
