"""The parts of scripts/quickstart that need no hypervisor: reading events, and the user's ~/.cloudify."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from quickstart_lib import guest, home  # noqa: E402
from quickstart_lib.cli import remove_machines  # noqa: E402
from quickstart_lib.problem import Problem  # noqa: E402
from quickstart_lib.state import Place, State  # noqa: E402
from quickstart_lib.view import Screen  # noqa: E402
from quickstart_lib.watch import Board  # noqa: E402

from cloudify_libvirt import busy  # noqa: E402
from cloudify_libvirt.core.wait import Signal  # noqa: E402

STAMP = "2026-01-01 00:00:00.000"
CALM = [
    f"{STAMP}  CFY <q> Starting 'install' workflow execution",
    f"{STAMP}  CFY <q> [network_a] Creating node instance",
    f"{STAMP}  CFY <q> [network_a.create] Task started 'cloudify_libvirt.network_tasks.create'",
    f"{STAMP}  LOG <q> [network_a.create] INFO: started network 'cluster' on qemu:///system with bridge br1",
    f"{STAMP}  CFY <q> [network_a] Node instance started",
    f"{STAMP}  CFY <q> [machine_b.configure] Task started 'cloudify_libvirt.domain_tasks.configure'",
    f"{STAMP}  LOG <q> [machine_b.configure] INFO: image x.qcow2: download 12 MiB of 300 MiB, 3 MiB/s",
    f"{STAMP}  LOG <q> [machine_b.configure] INFO: defined domain 'node-1' on qemu:///system (kvm: it works)",
    f"{STAMP}  LOG <q> [machine_b.start] INFO: started domain 'node-1' on qemu:///system, console log /c",
    f"{STAMP}  CFY <q> [machine_b->network_a|establish] Task started 'cloudify_libvirt.network_tasks.link'",
    f"{STAMP}  LOG <q> [machine_b.get_state] INFO: node-1 has address 10.0.0.2 after 4.0 s",
    f"{STAMP}  CFY <q> [machine_b] Node instance started",
]


def test_steps_of_each_object() -> None:
    board = Board(iter(range(100)).__next__)
    seen = [(row.label, row.step, row.detail) for line in CALM if (row := board.read(line))]
    assert seen == [
        ("network", "network", ""),
        ("network", "ready", ""),
        ("machine_b", "disk", ""),
        ("machine_b", "image", "download 12 MiB of 300 MiB, 3 MiB/s"),
        ("node-1", "defined", "kvm: it works"),
        ("node-1", "started", ""),
        ("node-1", "address", "10.0.0.2"),
    ]
    assert board.reasons == []
    assert all(row.ended is not None for row in board.rows.values())


def test_reasons_are_those_that_stayed() -> None:
    board = Board(iter(range(100)).__next__)
    task = "'cloudify_libvirt.domain_tasks.start'"
    board.read(f"{STAMP}  CFY <q> [machine_b.start] Task started {task}")
    board.read(f"{STAMP}  CFY <q> [machine_b.start] Task failed {task} -> machine_b: it is busy. Wait.")
    assert board.reasons == ["machine_b: it is busy. Wait."]
    board.read(f"{STAMP}  CFY <q> [machine_b.start] Task started {task} [retry 1/5]")
    assert board.reasons == []
    row = board.read(f"{STAMP}  CFY <q> [machine_b.start] Task failed {task} -> machine_b: no memory. [retry 1/5]")
    assert row is not None
    assert row.failed
    assert board.reasons == ["machine_b: no memory."]


def test_warnings_are_kept_once() -> None:
    board = Board(iter(range(100)).__next__)
    for _ in range(2):
        assert board.read(f"{STAMP}  LOG <q> [pool_a.delete] WARNING: it stays: somebody uses it") is None
    assert board.warnings == ["it stays: somebody uses it"] and board.reasons == []


def test_bytes_and_rate_while_packages_come_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDIFY_LIBVIRT_CACHE", str(tmp_path))
    packages = tmp_path / "guests/.build-tiny-1/root.debs"
    packages.mkdir(parents=True)
    said: list[str] = []
    build = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    meter = threading.Thread(target=guest._measure, args=(build, Signal(), said.append), daemon=True)
    meter.start()
    deadline = time.monotonic() + 120
    with (packages / "a.deb").open("ab", buffering=0) as file:
        while len(said) < 2 and time.monotonic() < deadline:
            file.write(bytes(1 << 20))
            time.sleep(0.1)
    build.communicate()
    meter.join(60)
    assert len(said) >= 2 and not meter.is_alive()
    shown = [re.fullmatch(r"building the guest: ([\d.]+) MiB of packages, [\d.]+ [KM]iB/s", line) for line in said]
    sizes = [float(line[1]) for line in shown if line]
    assert len(sizes) == len(said) and sizes == sorted(sizes)


def listing(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.setenv("CFY_WORKDIR", str(place))
    return place


def test_home_is_given_back(own_home: Path, tmp_path: Path) -> None:
    cloudify = own_home / ".cloudify"
    (cloudify / "profiles/manager").mkdir(parents=True)
    (cloudify / "active.profile").write_text("manager")
    (cloudify / "config.yaml").write_text("# mine\ncolors: true\nlogging: {filename: /tmp/x.log, loggers: {}}\n")
    before = listing(cloudify)
    assert home.prepare(tmp_path / "kept")
    assert yaml.safe_load((cloudify / "config.yaml").read_text())["import_resolver"]
    assert (cloudify / "active.profile").read_text().strip() == "local"
    assert home.prepare(tmp_path / "kept") == []
    assert home.restore(tmp_path / "kept") == []
    assert {name: text for name, text in listing(cloudify).items() if not name.startswith("logs/")} == before


def test_home_that_was_empty_is_empty_again(own_home: Path, tmp_path: Path) -> None:
    home.prepare(tmp_path / "kept")
    assert home.restore(tmp_path / "kept") == []
    assert list(own_home.iterdir()) == []


def test_changes_of_the_user_stay(own_home: Path, tmp_path: Path) -> None:
    home.prepare(tmp_path / "kept")
    config = own_home / ".cloudify/config.yaml"
    config.write_text(config.read_text() + "mine: 1\n")
    assert home.restore(tmp_path / "kept") == [f"left {config} alone: it was changed meanwhile"]
    assert yaml.safe_load(config.read_text())["mine"] == 1


def test_deployments_of_the_user_stay(own_home: Path, tmp_path: Path) -> None:
    home.prepare(tmp_path / "kept")
    own = own_home / ".cloudify/profiles/local/deployments/own"
    own.mkdir(parents=True)
    assert "deployments of yours" in home.restore(tmp_path / "kept")[0]
    assert own.is_dir()


@pytest.mark.parametrize("on", ["machine", "lab"])
def test_who_works_on_it_is_named_before_anything_goes(own_home: Path, tmp_path: Path, on: str) -> None:
    profile = own_home / ".cloudify/profiles/local"
    deployment = profile / "deployments/quickstart"
    deployment.mkdir(parents=True)
    busy.claim(str(profile), "quickstart", "workflow scale")
    try:
        with pytest.raises(Problem) as caught:
            remove_machines(Screen(), Place(tmp_path / "place"), State(on, True, 3, "key"))
    finally:
        busy.release(str(profile), "quickstart")
    assert f"quickstart is busy: workflow scale, pid {os.getpid()}, since " in caught.value.what
    assert deployment.is_dir()


def test_blueprint_of_the_readme(own_home: Path, tmp_path: Path) -> None:
    home.prepare(tmp_path / "kept")
    text = (ROOT / "README.md").read_text()
    blueprint = tmp_path / "blueprint.yaml"
    blueprint.write_text(text.split("```yaml\n", 1)[1].split("```", 1)[0])
    done = subprocess.run(
        [ROOT / ".venv/bin/cfy", "init", blueprint, "-b", "readme", "-i", "image=/x.qcow2;key=k"],
        env={**os.environ, "CFY_WORKDIR": str(own_home)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (own_home / ".cloudify/profiles/local/deployments/readme/node-instances").is_dir()


def test_links_of_the_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
