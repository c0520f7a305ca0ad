"""Inputs of a command line read as declared, and hints for what the engine's parser refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from dsl_parser import exceptions, parser, tasks

from cloudify_libvirt.local_hints import hints
from cloudify_libvirt.local_inputs import typed
from cloudify_libvirt.local_resolver import LocalResolver

IMPORTS = ["cloudify/types/types.yaml", "plugin:cloudify-libvirt-plugin"]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("integer", "4", 4),
        ("integer", " -4 ", -4),
        ("integer", "4.0", "4.0"),
        ("integer", "four", "four"),
        ("integer", "", ""),
        ("integer", "9" * 40, "9" * 40),
        ("float", "1.5", 1.5),
        ("float", "2", 2.0),
        ("float", "nan", "nan"),
        ("boolean", "true", True),
        ("boolean", "False", False),
        ("boolean", "yes", "yes"),
        ("list", '["a", 1]', ["a", 1]),
        ("list", '{"a": 1}', '{"a": 1}'),
        ("dict", '{"a": 1}', {"a": 1}),
        ("dict", "a", "a"),
        ("string", "4", "4"),
        (None, "4", "4"),
    ],
)
def test_texts_are_read_as_declared(kind: str | None, text: str, value: Any) -> None:
    found = typed({"one": {"type": kind} if kind else {}}, {"one": text})["one"]
    assert found == value and type(found) is type(value)


def test_other_inputs_stay() -> None:
    assert typed({"one": {"type": "integer"}, "two": None}, {"one": True, "two": "2", "three": "3"}) == {
        "one": True, "two": "2", "three": "3",
    }  # fmt: skip
    assert typed({}, None) == {}


def refusal(path: Path, given: dict[str, Any] | None = None, **sections: Any) -> list[str]:
    """Let the engine's own parser refuse a blueprint; return the hints for what it said."""
    path = path / "blueprint.yaml"
    path.write_text(yaml.safe_dump({"tosca_definitions_version": "cloudify_dsl_1_3", "imports": IMPORTS, **sections}))
    known = tuple(one for one in vars(exceptions).values() if isinstance(one, type) and issubclass(one, Exception))
    with pytest.raises(known) as caught:
        tasks.prepare_deployment_plan(parser.parse_from_path(str(path), resolver=LocalResolver()), inputs=given or {})
    return hints(str(caught.value), path)


def node(kind: str = "cloudify.libvirt.domain", **properties: Any) -> dict[str, Any]:
    return {"vm": {"type": kind, "properties": properties}}


MINE = {"mine": {"derived_from": "cloudify.libvirt.domain", "properties": {"flavour": {"default": ""}}}}


@pytest.mark.parametrize(
    ("sections", "hint"),
    [
        ({"node_templates": node(params={"memroy": "1 GiB"})}, "Did you mean 'params.memory'?"),
        ({"node_templates": node(parms={})}, "Did you mean 'params'?"),
        ({"node_templates": node(libvirt_ath="x")}, "Did you mean 'libvirt_auth'?"),
        ({"node_templates": node("cloudify.libvirt.network", params={"cdir": "x"})}, "Did you mean 'params.cidr'?"),
        ({"node_templates": node("mine", flavor="x"), "node_types": MINE}, "Did you mean 'flavour'?"),
        ({"node_templates": node("mine", params={"vpcu": 1}), "node_types": MINE}, "Did you mean 'params.vcpu'?"),
        ({"node_templates": node("cloudify.libvirt.domian")}, "Did you mean 'cloudify.libvirt.domain'?"),
        (
            {"node_templates": {"vm": {"type": "cloudify.nodes.Root", "relationships": [
                {"type": "cloudify.relationships.depends_on", "target": "vmm"}]}}},
            "Did you mean 'vm'?",
        ),
        ({"inputs": {"machines": {}}, "node_templates": node()}, "Give them: -i 'machines=...', or -i FILE.yaml"),
        ({"description": "Grüße", "node_templates": node()}, "Give the text of line 1 as an input, with get_input"),
        ({"node_templates": node(params={"title": "a & 世界"})}, "Give the text of line 8 as an input"),
        ({"inputs": {"title": {"default": "«b»"}}, "node_templates": node()}, "Give the text of line 6 as an input"),
    ],
)  # fmt: skip
def test_hints(tmp_path: Path, sections: dict[str, Any], hint: str) -> None:
    (found,) = refusal(tmp_path, **sections)
    assert found.startswith(hint)


def test_hints_of_inputs(tmp_path: Path) -> None:
    declared = {"inputs": {"machines": {"type": "integer", "default": 1}}, "node_templates": node()}
    assert refusal(tmp_path, {"mahcines": 2}, **declared) == ["Did you mean 'machines'?"]
    assert refusal(tmp_path, {"machines": "x"}, **declared) == ["As in -i 'machines: 3'."]


def test_far_from_everything_the_keys_are_named(tmp_path: Path) -> None:
    (found,) = refusal(tmp_path, node_templates=node("cloudify.libvirt.pool", params={"zzzz": 1}))
    assert found.startswith("The keys there are ") and "path" in found


@pytest.mark.parametrize("said", ["", "something else", "Unknown inputs [oops specified - expected inputs: ["])
def test_what_is_not_known_gets_no_hint(said: str) -> None:
    assert hints(said) == []
    assert hints("'vm' node 'params.x' property is not part of", Path("/nowhere")) == []
