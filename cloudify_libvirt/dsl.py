"""What the plugin offers to blueprints, as one table, and the plugin YAML files made from it.

``scripts/generate-plugin-yaml`` writes the files; the keys of ``params`` come from the models in
``core.spec``, so that a file and what the plugin accepts cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from cloudify_libvirt import __version__
from cloudify_libvirt.core.spec import DomainSpec, IsoSpec, NetworkSpec, PoolSpec, VolumeSpec
from cloudify_libvirt.core.spec.base import Spec, dsl_properties

PACKAGE = "cloudify-libvirt-plugin"
PLUGIN = "libvirt"
LABELS = {"obj-type": {"values": ["libvirt"]}}

# File name -> definitions version. A Manager takes the file whose name ends in the blueprint's
# version, else the one without a version, so plugin.yaml must parse at 1_3.
# v2_plugin.yaml is an old name that blueprints may import; never part of an upload together with plugin.yaml.
FILES = {"plugin.yaml": "1_3", "v2_plugin.yaml": "1_3", "plugin_1_4.yaml": "1_4", "plugin_1_5.yaml": "1_5"}

LIFECYCLE = "cloudify.interfaces.lifecycle"
VALIDATION = "cloudify.interfaces.validation"
RELATIONSHIP = "cloudify.interfaces.relationship_lifecycle"
FREEZE = "cloudify.interfaces.freeze"
SNAPSHOT = "cloudify.interfaces.snapshot"
STATISTICS = "cloudify.interfaces.statistics"
DEVICES = "cloudify.interfaces.devices"
BACKUP = "cloudify.interfaces.libvirt_backup"
HOST = "cloudify.interfaces.host"

# Inputs of the one operation of a type that renders XML. Any other input is accepted undeclared.
RENDERS: Mapping[str, Any] = {"params": {}, "template_resource": "", "template_content": ""}


@dataclass(frozen=True)
class Operation:
    """One operation of an interface, and the function below ``cloudify_libvirt`` that runs it."""

    interface: str
    name: str
    function: str
    inputs: Mapping[str, Any] | None = None
    retry_interval: float | None = None


@dataclass(frozen=True)
class NodeType:
    """One node type; ``params`` names its data type and ``model`` the spec that declares its keys."""

    name: str
    derived_from: str
    params: str
    model: type[Spec]
    operations: tuple[Operation, ...]


def _lifecycle(module: str, *names: str, renders: str) -> tuple[Operation, ...]:
    return tuple(Operation(LIFECYCLE, name, f"{module}.{name}", RENDERS if name == renders else None) for name in names)


def _validation(module: str) -> Operation:
    return Operation(VALIDATION, "create", f"{module}.validate")


def _shape(module: str) -> tuple[Operation, ...]:
    """Return what tells and mends how an installed instance is."""
    looks = Operation(VALIDATION, "check_status", f"{module}.check_status")
    return (looks, *(Operation(LIFECYCLE, name, f"{module}.{name}") for name in ("check_drift", "heal", "pull")))


def _snapshots(module: str) -> tuple[Operation, ...]:
    names = ("create", "apply", "delete", "rotate")
    return tuple(Operation(SNAPSHOT, name, f"{module}.snapshot_{name}") for name in names)


NODE_TYPES = (
    NodeType(
        "cloudify.libvirt.domain",
        "cloudify.nodes.Compute",
        "cloudify.datatypes.domain",
        DomainSpec,
        (
            _validation("domain_tasks"),
            *_shape("domain_tasks"),
            *_lifecycle(
                "domain_tasks",
                *("create", "configure", "start", "prestop", "stop", "delete", "reboot", "update"),
                renders="configure",
            ),
            # The engine asks again and again while a start is not complete, by default every 3 s
            # (15 s on a Manager); asking is cheap, so the guest's readiness is seen at once.
            Operation(HOST, "get_state", "domain_tasks.get_state", retry_interval=0.1),
            Operation(FREEZE, "suspend", "domain_tasks.suspend"),
            Operation(FREEZE, "resume", "domain_tasks.resume"),
            *_snapshots("domain_tasks"),
            Operation(SNAPSHOT, "check", "domain_tasks.snapshot_check"),
            Operation(STATISTICS, "perfomance", "domain_tasks.perfomance"),
            Operation(STATISTICS, "performance", "domain_tasks.performance"),
            Operation(DEVICES, "attach", "domain_tasks.attach_device_flags"),
            Operation(DEVICES, "update", "domain_tasks.update_domain_flags"),
            Operation(DEVICES, "detach", "domain_tasks.detach_device_flags"),
            *(
                Operation(BACKUP, name, f"domain_tasks.backup_{name}")
                for name in ("create", "list", "verify", "restore", "delete", "prune")
            ),
        ),
    ),
    NodeType(
        "cloudify.libvirt.network",
        "cloudify.nodes.Network",
        "cloudify.datatypes.network",
        NetworkSpec,
        # No stop: the workflows stop and restart run it before that of the machines that use the network.
        (
            _validation("network_tasks"),
            *_shape("network_tasks"),
            *_lifecycle("network_tasks", "create", "start", "delete", "update", renders="create"),
            *_snapshots("network_tasks"),
        ),
    ),
    NodeType(
        "cloudify.libvirt.pool",
        "cloudify.nodes.Tier",
        "cloudify.datatypes.pool",
        PoolSpec,
        (
            _validation("pool_tasks"),
            *_shape("pool_tasks"),
            *_lifecycle("pool_tasks", "create", "configure", "start", "stop", "delete", "update", renders="create"),
            *_snapshots("pool_tasks"),
        ),
    ),
    NodeType(
        "cloudify.libvirt.volume",
        "cloudify.nodes.Tier",
        "cloudify.datatypes.volume",
        VolumeSpec,
        (
            _validation("volume_tasks"),
            *_shape("volume_tasks"),
            *_lifecycle("volume_tasks", "create", "start", "stop", "delete", "update", renders="create"),
            *_snapshots("volume_tasks"),
        ),
    ),
    NodeType(
        "cloudify.libvirt.ISO9660",
        "cloudify.nodes.Tier",
        "cloudify.datatypes.iso9660",
        IsoSpec,
        (
            _validation("iso9660_tasks"),
            *_shape("iso9660_tasks"),
            *_lifecycle("iso9660_tasks", "create", "delete", "update", renders="create"),
        ),
    ),
)

CONNECTED_TO = "cloudify.libvirt.relationships.connected_to"
CONNECTED_TO_OPERATIONS = (
    Operation(RELATIONSHIP, "establish", "network_tasks.link"),
    Operation(RELATIONSHIP, "unlink", "network_tasks.unlink"),
)

# In the table, but not in the files until the function exists: a mapping to a missing function
# makes every blueprint fail when it is read.
LATER: frozenset[str] = frozenset()

# Properties of every type, beside params. None has a type, so that strings such as "yes" parse.
PROPERTIES: Mapping[str, Any] = {
    "use_external_resource": {
        "description": "Use the existing object that resource_id names; never create, stop or delete it.",
        "default": False,
    },
    "create_if_missing": {
        "description": "With use_external_resource: create the object, and own it, when there is none of that name.",
        "default": False,
    },
    "resource_id": {"description": "Name of the existing object.", "default": ""},
    "backup_dir": {"description": "Directory of backups that are kept in files.", "default": "./"},
    "libvirt_auth": {"description": "URI of the libvirt connection.", "default": "qemu:///system"},
}


_FILTERS: Mapping[str, tuple[str, Any]] = {
    "include_instances": ("Only these instances; empty means all.", []),
    "include_node_types": (
        "Only instances that are of each of these types, or of types derived from them; empty means all.",
        [],
    ),
    "exclude_node_types": ("No instances of these types, nor of types derived from them.", []),
}
_NAME = ("Name of the backup.", "")
_INCREMENTAL = ("False: kept in files of backup_dir. True: kept by libvirt, and in runtime properties.", True)
_ONE_BACKUP: Mapping[str, tuple[str, Any]] = {
    "snapshot_name": _NAME, "snapshot_incremental": _INCREMENTAL, **_FILTERS,
}  # fmt: skip

# Name, parameters with description and default. None has a type: texts of the command line must pass.
WORKFLOWS: Mapping[str, Mapping[str, tuple[str, Any]]] = {
    "suspend": _FILTERS,
    "resume": _FILTERS,
    "statistics": _FILTERS,
    "backup": {
        "snapshot_name": ("Name of the backup; backup-SECONDS when empty.", ""),
        "snapshot_incremental": _INCREMENTAL,
        "snapshot_type": ("Kept with the backup as its description.", "irregular"),
        "snapshot_rotation": ("How many backups to keep; for operations that rotate.", 1),
        **_FILTERS,
    },
    "restore": _ONE_BACKUP,
    "remove_backup": _ONE_BACKUP,
}


def _workflow(name: str, plugin: str) -> dict[str, Any]:
    parameters = {key: {"description": text, "default": value} for key, (text, value) in WORKFLOWS[name].items()}
    return {"mapping": f"{plugin}.cloudify_libvirt.workflows.{name}", "parameters": parameters}


def mapped(*, released: bool = True) -> Iterator[Operation]:
    """Yield every operation of the table; only those in the files when ``released``."""
    tables = (*(node_type.operations for node_type in NODE_TYPES), CONNECTED_TO_OPERATIONS)
    for operations in tables:
        for operation in operations:
            if not released or operation.function not in LATER:
                yield operation


def _interfaces(operations: tuple[Operation, ...]) -> dict[str, Any]:
    interfaces: dict[str, Any] = {}
    for operation in operations:
        if operation.function in LATER:
            continue
        body: dict[str, Any] = {"implementation": f"{PLUGIN}.cloudify_libvirt.{operation.function}"}
        if operation.retry_interval is not None:
            body["retry_interval"] = operation.retry_interval
        if operation.inputs:
            body["inputs"] = {key: {"default": default} for key, default in operation.inputs.items()}
        interfaces.setdefault(operation.interface, {})[operation.name] = body
    return interfaces


def _node_type(node_type: NodeType) -> dict[str, Any]:
    params = {"description": "What to create.", "type": node_type.params, "default": {}}
    return {
        "derived_from": node_type.derived_from,
        "properties": {**PROPERTIES, "params": params},
        "interfaces": _interfaces(node_type.operations),
    }


def document(dsl_version: str) -> dict[str, Any]:
    """Build the plugin's definitions for one DSL version such as ``1_4``."""
    return {
        "tosca_definitions_version": f"cloudify_dsl_{dsl_version}",
        "plugins": {
            PLUGIN: {
                "executor": "central_deployment_agent",
                "package_name": PACKAGE,
                "package_version": __version__,
            }
        },
        "data_types": {node_type.params: {"properties": dsl_properties(node_type.model)} for node_type in NODE_TYPES},
        "node_types": {node_type.name: _node_type(node_type) for node_type in NODE_TYPES},
        "relationships": {
            CONNECTED_TO: {
                "derived_from": "cloudify.relationships.connected_to",
                "target_interfaces": _interfaces(CONNECTED_TO_OPERATIONS),
            }
        },
        "workflows": {name: _workflow(name, PLUGIN) for name in WORKFLOWS},
        "blueprint_labels": LABELS,
        "labels": LABELS,
    }


class _Dumper(yaml.SafeDumper):
    """Indents list items and repeats equal values instead of naming them by an anchor."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


HEADER = "# Made by scripts/generate-plugin-yaml from cloudify_libvirt/dsl.py and core/spec; change those instead.\n"


UTILITIES = "types/utilities.yaml"
_ABOUT_UTILITIES = """\
# What local mode answers for the import of the utilities plugin: its workflows, which this plugin brings
# itself. None of its node types are here: for these point the import to that plugin's own file, by a rule.
"""


def utilities() -> dict[str, Any]:
    """Build what stands in for the part "suspend" of the utilities plugin."""
    return {
        "tosca_definitions_version": "cloudify_dsl_1_3",
        "plugins": {"suspend": {"executor": "central_deployment_agent", "install": False}},
        "workflows": {name: _workflow(name, "suspend") for name in WORKFLOWS},
    }


def render_files() -> dict[str, str]:
    """Render every YAML file that is made from the tables, by its path in a checkout."""
    files = {name: HEADER + "\n" + _dumped(document(dsl_version)) for name, dsl_version in FILES.items()}
    return {**files, UTILITIES: f"{HEADER}#\n{_ABOUT_UTILITIES}\n{_dumped(utilities())}"}


def _dumped(sections: Mapping[str, Any]) -> str:
    texts = (yaml.dump({key: value}, Dumper=_Dumper, sort_keys=False, width=110) for key, value in sections.items())
    return "\n".join(texts)
