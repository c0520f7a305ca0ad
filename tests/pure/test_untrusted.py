"""What a blueprint of a stranger must not say: files of the host, URIs that turn checks off, text that lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudify_libvirt.core import uri
from cloudify_libvirt.core.errors import ConnectFailed, CoreError, ImageFailed, InvalidSpec
from cloudify_libvirt.core.host import files as host_files
from cloudify_libvirt.core.image.cache import ImageCache
from cloudify_libvirt.core.image.checksum_lists import ChecksumLists
from cloudify_libvirt.core.image.urls import public_url
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.spec import parse_spec
from cloudify_libvirt.request import inside_blueprint

CANARY = "canary-pw"
CLOSED = ["/etc/shadow", "/etc/../etc/shadow", "//etc/shadow", "/srv/../etc/shadow", "/root/.ssh/id_ed25519",
          "/home/me/.ssh/id_rsa", "/home/me/.cloudify/config.yaml", "/proc/self/environ", "/run/x"]  # fmt: skip


@pytest.mark.parametrize("path", CLOSED)
def test_the_hosts_settings_are_no_disks(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"name": "x", "memory": "1 GiB", "disks": [{"file": path}]}
    with pytest.raises(InvalidSpec, match=r"is no place of disks; .* CLOUDIFY_LIBVIRT_HOST_FILES"):
        parse_spec("domain", params, node="vm", extra=False)
    monkeypatch.setenv(host_files.ALLOWED_VARIABLE, "/etc:/root/.ssh:/home/me:/proc:/run")
    assert parse_spec("domain", params, node="vm", extra=False).disks[0].file == path


@pytest.mark.parametrize("path", ["/etcetera/disk.img", "/srv/etc/disk.img", "/var/lib/libvirt/images/a.qcow2"])
def test_other_places_are_open(path: str) -> None:
    assert host_files.closed(path) == ""


def test_a_link_to_a_closed_place_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "disk.img").symlink_to("/etc/hostname")
    cache = ImageCache(tmp_path / "cache")
    for source in ("/etc/hostname", "file:///etc/hostname", "file:///%65tc/hostname", str(tmp_path / "disk.img")):
        with pytest.raises(InvalidSpec, match="no place of disks"):
            cache.fetch(source, format_="raw")
    with pytest.raises(ImageFailed, match="no place of disks"):
        ChecksumLists(tmp_path, offline=True, warn=print)._text("/etc/hostname", anew=True)


def test_resources_stay_inside_though_links_lead_out(tmp_path: Path) -> None:
    root = tmp_path / "blueprint"
    (root / "sub").mkdir(parents=True)
    (root / "sub/good.j2").write_text("x")
    (root / "inner").symlink_to("sub")
    (root / "file").symlink_to("/etc/hostname")
    (root / "directory").symlink_to("/etc")
    (root / "up").symlink_to("..")
    for path in ("sub/good.j2", "inner/good.j2", "not-there"):
        assert inside_blueprint(path, "node vm", [root]) == path
    for path in ("file", "directory/hostname", "up/other", "sub/../../x", "/etc/hostname", "a\0b"):
        with pytest.raises(InvalidSpec, match="leaves the blueprint's directory"):
            inside_blueprint(path, "node vm", [root])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("qemu+ssh://h/system?no_verify=1", "turns the check"),
        ("qemu+tls://h/system?no_verify=yes", "turns the check"),
        ("qemu+tls://h/system?x=1&no_verify=1", "turns the check"),
        ("qemu+tls://h/system?no%5Fverify=1", "turns the check"),
        ("esx://h/?no_verify=1", "turns the check"),
        ("qemu+libssh2://h/system?known_hosts_verify=ignore", "nobody has compared"),
        ("qemu+libssh://h/system?known_hosts_verify=auto", "nobody has compared"),
        ("qemu+tls://h/system?pkipath=/tmp/mine", "authority"),
        ("qemu+libssh://h/system?known_hosts=/tmp/mine", "host keys"),
        ("qemu+ssh://h/system?command=/tmp/evil", "a program that this machine runs"),
        ("qemu+ext:///system?command=/tmp/evil", "runs a program of this machine"),
        (f"qemu+tcp://me:{CANARY}@h/system", "has no password"),
        (f"qemu+ssh://:{CANARY}@h/system", "has no password"),
    ],
)
def test_uris_that_turn_checks_off(bad: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for refuse in (uri.check_uri, connect):
        with pytest.raises(InvalidSpec, match=reason) as caught:
            refuse(bad)
        assert CANARY not in str(caught.value) and "me@" not in str(caught.value)
    monkeypatch.setenv(uri.ALLOWED_VARIABLE, "no_verify, known_hosts_verify,pkipath,known_hosts,command")
    if CANARY not in bad:
        assert uri.check_uri(bad) == bad


@pytest.mark.parametrize("good", ["qemu:///system", "lxc:///system", "test:///default", "qemu+ssh://me@h:22/system",
                                  "qemu+tls://[::1]/system", "qemu+ssh://h/system?no_verify=0&keyfile=/k",
                                  "qemu+libssh://h/system?known_hosts_verify=normal"])  # fmt: skip
def test_usual_uris(good: str) -> None:
    assert uri.check_uri(good) == good


@pytest.mark.parametrize("bad", ["qemu+ssh://h:99999/system", "qemu://[/system"])
def test_what_is_no_uri(bad: str) -> None:
    with pytest.raises(ConnectFailed, match="not a URI"):
        uri.check_uri(bad)


def test_ssh_asks_nobody() -> None:
    assert uri.opened_as("qemu+ssh://h/system") == "qemu+ssh://h/system?no_tty=1"
    assert uri.opened_as("qemu+ssh://h/system?keyfile=/k") == "qemu+ssh://h/system?keyfile=/k&no_tty=1"
    assert uri.opened_as("qemu+ssh://h/system?no_tty=0") == "qemu+ssh://h/system?no_tty=0"
    for other in ("qemu:///system", "qemu+tls://h/system", "qemu+libssh2://h/system"):
        assert uri.opened_as(other) == other


@pytest.mark.parametrize(
    "url",
    [
        f"http://me:{CANARY}@h/x",
        f"http://me:{CANARY}/more@h/x",
        f"http://[me:{CANARY}@h/x",
        f"://me:{CANARY}@h",
        f"http://proxy/http://me:{CANARY}@h/x",
        f"http://h/x?t={CANARY}",
    ],
)
def test_no_login_is_shown_even_of_what_is_no_url(url: str) -> None:
    assert CANARY not in public_url(url)


def test_messages_do_not_steer_a_terminal() -> None:
    said = str(CoreError("read", "a\x1b[2Jb\rc\ud800", "\u202eevil" + "x" * 9000))
    assert not {"\x1b", "\r", "\u202e", "\ud800"} & set(said) and len(said) < 3000
    said.encode()
