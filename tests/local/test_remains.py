"""What a killed cfy leaves of its own state: half a file, half a directory; the next run makes nothing of it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from cloudify.workflows import local

from cloudify_libvirt import local_guard
from cloudify_libvirt.engine import repeats_since

BLUEPRINT = {
    "tosca_definitions_version": "cloudify_dsl_1_3",
    "node_types": {"thing": {}},
    "node_templates": {"one": {"type": "thing"}},
}


@pytest.fixture
def storage(tmp_path: Path) -> Any:
    assert local_guard.install()
    return local.FileStorage(storage_dir=str(tmp_path / "home"))


@pytest.fixture
def blueprint(tmp_path: Path) -> str:
    path = tmp_path / "blueprint" / "blueprint.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(BLUEPRINT))
    return str(path)


@pytest.mark.parametrize("text", [None, "", '{"id": "dep", "plan'], ids=["no file", "empty", "half"])
def test_half_a_blueprint_is_none(storage: Any, blueprint: str, tmp_path: Path, text: str | None) -> None:
    directory = tmp_path / "home/blueprints/dep"
    (directory / "resources").mkdir(parents=True)
    if text is not None:
        (directory / "blueprint.json").write_text(text)
    assert storage.get_blueprint("dep") is None
    local.init_env(blueprint, "dep", storage=storage)
    assert storage.get_blueprint("dep")["id"] == "dep"
    assert len(storage.get_node_instances("dep")) == 1


def test_an_instance_names_none_that_is_not_there(storage: Any, blueprint: str, tmp_path: Path) -> None:
    """A kill while their files were written, one by one: ``uninstall`` would stumble over the missing ones."""
    kind = "cloudify.relationships.connected_to"
    two = {"one": {"type": "thing"}, "two": {"type": "thing", "relationships": [{"type": kind, "target": "one"}]}}
    kinds = {kind: {"properties": {"connection_type": {"default": "all_to_all"}}}}
    Path(blueprint).write_text(yaml.safe_dump({**BLUEPRINT, "relationships": kinds, "node_templates": two}))
    local.init_env(blueprint, "dep", storage=storage)
    (link,) = storage.get_node_instances("dep", node_id="two")[0]["relationships"]
    assert [len(one["relationships"]) for one in storage.get_node_instances("dep")].count(1) == 1, "whole, it is kept"
    (tmp_path / f"home/deployments/dep/node-instances/{link['target_id']}.json").unlink()
    assert [one["relationships"] for one in storage.get_node_instances("dep")] == [[]]


def test_half_a_deployment_is_none(storage: Any, blueprint: str, tmp_path: Path) -> None:
    local.init_env(blueprint, "dep", storage=storage)
    file = tmp_path / "home/deployments/dep/deployment.json"
    file.write_text(file.read_text()[:100])
    assert local.load_env("dep", storage) is None
    storage.remove_deployment("dep")
    storage.remove_deployment("dep")
    storage.remove_blueprint("dep")
    local.init_env(blueprint, "dep", storage=storage)
    assert local.load_env("dep", storage) is not None


def test_executions_are_replaced_whole(storage: Any, blueprint: str, tmp_path: Path) -> None:
    local.init_env(blueprint, "dep", storage=storage)
    file = tmp_path / "home/deployments/dep/executions.json"
    begun = datetime(2026, 1, 2, 3, 4, 5)
    storage.store_executions("dep", [{"id": "a", "created_at": begun}])
    with file.open() as kept:
        storage.store_executions("dep", [])
        assert len(json.load(kept)) == 1, "the old list was written over"
    assert storage.get_executions("dep") == [] and not file.with_name(".executions.json").exists()


NOW = datetime.now().replace(microsecond=0)


def run(number: int, status: str = "pending", workflow: str = "backup", name: str = "one") -> dict[str, Any]:
    """One that was begun in the last half hour, in that order; of a number below zero, hours ago."""
    begun = NOW - timedelta(minutes=30 - number if number > 0 else -number * 60)
    return {
        "id": str(number), "workflow_id": workflow, "parameters": {"name": name}, "status": status, "created_at": begun,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "since", "or_failed"),
    [
        ([], None, None),
        ([run(1)], 1, 1),
        ([run(1), run(2)], 1, 1),
        ([run(1, "terminated")], None, None),
        ([run(1, "failed")], None, 1),
        ([run(1, "cancelled")], None, 1),
        ([run(1), run(2, "failed"), run(3)], 3, 1),
        ([run(1, "failed"), run(2, "terminated"), run(3)], 3, 3),
        ([run(-2, "failed"), run(-2), run(3)], 3, 3),
        ([run(1), run(2, "terminated")], None, None),
        ([run(1, workflow="install")], None, None),
        ([run(1, name="other")], None, None),
        ([run(1, name="other"), run(2)], 2, 2),
    ],
)
def test_a_run_repeats_the_one_before_it_that_did_not_succeed(
    storage: Any, blueprint: str, before: list[dict[str, Any]], since: int | None, or_failed: int | None
) -> None:
    local.init_env(blueprint, "dep", storage=storage)
    storage.store_executions("dep", [*before, run(9)])
    endpoint = SimpleNamespace(storage=storage.load("dep"))
    ctx = SimpleNamespace(_endpoint=endpoint, execution_id="9")
    for failed, number in ((False, since), (True, or_failed)):
        wanted = None if number is None else run(number)["created_at"].timestamp()
        assert repeats_since(ctx, failed=failed) == wanted


def test_nothing_is_known_of_runs_on_a_manager() -> None:
    assert repeats_since(SimpleNamespace(execution_id="9"), failed=True) is None
