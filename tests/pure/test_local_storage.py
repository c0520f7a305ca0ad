"""Local mode's state files with our methods in place: the same content as by the engine's, never half a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import pytest
from cloudify.workflows import local

from cloudify_libvirt import local_storage

BLUEPRINT = """
tosca_definitions_version: cloudify_dsl_1_3
node_types:
  thing: {properties: {text: {default: plain}, number: {default: 0}}}
node_templates:
  first: {type: thing, properties: {text: other, number: 1}}
  second: {type: thing}
"""


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Any]:
    (source := tmp_path / "source").mkdir()
    (source / "blueprint.yaml").write_text(BLUEPRINT, encoding="utf-8")
    assert local_storage.improve()
    env = local.init_env(str(source / "blueprint.yaml"), name="dep", storage=local.FileStorage(str(tmp_path / "state")))
    yield env.storage
    local_storage._nodes.clear()


def instance_of(storage: Any, node: str) -> Any:
    return next(instance for instance in storage.get_node_instances() if instance.node_id == node)


def test_the_installed_engine_is_the_known_one() -> None:
    """In a process of its own: here the methods may be replaced already."""
    code = "from cloudify_libvirt import local_storage as s; assert s.digest() == s._KNOWN, s.digest()"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_another_engine_is_left_alone() -> None:
    code = """
        from cloudify.workflows import local
        class Other:
            def load_instance(self): return "other"
        local.FileStorage.load_instance = Other.load_instance
        from cloudify_libvirt import local_storage
        before = local.FileStorage.store_instance
        assert local_storage.improve() is False
        assert local.FileStorage.load_instance is Other.load_instance
        assert local.FileStorage.store_instance is before
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], check=True)


def test_what_is_stored_is_read_back(storage: Any) -> None:
    instance = instance_of(storage, "first")
    date = datetime(2026, 1, 2, 3, 4, 5)
    for properties in ({"a": "ü" * 3000}, {"a": 1, "nested": {"list": [1, {"b": None}]}, "date": date}, {}):
        storage.update_node_instance(instance.id, version=instance.version, runtime_properties=properties, state="x")
        instance = storage.get_node_instance(instance.id)
        assert instance.runtime_properties == properties
        assert instance.state == "x"


def test_what_is_read_may_be_changed(storage: Any) -> None:
    instance = instance_of(storage, "first")
    storage.get_node_instance(instance.id).runtime_properties["mine"] = True
    assert storage.get_node_instance(instance.id).runtime_properties == {}
    storage.get_node("first")["properties"]["number"] = 7
    assert storage.get_node("first")["properties"] == {"text": "other", "number": 1}


def test_a_stale_version_is_refused(storage: Any) -> None:
    instance = instance_of(storage, "first")
    storage.update_node_instance(instance.id, version=instance.version, runtime_properties={"a": 1})
    with pytest.raises(local.StorageConflictError):
        storage.update_node_instance(instance.id, version=instance.version, runtime_properties={"a": 2})


def test_a_state_and_force_count_more_than_a_version(storage: Any) -> None:
    instance = instance_of(storage, "first")
    storage.update_node_instance(instance.id, version=7, state="started")
    storage.update_node_instance(instance.id, version=7, runtime_properties={"a": 1}, force=True)
    found = storage.get_node_instance(instance.id)
    assert (found.state, found.version, found.runtime_properties) == ("started", 2, {"a": 1})
    assert storage.update_node_instance(instance.id, version=2, system_properties={"b": {}}).version == 3
    assert storage.get_node_instance(instance.id).system_properties == {"b": {}}


def test_storage_in_memory_is_left_to_the_engine(tmp_path: Path) -> None:
    (tmp_path / "blueprint.yaml").write_text(BLUEPRINT, encoding="utf-8")
    assert local_storage.improve()
    storage = local.init_env(str(tmp_path / "blueprint.yaml"), name="dep", storage=local.InMemoryStorage()).storage
    instance = instance_of(storage, "first")
    storage.update_node_instance(instance.id, version=0, runtime_properties={"a": 1})
    with pytest.raises(local.StorageConflictError):
        storage.update_node_instance(instance.id, version=0, runtime_properties={"a": 2})
    assert storage.get_node_instance(instance.id).runtime_properties == {"a": 1}


def test_one_changes_an_instance_at_a_time(storage: Any) -> None:
    instance = instance_of(storage, "first")

    def count() -> None:
        for _ in range(50):
            with storage._lock(instance.id):
                found = storage.get_node_instance(instance.id)
                told = {"count": found.runtime_properties.get("count", 0) + 1}
                storage.update_node_instance(instance.id, version=found.version, runtime_properties=told)

    threads = [Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.get_node_instance(instance.id).runtime_properties == {"count": 200}


def test_a_changed_deployment_is_read_again(storage: Any) -> None:
    assert storage.get_node("second")["properties"]["number"] == 0
    changed = {"second": {**storage.get_node("second"), "properties": {"number": 5}}}
    storage._storage.set_deployment_attributes("dep", nodes=changed)
    assert storage.get_node("second")["properties"] == {"number": 5}


def test_a_write_that_is_cut_short_is_not_taken_for_whole(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = instance_of(storage, "first")
    storage.update_node_instance(instance.id, version=instance.version, runtime_properties={"text": "x" * 100})
    whole, cut = os.write, []

    def short(file: int, data: bytes) -> int:
        cut.append(len(data))
        return whole(file, data[: len(data) // 2])

    instance = storage.get_node_instance(instance.id)
    with monkeypatch.context() as patch:
        patch.setattr("os.write", short)
        storage.update_node_instance(instance.id, version=instance.version, runtime_properties={"text": "y" * 10})
    assert cut, "it was tried in place"
    path = Path(storage._storage._instance_path("dep", instance.id))
    assert json.loads(path.read_text())["runtime_properties"] == {"text": "y" * 10}
    assert storage.get_node_instance(instance.id).runtime_properties == {"text": "y" * 10}


WRITER = """
import sys
from cloudify.workflows import local
from cloudify_libvirt import local_storage
assert local_storage.improve()
storage = local.load_env("dep", local.FileStorage(sys.argv[1])).storage
print("ready", flush=True)
while True:
    for size in map(int, sys.argv[3:]):
        storage.update_node_instance(
            sys.argv[2], version=None, state="x", runtime_properties={"text": "y" * size}
        )
"""


@pytest.mark.parametrize("sizes", [(10, 1000), (10, 9000)], ids=["within a page", "beyond a page"])
def test_a_kill_leaves_a_whole_file(storage: Any, tmp_path: Path, sizes: tuple[int, int]) -> None:
    """The engine empties a file before it writes it: a kill in between leaves nothing to go on from."""
    instance = instance_of(storage, "first")
    path = Path(storage._storage._instance_path("dep", instance.id))
    command = [sys.executable, "-W", "ignore", "-c", WRITER, str(tmp_path / "state"), instance.id, *map(str, sizes)]
    seen = set()
    for round_ in range(8):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout and writer.stdout.readline() == b"ready\n"
            sleep(0.02 + round_ * 0.0031)
            writer.kill()
        seen.add(len(json.loads(path.read_text())["runtime_properties"]["text"]))
    assert seen <= set(sizes)
    assert [entry.name for entry in path.parent.iterdir() if entry.suffix != ".json"] == []


def test_odd_contents_are_read_as_by_the_engine() -> None:
    """What the quick reader cannot read is left to the engine's; a date is a date."""
    nested: Any = "end"
    for _ in range(400):
        nested = [nested]
    values = {
        "deep": nested,
        "big": 10**40,
        "half": "\ud800",
        "text": "ü\u2028\x00 \U0001f600",
        "small": 1e-300,
        "x": None,
    }
    odd = {"id": "x", "runtime_properties": values}
    for known in (odd, {**odd, "runtime_properties": {"big": -(2**63), "inf": float("inf"), "": [{}, [], True]}}):
        content = json.dumps(known).encode()
        assert local_storage._parse(content) == json.loads(content) == known
    assert str(local_storage._parse(b'{"x": NaN}')) == str({"x": float("nan")})
    dated = {"at": datetime(2026, 1, 2, 3, 4, 5)}
    assert local_storage._parse(local_storage._encoder().encode(dated).encode()) == dated
    for broken in (b"", b"{", b'{"a": 1} x', b"\xff"):
        with pytest.raises(ValueError):
            local_storage._parse(broken)
