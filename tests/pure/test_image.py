"""The image cache against a real HTTP server on this machine, real processes and a real full disk."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import multiprocessing
import os
import stat
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from image_server import PACKERS, RAW, Server, images, leftovers, sha

from cloudify_libvirt.core.errors import Conflict, ImageFailed, InvalidSpec
from cloudify_libvirt.core.image.cache import Image, ImageCache, detect_format, extract_root
from cloudify_libvirt.core.image.download import Progress

# --- fetching ----------------------------------------------------------------------------------------


def test_a_download_is_published_by_content(server: Server, cache: ImageCache) -> None:
    seen: list[Progress] = []
    old = os.umask(0o077)
    try:
        image = cache.fetch(server.url(), checksum=sha(RAW), progress=seen.append)
    finally:
        os.umask(old)
    assert image == Image(cache.directory / "images" / f"{sha(RAW)}.raw", sha(RAW), "raw", len(RAW), len(RAW))
    assert image.path.read_bytes() == RAW
    assert stat.S_IMODE(image.path.stat().st_mode) == 0o644
    assert stat.S_IMODE(image.path.parent.stat().st_mode) == 0o755
    assert leftovers(cache) == []
    assert (seen[-1].done_bytes, seen[-1].total_bytes) == (len(RAW), len(RAW))
    assert seen[-1].rate_bytes_s > 0


@pytest.mark.parametrize("prefix", ["sha256:", "SHA256:", ""])
def test_with_a_checksum_the_second_fetch_needs_no_network(server: Server, cache: ImageCache, prefix: str) -> None:
    first = cache.fetch(server.url(), checksum=prefix + sha(RAW))
    assert cache.fetch(server.url(), checksum=sha(RAW).upper()) == first
    assert cache.fetch(server.url("/mirror.img"), checksum=sha(RAW)) == first
    assert len(server.behaviour.requests) == 1


def test_sha512(server: Server, cache: ImageCache) -> None:
    image = cache.fetch(server.url(), checksum="sha512:" + sha(RAW, "sha512"))
    assert image.sha256 == sha(RAW)
    assert cache.fetch(server.url(), checksum=sha(RAW, "sha512")) == image
    assert cache.fetch(server.url(), checksum=sha(RAW)) == image
    assert len(server.behaviour.requests) == 1


@pytest.mark.parametrize("validator", [{"etag": '"v1"'}, {"etag": "", "modified": "Mon, 01 Jan 2024 00:00:00 GMT"}])
def test_without_a_checksum_the_server_is_asked_for_a_change(
    server: Server, cache: ImageCache, validator: dict[str, str]
) -> None:
    vars(server.behaviour).update(validator)
    first = cache.fetch(server.url())
    assert cache.fetch(server.url()) == first
    assert server.behaviour.sent == len(RAW)
    server.behaviour.content, server.behaviour.etag = RAW[::-1], '"v2"'
    server.behaviour.modified = "Tue, 02 Jan 2024 00:00:00 GMT"
    assert cache.fetch(server.url()).sha256 == sha(RAW[::-1])
    assert leftovers(cache) == []


def test_two_sources_of_one_content_do_not_disturb_each_other(server: Server, cache: ImageCache) -> None:
    cache.fetch(server.url("/a"))
    cache.fetch(server.url("/b"))
    cache.fetch(server.url("/a"))
    assert server.behaviour.sent == 2 * len(RAW)
    assert images(cache) == [f"{sha(RAW)}.raw"]


def test_a_damaged_image_in_the_cache_is_fetched_again(server: Server, cache: ImageCache) -> None:
    image = cache.fetch(server.url(), checksum=sha(RAW))
    with image.path.open("r+b") as file:
        file.write(b"changed")
    assert cache.fetch(server.url(), checksum=sha(RAW)).path.read_bytes() == RAW
    image.path.unlink()
    assert cache.fetch(server.url(), checksum=sha(RAW)).path.read_bytes() == RAW
    assert len(server.behaviour.requests) == 3


def test_an_unreadable_index_is_built_again(server: Server, cache: ImageCache) -> None:
    cache.fetch(server.url())
    for path in (cache.directory / "index").glob("*.json"):
        path.write_text("{half")
    assert cache.fetch(server.url()).path.read_bytes() == RAW


@pytest.mark.parametrize("how", [{"length": False}, {"chunked": True}])
def test_servers_that_do_not_say_the_length(server: Server, cache: ImageCache, how: dict[str, bool]) -> None:
    vars(server.behaviour).update(how)
    seen: list[Progress] = []
    assert cache.fetch(server.url(), progress=seen.append).path.read_bytes() == RAW
    assert seen[-1].total_bytes is None


def test_a_content_encoding_is_not_undone_before_the_checksum(server: Server, cache: ImageCache) -> None:
    packed = gzip.compress(RAW)
    server.behaviour.content, server.behaviour.encoding = packed, "gzip"
    assert cache.fetch(server.url("/disk.img.gz"), checksum=sha(packed)).sha256 == sha(RAW)


# --- resume ------------------------------------------------------------------------------------------


def test_a_cut_transfer_goes_on_where_it_stopped(server: Server, cache: ImageCache) -> None:
    server.behaviour.cut_at = [len(RAW) // 2, len(RAW) // 4]
    assert cache.fetch(server.url(), checksum=sha(RAW)).path.read_bytes() == RAW
    assert server.behaviour.sent == len(RAW)
    headers = server.behaviour.requests[1][1]
    assert (headers["Range"], headers["If-Range"]) == (f"bytes={len(RAW) // 2}-", '"v1"')


def test_a_cut_chunked_transfer_is_not_taken_for_whole(server: Server, cache: ImageCache) -> None:
    server.behaviour.chunked, server.behaviour.cut_at = True, [len(RAW) // 2]
    assert cache.fetch(server.url()).path.read_bytes() == RAW
    assert server.behaviour.sent == len(RAW)


def test_what_came_is_kept_for_the_next_run(server: Server, cache: ImageCache) -> None:
    server.behaviour.cut_at = [1 << 20, 0]
    with pytest.raises(ImageFailed) as failure:
        cache.fetch(server.url(), checksum=sha(RAW))
    assert failure.value.retryable
    assert images(cache) == []
    assert cache.fetch(server.url(), checksum=sha(RAW)).path.read_bytes() == RAW
    assert server.behaviour.sent == len(RAW)
    assert leftovers(cache) == []


def cut_once(server: Server, cache: ImageCache) -> None:
    server.behaviour.cut_at = [1 << 20, 0]
    with pytest.raises(ImageFailed):
        cache.fetch(server.url())
    server.behaviour.requests.clear()


@pytest.mark.parametrize("if_range", [True, False])
def test_a_document_that_changed_in_between_starts_again(server: Server, cache: ImageCache, if_range: bool) -> None:
    cut_once(server, cache)
    changed = RAW[::-1]
    server.behaviour.content, server.behaviour.etag, server.behaviour.if_range = changed, '"v2"', if_range
    assert cache.fetch(server.url()).path.read_bytes() == changed


def test_a_document_that_shrank_starts_again(server: Server, cache: ImageCache) -> None:
    cut_once(server, cache)
    server.behaviour.content, server.behaviour.if_range = RAW[:1000], False
    assert cache.fetch(server.url()).path.read_bytes() == RAW[:1000]
    assert "Range" not in server.behaviour.requests[-1][1]


def test_a_server_without_ranges_gives_no_duplicate_data(server: Server, cache: ImageCache) -> None:
    cut_once(server, cache)
    server.behaviour.ranges = False
    assert cache.fetch(server.url(), checksum=sha(RAW)).path.read_bytes() == RAW


def test_a_weak_etag_is_not_trusted_for_a_range(server: Server, cache: ImageCache) -> None:
    server.behaviour.etag = 'W/"v1"'
    cut_once(server, cache)
    assert cache.fetch(server.url()).path.read_bytes() == RAW
    assert "Range" not in server.behaviour.requests[0][1]


def test_a_server_that_always_cuts_ends_in_an_error(server: Server, cache: ImageCache) -> None:
    server.behaviour.ranges, server.behaviour.cut_at = False, [1 << 20] * 9
    with pytest.raises(ImageFailed, match="connection failed"):
        cache.fetch(server.url())
    assert len(server.behaviour.requests) == 2


def test_a_damaged_partial_file_is_not_tried_twice(server: Server, cache: ImageCache) -> None:
    cut_once(server, cache)
    (part,) = (cache.directory / "partial").glob("*.part")
    part.write_bytes(bytes(part.stat().st_size))
    with pytest.raises(ImageFailed) as failure:
        cache.fetch(server.url(), checksum=sha(RAW))
    assert failure.value.retryable
    assert leftovers(cache) == []
    assert cache.fetch(server.url(), checksum=sha(RAW)).path.read_bytes() == RAW


def test_partial_files_that_nobody_wants_go_after_a_week(server: Server, cache: ImageCache) -> None:
    cut_once(server, cache)
    old = time.time() - 8 * 24 * 3600
    for path in (cache.directory / "partial").iterdir():
        os.utime(path, (old, old))
    cache.fetch(server.url("/other.img"))
    assert leftovers(cache) == []


def fetch_in_process(directory: str, url: str, checksum: str, answers: Any) -> None:
    answers.put(str(ImageCache(Path(directory)).fetch(url, checksum=checksum).path))


@pytest.mark.parametrize("checksum", [sha(RAW), ""])
def test_ten_processes_make_one_download(server: Server, cache: ImageCache, checksum: str) -> None:
    server.behaviour.delay_s = 0.5
    server.behaviour.etag = ""  # so that nobody can be told "not modified"
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    arguments = (str(cache.directory), server.url(), checksum, answers)
    processes = [context.Process(target=fetch_in_process, args=arguments) for _ in range(10)]
    for process in processes:
        process.start()
    paths = {answers.get() for _ in processes}
    for process in processes:
        process.join(20)
    assert paths == {str(cache.directory / "images" / f"{sha(RAW)}.raw")}
    assert len(server.behaviour.requests) == 1


def test_ten_threads_make_one_download(server: Server, cache: ImageCache) -> None:
    server.behaviour.delay_s = 0.2
    with ThreadPoolExecutor(10) as pool:
        fetched = set(pool.map(lambda _: cache.fetch(server.url(), checksum=sha(RAW)), range(10)))
    assert len(fetched) == 1
    assert len(server.behaviour.requests) == 1


def test_a_killed_process_leaves_what_the_next_goes_on_with(server: Server, cache: ImageCache) -> None:
    server.behaviour.content = RAW * 8
    program = (
        "import sys, os, pathlib\n"
        "from cloudify_libvirt.core.image import cache, download\n"
        "download._REPORT_EVERY_S = 0\n"
        "def die(progress):\n"
        "    if progress.done_bytes > 5 << 20: os.kill(os.getpid(), 9)\n"
        "cache.ImageCache(pathlib.Path(sys.argv[1])).fetch(sys.argv[2], progress=die)\n"
    )
    run = subprocess.run([sys.executable, "-c", program, cache.directory, server.url()], cwd=Path(__file__).parents[2])
    assert run.returncode == -9
    (part,) = (cache.directory / "partial").glob("*.part")
    kept = part.stat().st_size
    assert kept > 1 << 20
    assert cache.fetch(server.url(), checksum=sha(RAW * 8)).file_bytes == len(RAW) * 8
    assert server.behaviour.requests[-1][1]["Range"] == f"bytes={kept}-"
    assert leftovers(cache) == []


# --- refusals ----------------------------------------------------------------------------------------


def test_a_wrong_checksum_publishes_and_leaves_nothing(server: Server, cache: ImageCache) -> None:
    wrong = "sha256:" + "0" * 64
    with pytest.raises(ImageFailed) as failure:
        cache.fetch(server.url(), checksum=wrong)
    for fact in (server.url(), "0" * 64, sha(RAW)):
        assert fact in str(failure.value)
    assert not failure.value.retryable
    assert leftovers(cache) == images(cache) == []
    assert not list((cache.directory / "index").glob("*.json"))


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (403, False), (500, True), (503, True), (429, True)])
def test_refusals_of_the_server(server: Server, cache: ImageCache, status: int, retryable: bool) -> None:
    server.behaviour.status = status
    with pytest.raises(ImageFailed, match=str(status)) as failure:
        cache.fetch(server.url())
    assert failure.value.retryable is retryable
    assert images(cache) == []


def test_no_server(cache: ImageCache) -> None:
    with pytest.raises(ImageFailed, match="Connection refused") as failure:
        cache.fetch("http://127.0.0.1:9/disk.img")
    assert failure.value.retryable


def test_secrets_of_a_url_stay_out_of_errors_and_files(server: Server, cache: ImageCache) -> None:
    url = server.url("/disk.img?token=S3CRET").replace("http://", "http://me:S3CRET@")
    cache.fetch(url)
    server.behaviour.status = 500
    with pytest.raises(ImageFailed) as refused:
        cache.fetch(url)
    with pytest.raises(ImageFailed) as unreachable:
        cache.fetch("http://me:S3CRET@127.0.0.1:9/disk.img?token=S3CRET")
    assert "S3CRET" not in str(refused.value) + str(unreachable.value)
    assert unreachable.value.__suppress_context__
    assert not [path for path in (cache.directory / "index").iterdir() if "S3CRET" in path.read_text()]


def test_redirects_are_followed(server: Server, cache: ImageCache) -> None:
    server.behaviour.redirect = "/disk.img"
    assert cache.fetch(server.url("/moved")).path.read_bytes() == RAW


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/passwd", "/moved/again"])
def test_redirects_to_elsewhere_or_nowhere_are_refused(server: Server, cache: ImageCache, target: str) -> None:
    server.behaviour.redirect = target
    with pytest.raises(ImageFailed, match="redirect"):
        cache.fetch(server.url("/moved"))
    assert len(server.behaviour.requests) <= 11


def test_https_never_becomes_http() -> None:
    from cloudify_libvirt.core.image.web import _redirected

    assert _redirected("http://a/x", "https://b/y") == "https://b/y"
    with pytest.raises(ImageFailed, match="from https to http"):
        _redirected("https://a/x", "http://a/x")


@pytest.mark.parametrize("source", ["", "ftp://h/x", "ssh://h/x", "http:///x", "file://other/x", "data:,x"])
def test_other_sources_are_refused(cache: ImageCache, source: str) -> None:
    with pytest.raises(InvalidSpec, match="not a source"):
        cache.fetch(source)


@pytest.mark.parametrize("checksum", ["md5:" + "0" * 32, "0" * 63, "sha256:" + "g" * 64, "sha512:" + "0" * 64, "x"])
def test_other_checksums_are_refused(cache: ImageCache, checksum: str) -> None:
    with pytest.raises(InvalidSpec, match="checksum"):
        cache.fetch("http://127.0.0.1:9/x", checksum=checksum)


FULL_DISK = """
import pathlib, sys
from cloudify_libvirt.core.errors import ImageFailed
from cloudify_libvirt.core.image.cache import ImageCache
directory = pathlib.Path(sys.argv[1])
try:
    ImageCache(directory / "cache").fetch(sys.argv[2])
except ImageFailed as error:
    print(error)
print(sorted(path.name for path in (directory / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"))
"""


@pytest.mark.parametrize(("with_length", "packed"), [(True, False), (False, False), (True, True)])
def test_a_full_disk_gives_a_clear_error_and_gets_its_space_back(
    server: Server, tmp_path: Path, with_length: bool, packed: bool
) -> None:
    server.behaviour.length = with_length
    if packed:
        server.behaviour.content = gzip.compress(hashlib.shake_256(b"x").digest(1 << 15) * 60)
    program = f"exec {sys.executable} -c '{FULL_DISK}' {tmp_path} {server.url()}"
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path} && {program}"
    flags = ["-m"] if os.geteuid() == 0 else ["-Urm"]
    run = subprocess.run(
        ["unshare", *flags, "sh", "-c", mount], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    if "unshare" in run.stderr or "mount" in run.stderr:
        pytest.skip("may not mount a small file system")
    error, files = run.stdout.strip().split("\n")
    assert f"no space left in {tmp_path}/cache" in error
    assert files == "[]"


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ImageFailed, match="The cache is"):
        ImageCache(tmp_path / "file" / "cache").fetch("http://127.0.0.1:9/x")


def test_the_directory_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDIFY_LIBVIRT_CACHE", str(tmp_path / "mine"))
    assert ImageCache().directory == tmp_path / "mine"
    monkeypatch.delenv("CLOUDIFY_LIBVIRT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ImageCache().directory == tmp_path / "cloudify-libvirt"


# --- local images ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
def test_a_local_image_is_used_where_it_lies(cache: ImageCache, tmp_path: Path, form: str) -> None:
    path = tmp_path / "my disk.img"
    path.write_bytes(RAW)
    image = cache.fetch(form.format(str(path).replace(" ", "%20") if "file:" in form else path), checksum=sha(RAW))
    assert image == Image(path, sha(RAW), "raw", len(RAW), len(RAW))
    assert images(cache) == []


def test_a_local_digest_is_remembered_until_the_file_changes(
    cache: ImageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cloudify_libvirt.core.image.cache as module

    hashed: list[Path] = []
    real = module.image_files.digests
    monkeypatch.setattr(module.image_files, "digests", lambda path, names: hashed.append(path) or real(path, names))
    path = tmp_path / "disk.img"
    path.write_bytes(RAW)
    assert cache.fetch(str(path)).sha256 == cache.fetch(str(path)).sha256 == sha(RAW)
    assert len(hashed) == 1
    path.write_bytes(RAW[::-1])
    assert cache.fetch(str(path)).sha256 == sha(RAW[::-1])
    with pytest.raises(ImageFailed, match=sha(RAW)):
        cache.fetch(str(path), checksum=sha(RAW))


def test_a_missing_local_image_is_named(cache: ImageCache, tmp_path: Path) -> None:
    with pytest.raises(ImageFailed, match=r"nowhere\.img: there is no such file.*give a URL"):
        cache.fetch(str(tmp_path / "nowhere.img"))
    with pytest.raises(ImageFailed, match="no regular file"):
        cache.fetch(str(tmp_path))


# --- compression and formats -------------------------------------------------------------------------


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("is_local", [False, True])
def test_compressed_images_are_unpacked(
    server: Server, cache: ImageCache, tmp_path: Path, packing: str, is_local: bool
) -> None:
    content = RAW[:700_000] + bytes(5 << 20)
    packed = PACKERS[packing](content[:1000]) + PACKERS[packing](content[1000:])  # as parallel packers write
    server.behaviour.content = packed
    (tmp_path / "disk").write_bytes(packed)
    source = str(tmp_path / "disk") if is_local else server.url()
    image = cache.fetch(source, checksum=sha(packed))
    assert (image.sha256, image.format, image.size_bytes) == (sha(content), "raw", len(content))
    assert image.path == cache.directory / "images" / f"{sha(content)}.raw"
    assert image.path.read_bytes() == content
    assert image.path.stat().st_blocks * 512 < 3 << 20  # holes
    assert cache.fetch(source, checksum=sha(packed)) == image
    assert leftovers(cache) == []


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_damaged_compression_is_an_error(server: Server, cache: ImageCache, packing: str, damage: str) -> None:
    packed = PACKERS[packing](RAW)
    half = len(packed) // 2
    server.behaviour.content = packed[:half] + (RAW[:half] if damage == "noise" else b"")
    with pytest.raises(ImageFailed, match="damaged or ends too early"):
        cache.fetch(server.url())
    assert leftovers(cache) == images(cache) == []


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_qcow2_shows_its_virtual_size(cache: ImageCache, tmp_path: Path, compat: str) -> None:
    path = tmp_path / "disk.img"
    qemu_img("create", "-f", "qcow2", "-o", f"compat={compat}", path, "5G")
    image = cache.fetch(str(path))
    assert (image.format, image.size_bytes, image.file_bytes) == ("qcow2", 5 << 30, path.stat().st_size)


def test_a_qcow2_inside_a_compression(server: Server, cache: ImageCache, tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "disk", "1G")
    server.behaviour.content = lzma.compress((tmp_path / "disk").read_bytes())
    image = cache.fetch(server.url("/disk.qcow2.xz"))
    assert (image.format, image.size_bytes, image.path.suffix) == ("qcow2", 1 << 30, ".qcow2")


def test_an_image_that_names_other_files_is_refused(server: Server, cache: ImageCache, tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(bytes(1 << 20))
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", tmp_path / "base", tmp_path / "overlay")
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", tmp_path / "external", "1M")
    for name, what in (("overlay", "backing file"), ("external", "data file")):
        with pytest.raises(ImageFailed, match=what):
            cache.fetch(str(tmp_path / name))
        server.behaviour.content = (tmp_path / name).read_bytes()
        with pytest.raises(ImageFailed, match=what):
            cache.fetch(server.url(f"/{name}"))
    assert leftovers(cache) == images(cache) == []


@pytest.mark.parametrize("options", [[], ["-c"], ["-o", "extended_l2=on"], ["-o", "cluster_size=4k"]])
def test_a_cut_qcow2_is_seen_although_qemu_reads_zeros_there(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "raw").write_bytes(bytes(4 << 20) + RAW)
    path = tmp_path / "disk"
    qemu_img("convert", "-O", "qcow2", *options, tmp_path / "raw", path)
    assert detect_format(path) == ("qcow2", len(RAW) + (4 << 20))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 3 // 4)
    with pytest.raises(ImageFailed, match="cut short"):
        detect_format(path)


def test_raw_stays_raw_whatever_a_guest_wrote_to_it(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    qemu_img("create", "-f", "qcow2", path, "1G")
    assert detect_format(path, expected="raw") == ("raw", path.stat().st_size)
    assert detect_format(path, expected="qcow2") == ("qcow2", 1 << 30)
    path.write_bytes(RAW)
    with pytest.raises(ImageFailed, match="it is raw, not qcow2"):
        detect_format(path, expected="qcow2")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"<!DOCTYPE html><p>no", "HTML"), (b"KDMV" + bytes(600), "VMDK"),
     (b"QFI\xfb\0\0\0\3", "header is cut short"), (b"QFI\xfb\0\0\0\1" + bytes(99), "version 1"),
     (b"\x1f\x8b\x08" + bytes(99), "damaged")],
)  # fmt: skip
def test_what_is_no_image_is_refused(cache: ImageCache, tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(content)
    with pytest.raises(ImageFailed, match=reason):
        cache.fetch(str(path))


# --- container roots ---------------------------------------------------------------------------------


def member(name: str, kind: bytes = tarfile.REGTYPE, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, 0o755, 1_000_000_000
    vars_of = {key: value for key, value in more.items() if key != "content"}
    for key, value in vars_of.items():
        setattr(info, key, value)
    return info


def make_tar(*members: tarfile.TarInfo, content: bytes = b"hello") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info in members:
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    return member(name, kind, linkname=target)


ROOT = make_tar(
    member("./", tarfile.DIRTYPE),
    member("./usr/", tarfile.DIRTYPE),
    member("./usr/bin/", tarfile.DIRTYPE, mode=0o555),
    link("./bin", "usr/bin"),
    member("./bin/su", mode=0o4755, uid=0, gid=42),
    member("./etc/shadow", mode=0o640, uid=100, gid=42),
    link("./etc/mtab", "/proc/mounts"),
    link("./usr/bin/sh", "../../bin/su"),
    link("./usr/bin/su2", "usr/bin/su", tarfile.LNKTYPE),
    member("./dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3),
    member("./run/pipe", tarfile.FIFOTYPE, mode=0o600),
    member("./é漢", mode=0o644),
)


@pytest.mark.parametrize("packing", ["", *PACKERS])
def test_a_root_is_unpacked_as_it_is(cache: ImageCache, server: Server, tmp_path: Path, packing: str) -> None:
    packed = PACKERS[packing](ROOT) if packing else ROOT
    server.behaviour.content = packed
    image = cache.fetch(server.url(), checksum=sha(packed))
    assert (image.format, image.sha256) == ("tar", sha(packed))
    assert image.path.name == f"{sha(packed)}.tar" + (f".{packing}" if packing else "")
    root = tmp_path / "deep" / "root"
    extract_root(image.path, root)
    su, shadow = (root / "usr/bin/su").stat(), (root / "etc/shadow").stat()
    assert (root / "bin").readlink() == Path("usr/bin")
    assert (root / "etc/mtab").readlink() == Path("/proc/mounts")
    assert (stat.S_IMODE(su.st_mode), su.st_nlink, su.st_mtime) == (0o4755, 2, 1_000_000_000)
    assert stat.S_IMODE(shadow.st_mode) == 0o640
    assert (root / "é漢").read_bytes() == b"hello"
    assert not (root / "dev/null").exists()
    assert (root / "run/pipe").is_fifo()
    assert (root / "usr/bin").stat().st_mtime == 1_000_000_000
    assert stat.S_IMODE((root / "usr/bin").stat().st_mode) == 0o555
    if os.geteuid() == 0:
        assert (su.st_uid, su.st_gid, shadow.st_uid, shadow.st_gid) == (0, 42, 100, 42)
    assert [path.name for path in root.parent.iterdir()] == ["root"]
    with pytest.raises(Conflict):
        extract_root(image.path, root)


@pytest.mark.parametrize(
    "members",
    [
        [member("/etc/evil")],
        [member("a/../../evil")],
        [link("evil", "../x")],
        [member("a/", tarfile.DIRTYPE), link("a/evil", "../../x")],
        [member("a"), link("evil", "../a", tarfile.LNKTYPE)],
        [member("a"), link("evil", "/etc/passwd", tarfile.LNKTYPE)],
        [link("a", "b"), link("b", "a"), member("a/evil")],
        [member("a"), member("a/evil")],
        [member("a/", tarfile.DIRTYPE), member("a")],
        [member("./", tarfile.SYMTYPE, linkname="x")],
    ],
)
def test_names_and_links_that_leave_the_root_are_refused(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    (tmp_path / "x.tar").write_bytes(make_tar(*members))
    with pytest.raises(ImageFailed):
        extract_root(tmp_path / "x.tar", tmp_path / "in" / "root")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "x.tar"]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    data = make_tar(
        link("abs", str(outside)), member("abs/one"), link("file", str(outside / "two")), member("file"),
        member("d/e/", tarfile.DIRTYPE), link("d/e/up", "../../d"), member("d/e/up/three"),
    )  # fmt: skip
    (tmp_path / "x.tar").write_bytes(data)
    extract_root(tmp_path / "x.tar", tmp_path / "root")
    assert list(outside.iterdir()) == []
    assert (tmp_path / "root" / str(outside)[1:] / "one").read_bytes() == b"hello"
    assert not (tmp_path / "root/file").is_symlink()
    assert (tmp_path / "root/d/three").exists()


@pytest.mark.parametrize("packing", ["", *PACKERS])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_cut_root_leaves_nothing(tmp_path: Path, packing: str, keep: float) -> None:
    whole = make_tar(*(member(f"f{number}") for number in range(40)), content=RAW[:3000])
    packed = PACKERS[packing](whole) if packing else whole[: 40 * 4096]
    (tmp_path / "x.tar").write_bytes(packed[: int(len(packed) * keep)])
    with pytest.raises(ImageFailed):
        extract_root(tmp_path / "x.tar", tmp_path / "root")
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_a_tar_cut_between_members_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(make_tar(member("a"), member("b"))[:1024])
    with pytest.raises(ImageFailed, match="ends too early"):
        extract_root(tmp_path / "x.tar", tmp_path / "root")


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(ROOT)
    (tmp_path / "root.partial" / "half").mkdir(parents=True)
    (tmp_path / "root").mkdir()
    extract_root(tmp_path / "x.tar", tmp_path / "root")
    assert not (tmp_path / "root" / "half").exists()
    assert not (tmp_path / "root.partial").exists()
