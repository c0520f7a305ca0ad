"""The scripts for interfaces of one's own nodes, in the blueprint that docs/images.md shows."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.real.attempts import SHELF, names
from tests.real.conftest import PYTHON, ROOT, Cfy, Host, assert_no_drift, public_key, ssh, virsh


def shown(language: str, word: str) -> str:
    """The one example of the page in that language that has the word."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs/images.md").read_text(), re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return str(found)


def blueprint(directory: Path) -> Path:
    """The example as a whole, with the scripts beside it; there is no pool 'default' here for the seed."""
    nodes: dict[str, Any] = yaml.safe_load(shown("yaml", "unique_mac.py"))
    nodes["network"] = {"type": "cloudify.libvirt.network", "properties": {"params": {"name": "one", "cidr": "auto"}}}
    nodes["vm"]["properties"]["params"].update(pool="shelf", memory="128 MiB")
    document = {
        "tosca_definitions_version": "cloudify_dsl_1_3",
        "imports": ["cloudify/types/types.yaml", "plugin:cloudify-libvirt-plugin"],
        "inputs": {name: {} for name in ("image", "image_checksum", "disks", "key")},
        "node_templates": nodes,
        "outputs": {"address": {"value": {"get_attribute": ["vm", "ip"]}}},
    }
    shutil.copytree(ROOT / "scripts/blueprint", directory / "scripts")
    (directory / "scripts/remove_disk.py").write_text(shown("python", "unlink"))
    path = directory / "blueprint.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def info(path: Path) -> dict[str, Any]:
    call = ["qemu-img", "info", "--force-share", "--output=json", str(path)]
    facts: dict[str, Any] = json.loads(subprocess.run(call, check=True, capture_output=True).stdout)
    return facts


def test_machine_on_what_the_scripts_made(
    cfy: Cfy, clean_host: Host, shelf: Any, cache: Path, web: str, tiny: Path, key: Path, tmp_path: Path
) -> None:
    checksum = hashlib.sha256(tiny.read_bytes()).hexdigest()
    given = cfy.inputs(image=f"{web}/tiny.qcow2", image_checksum=f"sha256:{checksum}", key=public_key(key),
                       disks=str(SHELF))  # fmt: skip
    # Killed before the disk's script has returned; the next run finds what it made.
    call = [PYTHON, ROOT / "tests/real/cfy_until.py", 1, f"one.qcow2: clone of {cache}", "install"]
    call += [blueprint(tmp_path / "blueprint"), "-b", "one", "-i", given]
    killed = subprocess.run([str(word) for word in call], env=cfy.environment, cwd=ROOT, check=False, timeout=900,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    assert killed.returncode == -9, killed.stdout[-4000:]
    before = (SHELF / "one.qcow2").stat().st_ino
    said = cfy("executions", "start", "install", "-b", "one")
    assert said.lines(f"disk {SHELF}/one.qcow2: made before, left as it is") and not said.lines("clone of")
    assert (SHELF / "one.qcow2").stat().st_ino == before
    made = {str(one["node_id"]): one["runtime_properties"] for one in cfy.instances("one")}
    image, disk, card = (made[name] for name in ("image", "disk", "card"))
    assert image["sha256"] == checksum and cache in Path(image["path"]).parents  # type: ignore[index]
    assert disk["path"] == str(SHELF / "one.qcow2") and disk["source"] == image["path"]  # type: ignore[index]
    facts = info(SHELF / "one.qcow2")
    assert (facts["format"], facts["virtual-size"]) == ("qcow2", 1 << 30) and "backing-filename" not in facts
    assert card["mac"] in virsh("domiflist", "one")  # type: ignore[index]
    found = ssh(key, str(cfy.outputs("one")["address"]), "cat /sys/class/net/*/address /sys/block/vda/size")
    assert {card["mac"], str((1 << 30) // 512)} <= set(found.split())  # type: ignore[index]
    assert_no_drift(cfy, "one")
    cfy.uninstall("one")
    assert names(SHELF) == []
