"""Where images come from: lists of checksums, logins, servers that stall or are busy, limits, and no server at all."""

from __future__ import annotations

import logging
import lzma
import random
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from image_server import PACKERS, RAW, Server, basic, images, leftovers, sha

from cloudify_libvirt.core.errors import ImageFailed, InvalidSpec
from cloudify_libvirt.core.image import checksum_lists, web
from cloudify_libvirt.core.image.cache import ImageCache
from cloudify_libvirt.core.image.checksum import Checksum, find_in_list
from cloudify_libvirt.core.image.download import Progress

OTHER = RAW[::-1]
CANARY = "me:S3CR3T-canary"


def gnu(content: bytes, name: str, algorithm: str = "sha256", mark: str = " ") -> bytes:
    return f"{sha(content, algorithm)} {mark}{name}\n".encode()


# --- lists of checksums ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "algorithm"),
    [
        (f"{sha(RAW)}  disk.img\n", "sha256"),
        (f"{sha(RAW)} *disk.img\n", "sha256"),
        (f"{sha(RAW).upper()}  ./images/disk.img\r\n", "sha256"),
        (f"\\{sha(RAW)}  disk.img\n", "sha256"),
        (f"SHA256 (disk.img) = {sha(RAW)}\n", "sha256"),
        (f"SHA512 (disk.img) = {sha(RAW, 'sha512')}\n", "sha512"),
        (f"{sha(RAW, 'sha512')}  disk.img\n", "sha512"),
        (f"{sha(RAW)}\n", "sha256"),
        (f"{sha(RAW, 'sha512')}\n", "sha512"),
        (f"{sha(RAW, 'sha512')}  disk.img\n{sha(RAW)}  disk.img\n", "sha256"),
        (
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# disk.img: 9 bytes\n"
            f"SHA256 (disk.img) = {sha(RAW)}\nSHA256 (disk.img.old) = {sha(OTHER)}\n-----BEGIN PGP SIGNATURE-----\n"
            "\niQIzBAEBCAAdFiEE\n-----END PGP SIGNATURE-----\n",
            "sha256",
        ),
    ],
)
def test_forms_of_lists(text: str, algorithm: str) -> None:
    assert find_in_list(text, "disk.img", "LIST") == Checksum(algorithm, sha(RAW, algorithm))


def test_what_a_list_must_not_be() -> None:
    assert find_in_list(f"{sha(RAW)}  other.img\n", "disk.img", "LIST") is None
    assert find_in_list(f"SHA512 (disk.img) = {sha(RAW)}\nSHA256 (o) = {sha(RAW)}\n", "disk.img", "LIST") is None
    for text in ("", "<html>not found</html>", "d41d8cd98f00b204e9800998ecf8427e  disk.img\n"):
        with pytest.raises(ImageFailed, match="no line with a sha256 or sha512"):
            find_in_list(text, "disk.img", "LIST")
    with pytest.raises(ImageFailed, match=r"two values for disk\.img"):
        find_in_list(f"{sha(RAW)}  a/disk.img\n{sha(OTHER)}  b/disk.img\n", "disk.img", "LIST")


@pytest.mark.parametrize("text", ["sha256:" + "A" * 64, "b" * 128, "https://h/SHA256SUMS", "file:///x", "/x/SUMS", ""])
def test_a_checksum_reads_what_it_writes(text: str) -> None:
    first = Checksum.parse(text)
    assert Checksum.parse(str(first)) == first
    assert bool(str(first)) == bool(text)


@pytest.mark.parametrize("text", ["SHA256SUMS", "ftp://h/x", "sha256:https://h/x"])
def test_other_places_of_lists_are_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="URL of a list such as SHA256SUMS"):
        Checksum.parse(text)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_an_image_is_verified_by_its_list(server: Server, cache: ImageCache, algorithm: str) -> None:
    server.behaviour.files["/SUMS"] = gnu(OTHER, "other.img", algorithm) + gnu(RAW, "disk.img", algorithm, "*")
    image = cache.fetch(server.url(), checksum=server.url("/SUMS"))
    assert image.sha256 == sha(RAW)
    assert cache.fetch(server.url(), checksum=server.url("/SUMS")) == image
    assert (server.asked("/SUMS"), server.asked("/disk.img")) == (1, 1)
    server.behaviour.content = OTHER
    server.behaviour.files["/NEW"] = gnu(b"x", "disk.img") + gnu(OTHER, "two.img", algorithm)
    with pytest.raises(ImageFailed, match=f"its sha256 is {sha(OTHER)}, expected {sha(b'x')}"):
        cache.fetch(server.url(), checksum=server.url("/NEW"))
    assert leftovers(cache) == []


def test_a_list_on_this_host(server: Server, cache: ImageCache, tmp_path: Path) -> None:
    (tmp_path / "SUMS").write_bytes(gnu(RAW, "disk.img"))
    (tmp_path / "disk.img").write_bytes(RAW)
    assert cache.fetch(server.url(), checksum=str(tmp_path / "SUMS")).sha256 == sha(RAW)
    assert cache.fetch(str(tmp_path / "disk.img"), checksum=f"file://{tmp_path}/SUMS").path == tmp_path / "disk.img"
    (tmp_path / "disk.img").write_bytes(OTHER)
    with pytest.raises(ImageFailed, match=f"expected {sha(RAW)}"):
        cache.fetch(str(tmp_path / "disk.img"), checksum=str(tmp_path / "SUMS"))
    with pytest.raises(ImageFailed, match=r"the checksums .*/NONE: No such file"):
        cache.fetch(server.url(), checksum=str(tmp_path / "NONE"))


def test_the_name_after_redirects_counts_too(server: Server, cache: ImageCache) -> None:
    server.behaviour.redirect = "/disk-20260101.img"
    server.behaviour.files["/SUMS"] = gnu(RAW, "disk-20260101.img")
    assert cache.fetch(server.url("/moved-latest.img"), checksum=server.url("/SUMS")).sha256 == sha(RAW)


def test_a_name_that_the_list_lacks(server: Server, cache: ImageCache) -> None:
    server.behaviour.files["/SUMS"] = gnu(RAW, "debian-12.qcow2") + gnu(RAW, "debian-13.qcow2") + gnu(RAW, "readme")
    with pytest.raises(ImageFailed) as failure:
        cache.fetch(server.url("/debian-14.qcow2"), checksum=server.url("/SUMS"))
    for word in ("debian-14.qcow2", server.url("/SUMS"), "debian-12.qcow2", "debian-13.qcow2"):
        assert word in str(failure.value)
    assert images(cache) == []


def test_a_list_that_changes_brings_the_new_image(
    server: Server, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`latest/`: within ten minutes nothing is asked, later the list is, and the image only where it changed."""
    server.behaviour.files["/SUMS"] = gnu(RAW, "disk.img")
    first = cache.fetch(server.url(), checksum=server.url("/SUMS"))
    monkeypatch.setattr(checksum_lists, "FRESH_S", 0.0)
    assert cache.fetch(server.url(), checksum=server.url("/SUMS")) == first
    assert (server.asked("/SUMS"), server.asked("/disk.img")) == (2, 1)
    server.behaviour.files["/SUMS"] = gnu(OTHER, "disk.img")
    server.behaviour.content, server.behaviour.etag = OTHER, '"v2"'
    second = cache.fetch(server.url(), checksum=server.url("/SUMS"))
    assert (second.sha256, first.path.read_bytes()) == (sha(OTHER), RAW)


def test_an_image_that_is_newer_than_the_copy_of_its_list(server: Server, cache: ImageCache) -> None:
    server.behaviour.files["/SUMS"] = gnu(RAW, "disk.img") + gnu(RAW, "two.img")
    cache.fetch(server.url(), checksum=server.url("/SUMS"))
    server.behaviour.files["/SUMS"] = gnu(OTHER, "disk.img", "sha512") + gnu(OTHER, "two.img", "sha512")
    server.behaviour.content, server.behaviour.etag = OTHER, '"v2"'
    for path in (cache.directory / "images").iterdir():
        path.unlink()
    assert cache.fetch(server.url("/two.img"), checksum=server.url("/SUMS")).sha256 == sha(OTHER)


def test_a_list_is_not_read_without_end(server: Server, cache: ImageCache) -> None:
    server.behaviour.files["/SUMS"] = bytes(5 << 20)
    with pytest.raises(ImageFailed, match="larger than 4 MiB"):
        cache.fetch(server.url(), checksum=server.url("/SUMS"))


# --- without a server --------------------------------------------------------------------------------


def stop(server: Server) -> None:
    server.behaviour.status = 503


def test_what_is_cached_by_its_list_needs_no_server(
    server: Server, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviour.files["/SUMS"] = gnu(RAW, "disk.img")
    image = cache.fetch(server.url(), checksum=server.url("/SUMS"))
    monkeypatch.setattr(checksum_lists, "FRESH_S", 0.0)
    stop(server)
    said: list[str] = []
    assert cache.fetch(server.url(), checksum=server.url("/SUMS"), warn=said.append) == image
    assert len(said) == 1 and "503" in said[0] and "The list as it was on 20" in said[0]


def test_a_list_that_was_never_here_is_an_error(server: Server, cache: ImageCache) -> None:
    stop(server)
    with pytest.raises(ImageFailed, match="SUMS: the server answers 503") as failure:
        cache.fetch(server.url(), checksum=server.url("/SUMS"))
    assert failure.value.retryable


def test_a_list_that_is_gone_is_an_error(server: Server, cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    server.behaviour.files["/SUMS"] = gnu(RAW, "disk.img")
    cache.fetch(server.url(), checksum=server.url("/SUMS"))
    monkeypatch.setattr(checksum_lists, "FRESH_S", 0.0)
    server.behaviour.status = 404
    with pytest.raises(ImageFailed, match="404"):
        cache.fetch(server.url(), checksum=server.url("/SUMS"))


def test_without_a_checksum_the_copy_is_offered_and_used_only_if_allowed(
    server: Server, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = cache.fetch(server.url())
    stop(server)
    with pytest.raises(ImageFailed) as failure:
        cache.fetch(server.url())
    assert f"give checksum: sha256:{sha(RAW)}, or set CLOUDIFY_LIBVIRT_OFFLINE=1" in str(failure.value)
    assert failure.value.retryable
    before = len(server.behaviour.requests)
    monkeypatch.setenv("CLOUDIFY_LIBVIRT_OFFLINE", "1")
    offline = ImageCache(cache.directory)
    assert offline.fetch(server.url()) == image
    assert offline.fetch(server.url(), checksum=sha(RAW)) == image
    with pytest.raises(ImageFailed, match="not in the cache, and no server is asked"):
        offline.fetch(server.url("/other.img"))
    assert len(server.behaviour.requests) == before


# --- transfers that break ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_cuts_at_any_place_any_number_of_times(server: Server, cache: ImageCache, seed: int) -> None:
    chance = random.Random(seed)
    server.behaviour.cut_at = [chance.randrange(1, 300_000) for _ in range(8)]
    server.behaviour.chunked = chance.random() < 0.5
    assert cache.fetch(server.url(), checksum=sha(RAW)).path.read_bytes() == RAW, seed
    # Whole pieces of a chunked body are not kept where they break.
    assert server.behaviour.sent == len(RAW) or server.behaviour.chunked, seed
    assert len(server.behaviour.requests) == 9 or server.behaviour.chunked, seed


def test_a_server_that_stalls_is_left_and_asked_again(
    server: Server, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_TIMEOUTS_S", (10.0, 2.0))
    server.behaviour.stall_at = 1 << 20
    assert cache.fetch(server.url(), checksum=sha(RAW)).path.read_bytes() == RAW
    assert server.behaviour.requests[1][1]["Range"] == f"bytes={1 << 20}-"
    server.behaviour.stall_at = 0
    with pytest.raises(ImageFailed, match="connection failed") as failure:
        cache.fetch(server.url("/other.img"))
    assert failure.value.retryable
    server.behaviour.stalled.set()


def test_a_complete_transfer_of_a_killed_process_is_not_repeated(server: Server, cache: ImageCache) -> None:
    server.behaviour.cut_at = [len(RAW) - 1, 0]
    with pytest.raises(ImageFailed):
        cache.fetch(server.url())
    (part,) = (cache.directory / "partial").glob("*.part")
    part.write_bytes(RAW)
    sent = server.behaviour.sent
    assert cache.fetch(server.url(), checksum=sha(RAW)).path.read_bytes() == RAW
    assert server.behaviour.sent == sent


def test_a_short_pause_is_kept_and_a_long_one_left_to_the_caller(server: Server, cache: ImageCache) -> None:
    server.behaviour.statuses, server.behaviour.retry_after = [503, 429], "1"
    began = time.monotonic()
    assert cache.fetch(server.url()).path.read_bytes() == RAW
    assert 2.0 <= time.monotonic() - began < 60
    for value, said in (("3600", "in 3600 s"), ("Fri, 31 Dec 1999 23:59:59 GMT", "later"), ("soon", "later")):
        server.behaviour.statuses, server.behaviour.retry_after = [503] * 5, value
        with pytest.raises(ImageFailed, match=f"503.*Try again {said}") as failure:
            cache.fetch(server.url("/other.img"))
        assert failure.value.retryable
    assert server.asked("/other.img") == 1 + 4 + 1  # a date that has passed is no pause


# --- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"length": False}, {"chunked": True}])
def test_too_large_a_file(server: Server, cache: ImageCache, how: dict[str, bool]) -> None:
    vars(server.behaviour).update(how)
    with pytest.raises(ImageFailed, match=r"larger than the limit of 2 MiB.*max_size") as failure:
        cache.fetch(server.url(), max_bytes=2 << 20)
    assert not failure.value.retryable
    assert leftovers(cache) == images(cache) == []
    assert cache.fetch(server.url(), max_bytes=len(RAW)).file_bytes == len(RAW)


def test_the_limit_of_the_environment(server: Server, cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDIFY_LIBVIRT_MAX_IMAGE", "1 MiB")
    with pytest.raises(ImageFailed, match="limit of 1 MiB"):
        cache.fetch(server.url())
    monkeypatch.setenv("CLOUDIFY_LIBVIRT_MAX_IMAGE", "much")
    with pytest.raises(InvalidSpec, match="CLOUDIFY_LIBVIRT_MAX_IMAGE"):
        cache.fetch(server.url())


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("is_local", [False, True])
def test_a_bomb_stops_at_the_limit(
    server: Server, cache: ImageCache, tmp_path: Path, packing: str, is_local: bool
) -> None:
    packed = PACKERS[packing](bytes(64 << 20))
    server.behaviour.content = packed
    (tmp_path / "bomb").write_bytes(packed)
    with pytest.raises(ImageFailed, match="decompressed it is larger than the limit of 16 MiB"):
        cache.fetch(str(tmp_path / "bomb") if is_local else server.url(), max_bytes=16 << 20)
    assert leftovers(cache) == images(cache) == []


MEMORY = """
import pathlib, resource, sys
from cloudify_libvirt.core.errors import ImageFailed
from cloudify_libvirt.core.image.cache import ImageCache
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    ImageCache(pathlib.Path(sys.argv[1])).fetch(sys.argv[2], max_bytes=1 << 30)
except ImageFailed as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("packing", PACKERS)
def test_unpacking_takes_little_memory(cache: ImageCache, tmp_path: Path, packing: str) -> None:
    packer: Callable[[bytes], bytes] = PACKERS[packing]
    (tmp_path / "disk").write_bytes(packer(bytes(256 << 20)))
    command = [".venv/bin/python", "-c", MEMORY, cache.directory, tmp_path / "disk"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert int(run.stdout) < 100 << 10, run.stdout  # KiB


def test_windows_that_want_much_memory_are_refused(cache: ImageCache, tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 512 << 20}]
    (tmp_path / "xz").write_bytes(lzma.compress(RAW, filters=filters))
    parameters = zstandard.ZstdCompressionParameters(window_log=29, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "zst").write_bytes(packer.compress(RAW) + packer.flush())
    for name in ("xz", "zst"):
        with pytest.raises(ImageFailed, match="more than 128 MiB of memory"):
            cache.fetch(str(tmp_path / name))


@pytest.mark.parametrize("packing", PACKERS)
def test_padding_is_no_damage_but_garbage_is(cache: ImageCache, tmp_path: Path, packing: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(PACKERS[packing](RAW) + bytes(1000) + PACKERS[packing](RAW) + bytes(400_000))
    assert cache.fetch(str(path)).path.read_bytes() == RAW + RAW
    path.write_bytes(PACKERS[packing](RAW) + b"garbage")
    with pytest.raises(ImageFailed, match="damaged or ends too early"):
        cache.fetch(str(path))


def test_progress_tells_the_stages(server: Server, cache: ImageCache) -> None:
    server.behaviour.content = PACKERS["gz"](RAW)
    seen: list[Progress] = []
    cache.fetch(server.url(), progress=seen.append)
    assert [progress.stage for progress in seen] == ["download", "unpack"]
    assert [progress.done_bytes for progress in seen] == [len(server.behaviour.content), len(RAW)]
    assert all(progress.rate_bytes_s > 0 for progress in seen)


# --- formats that are said ---------------------------------------------------------------------------


def test_raw_that_looks_like_qcow2_is_raw_when_said_so(server: Server, cache: ImageCache, tmp_path: Path) -> None:
    """Whoever has the guest writes the first bytes of its disk: /etc/shadow would be read by the next one."""
    overlay = tmp_path / "overlay"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", overlay]
    subprocess.run(command, check=True)
    server.behaviour.content = overlay.read_bytes()
    for source in (str(overlay), server.url()):
        with pytest.raises(ImageFailed, match="backing file"):
            cache.fetch(source, checksum=sha(server.behaviour.content))
        said = cache.fetch(source, checksum=sha(server.behaviour.content), format_="raw")
        assert (said.format, said.size_bytes) == ("raw", len(server.behaviour.content))
        with pytest.raises(ImageFailed, match="backing file"):
            cache.fetch(source, checksum=sha(server.behaviour.content))


def test_another_format_than_said(server: Server, cache: ImageCache) -> None:
    with pytest.raises(ImageFailed, match="it is raw, not qcow2"):
        cache.fetch(server.url(), format_="qcow2")
    assert cache.fetch(server.url(), format_="raw").format == "raw"


def test_an_image_that_was_found_raw_is_known_when_it_is_said(server: Server, cache: ImageCache) -> None:
    image = cache.fetch(server.url(), checksum=sha(RAW))
    assert cache.fetch(server.url(), checksum=sha(RAW), format_="raw") == image
    assert len(server.behaviour.requests) == 1


# --- logins ------------------------------------------------------------------------------------------


def test_a_login_in_the_url_works_and_is_in_no_file(
    server: Server, cache: ImageCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.behaviour.login = CANARY
    server.behaviour.files["/SUMS"] = gnu(RAW, "disk.img")
    image = cache.fetch(server.url(login=CANARY), checksum=server.url("/SUMS", login=CANARY))
    assert image.sha256 == sha(RAW)
    server.behaviour.login = "other:one"
    said: list[str] = []
    for source, checksum in ((server.url("/x", CANARY), ""), (server.url(), server.url("/S", CANARY))):
        with pytest.raises(ImageFailed, match=r"401.*~/\.netrc") as failure:
            cache.fetch(source, checksum=checksum, warn=said.append)
        assert not failure.value.retryable
        said.append(str(failure.value))
    assert "S3CR3T" not in "".join(said) + caplog.text
    paths = [path for path in cache.directory.rglob("*") if path.is_file() and path.stat().st_size < 1 << 20]
    assert paths and not [path for path in paths if b"S3CR3T" in path.read_bytes()]


def test_a_login_stays_with_its_host(server: Server, cache: ImageCache) -> None:
    server.behaviour.redirect = server.url(host="localhost")
    cache.fetch(server.url("/moved", login=CANARY))
    (_, first), (_, second) = server.behaviour.requests
    assert first["Authorization"] == basic(CANARY)
    assert "Authorization" not in second


def test_a_login_is_no_part_of_the_key(server: Server, cache: ImageCache) -> None:
    """A name made of it could be tried out by everybody who may list the cache."""
    cache.fetch(server.url(login=CANARY))
    cache.fetch(server.url())
    assert server.behaviour.sent == len(RAW)


# --- https -------------------------------------------------------------------------------------------


@pytest.fixture
def https(server: Server, tmp_path: Path) -> str:
    """The server behind TLS, with a certificate that nobody knows; return its root."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return f"https://localhost:{server.server_address[1]}"


def test_a_certificate_that_is_not_trusted_and_one_that_is(
    https: str, server: Server, cache: ImageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost")
    with pytest.raises(ImageFailed, match=r"certificate is not trusted.*REQUESTS_CA_BUNDLE") as failure:
        cache.fetch(f"{https}/disk.img")
    assert not failure.value.retryable
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
    assert cache.fetch(f"{https}/disk.img").path.read_bytes() == RAW


@pytest.mark.parametrize("target", ["http://localhost:9/disk.img", "ftp://localhost/disk.img", "file:///etc/passwd"])
def test_https_does_not_become_less(
    https: str, server: Server, cache: ImageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
    server.behaviour.redirect = target
    server.behaviour.files["/SUMS"] = gnu(RAW, "x")
    for source, checksum in ((f"{https}/moved", ""), (f"{https}/disk.img", f"{https}/moved-SUMS")):
        with pytest.raises(ImageFailed, match=f"redirects to {target}, from https to") as failure:
            cache.fetch(source, checksum=checksum)
        assert not failure.value.retryable
    assert images(cache) == []
