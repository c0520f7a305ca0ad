"""The cases of tests/data: params and facts in, a document out. Run it to write the documents anew."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cloudify_libvirt.core.document.own_template import own_variables
from cloudify_libvirt.core.document.render import TemplateSource, render
from cloudify_libvirt.core.spec import (
    MODELS,
    Backing,
    Disk,
    DomainFacts,
    Interface,
    NetworkFacts,
    OwnershipMark,
    PoolFacts,
    VolumeFacts,
    parse_spec,
    template_variables,
)
from cloudify_libvirt.core.spec.disk_network import NetworkAuth, NetworkDisk, NetworkHost, NetworkSource

DATA = Path(__file__).resolve().parent.parent / "data"
SCHEMAS = {"domain": "domain", "network": "network", "pool": "storagepool", "volume": "storagevol"}
UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
MARK = OwnershipMark("dep <1> & co", "vm", "vm_x1y2z3", "1.0.0")


@dataclass(frozen=True)
class Case:
    """One file of tests/data."""

    kind: str
    path: Path

    @property
    def content(self) -> dict[str, Any]:
        return yaml.safe_load(self.path.read_text(encoding="utf-8"))

    @property
    def golden(self) -> Path:
        return self.path.with_suffix(".xml")

    def spec(self) -> Any:
        content = self.content
        return parse_spec(self.kind, content["params"], node="vm", extra="template" in content)

    def rendered(self) -> str:
        spec, content = self.spec(), self.content
        known = facts(self.kind, spec, content.get("facts") or {})
        variables = template_variables(spec, known)
        source = TemplateSource(name=f"{self.kind}.xml.j2")
        if "template" in content:
            source = TemplateSource(content["template"], "own.xml.j2", "resources/own.xml.j2")
            variables = own_variables(source, spec, known, "", warnings.warn)
        return render(source, variables, schema=SCHEMAS[self.kind], node="vm")


def cases(*kinds: str) -> list[Case]:
    """Return the cases of these kinds, or all."""
    return [Case(kind, path) for kind in kinds or MODELS for path in sorted((DATA / kind).glob("*.yaml"))]


def _disk(network: dict[str, Any] | None = None, **values: Any) -> Disk:
    """Return a disk as it is when its volume was found."""
    if network is None:
        return Disk(**values)
    disk = Disk(pool="found", volume="found", **values)
    auth = NetworkAuth(**network["auth"]) if "auth" in network else None
    hosts = tuple(NetworkHost(**host) for host in network["hosts"])
    source = NetworkSource(**{**network, "auth": auth, "hosts": hosts})
    return NetworkDisk.model_construct(
        _fields_set=disk.model_fields_set, **{**dict(disk), "pool": None, "volume": None, "network": source}
    )


def facts(kind: str, spec: Any, given: dict[str, Any]) -> Any:
    """Return the facts of a case, with the spec's own values where it gives none."""
    if kind == "domain":
        disks = [_disk(**disk) for disk in given.pop("disks", [])] or spec.disks
        interfaces = [Interface(**entry) for entry in given.pop("interfaces", [])] or spec.networks
        defaults = {"uuid": UUID, "domain_type": spec.domain_type, "mark": MARK}
        return DomainFacts(**{**defaults, **given}, disks=tuple(disks), interfaces=tuple(interfaces))
    if kind == "network":
        return NetworkFacts(**{"uuid": UUID, "mark": MARK, **given})
    if kind == "pool":
        return PoolFacts(**{"uuid": UUID, **given})
    backing = given.pop("backing", None)
    return VolumeFacts(**given, backing=Backing(**backing) if backing else None)


if __name__ == "__main__":
    for case in cases(*SCHEMAS):
        case.golden.write_text(case.rendered(), encoding="utf-8")
        sys.stdout.write(f"{case.golden}\n")
