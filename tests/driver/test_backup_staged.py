"""What a failed backup leaves in the record: the volumes on their way that are there still, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import domain_tasks
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.storage.bases import Wish
from tests.driver.conftest import Node
from tests.driver.test_storage import define_pool, made


def staged(pool: str, name: str) -> dict[str, str]:
    return {"pool": pool, "name": name, "kind": "staged"}


def test_a_backup_that_failed_lets_go_what_it_removed(session: Session, vm: Node, tmp_path: Path) -> None:
    """This driver has no backups: each one fails."""
    pool = define_pool(session)
    pool.start()
    made(pool, Wish("left.qcow2", 2**20))
    define_pool(session, "off", "/nowhere/off")
    for operation in (domain_tasks.create, domain_tasks.configure):
        vm.run(operation)
    root = {"pool": "pool", "name": "root.qcow2", "kind": "root"}
    kept = [root, staged("pool", "left.qcow2"), staged("off", "unseen.qcow2")]
    vm.runtime["made"] = [*kept, staged("pool", "gone.qcow2"), staged("nowhere", "gone.qcow2")]
    with pytest.raises(NonRecoverableError, match="has no backups"):
        vm.run(domain_tasks.backup_create, backup_dir=str(tmp_path / "kept"))
    assert vm.runtime["made"] == kept
    with pytest.raises(NonRecoverableError):
        vm.run(domain_tasks.backup_restore, backup_dir=str(tmp_path / "kept"), backup_point="none")
    assert vm.runtime["made"] == kept
    vm.runtime["made"] = [root]
