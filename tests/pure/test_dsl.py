"""The plugin's and the base types' definitions: what the parser, the code and old blueprints see."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dsl_parser.parser import parse_from_path

from cloudify_libvirt import __version__, dsl

ROOT = Path(__file__).resolve().parents[2]
TYPES = ROOT / "types" / "types.yaml"
VERSIONS = ("1_3", "1_4", "1_5")
TASKS = ("domain_tasks", "network_tasks", "pool_tasks", "volume_tasks", "iso9660_tasks")
LIFECYCLE = "cloudify.interfaces.lifecycle"

# Names, defaults and types of the plugin that this one replaces; ... is "no default".
OLD_DATA_TYPES = {
    "domain": {
        "name": "", "vcpu": ..., "memory_size": ..., "memory_maxsize": ..., "nvram": ..., "disks": [], "networks": [],
        "devices": [], "full_dump": False, "wait_for_ip": True, "domain_type": "qemu",
    },
    "network": {"name": "", "dev": "", "forwards": [], "ips": []},
    "pool": {"name": "", "path": "", "capacity": ...},
    "volume": {
        "name": "", "path": "", "pool": ..., "capacity": ..., "allocation": 0, "url": "", "zero_wipe": False,
    },
    "iso9660": {"volume": "", "pool": ..., "files": ...},
}  # fmt: skip
OLD_BASES = {
    "cloudify.libvirt.domain": "cloudify.nodes.Compute",
    "cloudify.libvirt.network": "cloudify.nodes.Network",
    "cloudify.libvirt.pool": "cloudify.nodes.Tier",
    "cloudify.libvirt.volume": "cloudify.nodes.Tier",
    "cloudify.libvirt.ISO9660": "cloudify.nodes.Tier",
}
OLD_PROPERTIES = {
    "use_external_resource": False, "resource_id": "", "backup_dir": "./", "libvirt_auth": "qemu:///system",
}  # fmt: skip
RENDERING = {
    "cloudify.libvirt.domain": "configure",
    "cloudify.libvirt.network": "create",
    "cloudify.libvirt.pool": "create",
    "cloudify.libvirt.volume": "create",
    "cloudify.libvirt.ISO9660": "create",
}
SNAPSHOTS = {f"cloudify.interfaces.snapshot.{name}" for name in ("create", "apply", "delete", "rotate")}
VALIDATION = {f"cloudify.interfaces.validation.{name}" for name in ("create", "check_status")} | {
    f"{LIFECYCLE}.{name}" for name in ("check_drift", "heal", "pull")
}
OPERATIONS = {
    "cloudify.libvirt.domain": SNAPSHOTS
    | {"cloudify.interfaces.snapshot.check"}
    | VALIDATION
    | {
        f"{LIFECYCLE}.{name}"
        for name in ("create", "configure", "start", "prestop", "stop", "delete", "reboot", "update")
    }
    | {"cloudify.interfaces.host.get_state", "cloudify.interfaces.freeze.suspend", "cloudify.interfaces.freeze.resume"}
    | {f"cloudify.interfaces.statistics.{name}" for name in ("perfomance", "performance")}
    | {f"cloudify.interfaces.devices.{name}" for name in ("attach", "update", "detach")}
    | {
        f"cloudify.interfaces.libvirt_backup.{name}"
        for name in ("create", "list", "verify", "restore", "delete", "prune")
    },
    "cloudify.libvirt.network": SNAPSHOTS
    | VALIDATION
    | {f"{LIFECYCLE}.{name}" for name in ("create", "start", "delete", "update")},
    "cloudify.libvirt.pool": SNAPSHOTS
    | VALIDATION
    | {f"{LIFECYCLE}.{name}" for name in ("create", "configure", "start", "stop", "delete", "update")},
    "cloudify.libvirt.volume": SNAPSHOTS
    | VALIDATION
    | {f"{LIFECYCLE}.{name}" for name in ("create", "start", "stop", "delete", "update")},
    "cloudify.libvirt.ISO9660": {f"{LIFECYCLE}.{name}" for name in ("create", "delete", "update")} | VALIDATION,
}


def plugin_yaml(name):
    return yaml.safe_load((ROOT / name).read_text())


def plan(directory, version, nodes, *imports):
    blueprint = directory / "blueprint.yaml"
    blueprint.write_text(
        yaml.safe_dump(
            {
                "tosca_definitions_version": f"cloudify_dsl_{version}",
                "imports": [f"file:{path}" for path in imports],
                "node_templates": nodes,
            }
        )
    )
    return parse_from_path(str(blueprint))


def every_type(**properties):
    return {re.sub(r"\W", "_", name): {"type": name, "properties": properties} for name in OLD_BASES}


def generate(*arguments):
    script = [sys.executable, str(ROOT / "scripts" / "generate-plugin-yaml")]
    return subprocess.run([*script, *arguments], capture_output=True, text=True, timeout=60)


def test_the_files_are_the_generated_ones():
    run = generate("--check")
    assert run.returncode == 0, run.stdout + run.stderr


def test_check_shows_what_differs_and_writes_nothing(tmp_path):
    assert generate("--directory", str(tmp_path)).returncode == 0
    changed = tmp_path / "plugin_1_4.yaml"
    changed.write_text(changed.read_text().replace("backup_dir:", "backup_directory:"))
    before = changed.read_text()
    run = generate("--check", "--directory", str(tmp_path))
    assert run.returncode == 1
    assert "-      backup_directory:" in run.stdout
    assert "+      backup_dir:" in run.stdout
    assert changed.read_text() == before


def test_a_missing_file_is_a_difference(tmp_path):
    assert generate("--check", "--directory", str(tmp_path)).returncode == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "version"), dsl.FILES.items())
def test_each_file_parses_at_its_version(tmp_path, name, version):
    nodes = plan(tmp_path, version, every_type(), TYPES, ROOT / name)["nodes"]
    found = {}
    for node in nodes:
        mapped = {key for key, value in node["operations"].items() if value["plugin"] == "libvirt" and "." in key}
        found[node["type"]] = mapped
    assert found == OPERATIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_plugin_yaml_parses_at_every_version(tmp_path, version):
    nodes = plan(tmp_path, version, every_type(), TYPES, ROOT / "plugin.yaml")["nodes"]
    assert {node["type"] for node in nodes} == set(OLD_BASES)


def test_no_file_of_the_old_naming_stands_beside_plugin_yaml():
    assert {path.name for path in ROOT.glob("*plugin*.yaml")} == set(dsl.FILES)


@pytest.mark.parametrize("name", dsl.FILES)
def test_each_file_names_the_package_its_version_and_its_labels(name):
    document = plugin_yaml(name)
    assert document["plugins"] == {
        "libvirt": {
            "executor": "central_deployment_agent",
            "package_name": "cloudify-libvirt-plugin",
            "package_version": __version__,
        }
    }
    label = {"obj-type": {"values": ["libvirt"]}}
    assert document["labels"] == document["blueprint_labels"] == label


@pytest.mark.parametrize("name", dsl.FILES)
def test_old_names_and_defaults_are_kept(name):
    document = plugin_yaml(name)
    for kind, keys in OLD_DATA_TYPES.items():
        declared = document["data_types"][f"cloudify.datatypes.{kind}"]["properties"]
        found = {key: declared[key].get("default", ...) if key in declared else "missing" for key in keys}
        assert found == keys, kind
        for key, schema in declared.items():
            assert "default" in schema or schema.get("required") is False, f"{kind}.{key} would be mandatory"
    for type_name, base in OLD_BASES.items():
        node_type = document["node_types"][type_name]
        assert node_type["derived_from"] == base
        properties = node_type["properties"]
        kind = type_name.rpartition(".")[2].lower()
        assert properties["params"]["type"] == f"cloudify.datatypes.{kind}"
        plain = {key: value["default"] for key, value in properties.items() if key != "params"}
        assert plain == {**OLD_PROPERTIES, "create_if_missing": False}
        assert not [key for key, value in properties.items() if key != "params" and "type" in value]


def test_defaults_of_params_are_filled_in_when_a_blueprint_sets_none(tmp_path):
    nodes = plan(tmp_path, "1_3", every_type(), TYPES, ROOT / "plugin.yaml")["nodes"]
    domain = next(node for node in nodes if node["type"] == "cloudify.libvirt.domain")
    defaults = {key: value for key, value in OLD_DATA_TYPES["domain"].items() if value is not ...}
    params = domain["properties"]["params"]
    assert {key: params.get(key, "missing") for key in defaults} == defaults


def test_properties_accept_booleans_written_as_text(tmp_path):
    nodes = plan(tmp_path, "1_3", every_type(use_external_resource="yes"), TYPES, ROOT / "plugin.yaml")["nodes"]
    assert {node["properties"]["use_external_resource"] for node in nodes} == {"yes"}


def test_the_operation_that_renders_declares_its_inputs_and_no_other_does():
    for type_name, interfaces in ((key, value["interfaces"]) for key, value in document_types()):
        for interface, operations in interfaces.items():
            for name, body in operations.items():
                wanted = {"params": {}, "template_resource": "", "template_content": ""}
                found = {key: value["default"] for key, value in body.get("inputs", {}).items()}
                renders = (interface, name) == (LIFECYCLE, RENDERING[type_name])
                assert found == (wanted if renders else {}), f"{type_name}.{name}"


def document_types():
    return plugin_yaml("plugin.yaml")["node_types"].items()


def test_the_relationship_acts_on_the_target_side(tmp_path):
    nodes = {
        "net": {"type": "cloudify.libvirt.network"},
        "vm": {
            "type": "cloudify.libvirt.domain",
            "relationships": [{"type": "cloudify.libvirt.relationships.connected_to", "target": "net"}],
        },
    }
    parsed = plan(tmp_path, "1_3", nodes, TYPES, ROOT / "plugin.yaml")["nodes"]
    (relationship,) = next(node for node in parsed if node["name"] == "vm")["relationships"]
    prefix = "cloudify.interfaces.relationship_lifecycle"
    target = {key: value["operation"] for key, value in relationship["target_operations"].items() if value["operation"]}
    assert target[f"{prefix}.establish"] == "cloudify_libvirt.network_tasks.link"
    assert target[f"{prefix}.unlink"] == "cloudify_libvirt.network_tasks.unlink"
    assert not [value for value in relationship["source_operations"].values() if value["operation"]]


def test_the_wait_for_a_guest_is_polled_ten_times_a_second(tmp_path):
    nodes = plan(tmp_path, "1_3", every_type(), TYPES, ROOT / "plugin.yaml")["nodes"]
    domain = next(node for node in nodes if node["type"] == "cloudify.libvirt.domain")
    assert domain["operations"]["cloudify.interfaces.host.get_state"]["retry_interval"] == 0.1


def functions(module_name):
    module = importlib.import_module(f"cloudify_libvirt.{module_name}")
    return {
        f"{module_name}.{name}"
        for name, value in vars(module).items()
        if not name.startswith("_") and inspect.isfunction(value) and value.__module__ == module.__name__
    }


def test_the_files_and_the_code_name_the_same_operations():
    exist = set().union(*(functions(module) for module in TASKS))
    named = {operation.function for operation in dsl.mapped()}
    assert named - exist == set(), "mapped, but there is no such function"
    assert dsl.LATER & exist == set(), "exists now: take it out of LATER"
    assert exist - named == set(), "a public operation that nothing names"


def test_the_files_map_exactly_what_the_table_releases():
    text = (ROOT / "plugin.yaml").read_text()
    in_file = set(re.findall(r"libvirt\.cloudify_libvirt\.(\S+)", text))
    assert {name for name in in_file if name.startswith("workflows.")} == {
        f"workflows.{name}" for name in dsl.WORKFLOWS
    }
    in_file -= {f"workflows.{name}" for name in dsl.WORKFLOWS}
    assert in_file == {operation.function for operation in dsl.mapped()}
    everything = {operation.function for operation in dsl.mapped(released=False)}
    assert everything - in_file == dsl.LATER


@pytest.mark.parametrize("version", VERSIONS)
def test_base_types_parse_and_hosts_have_no_agent(tmp_path, version):
    types = yaml.safe_load(TYPES.read_text())
    nodes = {re.sub(r"\W", "_", name): {"type": name} for name in types["node_types"]}
    nodes["partial"] = {"type": "cloudify.nodes.Compute", "properties": {"agent_config": {"user": "me"}}}
    parsed = plan(tmp_path, version, nodes, TYPES)
    hosts = [node for node in parsed["nodes"] if "cloudify.nodes.Compute" in node["type_hierarchy"]]
    assert {node["properties"]["agent_config"]["install_method"] for node in hosts} == {"none"}
    (partial,) = (node for node in hosts if node["name"] == "partial")
    assert partial["properties"]["agent_config"]["user"] == "me"
    assert set(types["workflows"]) <= set(parsed["workflows"])


def test_every_workflow_of_the_base_types_exists():
    types = yaml.safe_load(TYPES.read_text())
    for name, workflow in types["workflows"].items():
        plugin, _, path = workflow["mapping"].partition(".")
        module, _, function = path.rpartition(".")
        assert plugin == "default_workflows"
        target = inspect.signature(inspect.unwrap(getattr(importlib.import_module(module), function)))
        accepts_any = any(value.kind is value.VAR_KEYWORD for value in target.parameters.values())
        assert accepts_any or set(workflow["parameters"]) <= set(target.parameters), name
        required = {
            key
            for key, value in target.parameters.items()
            if value.default is value.empty and value.kind is value.POSITIONAL_OR_KEYWORD and key != "ctx"
        }
        assert required <= set(workflow["parameters"]), name


OLD_BLUEPRINT = """
tosca_definitions_version: cloudify_dsl_1_3
imports: ['file:{types}', 'file:{plugin}']
inputs:
  host: {{default: {{get_secret: libvirt_host}}}}
relationships:
  machine_on_disk:
    derived_from: cloudify.relationships.contained_in
    target_interfaces:
      cloudify.interfaces.relationship_lifecycle:
        preconfigure: {{implementation: scripts/disks.py, executor: central_deployment_agent, inputs: {{}}}}
node_templates:
  net:
    type: cloudify.libvirt.network
    properties:
      libvirt_auth: &uri {{concat: ['qemu+ssh://me@', {{get_input: host}}, '/system?sshauth=privkey&keyfile=/key']}}
    interfaces:
      cloudify.interfaces.lifecycle:
        create:
          inputs: {{resource_id: {{get_secret: network}}, use_external_resource: true}}
  disk:
    type: cloudify.nodes.ApplicationServer
    interfaces:
      cloudify.interfaces.lifecycle:
        create: {{implementation: scripts/disks.py, executor: central_deployment_agent}}
  vm:
    type: cloudify.libvirt.domain
    properties:
      libvirt_auth: *uri
      agent_config: {{install_method: remote, user: me, key: {{get_secret: key}}}}
    interfaces:
      cloudify.interfaces.lifecycle:
        create:
          inputs:
            params: {{vcpu: '2', memory_size: '524288', networks: [{{network: {{get_attribute: [net, resource_id]}}}}]}}
        configure:
          inputs: {{template_resource: templates/own.xml}}
    relationships:
      - {{type: cloudify.libvirt.relationships.connected_to, target: net}}
      - {{type: machine_on_disk, target: disk}}
  again:
    type: cloudify.libvirt.domain
    interfaces:
      cloudify.interfaces.lifecycle:
        start:
          implementation: libvirt.cloudify_libvirt.domain_tasks.update
          inputs: {{params: {{memory_size: 393216}}}}
groups:
  machines: {{members: [vm, disk]}}
policies:
  scaling: {{type: cloudify.policies.scaling, properties: {{default_instances: 2}}, targets: [machines]}}
"""


def test_the_ways_of_old_blueprints_still_parse(tmp_path):
    script = tmp_path / "scripts" / "disks.py"
    script.parent.mkdir()
    script.write_text("")
    blueprint = tmp_path / "blueprint.yaml"
    blueprint.write_text(OLD_BLUEPRINT.format(types=TYPES, plugin=ROOT / "plugin.yaml"))
    nodes = {node["name"]: node for node in parse_from_path(str(blueprint))["nodes"]}
    configure = nodes["vm"]["operations"][f"{LIFECYCLE}.configure"]
    assert configure["operation"] == "cloudify_libvirt.domain_tasks.configure"
    assert configure["inputs"] == {"params": {}, "template_resource": "templates/own.xml", "template_content": ""}
    assert nodes["vm"]["operations"][f"{LIFECYCLE}.create"]["inputs"]["params"]["vcpu"] == "2"
    assert nodes["again"]["operations"][f"{LIFECYCLE}.start"]["operation"] == "cloudify_libvirt.domain_tasks.update"
    assert nodes["again"]["operations"][f"{LIFECYCLE}.stop"]["operation"] == "cloudify_libvirt.domain_tasks.stop"
