"""The worked example of docs/backup.md, line by line, with a guest that writes between two backups."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from tests.real.backups import Guest, listed
from tests.real.conftest import IMAGES, ROOT, Host, virsh

PLACE = IMAGES / "worked"


def example() -> list[str]:
    """The lines of the example; what it shows as said begins with #."""
    page = (ROOT / "docs/backup.md").read_text()
    return page.split("## A worked example", 1)[1].split("```sh\n", 1)[1].split("```", 1)[0].splitlines()


@pytest.fixture
def web1(host: Host, tiny: Path) -> Iterator[Guest]:
    before = host.everything()
    PLACE.mkdir(mode=0o711)
    virsh("pool-create-as", "default", "dir", "--target", str(PLACE))
    base = PLACE / "base.qcow2"
    shutil.copy(tiny, base)
    base.chmod(0o644)
    found = Guest("web1", PLACE, base)
    found.define()
    try:
        found.boot()
        yield found
    finally:
        for name in ("web1", "web1-then"):
            if name in host.domains():
                handle = host.domain(name)
                if handle.isActive():
                    handle.destroy()
                handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
        virsh("pool-destroy", "default")
        shutil.rmtree(PLACE)
    assert host.everything() == before


def test_the_worked_example(web1: Guest, tmp_path: Path) -> None:
    lines, said, first = example(), "", ""
    shown = [re.sub(r"\s+", " ", line) for line in lines if line.startswith("# ")]
    commands = [line.split("  #")[0] for line in lines if line.startswith("cfy-libvirt ")]
    assert [command.split()[2] for command in commands] == [
        "create", "create", "list", "verify", "restore", "restore", "prune",
    ]  # fmt: skip
    for number, command in enumerate(commands):
        given = command.replace("/srv/backups", str(tmp_path / "kept")).replace("20260301T020000Z", first)
        call = [ROOT / ".venv/bin/cfy-libvirt", *given.split()[1:]]
        # It asks before anything goes.
        done = subprocess.run(call, input="y\n", capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, f"{given}: {done.stdout}{done.stderr}"
        said = done.stdout
        if number == 0:
            web1.sh("echo more > /root/after-the-first; sync")
        if given.split()[2] == "list":
            points = [re.sub(r"\s+", " ", line) for line in said.splitlines() if line[:1].isdigit()]
            first = points[0].split()[0]
            kinds = [re.sub(r"\d[^ ]* ([A-Z]i?B)", r"N \1", line.split(" ", 2)[2]) for line in points]
            wanted = [re.sub(r"\d[^ ]* ([A-Z]i?B)", r"N \1", line.split(" ", 3)[3]) for line in shown]
            assert [kind.split()[0] for kind in kinds] == [want.split()[0] for want in wanted]
            assert kinds[0].endswith("(it is the first)") and kinds[1].endswith(f"on {first}")
    names = {path.name.rpartition("-")[2]: path for path in PLACE.glob("restore-*")}
    assert "after-the-first" not in listed(names["vda.qcow2"], "/root", tmp_path)
    assert "after-the-first" in listed(web1.root, "/root", tmp_path) and not web1.handle.isActive()
