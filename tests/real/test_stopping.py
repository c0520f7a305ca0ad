"""Guests that do not listen: what is waited for is said, and who boots is asked again."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.real.conftest import Cfy, Host

IMPORTS = ["cloudify/types/types.yaml", "plugin:cloudify-libvirt-plugin"]


def blueprint(path: Path, tiny: Path) -> Path:
    def machine(timeout_s: int, **params: object) -> dict[str, object]:
        given = {"memory": "128 MiB", "wait_for_ip": False, "shutdown_timeout_s": timeout_s, **params}
        return {"type": "cloudify.libvirt.domain", "properties": {"params": given}}

    pool = {"type": "cloudify.libvirt.pool", "properties": {"params": {"name": "stopping"}}}
    nodes = {"pool": pool, "deaf": machine(15, name="deaf", hardware="modern"),
             "boots": machine(200, name="boots", pool="stopping", image=str(tiny))}  # fmt: skip
    # What depends goes first: it is asked while its firmware runs.
    depends = [{"type": "cloudify.relationships.depends_on", "target": name} for name in ("pool", "deaf")]
    nodes["boots"]["relationships"] = depends
    document = {"tosca_definitions_version": "cloudify_dsl_1_3", "imports": IMPORTS, "node_templates": nodes}
    (path / "blueprint.yaml").write_text(yaml.safe_dump(document))
    return path / "blueprint.yaml"


def test_who_does_not_shut_down(cfy: Cfy, tmp_path: Path, tiny: Path, clean_host: Host) -> None:
    cfy("install", blueprint(tmp_path, tiny), "-b", "stopping")
    gone = cfy.uninstall("stopping")
    deaf = "domain 'deaf' on qemu:///system"
    unheard = "its power button was pressed (ACPI), which a guest that still boots does not hear"
    assert gone.lines(f"{deaf} still runs: {unheard}. It is ended by force in ", "(shutdown_timeout_s: 15)"), (
        gone.output
    )
    assert gone.lines(f"{deaf} did not shut down when asked: it is ended like by a power cut")
    assert not gone.lines("domain 'boots' ", "did not shut down"), "it was asked again until it heard it"
