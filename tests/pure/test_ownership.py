"""The mark in the metadata: what is written is what is read, whatever is in it."""

from __future__ import annotations

import pytest

from cloudify_libvirt.core.document.render import TemplateSource, render
from cloudify_libvirt.core.ownership import mark as ownership
from cloudify_libvirt.core.spec import NetworkFacts, OwnershipMark, parse_spec, template_variables

UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"


def network(mark: OwnershipMark | None) -> str:
    spec = parse_spec("network", {"name": "n", "cidr": "10.9.0.0/24"}, node="n", extra=False)
    variables = template_variables(spec, NetworkFacts(UUID, mark=mark))
    return render(TemplateSource(name="network.xml.j2"), variables, schema="network", node="n")


@pytest.mark.parametrize("deployment", ["dep", "ten/ant", "<\"&'>", "ümläut ☃"])
@pytest.mark.parametrize("orchestrator", ["f" * 32, ""])
def test_a_mark_is_read_back(deployment: str, orchestrator: str) -> None:
    mark = OwnershipMark(deployment, "node", "node_1", "1.0", orchestrator, 7 if orchestrator else 0)
    assert ownership.mark_of(network(mark)) == mark


def test_a_mark_of_an_older_release_names_no_orchestrator() -> None:
    xml = network(OwnershipMark("dep", "node", "node_1", "1.0"))
    assert "orchestrator" not in xml and "number" not in xml


def test_what_has_no_mark_is_nobodys() -> None:
    assert ownership.mark_of(network(None)) is None
    assert ownership.mark_of("<domain><metadata><other xmlns='urn:x' deployment='dep'/></metadata></domain>") is None
