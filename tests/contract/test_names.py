"""Sections 1 to 3: files, labels, modules, functions, types, properties, defaults, operations and their inputs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from dsl_parser.exceptions import DSLParsingException
from dsl_parser.parser import parse_from_path

ROOT = Path(__file__).resolve().parents[2]
FILES = ("plugin.yaml", "v2_plugin.yaml", "plugin_1_4.yaml", "plugin_1_5.yaml")
VERSIONS = {"plugin.yaml": "1_3", "v2_plugin.yaml": "1_3", "plugin_1_4.yaml": "1_4", "plugin_1_5.yaml": "1_5"}
SNAPSHOTS = ("snapshot_create", "snapshot_apply", "snapshot_delete")
FUNCTIONS = {
    "domain_tasks": (
        "create", "configure", "start", "stop", "delete", "reboot", "update", "resume", "suspend", *SNAPSHOTS,
        "perfomance", "performance", "update_domain_flags", "attach_device_flags", "detach_device_flags",
    ),
    "network_tasks": ("create", "delete", *SNAPSHOTS, "link", "unlink"),
    "pool_tasks": ("create", "configure", "start", "stop", "delete", *SNAPSHOTS),
    "volume_tasks": ("create", "start", "stop", "delete", *SNAPSHOTS),
    "iso9660_tasks": ("create",),
}  # fmt: skip
BASES = {"domain": "Compute", "network": "Network", "pool": "Tier", "volume": "Tier", "ISO9660": "Tier"}
PROPERTIES = {"use_external_resource": False, "resource_id": "", "backup_dir": "./", "libvirt_auth": "qemu:///system"}
UNSET = object()
# key: (declared type, default)
PARAMS: dict[str, dict[str, tuple[str | None, Any]]] = {
    "domain": {
        "name": (None, ""), "vcpu": ("integer", UNSET), "memory_size": ("integer", UNSET),
        "memory_maxsize": ("integer", UNSET), "nvram": ("string", UNSET), "disks": (None, []), "networks": (None, []),
        "devices": (None, []), "full_dump": (None, False), "wait_for_ip": (None, True), "domain_type": (None, "qemu"),
    },
    "network": {"name": (None, ""), "dev": (None, ""), "forwards": (None, []), "ips": (None, [])},
    "pool": {"name": (None, ""), "path": (None, ""), "capacity": ("integer", UNSET)},
    "volume": {
        "name": (None, ""), "path": (None, ""), "pool": ("string", UNSET), "capacity": ("integer", UNSET),
        "allocation": ("integer", 0), "url": ("string", ""), "zero_wipe": ("boolean", False),
    },
    "iso9660": {"volume": (None, ""), "pool": ("string", UNSET), "files": (None, UNSET)},
}  # fmt: skip
LIFE, FREEZE, SNAPSHOT = (f"cloudify.interfaces.{name}" for name in ("lifecycle", "freeze", "snapshot"))
RENDERS = {"params": {}, "template_resource": "", "template_content": ""}


def _of(module: str, renders: str, *names: str, snapshots: bool = True) -> dict[str, tuple[str, Any]]:
    found = {f"{LIFE}.{name}": (f"{module}.{name}", RENDERS if name == renders else {}) for name in names}
    if snapshots:
        found |= {f"{SNAPSHOT}.{name}": (f"{module}.snapshot_{name}", {}) for name in ("create", "apply", "delete")}
    return found


OPERATIONS = {
    "domain": {
        **_of("domain_tasks", "configure", "create", "configure", "start", "stop", "delete", "reboot", "update"),
        **{f"{FREEZE}.{name}": (f"domain_tasks.{name}", {}) for name in ("suspend", "resume")},
        "cloudify.interfaces.statistics.perfomance": ("domain_tasks.perfomance", {}),
    },
    "network": _of("network_tasks", "create", "create", "delete"),
    "pool": _of("pool_tasks", "create", "create", "configure", "start", "stop", "delete"),
    "volume": _of("volume_tasks", "create", "create", "start", "stop", "delete"),
    "ISO9660": _of("iso9660_tasks", "create", "create", snapshots=False),
}


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return found


def parsed(directory: Path, file: str, nodes: dict[str, Any], version: str | None = None) -> dict[str, Any]:
    path = directory / "blueprint.yaml"
    path.write_text(yaml.safe_dump({
        "tosca_definitions_version": f"cloudify_dsl_{version or VERSIONS[file]}",
        "imports": [f"file:{ROOT}/types/types.yaml", f"file:{ROOT}/{file}"],
        "node_templates": nodes,
    }))  # fmt: skip
    return {node["name"]: node for node in parse_from_path(str(path))["nodes"]}


@pytest.mark.parametrize("name", FILES)
def test_plugin_key_executor_package_and_labels(name: str) -> None:
    (key, plugin), *others = document(name)["plugins"].items()
    assert (key, others) == ("libvirt", [])
    assert plugin["executor"] == "central_deployment_agent" and plugin["package_name"] == "cloudify-libvirt-plugin"
    label = {"obj-type": {"values": ["libvirt"]}}
    assert document(name)["blueprint_labels"] == document(name)["labels"] == label


@pytest.mark.parametrize(("module", "function"), [(m, f) for m, names in FUNCTIONS.items() for f in names])
def test_public_functions_are_called_with_any_keywords(module: str, function: str) -> None:
    found = getattr(importlib.import_module(f"cloudify_libvirt.{module}"), function)
    assert callable(found)
    # The engine calls f(**kwargs); what no parameter takes is ignored, so there must be none.
    assert found.__code__.co_argcount == 0 and found.__code__.co_flags & 0x08


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("noun", BASES)
def test_types_have_their_bases_properties_and_data_types(noun: str, file: str) -> None:
    found = document(file)["node_types"][f"cloudify.libvirt.{noun}"]
    assert found["derived_from"] == f"cloudify.nodes.{BASES[noun]}"
    properties = found["properties"]
    assert {name: properties[name]["default"] for name in PROPERTIES} == PROPERTIES
    assert not [name for name in PROPERTIES if "type" in properties[name]], 'so that texts such as "yes" parse'
    assert properties["params"]["type"] == f"cloudify.datatypes.{noun.lower()}"


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("noun", "key"), [(noun, key) for noun, keys in PARAMS.items() for key in keys])
def test_params_have_their_types_and_defaults(noun: str, key: str, file: str) -> None:
    entry = document(file)["data_types"][f"cloudify.datatypes.{noun}"]["properties"][key]
    kind, default = PARAMS[noun][key]
    assert entry.get("type") == kind and entry.get("default", UNSET) == default
    assert default is not UNSET or entry["required"] is False


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("noun", BASES)
def test_operations_have_their_functions_and_inputs(tmp_path: Path, noun: str, file: str) -> None:
    node = parsed(tmp_path, file, {"one": {"type": f"cloudify.libvirt.{noun}"}})["one"]
    for name, (function, inputs) in OPERATIONS[noun].items():
        found = node["operations"][name]
        assert (found["plugin"], found["operation"]) == ("libvirt", f"cloudify_libvirt.{function}"), name
        assert found["inputs"] == inputs, name
        assert found["executor"] == "central_deployment_agent"


@pytest.mark.parametrize("noun", BASES)
def test_defaults_are_there_without_params(tmp_path: Path, noun: str) -> None:
    properties = parsed(tmp_path, "plugin.yaml", {"one": {"type": f"cloudify.libvirt.{noun}"}})["one"]["properties"]
    wanted = {key: default for key, (_, default) in PARAMS[noun.lower()].items() if default is not UNSET}
    assert wanted.items() <= properties["params"].items()


@pytest.mark.parametrize(
    ("params", "right"),
    [({"ram": 1}, False), ({"memory_size": "1024"}, False), ({"memory_size": 1024}, True),
     ({"memory_size": {"get_input": "memory"}}, True), ({"name": {"concat": ["a", "b"]}}, True)],
)  # fmt: skip
def test_params_of_a_property_are_checked_by_the_parser(tmp_path: Path, params: dict[str, Any], right: bool) -> None:
    path = tmp_path / "blueprint.yaml"
    path.write_text(yaml.safe_dump({
        "tosca_definitions_version": "cloudify_dsl_1_3",
        "imports": [f"file:{ROOT}/types/types.yaml", f"file:{ROOT}/plugin.yaml"],
        "inputs": {"memory": {"default": 1024}},
        "node_templates": {"vm": {"type": "cloudify.libvirt.domain", "properties": {"params": params}}},
    }))  # fmt: skip
    if right:
        assert parse_from_path(str(path))["nodes"]
    else:
        with pytest.raises(DSLParsingException):
            parse_from_path(str(path))


def test_params_of_an_input_are_free(tmp_path: Path) -> None:
    given = {"anything": 1, "memory_size": "1024", "instance_uuid": "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"}
    node = {
        "type": "cloudify.libvirt.domain",
        "interfaces": {LIFE: {"create": {"inputs": {"params": given, "use_external_resource": "true"}}}},
    }
    operation = parsed(tmp_path, "plugin.yaml", {"vm": node})["vm"]["operations"][f"{LIFE}.create"]
    assert operation["inputs"]["params"] == given and operation["operation"] == "cloudify_libvirt.domain_tasks.create"


def test_an_implementation_of_a_blueprint_drops_the_inputs_of_the_type(tmp_path: Path) -> None:
    body = {"implementation": "libvirt.cloudify_libvirt.domain_tasks.update", "inputs": {"params": {"vcpu": 2}}}
    node = {"type": "cloudify.libvirt.domain", "interfaces": {LIFE: {"configure": body}}}
    operation = parsed(tmp_path, "plugin.yaml", {"vm": node})["vm"]["operations"][f"{LIFE}.configure"]
    assert operation["operation"] == "cloudify_libvirt.domain_tasks.update"
    assert operation["inputs"] == {"params": {"vcpu": 2}}


@pytest.mark.parametrize("file", FILES)
def test_the_relationship(file: str) -> None:
    found = document(file)["relationships"]["cloudify.libvirt.relationships.connected_to"]
    assert found["derived_from"] == "cloudify.relationships.connected_to"
    operations = found["target_interfaces"]["cloudify.interfaces.relationship_lifecycle"]
    for name, function in (("establish", "link"), ("unlink", "unlink")):
        assert operations[name] == {"implementation": f"libvirt.cloudify_libvirt.network_tasks.{function}"}


def test_the_types_declare_what_old_base_types_lack(tmp_path: Path) -> None:
    """Old files have no use_external_resource and resource_id on cloudify.nodes.Root."""
    old = yaml.safe_load((ROOT / "types/types.yaml").read_text())
    for name in ("use_external_resource", "resource_id"):
        del old["node_types"]["cloudify.nodes.Root"]["properties"][name]
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(old))
    path = tmp_path / "blueprint.yaml"
    given = {"use_external_resource": "yes", "resource_id": "mine"}
    path.write_text(yaml.safe_dump({
        "tosca_definitions_version": "cloudify_dsl_1_3",
        "imports": ["old.yaml", f"file:{ROOT}/plugin.yaml"],
        "node_templates": {"vm": {"type": "cloudify.libvirt.domain", "properties": given}},
    }))  # fmt: skip
    assert given.items() <= parse_from_path(str(path))["nodes"][0]["properties"].items()


WORKFLOWS = {
    "suspend": {}, "resume": {}, "statistics": {},
    "backup": {
        "snapshot_name": "", "snapshot_incremental": True, "snapshot_type": "irregular", "snapshot_rotation": 1,
    },
    "restore": {"snapshot_name": "", "snapshot_incremental": True},
    "remove_backup": {"snapshot_name": "", "snapshot_incremental": True},
}  # fmt: skip
FILTERS = {"include_instances": [], "include_node_types": [], "exclude_node_types": []}


@pytest.mark.parametrize("file", [*FILES, "types/utilities.yaml"])
@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_have_their_parameters_without_types(name: str, file: str) -> None:
    found = document(file)["workflows"][name]["parameters"]
    assert {key: entry["default"] for key, entry in found.items()} == {**WORKFLOWS[name], **FILTERS}
    assert not [key for key, entry in found.items() if "type" in entry]
