"""What a header names is read from its first bytes; what a domain has a disk as, from its document."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.image import qcow2

BELOW = "/srv/below"


def made(path: Path, *options: str) -> bytes:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", *options, path, "1M"], check=True)
    return path.read_bytes()


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_what_a_header_names(tmp_path: Path, compat: str, format_: str) -> None:
    data = made(tmp_path / "image", "-o", f"compat={compat}", "-b", BELOW, "-F", format_)
    header = qcow2.read(data[: qcow2.HEAD_BYTES])
    assert header is not None
    assert (header.backing, header.backing_format, header.size) == (BELOW, format_, 1024**2)
    assert (header.version, header.features) == ({"0.10": 2, "1.1": 3}[compat], 0)


def test_a_header_alone_and_one_with_its_data_elsewhere(tmp_path: Path) -> None:
    alone = qcow2.read(made(tmp_path / "alone"))
    assert alone is not None and (alone.backing, alone.features) == ("", 0)
    elsewhere = qcow2.read(made(tmp_path / "image", "-o", f"data_file={tmp_path / 'data'}"))
    assert elsewhere is not None and elsewhere.features & qcow2.DATA_FILE


def test_a_name_that_cannot_be_seen_is_a_name(tmp_path: Path) -> None:
    data = bytearray(made(tmp_path / "image", "-b", BELOW, "-F", "raw"))
    for place, length in ((qcow2.HEAD_BYTES - 2, 9), (1 << 40, 9), (200, 0)):
        data[8:20] = place.to_bytes(8, "big") + length.to_bytes(4, "big")
        header = qcow2.read(bytes(data[: qcow2.HEAD_BYTES]))
        assert header is not None and header.backing == qcow2.UNSEEN


@pytest.mark.parametrize("cut", [0, 3, 71])
def test_too_little_for_a_header(tmp_path: Path, cut: int) -> None:
    assert qcow2.read(made(tmp_path / "image")[:cut]) is None


def test_what_a_domain_has_a_disk_as() -> None:
    xml = """<domain><devices>
      <disk><driver name='qemu' type='qcow2'/><source file='/top'/>
        <backingStore type='file'><format type='raw'/><source file='/below'/><backingStore/></backingStore></disk>
      <disk><driver type='raw'/><source pool='p' volume='v'/></disk>
      <disk><driver type='raw'/><source dev='/dev/vg/lv'/></disk>
      <disk device='cdrom'><driver type='raw'/></disk><disk><source file='/unsaid'/></disk>
    </devices></domain>"""
    wanted = {("/top", "qcow2"), ("/below", "raw"), (("p", "v"), "raw"), ("/dev/vg/lv", "raw")}
    assert set(parse.formats(xml)) == wanted
