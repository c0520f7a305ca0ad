"""Images by name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.image import catalogue
from cloudify_libvirt.core.image.catalogue import Catalogue, is_name, parse
from cloudify_libvirt.core.image.checksum import Checksum


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The three places of a host's catalogues, all of them empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("CLOUDIFY_LIBVIRT_CATALOGUE", raising=False)
    monkeypatch.setattr(catalogue, "SYSTEM", tmp_path / "etc" / "images.yaml")
    own = tmp_path / "config" / "cloudify-libvirt" / "images.yaml"
    for path in (own, catalogue.SYSTEM):
        path.parent.mkdir(parents=True)
    return {"own": own, "system": catalogue.SYSTEM, "env": tmp_path / "env.yaml"}


def url(name: str, arch: str = "x86_64", **more: str) -> str:
    return Catalogue(**more).resolve(name, arch).url


def test_the_packaged_names() -> None:
    names = Catalogue()
    wanted = {"debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04", "fedora", "rocky-9", "alma-9", "opensuse"}
    assert {*wanted, "alpine"} <= names.entries.keys()
    for name in names.entries:
        entry = names.final(name)
        assert entry.title and entry.ssh_user, name
        assert "x86_64" in entry.files, name
        for file in entry.files.values():
            assert urlsplit(file.url).scheme == urlsplit(file.checksum).scheme == "https", name
            # The list of the same release, so that both change together.
            assert file.checksum.rpartition("/")[0] == file.url.rpartition("/")[0], name
            assert Checksum.parse(file.checksum).list_url, name
        for arch, other in (("x86_64", ("aarch64", "arm64")), ("aarch64", ("x86_64", "amd64"))):
            where = entry.files[arch].url if arch in entry.files else ""
            assert not any(word in where for word in other), (name, arch)


def test_debians_names_of_architectures_are_understood() -> None:
    assert url("debian-12", "amd64") == url("debian-12", "x86_64") != url("debian-12", "arm64")
    text = "mine: {files: {arm64: {url: /arm}, x86_64: {url: /x86}}}"
    assert url("mine", "aarch64", text=text) == "/arm"


def test_who_wins(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    layers = []
    for key, path in (("system", places["system"]), ("own", places["own"]), ("env", places["env"])):
        path.write_text(f"debian-12: {{url: /{key}}}\nonly-{key}: {{same_as: debian-12}}\n")
        if key == "env":
            monkeypatch.setenv("CLOUDIFY_LIBVIRT_CATALOGUE", f"{path}:{places['own']}")
        layers.append(key)
        assert [url("debian-12"), *(url(f"only-{layer}") for layer in layers)] == [f"/{key}"] * (len(layers) + 1)
    found = Catalogue("debian-12: {url: /blueprint}", "images.yaml").resolve("debian-12", "x86_64")
    assert (found.url, found.origin) == ("/blueprint", "images.yaml")
    assert url("debian-13").startswith("https://cloud.debian.org/")


def test_a_changed_file_is_read_again(places: dict[str, Path]) -> None:
    places["own"].write_text("mine: {url: /one}")
    assert url("mine") == "/one"
    places["own"].write_text("mine: {url: /a-second-one}")
    assert url("mine") == "/a-second-one"


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(InvalidSpec, match=r"Names: debian-12.*cfy-libvirt image list.*\./debain-12"):
        url("debain-12")
    with pytest.raises(InvalidSpec, match="has it for x86_64, not for riscv64"):
        url("arch", "riscv64")
    with pytest.raises(InvalidSpec, match="a -> b -> a is a circle"):
        url("a", text="{a: {same_as: b}, b: {same_as: a}}")
    with pytest.raises(InvalidSpec, match="'gone'"):
        url("a", text="a: {same_as: gone}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "line 1: "), ("x\ny: z", "line 2: mapping values"), ("- a", "valid dictionary"),
        ("a: {}", "a: .*one of url, files"), ("a: {url: /x, same_as: b}", "one of url"),
        ("a: {url: 'ftp://h/x'}", "a.url"), ("a: {url: x}", "a.url"),
        ("a: {url: /x, checksum: 12}", "a.checksum"), ("a: {url: /x, checksum: SUMS}", "checksum: it is not one"),
        ("a: {url: /x, user: me}", "a.user: Extra"), ("a: {url: /x, format: vmdk}", "a.format"),
        ("a: {files: {x86_64: /x}}", "a.files.x86_64"),
    ],
)  # fmt: skip
def test_errors_name_the_place(text: str, reason: str) -> None:
    with pytest.raises(InvalidSpec, match=f"catalogue mine.yaml: .*{reason}"):
        parse(text, "mine.yaml")


def test_a_file_that_is_named_must_be_there(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDIFY_LIBVIRT_CATALOGUE", str(places["env"]))
    with pytest.raises(InvalidSpec, match="No such file"):
        Catalogue()
    places["env"].write_text("")
    assert "debian-12" in Catalogue().entries


@pytest.mark.parametrize("source", ["debian-12", "ubuntu-24.04", "a_b+c"])
def test_what_can_be_a_name(source: str) -> None:
    assert is_name(source)


@pytest.mark.parametrize("source", ["", "./debian-12", "/x", "images/x", "http://h/x", "-x", ".x", "a b", "a:b"])
def test_what_cannot(source: str) -> None:
    assert not is_name(source)
