"""Small blueprints, written by the tests that need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Node = dict[str, Any]


def node(kind: str, *after: str, properties: dict[str, Any] | None = None, **params: Any) -> Node:
    """A node of one of our types that comes after other nodes; a domain is connected to a node named network."""
    relationships = [
        {"type": "cloudify.libvirt.relationships.connected_to" if other.startswith("network") and kind == "domain"
         else "cloudify.relationships.depends_on", "target": other}
        for other in after
    ]  # fmt: skip
    return {
        "type": f"cloudify.libvirt.{kind}",
        "properties": {"params": params, **(properties or {})},
        "relationships": relationships,
    }


def empty_domain(*after: str, **params: Any) -> Node:
    """A domain without an operating system: it starts at once, hears nothing and never has an address."""
    given = {"memory": "32 MiB", "hardware": "modern", "wait_for_ip": False, "shutdown_timeout_s": 1, **params}
    return node("domain", *after, **given)


def configured(domain: Node, **inputs: Any) -> Node:
    """The node with inputs for its operation configure (create, for other types than domains)."""
    step = "configure" if domain["type"] == "cloudify.libvirt.domain" else "create"
    return {**domain, "interfaces": {"cloudify.interfaces.lifecycle": {step: {"inputs": inputs}}}}


def blueprint(directory: Path, name: str, **nodes: Node) -> Path:
    """Write a blueprint of these nodes."""
    document = {
        "tosca_definitions_version": "cloudify_dsl_1_3",
        "imports": ["cloudify/types/types.yaml", "plugin:cloudify-libvirt-plugin"],
        "node_templates": nodes,
    }
    path = directory / f"blueprint-{name}" / "blueprint.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(document))
    return path
