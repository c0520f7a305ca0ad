"""A seed for a container is written inside its root, whatever links the archive brings."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from cloudify_libvirt.core.image.rootfs import extract_root

SEED = "var/lib/cloud/seed/nocloud/user-data"


def archive(path: Path, links: dict[str, str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
        init = tarfile.TarInfo("sbin/init")
        init.size = 4
        tar.addfile(init, io.BytesIO(b"init"))
    return path


@pytest.mark.parametrize("place", ["var/lib/cloud/seed", "var/lib/cloud/seed/nocloud", "var"])
def test_a_link_of_the_archive_leads_nowhere_outside(tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    extract_root(archive(tmp_path / "root.tar", {place: str(outside)}), root, {SEED: b"password"})
    assert list(outside.iterdir()) == []
    (written,) = root.rglob("user-data")
    assert written.read_bytes() == b"password"
    assert written.resolve().is_relative_to(root)


def test_only_the_owner_reads_it_and_a_file_of_the_archive_gives_way(tmp_path: Path) -> None:
    root = tmp_path / "root"
    extract_root(archive(tmp_path / "root.tar", {SEED: "/etc/passwd"}), root, {SEED: b"password"})
    written = root / SEED
    assert not written.is_symlink()
    assert written.stat().st_mode & 0o777 == 0o600
