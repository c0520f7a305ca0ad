"""Media are read back by programs of others: isoinfo (cdrkit) and xorriso (libisofs)."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.media import build_iso, expand, nocloud_files

FILES = {
    "meta-data": "instance-id: é€😀\n".encode(),
    "user-data": b"#cloud-config\n",
    "meta_data": b"collides with meta-data in plain ISO 9660",
    "openstack/latest/meta_data.json": b"{}",
    "openstack/content/0000": b"x" * 5000,
    "a/b/c/d/e/f/g/h": b"as deep as it goes",
    "Größe 漢字.txt": b"u",
    "l" * 64: b"long",
    "n" * 40 + "1": b"1",
    "n" * 40 + "2": b"2",
    ".hidden": b"",
}
KEY = "ssh-ed25519 AAAAC3Nza me@here"


def isoinfo(image: Path, *options: str) -> bytes:
    return subprocess.run(["isoinfo", *options, "-i", image], capture_output=True, check=True).stdout


needs_isoinfo = pytest.mark.skipif(not shutil.which("isoinfo"), reason="needs isoinfo (genisoimage)")
needs_xorriso = pytest.mark.skipif(not shutil.which("xorriso"), reason="needs xorriso")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "seed.iso"
    path.write_bytes(build_iso(FILES))
    return path


@needs_xorriso
@pytest.mark.parametrize("tree", ["any", "norock"])
def test_both_trees_give_back_every_name_and_byte(image: Path, tmp_path: Path, tree: str) -> None:
    out = tmp_path / "out"
    command = ["xorriso", "-read_fs", tree, "-osirrox", "on", "-indev", image, "-extract", "/", out]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found == FILES
    if tree == "any":  # Rock Ridge; without it xorriso takes Joliet
        assert (out / "meta-data").stat().st_mode & 0o7777 == 0o444
        assert (out / "openstack").stat().st_mode & 0o7777 == 0o555


@needs_isoinfo
def test_plain_iso_names_do_not_collide(image: Path) -> None:
    assert isoinfo(image, "-x", "/META_DATA.;1") == FILES["meta-data"]
    assert isoinfo(image, "-x", "/META_DATA_1.;1") == FILES["meta_data"]


@needs_isoinfo
def test_identifiers_and_formats(tmp_path: Path) -> None:
    path = tmp_path / "config.iso"
    path.write_bytes(build_iso({"a": b""}, vol_ident="config-2", sys_ident="LINUX"))
    facts = isoinfo(path, "-d").decode()
    assert "Volume id: config-2\n" in facts
    assert "System id: LINUX\n" in facts
    assert "Joliet with UCS level 3 found" in facts
    assert "Rock Ridge signatures version 1 found" in facts


def test_equal_files_give_equal_bytes_whenever_and_wherever(monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_iso(FILES)
    try:
        for zone in ("Asia/Kathmandu", "America/St_Johns", "UTC"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            time.sleep(0.4)
            assert build_iso(dict(reversed(FILES.items()))) == first
    finally:
        monkeypatch.undo()
        time.tzset()
    assert build_iso({**FILES, "user-data": b"#cloud-config\n#\n"}) != first


def test_many_threads_build_the_same() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: build_iso(FILES), range(40)))) == 1


def test_no_date_of_now_is_left(image: Path) -> None:
    data = image.read_bytes()
    now = time.gmtime()
    assert time.strftime("%Y%m%d", now).encode() not in data
    assert struct.pack("BBB", now.tm_year - 1900, now.tm_mon, now.tm_mday) not in data


@needs_isoinfo
def test_sizes_are_bytes_not_characters(tmp_path: Path) -> None:
    text = "é" * 3000
    path = tmp_path / "x.iso"
    path.write_bytes(build_iso({"user-data": text.encode()}))
    assert isoinfo(path, "-R", "-x", "/user-data").decode() == text


@needs_isoinfo
@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text("abcXYZ019._- é漢", min_size=1, max_size=15), st.binary(max_size=4100), max_size=8))
def test_any_allowed_names(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    files = {name: content for name, content in files.items() if name not in (".", "..")}
    path = tmp_path_factory.mktemp("iso") / "x.iso"
    path.write_bytes(build_iso(files))
    listed = isoinfo(path, "-R", "-f").decode().split("\n")
    assert {name for name in listed if name} == {f"/{name}" for name in files}


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "a//b", "a/", "../a", "a/../b", ".", "a/./b", "x" * 65, "é" * 33, "a:b", "a\\b", "a\nb",
     "\ud800", "a/b/c/d/e/f/g/h/i"],
)  # fmt: skip
def test_bad_paths_are_refused_by_name(path: str) -> None:
    with pytest.raises(InvalidSpec) as failure:
        build_iso({path: b""})
    assert repr(path) in str(failure.value)


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b"), ("a-b", "a", "a/b")])
def test_a_name_is_a_file_or_a_directory(names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidSpec, match="a file and a directory"):
        build_iso(dict.fromkeys(names, b""))


@pytest.mark.parametrize("ident", ["x" * 17, "é", "a\nb"])
def test_bad_identifiers_are_refused(ident: str) -> None:
    with pytest.raises(InvalidSpec, match="vol_ident"):
        build_iso({}, vol_ident=ident)
    with pytest.raises(InvalidSpec, match="sys_ident"):
        build_iso({}, sys_ident=ident)


# --- cloud-init --------------------------------------------------------------------------------------


def seed(**cloud_init: Any) -> dict[str, bytes]:
    return nocloud_files(cloud_init, hostname="web-1", instance_id="iid-7")


def test_nothing_given_still_names_the_guest() -> None:
    assert seed() == {
        "meta-data": b"instance-id: iid-7\nlocal-hostname: web-1\n",
        "user-data": b"#cloud-config\nhostname: web-1\n",
    }


def test_mappings_become_sorted_block_yaml_with_keys_merged() -> None:
    files = seed(
        hostname="db",
        ssh_authorized_keys=[KEY, KEY],
        user_data={"packages": ["zsh"], "motd": "Grüße 漢字", "ssh_authorized_keys": ["ssh-rsa A b"]},
        meta_data={"local-hostname": "mine"},
        network_config={"version": 2, "ethernets": {}},
    )
    lines = files["user-data"].decode().split("\n")
    assert lines[:3] == ["#cloud-config", "hostname: db", "motd: Grüße 漢字"]
    assert yaml.safe_load(files["user-data"])["ssh_authorized_keys"] == ["ssh-rsa A b", KEY]
    assert yaml.safe_load(files["meta-data"]) == {"instance-id": "iid-7", "local-hostname": "mine"}
    assert files["network-config"] == b"ethernets: {}\nversion: 2\n"


def test_cloud_config_text_is_merged() -> None:
    files = seed(user_data="#cloud-config\n# mine\nhostname: own\npackages: [zsh]\n", ssh_authorized_keys=[KEY])
    assert files["user-data"].startswith(b"#cloud-config\n")
    assert yaml.safe_load(files["user-data"]) == {
        "hostname": "own", "packages": ["zsh"], "ssh_authorized_keys": [KEY],
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["#!/bin/sh\necho é", "#include\nhttp://h/x\n", "#cloud-config-archive\n- a\n",
     "## template: jinja\n#cloud-config\n",
     "Content-Type: multipart/mixed; boundary=x\n\n--x--\n"],
)  # fmt: skip
def test_other_formats_stay_and_keys_go_to_meta_data(text: str) -> None:
    files = seed(user_data=text, ssh_authorized_keys=[KEY])
    assert files["user-data"] == text.encode()
    assert yaml.safe_load(files["meta-data"])["public-keys"] == [KEY]


def test_network_text_stays_as_it_is() -> None:
    text = "# ours\nversion: 1\nconfig: []\n"
    assert seed(network_config=text)["network-config"] == text.encode()


class EngineDict(dict[str, Any]):
    """As the engine's own classes of properties."""


def test_the_engines_own_classes_pass() -> None:
    assert b"a: 1" in seed(user_data=EngineDict(users=[EngineDict(a=1)]))["user-data"]


@pytest.mark.parametrize(
    ("field", "cloud_init"),
    [
        ("user_data", {"user_data": "S3CRET without header"}),
        ("user_data", {"user_data": "#cloud-config\n- S3CRET\n"}),
        ("user_data", {"user_data": "#cloud-config\npassword: 'S3CRET\n"}),
        ("user_data", {"user_data": ["S3CRET"]}),
        ("user_data", {"user_data": {"a": {"S3CRET"}.__iter__()}}),
        (
            "user_data.ssh_authorized_keys",
            {"user_data": {"ssh_authorized_keys": "S3CRET"}, "ssh_authorized_keys": [KEY]},
        ),
        ("meta_data", {"meta_data": "S3CRET"}),
        ("network_config", {"network_config": "a: [S3CRET"}),
        ("ssh_authorized_keys", {"ssh_authorized_keys": "S3CRET"}),
        ("ssh_authorized_keys[1]", {"ssh_authorized_keys": [KEY, "S3CRET"]}),
        ("ssh_authorized_keys[0]", {"ssh_authorized_keys": [f"{KEY}\nS3CRET"]}),
        ("hostname", {"hostname": "S3CRET host\n"}),
        ("userdata", {"userdata": "S3CRET"}),
    ],
)  # fmt: skip
def test_errors_name_the_field_and_never_the_value(field: str, cloud_init: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec) as failure:
        nocloud_files(cloud_init, hostname="h", instance_id="i")
    assert f"cloud_init.{field}" in str(failure.value)
    assert "S3CRET" not in str(failure.value)
    assert failure.value.__cause__ is None  # a cause would quote it
    if failure.value.__context__ is not None:
        assert failure.value.__suppress_context__


def test_yaml_errors_say_the_line() -> None:
    with pytest.raises(InvalidSpec, match="line 3"):
        seed(user_data="#cloud-config\na: 1\nb: [}\n")


# --- expansion ---------------------------------------------------------------------------------------

VARIABLES = {"name": "web", "index": 2, "ip": "10.0.0.2"}


def test_strings_expand_at_any_depth() -> None:
    nested = {"{{ name }}": "{% if index > 1 %}{{ ip }}{% endif %}\n"}
    template = {"a": ["{{ name }}-{{ index }}", nested], "n": 5, "b": None}
    assert expand(template, VARIABLES) == {"a": ["web-2", {"{{ name }}": "10.0.0.2\n"}], "n": 5, "b": None}


@pytest.mark.parametrize(
    "text", ["${#array[@]} {# no comment #}", "${a%%x}", "line\r\n", "<&>", "## template: jinja\n{{ v1.region }}"]
)
def test_what_is_no_template_stays(text: str) -> None:
    assert expand(text, VARIABLES) == text


def test_comments_stay_beside_variables_and_nothing_is_escaped() -> None:
    assert expand("${#a[@]} {{ x }}\n", {"x": "<&>"}) == "${#a[@]} <&>\n"


@pytest.mark.parametrize(
    "text",
    ["{{ nobody }}", "{{ name.nobody.more }}", "S3CRET\n{{ name", "{% S3CRET %}", "{{ ''.__class__.__mro__ }}",
     "{{ name + 1 }}", "{{ 1 / 0 }}", "{{ range(10**9)|list }}"],
)  # fmt: skip
def test_bad_templates_name_the_field(text: str) -> None:
    with pytest.raises(InvalidSpec) as failure:
        expand({"user_data": [text]}, VARIABLES)
    assert "cloud_init.user_data[0]" in str(failure.value)
    assert "S3CRET" not in str(failure.value)
