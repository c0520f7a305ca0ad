"""Volumes on a real host: every source, every format, thin and thick, what is refused, what is left behind."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cloudify_libvirt import volume_tasks
from cloudify_libvirt.core.errors import Conflict
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.volume import Volume
from tests.driver.conftest import Node
from tests.real.conftest import QEMU, Cfy
from tests.real.nodes import blueprint, node
from tests.real.shelf import MARKER, MIB, Shelf, as_raw


def volume(node: Node) -> Volume:
    found = Pool.get(connect(QEMU), node.runtime["pool"])
    return Volume.get(found, node.runtime["resource_id"])


def info(path: Path) -> dict[str, Any]:
    done = subprocess.run(["qemu-img", "info", "-U", "--output=json", path], capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def kinds(path: Path, format_: str) -> set[tuple[bool, bool]]:
    """What the allocation map says of the guest's blocks: (there, reads as zeros without data)."""
    command = ["qemu-img", "map", "-U", "-f", format_, "--output=json", path]
    done = subprocess.run(command, capture_output=True, check=True)
    return {(block["data"], block["zero"]) for block in json.loads(done.stdout)}


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


# --- thin and thick ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format_", "preallocation", "wanted", "least", "most"),
    [
        ("raw", "off", {(False, True)}, 0, MIB),
        ("qcow2", "off", {(False, True)}, 0, MIB),
        ("qcow2", "metadata", {(True, False), (True, True), (False, True)}, 0, 2 * MIB),
        ("qcow2", "falloc", {(True, False), (True, True)}, 64 * MIB, 66 * MIB),
        ("raw", "full", {(True, False)}, 64 * MIB, 66 * MIB),
    ],
)
def test_thin_and_thick(
    pools: Shelf, format_: str, preallocation: str, wanted: set[tuple[bool, bool]], least: int, most: int
) -> None:
    pools.make("disk", size="64 MiB", format=format_, preallocation=preallocation)
    path = pools.path("disk")
    assert least <= allocated(path) <= most
    assert kinds(path, format_) <= wanted
    assert info(path)["virtual-size"] == 64 * MIB and info(path)["format"] == format_
    assert path.stat().st_mode & 0o777 == 0o600


def test_reserved_space_of_a_raw_volume(pools: Shelf) -> None:
    """The map shows unwritten blocks as zeros; that they are taken is seen in the file system."""
    pools.make("disk", size="64 MiB", preallocation="falloc")
    assert 64 * MIB <= allocated(pools.path("disk")) <= 65 * MIB


def test_allocation_in_mib_as_older_blueprints_give_it(pools: Shelf) -> None:
    pools.make("disk", capacity="64", allocation="16")
    assert 16 * MIB <= allocated(pools.path("disk")) <= 17 * MIB
    assert pools.path("disk").stat().st_size == 64 * MIB


# --- sources -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["grüße\n", {"base64": base64.b64encode(bytes(range(256))).decode()}])
def test_from_content(pools: Shelf, content: Any) -> None:
    pools.make("note", content=content)
    expected = content.encode() if isinstance(content, str) else bytes(range(256))
    assert pools.path("note").read_bytes() == expected
    assert "grüße" not in str(pools.nodes[0].runtime)


def test_from_content_into_qcow2(pools: Shelf) -> None:
    pools.make("note", content=MARKER.decode(), format="qcow2", size="1 MiB")
    assert info(pools.path("note"))["virtual-size"] == MIB
    assert as_raw(pools.path("note"))[: len(MARKER)] == MARKER


@pytest.mark.parametrize("preallocation", ["off", "falloc"])
def test_from_file(pools: Shelf, raw_file: Path, preallocation: str) -> None:
    pools.make("copy", file=str(raw_file), size="32 MiB", preallocation=preallocation)
    content = pools.path("copy").read_bytes()
    assert content[: 16 * MIB] == raw_file.read_bytes() and content[16 * MIB :] == bytes(16 * MIB)
    thick = preallocation == "falloc"
    assert allocated(pools.path("copy")) >= 32 * MIB if thick else allocated(pools.path("copy")) < MIB


@pytest.mark.parametrize("preallocation", ["off", "falloc"])
def test_a_raw_file_becomes_qcow2(pools: Shelf, raw_file: Path, preallocation: str) -> None:
    pools.make("copy", file=str(raw_file), format="qcow2", preallocation=preallocation)
    assert info(pools.path("copy"))["format"] == "qcow2"
    assert (allocated(pools.path("copy")) >= 16 * MIB) == (preallocation == "falloc")
    assert as_raw(pools.path("copy")) == raw_file.read_bytes()
    assert pools.names() == ["copy"], "the base image that it was converted from goes at once"


def test_a_qcow2_image_becomes_raw(pools: Shelf, raw_file: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw_file, image], check=True)
    pools.make("copy", image=str(image), mode="clone", format="raw", size="20 MiB")
    assert pools.path("copy").read_bytes() == raw_file.read_bytes() + bytes(4 * MIB)
    assert allocated(pools.path("copy")) < MIB


@pytest.mark.parametrize("pool", ["shelf-one", "shelf-two"])
@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_clone_of_a_volume(pools: Shelf, raw_file: Path, pool: str, format_: str) -> None:
    pools.make("origin", file=str(raw_file), format="qcow2")
    source = {"pool": "shelf-one", "volume": "origin"}
    clone = pools.make("clone", pool=pool, source_volume=source, format=format_, size="24 MiB")
    path = pools.path("clone", pool.removeprefix("shelf-"))
    assert info(path)["format"] == format_ and info(path)["virtual-size"] == 24 * MIB
    assert as_raw(path)[: 16 * MIB] == raw_file.read_bytes()
    assert volume(clone).facts().backing == ""


def test_overlay_of_a_volume_of_another_pool(pools: Shelf, raw_file: Path) -> None:
    origin = pools.make("origin", file=str(raw_file))
    pools.make("overlay", pool="shelf-two", source_volume={"pool": "shelf-one", "volume": "origin"}, mode="overlay")
    path = pools.path("overlay", "two")
    assert info(path)["backing-filename"] == str(pools.path("origin")) and allocated(path) < MIB
    assert as_raw(path) == raw_file.read_bytes()
    before = pools.path("origin").read_bytes()
    origin.run(volume_tasks.delete)
    assert pools.path("origin").read_bytes() == before, "its overlay needs it"
    # What was left is somebody's from now on.
    pools.nodes[1].run(volume_tasks.delete)
    pools.path("origin").unlink()


def test_a_smaller_copy_is_refused(pools: Shelf, raw_file: Path) -> None:
    node = pools.node("copy", file=str(raw_file), size="8 MiB")
    with pytest.raises(Exception, match="8 MiB is less than the image's 16 MiB; shrinking would lose data"):
        node.run(volume_tasks.create)
    assert pools.names() == [] and node.runtime["resource_id"] is None


# --- growth --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_growth_offline(pools: Shelf, raw_file: Path, format_: str) -> None:
    node = pools.make("disk", file=str(raw_file), format=format_)
    node.run(volume_tasks.update, params={"size": "40 MiB"})
    assert info(pools.path("disk"))["virtual-size"] == 40 * MIB
    assert as_raw(pools.path("disk"))[: 16 * MIB] == raw_file.read_bytes()
    with pytest.raises(Exception, match="20 MiB is less than its 40 MiB; shrinking would lose data"):
        node.run(volume_tasks.update, params={"size": "20 MiB"})
    assert info(pools.path("disk"))["virtual-size"] == 40 * MIB


def test_growth_of_an_overlay_and_its_base(pools: Shelf, raw_file: Path) -> None:
    base = pools.make("base", file=str(raw_file))
    overlay = pools.make("overlay", source_volume="base", mode="overlay")
    overlay.run(volume_tasks.update, params={"size": "24 MiB"})
    assert info(pools.path("overlay"))["virtual-size"] == 24 * MIB
    with pytest.raises(Exception, match=r"cannot resize volume 'base'.* used by volume 'overlay' of pool 'shelf-one'"):
        base.run(volume_tasks.update, params={"size": "24 MiB"})
    assert pools.path("base").stat().st_size == 16 * MIB


def test_growth_of_a_thick_volume_is_thick(pools: Shelf) -> None:
    node = pools.make("disk", size="16 MiB", preallocation="falloc")
    node.run(volume_tasks.update, params={"size": "32 MiB"})
    assert 32 * MIB <= allocated(pools.path("disk")) <= 33 * MIB


# --- wiping --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wipe", [True, False])
def test_wiped_when_asked_and_only_then(pools: Shelf, raw_file: Path, wipe: bool) -> None:
    node = pools.make("disk", file=str(raw_file), wipe_on_delete=wipe)
    # The blocks stay in sight by a second name of the file.
    witness = pools.directory / "witness"
    os.link(pools.path("disk"), witness)
    before = allocated(witness)
    for operation in (volume_tasks.stop, volume_tasks.start):
        node.run(operation)
    assert witness.read_bytes() == raw_file.read_bytes()
    node.run(volume_tasks.delete)
    assert pools.names() == []
    content = witness.read_bytes()
    assert content == (bytes(16 * MIB) if wipe else raw_file.read_bytes())
    assert allocated(witness) == before, "overwritten in place: no block was given back, no hole was filled"
    witness.unlink()


def test_a_wiped_volume_is_not_wiped_when_used(pools: Shelf, raw_file: Path) -> None:
    base = pools.make("base", file=str(raw_file), wipe_on_delete=True)
    pools.make("overlay", source_volume="base", mode="overlay")
    base.run(volume_tasks.delete)
    assert pools.path("base").read_bytes() == raw_file.read_bytes()
    pools.nodes.pop().run(volume_tasks.delete)
    pools.path("base").unlink()


# --- download ------------------------------------------------------------------------------------------------


def test_download_keeps_holes(pools: Shelf, raw_file: Path, tmp_path: Path) -> None:
    node = pools.make("disk", file=str(raw_file), size="2 GiB")
    target = tmp_path / "out.raw"
    assert volume(node).download(target) == 2048 * MIB
    assert target.stat().st_size == 2048 * MIB and allocated(target) < MIB
    assert target.stat().st_mode & 0o777 == 0o600
    with target.open("rb") as file:
        assert file.read(16 * MIB) == raw_file.read_bytes()
    with pytest.raises(Conflict, match="there is a file already"):
        volume(node).download(target)
    assert [path.name for path in tmp_path.iterdir()] != [] and not list(tmp_path.glob(".out*"))


def grown_kib(transfer: str, path: Path) -> int:
    """How much memory a process has needed beyond what it had before the transfer of volume disk."""
    script = (
        "import resource, sys, pathlib\n"
        "from cloudify_libvirt.core.session import connect\n"
        "from cloudify_libvirt.core.pool import Pool\n"
        "from cloudify_libvirt.core.volume import Volume\n"
        f"volume = Volume.get(Pool.get(connect('{QEMU}'), 'shelf-one'), 'disk')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"volume.{transfer}(pathlib.Path(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([".venv/bin/python", "-c", script, path], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_much_data_in_little_memory(pools: Shelf, tmp_path: Path) -> None:
    """192 MiB without a hole, in and out."""
    big, target = tmp_path / "big.raw", tmp_path / "out.raw"
    with big.open("wb") as file:
        for number in range(192):
            file.write(hashlib.sha256(str(number).encode()).digest() * (MIB // 32))
    pools.make("disk", size="192 MiB", format="raw")
    assert grown_kib("upload", big) < 32 * 1024
    assert subprocess.run(["cmp", big, pools.path("disk")], check=False).returncode == 0
    assert grown_kib("download", target) < 32 * 1024
    assert subprocess.run(["cmp", big, target], check=False).returncode == 0


def test_by_hand(pools: Shelf, raw_file: Path, tmp_path: Path) -> None:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [".venv/bin/cfy-libvirt", "volume", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    image = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw_file, image], check=True)
    up = run("upload", image, "shelf-one", "by-hand")
    assert up.returncode == 0 and str(pools.path("by-hand")) in up.stdout, up.stderr
    assert info(pools.path("by-hand"))["format"] == "qcow2"
    again = run("upload", image, "shelf-one", "by-hand")
    assert again.returncode == 1 and "a volume of this name exists" in again.stderr
    down = run("download", "shelf-one", "by-hand", tmp_path / "back.qcow2")
    assert down.returncode == 0, down.stderr
    assert (tmp_path / "back.qcow2").read_bytes() == image.read_bytes()
    again = run("download", "shelf-one", "by-hand", tmp_path / "back.qcow2")
    assert again.returncode == 1 and "there is a file already" in again.stderr
    pools.path("by-hand").unlink()


def test_growth_by_a_workflow(cfy: Cfy, pools: Shelf, tmp_path: Path) -> None:
    data = node("volume", name="data", pool="shelf-one", size="16 MiB", format="qcow2")
    cfy("install", blueprint(tmp_path, "shop", data=data), "-b", "shop")
    call = {
        "operation": "cloudify.interfaces.lifecycle.update",
        "node_ids": ["data"],
        "operation_kwargs": {"params": {"size": "40 MiB"}},
    }
    said = cfy("executions", "start", "execute_operation", "-b", "shop", "-p", json.dumps(call)).output
    assert "has 40 MiB now (offline)" in said and info(pools.path("data"))["virtual-size"] == 40 * MIB
    call["operation_kwargs"] = {"params": {"size": "8 MiB"}}
    refused = cfy("executions", "start", "execute_operation", "-b", "shop", "-p", json.dumps(call), check=False)
    assert refused.code == 1 and "8 MiB is less than its 40 MiB; shrinking would lose data" in refused.output
    cfy("uninstall", "-b", "shop")
    assert pools.names() == []


# --- sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [{"mode": "overlay"}, {"format": "qcow2"}, {"mode": "overlay", "size": "20 MiB"}])
def test_an_image_may_end_within_a_sector(pools: Shelf, raw_file: Path, made: dict[str, Any]) -> None:
    """qcow2 has whole sectors, and libvirt makes overlays of whole KiB: what is missing is zeros."""
    with raw_file.open("ab") as file:
        file.write(b"end" * 101)
    pools.make("disk", file=str(raw_file), **made)
    content, wanted = as_raw(pools.path("disk")), raw_file.read_bytes()
    assert len(content) == (20 * MIB if "size" in made else 16 * MIB + 1024)
    assert content[: len(wanted)] == wanted and not content[len(wanted) :].strip(b"\0")
    again = pools.make("above", source_volume="disk", mode="overlay") if made.get("mode") else None
    assert again is None or as_raw(pools.path("above")) == content
