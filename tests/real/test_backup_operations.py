"""Backups as a blueprint's operations: made, checked, restored; and uninstall leaves no checkpoint in the way."""

from __future__ import annotations

import json
from pathlib import Path

from tests.real.conftest import IMAGES, Cfy, Host, Result, virsh
from tests.real.nodes import blueprint, node

BACKUP = "cloudify.interfaces.libvirt_backup"


def run(cfy: Cfy, deployment: str, operation: str, check: bool = True, **inputs: object) -> Result:
    given = {
        "operation": f"{BACKUP}.{operation}",
        "node_ids": ["vm"],
        "operation_kwargs": inputs,
        "allow_kwargs_override": True,
    }
    return cfy("executions", "start", "execute_operation", "-b", deployment, "-p", json.dumps(given), check=check)


def test_operations(cfy: Cfy, clean_host: Host, tiny: Path, tmp_path: Path) -> None:
    pool = node("pool", name="disks", path=str(IMAGES / "backed"))
    machine = node(
        "domain", "pool", name="backed", image={"source": str(tiny)}, pool="disks", memory="64 MiB",
        wait_for_ip=False, shutdown_timeout_s=0, properties={"backup_dir": str(tmp_path / "kept")},
    )  # fmt: skip
    cfy.install(blueprint(tmp_path, "backed", pool=pool, vm=machine), "shop")
    store = tmp_path / "kept/shop/backed"
    run(cfy, "shop", "create", backup_point="first")
    said = run(cfy, "shop", "create", backup_point="second", backup_content=True).output
    assert "incremental backup 'second'" in said and f"in the backups {store}" in said
    recorded = next(one["runtime_properties"] for one in cfy.instances("shop") if "vm" in str(one["id"]))
    assert recorded["last_backup"]["parent"] == "first"  # type: ignore[index]
    assert [entry["kind"] for entry in recorded["made"]] == ["root", "seed"]  # type: ignore[index]
    run(cfy, "shop", "verify", backup_deep=True)
    assert "Did you mean 'backup_point'" in run(cfy, "shop", "create", check=False, backup_pint="x").output
    assert "would leave the directory" in run(cfy, "shop", "create", check=False, backup_point="../x").output
    assert sorted(path.name for path in store.iterdir() if path.name[0] != ".") == ["first", "second"]
    run(cfy, "shop", "restore", backup_point="first", backup_allow_stop=True)
    domain = clean_host.domain("backed")
    assert domain.isActive() and not domain.listAllCheckpoints(), "it goes on, and its disks are other ones"
    said = run(cfy, "shop", "create", backup_point="third", backup_keep_last=1).output
    assert "full backup 'third'" in said and "deleted the points second, first" in said
    assert domain.listAllCheckpoints(), "uninstall has to take this away"
    run(cfy, "shop", "restore", backup_new_name="copy")
    (copy,) = (IMAGES / "backed").glob("restore-*-vda.qcow2")
    manifest = store / "third/vda.qcow2"
    manifest.write_bytes(manifest.read_bytes()[:-1] + b"!")
    assert "was changed since it was written" in run(cfy, "shop", "verify", check=False).output
    said = cfy.uninstall("shop").output
    assert "disks of domains that were restored from backups stay" in said
    assert f"{copy.name} (used by domain 'copy')" in said and copy.exists()
    virsh("undefine", "--nvram", "copy")
    left = sorted(copy.parent.iterdir())
    assert [path.name.rpartition("-")[2] for path in left] == ["sda.iso", "vda.qcow2"], "its seed, and its disk"
    for path in left:
        path.unlink()
    copy.parent.rmdir()
    assert (store / "third/manifest.json").exists(), "backups outlive what they are backups of"
