"""What is in the image cache and what of it may go, while other processes fetch and read."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from image_server import PACKERS, RAW, Server, images, leftovers, sha

from cloudify_libvirt.cli.main import main
from cloudify_libvirt.core.errors import ImageFailed
from cloudify_libvirt.core.image import files as image_files
from cloudify_libvirt.core.image.cache import ImageCache
from cloudify_libvirt.core.image.inventory import Inventory

DAY_S = 86400.0
READER = """
import pathlib, sys
from cloudify_libvirt.core.image.cache import ImageCache
image = ImageCache(pathlib.Path(sys.argv[1])).fetch(sys.argv[2], checksum=sys.argv[3])
print(image.path, flush=True)
sys.stdin.read()
"""


def put(cache: ImageCache, server: Server, content: bytes, days: float) -> str:
    """Have an image in the cache that was last used so many days ago and is in use no more; return its file's name."""
    server.behaviour.content, server.behaviour.etag = content, f'"{sha(content)}"'
    path = cache.fetch(server.url(f"/{sha(content)[:8]}.img")).path
    image_files.release_all()
    os.utime(path, ns=(int((time.time() - days * DAY_S) * 1e9), path.stat().st_mtime_ns))
    return path.name


def block(number: int) -> bytes:
    return bytes([number]) * (1 << 20)


@pytest.fixture
def three(cache: ImageCache, server: Server) -> list[str]:
    """Three images of 1 MiB, the longest unused first."""
    return [put(cache, server, block(number), days) for number, days in ((1, 40), (2, 20), (3, 1))]


@pytest.fixture
def reader(cache: ImageCache, server: Server) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that has just fetched an image and goes on running."""
    command = [sys.executable, "-c", READER, str(cache.directory), server.url(), sha(RAW)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


# --- leases ------------------------------------------------------------------------------------------


def test_what_another_process_may_read_stays(cache: ImageCache, reader: tuple[Any, Path], three: list[str]) -> None:
    process, path = reader
    assert [item.name for item in Inventory(cache).items() if item.in_use] == [path.name]
    assert sorted(item.name for item in Inventory(cache).prune(dry_run=True)) == sorted(three)
    assert not image_files.remove_unless_leased(path)  # looked at again when it would go
    assert sorted(item.name for item in Inventory(cache).prune()) == sorted(three)
    assert path.read_bytes() == RAW
    process.kill()
    process.wait()
    assert [item.name for item in Inventory(cache).prune()] == [path.name]
    assert images(cache) == []


def test_what_this_process_fetched_stays(cache: ImageCache, server: Server) -> None:
    image = cache.fetch(server.url(), checksum=sha(RAW))
    assert Inventory(cache).prune() == []
    image_files.release_all()
    cache.fetch(server.url(), checksum=sha(RAW))  # known, not downloaded: it is leased again
    assert Inventory(cache).prune() == []
    assert image.path.exists()


def test_a_second_source_of_a_content_does_not_take_it_from_its_reader(
    cache: ImageCache, server: Server, reader: tuple[Any, Path]
) -> None:
    _, path = reader
    inode = path.stat().st_ino
    cache.fetch(server.url("/mirror.img"))
    image_files.release_all()
    assert path.stat().st_ino == inode
    assert Inventory(cache).prune() == []


def test_a_use_is_noted(cache: ImageCache, server: Server, three: list[str]) -> None:
    cache.fetch(server.url("/any.img"), checksum=three[0].partition(".")[0])
    item = next(item for item in Inventory(cache).items() if item.name == three[0])
    assert time.time() - item.used_at < 60
    assert len(server.behaviour.requests) == 3


def fetch_and_prune(directory: str, url: str, number: int, answers: Any) -> None:
    cache = ImageCache(Path(directory))
    wrong = 0
    for turn in range(12):
        if number % 2:
            Inventory(cache).prune()
            continue
        content = block(turn % 3)
        image = cache.fetch(f"{url}{turn % 3}", checksum=sha(content))
        wrong += image.path.read_bytes() != content
        image_files.release_all()
    answers.put(wrong)


def test_fetching_and_pruning_at_once_never_takes_an_image_from_under_its_reader(
    cache: ImageCache, server: Server
) -> None:
    server.behaviour.files = {f"/{number}": block(number) for number in range(3)}
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    arguments = [(str(cache.directory), server.url("/"), number, answers) for number in range(6)]
    processes = [context.Process(target=fetch_and_prune, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    assert [answers.get() for _ in processes] == [0] * 6


# --- pruning -----------------------------------------------------------------------------------------


def test_only_what_is_older(cache: ImageCache, three: list[str]) -> None:
    assert [item.name for item in Inventory(cache).prune(older_than_s=30 * DAY_S)] == three[:1]
    assert images(cache) == sorted(three[1:])


def test_the_longest_unused_go_until_the_rest_fits(cache: ImageCache, three: list[str]) -> None:
    inventory = Inventory(cache)
    assert inventory.prune(keep_bytes=64 << 20) == []
    assert [item.name for item in inventory.prune(keep_bytes=1 << 20, dry_run=True)] == three[:2]
    assert images(cache) == sorted(three)
    assert [item.name for item in inventory.prune(keep_bytes=1 << 20)] == three[:2]
    assert [item.name for item in inventory.prune(older_than_s=30 * DAY_S, keep_bytes=0)] == three[2:]


def test_what_is_pruned_is_fetched_again(cache: ImageCache, server: Server, three: list[str]) -> None:
    Inventory(cache).prune()
    assert images(cache) == []
    assert not list((cache.directory / "index").glob("*.json"))
    assert put(cache, server, block(2), 0) == three[1]


def test_broken_transfers_go_but_not_one_under_way(cache: ImageCache, server: Server) -> None:
    server.behaviour.cut_at = [1 << 20, 0]
    with pytest.raises(ImageFailed):
        cache.fetch(server.url())
    (part,) = (cache.directory / "partial").glob("*.part")
    with cache.lock(part.stem, "x"):
        assert Inventory(cache).prune() == []
        (item,) = Inventory(cache).items()
        assert (item.in_use, item.sha256, item.format) == (True, "", "partial")
    assert [item.name for item in Inventory(cache).prune()] == [part.name]
    assert leftovers(cache) == []


def test_local_images_are_no_part_of_the_cache(cache: ImageCache, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(RAW)
    cache.fetch(str(tmp_path / "disk"))
    assert Inventory(cache).items() == Inventory(cache).prune() == []
    assert (tmp_path / "disk").read_bytes() == RAW


def test_an_empty_cache(tmp_path: Path) -> None:
    assert Inventory(ImageCache(tmp_path / "none")).prune() == []
    assert not (tmp_path / "none").exists()


# --- commands ----------------------------------------------------------------------------------------


@pytest.fixture
def run(cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CLOUDIFY_LIBVIRT_CACHE", str(cache.directory))

    def call(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == code, result.output
        return result

    return call


def test_list_and_prune(run: Any, cache: ImageCache, server: Server, three: list[str]) -> None:
    listed = json.loads(run("cache", "list", "--json").output)
    assert [image["name"] for image in listed["images"]] == three
    assert listed["images"][0]["sources"] == [server.url(f"/{three[0][:8]}.img")]
    text = run("cache", "list").output
    assert f"3 in {cache.directory}, 3 MiB on the disk" in text
    assert "would remove" in run("cache", "prune", "--older-than", "30d", "--dry-run").output
    assert images(cache) == sorted(three)
    assert "removed 1, 1 MiB" in run("cache", "prune", "--older-than", "30d").output
    assert "removed 1, 1 MiB" in run("cache", "prune", "--keep-bytes", "1 MiB").output
    assert images(cache) == three[2:]
    for wrong in (["--older-than", "x"], ["--keep-bytes", "x"], ["--pools"], ["--uri", "test:///default"]):
        run("cache", "prune", *wrong, code=64)


def test_verify_finds_what_was_damaged(run: Any, cache: ImageCache, three: list[str]) -> None:
    assert "0 damaged" in run("cache", "verify").output
    path = cache.directory / "images" / three[1]
    status = path.stat()
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert f"damaged: {three[1]}" in run("cache", "verify", code=1).output
    assert path.exists()
    assert f"damaged, removed: {three[1]}" in run("cache", "verify", "--remove", code=1).output
    assert images(cache) == sorted([three[0], three[2]])
    assert [item.name for item in Inventory(cache).items()] == [three[0], three[2]]


def test_pull_by_url_and_by_name(run: Any, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = PACKERS["xz"](RAW)
    server.behaviour.content = packed
    server.behaviour.files["/SUMS"] = f"{sha(packed)}  disk.img\n".encode()
    path = run("image", "pull", server.url(), "--checksum", sha(packed)).stdout.strip()
    assert Path(path).read_bytes() == RAW
    (tmp_path / "images.yaml").write_text(
        f"mine: {{url: '{server.url()}', checksum: '{server.url('/SUMS')}', ssh_user: me, title: Mine}}\n"
        f"theirs: {{files: {{s390x: {{url: '{server.url()}'}}}}}}\n"
    )
    monkeypatch.setenv("CLOUDIFY_LIBVIRT_CATALOGUE", str(tmp_path / "images.yaml"))
    assert run("image", "pull", "mine").stdout.strip() == path
    assert server.asked("/disk.img") == 1
    assert run("image", "pull", "theirs", "--arch", "s390x").stdout.strip() == path
    assert "for s390x, not for x86_64" in run("image", "pull", "theirs", "--arch", "x86_64", code=1).output
    assert "Names: mine" in run("image", "pull", "mien", code=1).output
    shown = json.loads(run("image", "show", "mine").output)
    assert (shown["ssh_user"], shown["origin"]) == ("me", str(tmp_path / "images.yaml"))
    assert "mine                 all              Mine" in run("image", "list").output
    assert json.loads(run("image", "list", "--json").output)["mine"]["ssh_user"] == "me"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local.img").write_bytes(RAW)
    assert run("image", "pull", "local.img").stdout.strip() == str(tmp_path / "local.img")
