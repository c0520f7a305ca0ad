"""The reference pages: up to date, complete, and true of the code."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from cloudify_libvirt import dsl
from cloudify_libvirt.core.document.render import TemplateSource, render
from cloudify_libvirt.core.spec import NetworkFacts, parse_spec, template_variables
from cloudify_libvirt.record import OWN_KEYS
from cloudify_libvirt.runtime_properties import EVERY, RESOURCE_ID, RUNTIME_PROPERTIES

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = [sys.executable, str(ROOT / "scripts/generate-docs")]
TYPES = ROOT / "docs/types"

sys.path.insert(0, str(ROOT / "scripts"))
from docs_lib.models import parts, rows  # noqa: E402
from docs_lib.pages import noun, render_pages  # noqa: E402

PAGES = render_pages()


def test_every_runtime_property_is_described_or_internal() -> None:
    keys = [one.key for one in RUNTIME_PROPERTIES]
    assert len(keys) == len(set(keys))
    assert set(keys) - {RESOURCE_ID} == OWN_KEYS
    assert all(one.kinds and one.kinds <= EVERY for one in RUNTIME_PROPERTIES)
    assert all(one.description.endswith((".", "...")) for one in RUNTIME_PROPERTIES if one.description)


def test_what_is_not_described_is_written_all_the_same() -> None:
    """A key of the table that no code names is a claim about nothing."""
    sources = [path for path in (ROOT / "cloudify_libvirt").rglob("*.py") if path.name != "runtime_properties.py"]
    text = "\n".join(re.sub(r"OWN_KEYS = .*?\n\)\n", "", path.read_text(), flags=re.DOTALL) for path in sources)
    unnamed = {one.key for one in RUNTIME_PROPERTIES if not re.search(rf"\b{one.key}=|[\"']{one.key}[\"']", text)}
    assert unnamed == set()


@pytest.mark.parametrize("node_type", dsl.NODE_TYPES, ids=noun)
def test_a_page_names_everything(node_type: dsl.NodeType) -> None:
    page = PAGES[f"{noun(node_type)}.md"]
    cells = {line.split("|")[1].strip().strip("`") for line in page.splitlines() if line.startswith("| `")}
    declared = {row.key for model in [node_type.model, *parts(node_type.model)] for row in rows(model)}
    below = [row for row in rows(node_type.model) for part in row.parts for row in rows(part)]
    assert {*dsl.PROPERTIES, *declared, *(row.key for row in below)} <= cells
    for operation in node_type.operations:
        assert (operation.function in page) == (operation.function not in dsl.LATER)
    for one in RUNTIME_PROPERTIES:
        if noun(node_type) in one.kinds and one.description:
            assert one.key in cells


def test_every_key_is_described_and_of_a_known_type() -> None:
    seen = []
    for node_type in dsl.NODE_TYPES:
        models, at = [node_type.model], 0
        while at < len(models):
            models += [part for row in rows(models[at]) for part in row.parts if part not in models]
            at += 1
        seen += [(model, row) for model in models for row in rows(model)]
    assert len(seen) > 80
    tags = {"type"}  # of a union, whose page says which mapping it is
    assert [f"{model.__name__}.{row.key}" for model, row in seen if not row.description and row.key not in tags] == []
    assert [f"{model.__name__}.{row.key}" for model, row in seen if not row.type] == []


def test_every_workflow_and_parameter_is_on_its_page() -> None:
    for name, parameters in dsl.WORKFLOWS.items():
        section = PAGES["workflows.md"].split(f"## {name}\n")[1].split("## ")[0]
        assert all(f"| `{key}` |" in section and text in section for key, (text, _default) in parameters.items())


def test_bounds_units_and_lists_are_said() -> None:
    domain, network = PAGES["domain.md"], PAGES["network.md"]
    assert "| `mtu` | integer, 68 to 65535 |" in network
    assert "| `ips` | list of mappings |" in network and "### params.ips[]" in network
    assert "| `memory` | size | given with it |" in domain
    assert "| `address_timeout_s` | integer, at least 1 | s | `300` |" in domain


def test_check_notices_changed_missing_and_left_over_pages(tmp_path: Path) -> None:
    def run(*options: str) -> tuple[int, str]:
        done = subprocess.run(
            [*SCRIPT, "--directory", str(tmp_path), *options], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    code, said = run("--check")
    assert code == 1 and "+# cloudify.libvirt.network" in said
    assert run()[0] == 0 and run("--check") == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == set(PAGES)
    (tmp_path / "network.md").write_text("old\n")
    (tmp_path / "gone.md").write_text("left over\n")
    code, said = run("--check")
    assert code == 1 and "-old" in said and "-left over" in said
    assert run()[0] == 0 and run("--check") == (0, "")


def test_the_pages_of_the_checkout_are_up_to_date() -> None:
    done = subprocess.run([*SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run scripts/generate-docs\n{done.stdout}"


def test_links_between_pages_lead_somewhere() -> None:
    for name, page in PAGES.items():
        for link in re.findall(r"\]\(([^)#]+)", page):
            assert (TYPES / link).exists(), f"{name}: {link}"


def examples(page: str) -> list[dict[str, object]]:
    """Every ``params`` of the page's YAML blocks."""
    blocks = re.findall(r"^ *```yaml\n(.*?)^ *```", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)
    parts = [part for block in blocks for part in re.split(r"\n\n(?=#)", textwrap.dedent(block))]
    documents = [yaml.safe_load(part) for part in parts]
    return [found["net"]["properties"]["params"] if "net" in found else found["params"] for found in documents]


def test_the_examples_of_networks_are_valid() -> None:
    found = examples("networks.md")
    assert len(found) >= 6
    for params in found:
        spec = parse_spec("network", {"name": "net", **params}, node="net", extra=False)
        facts = NetworkFacts("4dea22b3-1d52-d8f3-2516-782e98ab3fa0", cidr="10.9.0.0/24" if spec.cidr else "")
        render(TemplateSource(name="network.xml.j2"), template_variables(spec, facts), schema="network", node="net")


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_links_of_the_pages_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "docs" / page).read_text()):
        assert (ROOT / "docs" / link).exists(), link
