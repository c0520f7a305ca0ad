"""The scripts that blueprints call, run by the engine's own script runner."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cloudify.exceptions import NonRecoverableError, RecoverableError
from cloudify.mocks import MockCloudifyContext
from cloudify.state import current_ctx
from script_runner.tasks import eval_script

from cloudify_libvirt.core.errors import Conflict
from cloudify_libvirt.core.storage.clone import place

SCRIPTS = Path(__file__).parents[2] / "scripts" / "blueprint"
CONTENT = hashlib.shake_256(b"a disk").digest(1 << 20)
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLOUDIFY_LIBVIRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "base.img"
    path.write_bytes(CONTENT)
    return path


def context(runtime: dict[str, Any] | None = None, instance: str = "vm_abc123", **more: Any) -> MockCloudifyContext:
    return MockCloudifyContext(
        node_id=instance, node_name="vm", deployment_id="shop", runtime_properties=runtime or {}, properties={}, **more
    )


def run(script: str, ctx: MockCloudifyContext, **inputs: Any) -> dict[str, Any]:
    """Run the script as the engine does, and return the runtime properties as it would store them."""
    with current_ctx.push(ctx, {"script_path": f"scripts/{script}.py", "ctx": ctx, **inputs}):
        eval_script(str(SCRIPTS / f"{script}.py"), ctx)
    stored: dict[str, Any] = json.loads(json.dumps(dict(ctx.instance.runtime_properties)))
    return stored


def info(path: Path) -> dict[str, Any]:
    out = subprocess.run(["qemu-img", "info", "--output=json", path], check=True, capture_output=True).stdout
    facts: dict[str, Any] = json.loads(out)
    return facts


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# --- download_image ----------------------------------------------------------------------------------


def test_download_tells_where_the_image_is(image: Path) -> None:
    stored = run("download_image", context(), url=f"file://{image}", checksum=f"sha256:{SHA}")
    assert stored == {"path": str(image), "format": "raw", "size_bytes": len(CONTENT), "sha256": SHA}


def test_download_takes_a_list_and_a_format(image: Path) -> None:
    image.with_name("SHA256SUMS").write_text(f"{SHA} *{image.name}\n")
    stored = run("download_image", context(), url=str(image), checksum=f"{image.parent}/SHA256SUMS", format="raw")
    assert stored["sha256"] == SHA
    with pytest.raises(NonRecoverableError, match="it is raw, not qcow2"):
        run("download_image", context(), url=str(image), format="qcow2")


def test_download_to_a_destination_happens_once(image: Path, tmp_path: Path) -> None:
    target = tmp_path / "images" / "mine.img"
    ctx = context()
    stored = run("download_image", ctx, url=str(image), destination=str(target))
    assert (stored["path"], target.read_bytes()) == (str(target), CONTENT)
    assert target.stat().st_mode & 0o777 == 0o600
    target.write_bytes(b"used by a guest since")
    assert run("download_image", ctx, url=str(image), destination=str(target)) == stored
    assert target.read_bytes() == b"used by a guest since"
    assert files(target.parent) == ["mine.img"]


def test_download_takes_up_what_a_killed_run_finished(image: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.img").write_bytes(CONTENT)
    (tmp_path / ".mine.img.partial").write_bytes(b"older")
    stored = run("download_image", context(), url=str(image), destination=str(tmp_path / "mine.img"))
    assert stored["destination"] == str(tmp_path / "mine.img")


def test_download_never_overwrites_a_foreign_file(image: Path, tmp_path: Path) -> None:
    target = tmp_path / "theirs.img"
    target.write_bytes(b"theirs" * 100)
    with pytest.raises(NonRecoverableError, match="not made by this instance"):
        run("download_image", context(), url=str(image), destination=str(target))
    assert target.read_bytes() == b"theirs" * 100


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({}, "inputs.url: it is missing"),
        ({"url": {"get_input": "image"}}, "inputs.url: it is a dict"),
        ({"url": "ftp://h/x"}, "not a source"),
        ({"url": "/x", "checksum": "md5:1"}, "checksum"),
        ({"url": "/nowhere/x.img"}, "there is no such file"),
        ({"url": "/x", "destination": "relative/x"}, "not an absolute path"),
        ({"url": "/x", "destination": "/a/../b"}, "not an absolute path"),
    ],
)
def test_download_checks_its_inputs(inputs: dict[str, Any], reason: str) -> None:
    with pytest.raises(NonRecoverableError, match=reason) as failure:
        run("download_image", context(), **inputs)
    assert str(failure.value).startswith("vm_abc123: ")


def test_download_lets_the_engine_retry_what_may_pass() -> None:
    with pytest.raises(RecoverableError, match="Connection refused"):
        run("download_image", context(), url="http://127.0.0.1:9/x.img")


# --- clone_image -------------------------------------------------------------------------------------


@pytest.fixture(params=["raw", "qcow2"])
def base(request: pytest.FixtureRequest, image: Path, tmp_path: Path) -> Path:
    if request.param == "raw":
        return image
    path = tmp_path / "base.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", image, path], check=True)
    return path


@pytest.mark.parametrize("mode", ["overlay", "clone"])
def test_clones_are_grown_qcow2_with_the_content(base: Path, tmp_path: Path, mode: str) -> None:
    target = tmp_path / "disks" / "vm.qcow2"
    stored = run("clone_image", context(), source=str(base), destination=str(target), mode=mode, size="3 MiB")
    assert stored == {
        "path": str(target), "format": "qcow2", "size_bytes": 3 << 20, "source": str(base), "mode": mode,
    }  # fmt: skip
    facts = info(target)
    assert (facts["format"], facts["virtual-size"]) == ("qcow2", 3 << 20)
    assert facts.get("full-backing-filename") == (str(base) if mode == "overlay" else None)
    assert facts.get("backing-filename-format") == (info(base)["format"] if mode == "overlay" else None)
    subprocess.run(["qemu-img", "convert", "-O", "raw", target, tmp_path / "flat"], check=True)
    assert (tmp_path / "flat").read_bytes() == CONTENT + bytes(2 << 20)
    assert files(target.parent) == ["vm.qcow2"]


def test_a_clone_is_made_once_and_then_left_alone(image: Path, tmp_path: Path) -> None:
    ctx, target = context(), tmp_path / "vm.qcow2"
    first = run("clone_image", ctx, base=str(image), destination=str(target))
    before = target.stat()
    assert run("clone_image", ctx, base=str(image), destination=str(target), size="1 GiB") == first
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    with pytest.raises(NonRecoverableError, match="not made by this instance"):
        run("clone_image", context(instance="vm_other"), base=str(image), destination=str(target))


def test_a_clone_that_was_killed_is_made_again(image: Path, tmp_path: Path) -> None:
    target = tmp_path / "vm.qcow2"
    (tmp_path / ".vm.qcow2.partial").write_bytes(b"half")
    run("clone_image", context({"path": str(target)}), source=str(image), destination=str(target))
    assert info(target)["virtual-size"] == len(CONTENT)
    assert not (tmp_path / ".vm.qcow2.partial").exists()


def test_a_file_that_came_meanwhile_is_kept(tmp_path: Path) -> None:
    destination = tmp_path / "disk.qcow2"

    def make(draft: Path) -> None:
        draft.write_text("ours")
        destination.write_text("somebody else's")

    with pytest.raises(Conflict, match="there is a file already"):
        place(destination, make)
    assert [path.name for path in tmp_path.iterdir()] == ["disk.qcow2"]
    assert destination.read_text() == "somebody else's"


def test_two_writers_of_one_disk_do_not_mix(tmp_path: Path) -> None:
    destination, second_came = tmp_path / "disk.qcow2", threading.Event()

    def first(draft: Path) -> None:
        draft.write_text("half")
        second_came.wait(1)
        assert draft.read_text() == "half"
        draft.write_text("whole")

    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(place, destination, first)
        while not any(tmp_path.iterdir()):
            assert not one.done()
        two = threads.submit(place, destination, lambda draft: second_came.set())
        assert one.result() is None
        assert isinstance(two.exception(), Conflict)
    assert destination.read_text() == "whole"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"source": ""}, "inputs.base: it is missing"),
        ({"source": "/nowhere.img"}, "there is no such file"),
        ({"destination": ""}, "inputs.destination: it is missing"),
        ({"destination": "vm.qcow2"}, "not an absolute path"),
        ({"mode": "link"}, "Modes: overlay, clone"),
        ({"size": "10 KiB"}, "less than the image's"),
        ({"size": 10}, "unit"),
        ({"format": "qcow2"}, "it is raw, not qcow2"),
    ],
)
def test_clone_checks_its_inputs(image: Path, tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    inputs = {"source": str(image), "destination": str(tmp_path / "vm.qcow2"), **change}
    ctx = context()
    with pytest.raises(NonRecoverableError, match=reason):
        run("clone_image", ctx, **inputs)
    assert files(tmp_path) == ["base.img"]
    assert ctx.instance.runtime_properties == {}


def test_an_image_that_names_other_files_is_not_cloned(image: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image, overlay], check=True)
    with pytest.raises(NonRecoverableError, match="backing file"):
        run("clone_image", context(), source=str(overlay), destination=str(tmp_path / "vm"))


def test_a_failure_of_qemu_img_leaves_nothing(image: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", image, broken], check=True)
    with broken.open("r+b") as file:
        file.seek(48)
        file.write((1).to_bytes(8, "big"))  # the place of the reference counts, which only QEMU reads
    with pytest.raises(NonRecoverableError, match="cannot clone"):
        run("clone_image", context(), source=str(broken), destination=str(tmp_path / "d" / "vm"), mode="clone")
    assert files(tmp_path / "d") == []


# --- unique_mac --------------------------------------------------------------------------------------


def test_macs_are_the_same_after_every_install() -> None:
    stored = run("unique_mac", context(index=1), count="3")
    assert stored["mac"] == stored["macs"][0]
    assert len(set(stored["macs"])) == 3
    assert all(mac.startswith("52:54:00:") for mac in stored["macs"])
    again = run("unique_mac", context(instance="vm_new999", index=1), count=3)
    assert again["macs"] == stored["macs"]
    assert not set(run("unique_mac", context(index=2), count=3)["macs"]) & set(stored["macs"])


@pytest.fixture
def define() -> Iterator[Callable[[str], None]]:
    from cloudify_libvirt.core.session import connect

    connection = connect("test:///default").connection
    made: list[Any] = []

    def call(mac: str) -> None:
        network = f"<interface type='network'><mac address='{mac}'/><source network='default'/></interface>"
        xml = f"<domain type='test'><name>other{len(made)}</name><memory>1024</memory><os><type>hvm</type></os>\
            <devices>{network}</devices></domain>"
        made.append(connection.defineXML(xml))

    yield call
    for domain in made:
        domain.undefine()


def test_a_mac_of_another_domain_is_not_given(define: Callable[[str], None]) -> None:
    uri = "test:///default"
    free = run("unique_mac", context(index=0), libvirt_auth=uri)["mac"]
    define(free)
    ours = context({"libvirt_auth": uri}, index=0)
    other = run("unique_mac", ours)["mac"]
    assert other != free
    define(other)  # now a domain of ours has it
    assert run("unique_mac", ours)["mac"] == other


def test_a_larger_count_keeps_what_was_given() -> None:
    ctx = context(index=0)
    first = run("unique_mac", ctx)["mac"]
    assert run("unique_mac", ctx, count=2)["macs"][0] == first


@pytest.mark.parametrize("count", ["none", -1, 33, [2]])
def test_unique_mac_checks_its_inputs(count: Any) -> None:
    with pytest.raises(NonRecoverableError, match=r"inputs\.count"):
        run("unique_mac", context(), count=count)


def test_on_a_relationship_only_the_source_is_written(image: Path) -> None:
    source, target = context(instance="vm_1"), context(instance="disk_1")
    both = MockCloudifyContext(deployment_id="shop", source=source, target=target)
    run_on = {"url": str(image)}
    with current_ctx.push(both, run_on):
        eval_script(str(SCRIPTS / "download_image.py"), both)
    assert source.instance.runtime_properties["path"] == str(image)
    assert target.instance.runtime_properties == {}
