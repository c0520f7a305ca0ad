"""What a user of cfy reads when a node is wrong: all of it before anything is made, and the reason in the last line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.local.test_local_setup import CFY, Home

IMPORTS = ["cloudify/types/types.yaml", "plugin:cloudify-libvirt-plugin"]
MISSPELT = {"memory": "64 MiB", "wait_for_ip": False, "disks": [{"volum": "x"}]}
SAYS = "cannot read params.disks[0].volum of node vm: there is no such key. Did you mean 'volume'?"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = Home(tmp_path_factory.mktemp("home"))
    assert home.cfy_libvirt("local-setup").returncode == 0
    return home


def install(home: Any, path: Path, **node: Any) -> str:
    (path / "template.xml").write_text("<domain type='test'><name>{{ name }}</name><memory>{{ disks[0].volum }}")
    machine = {"type": "cloudify.libvirt.domain", "properties": {"libvirt_auth": "test:///default"}}
    machine["properties"] |= node.pop("properties")
    document = {"tosca_definitions_version": "cloudify_dsl_1_3", "imports": IMPORTS,
                "node_templates": {"vm": {**machine, **node}}}  # fmt: skip
    (path / "blueprint.yaml").write_text(yaml.safe_dump(document))
    result = home.run(CFY, "install", path / "blueprint.yaml", "-b", path.name)
    assert result.returncode != 0
    return str(result.stdout)


def test_a_misspelt_key_in_a_list_is_found_before_anything_is_made(home: Any, tmp_path: Path) -> None:
    said = install(home, tmp_path, properties={"params": MISSPELT})
    assert "Task failed 'cloudify_libvirt.domain_tasks.validate'" in said
    assert "Creating node instance" not in said
    assert SAYS in said.strip().splitlines()[-1]


def test_a_template_may_have_keys_of_its_own(home: Any, tmp_path: Path) -> None:
    interface = {"cloudify.interfaces.lifecycle": {"configure": {"inputs": {"template_resource": "template.xml"}}}}
    said = install(home, tmp_path, properties={"params": MISSPELT}, interfaces=interface)
    assert "Task succeeded 'cloudify_libvirt.domain_tasks.validate'" in said
    last = said.strip().splitlines()[-1]
    assert "configure" in last and "template.xml" in last, "its XML has no end"
