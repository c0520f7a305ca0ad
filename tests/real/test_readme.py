"""What README tells a newcomer to type on a host with libvirt, typed there, with an image that a lab can reach."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.real.conftest import ROOT, Cfy, Host, assert_no_drift, ssh


@pytest.fixture
def typed(tiny: Path, tmp_path: Path) -> list[str]:
    """The lines of "On a host with KVM", cut before the one that removes everything."""
    text = (ROOT / "README.md").read_text().split("## On a host with KVM", 1)[1].split("```\n", 2)[1]
    text, images = re.subn(r"(?m)^image: https://\S+$", f"image: {tiny}", text)
    assert images == 1
    removal = ".venv/bin/cfy uninstall"
    before, after = text.replace("inputs.yaml", str(tmp_path / "inputs.yaml")).split(removal)
    return [before, removal + after]


def test_what_the_readme_says(clean_host: Host, typed: list[str], key: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    for made, name in ((key, "id_ed25519"), (key.with_suffix(".pub"), "id_ed25519.pub")):
        shutil.copy(made, home / ".ssh" / name)
    cfy = Cfy(home)

    def run(lines: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", lines], env=cfy.environment, cwd=ROOT, text=True, timeout=900,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    try:
        said = run(typed[0])
        login = re.search(r'"ssh": "ssh (\w+)@([\d.]+)"', said)
        assert login, said
        assert ssh(home / ".ssh/id_ed25519", login[2], "id -un; hostname", user=login[1]).split() == ["debian", "hello"]
        assert_no_drift(cfy, "hello")
        run(typed[1])
        assert clean_host.domains() == set()
    finally:
        if (home / ".cloudify/profiles/local/deployments/hello").exists():
            cfy.uninstall("hello", check=False)
