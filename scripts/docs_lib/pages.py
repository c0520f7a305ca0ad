"""One page per node type: properties, parameters, operations, runtime properties."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from cloudify_libvirt import dsl
from cloudify_libvirt.runtime_properties import RUNTIME_PROPERTIES

from .models import Row, rows, tag, title

NOTE = "<!-- Made by scripts/generate-docs from cloudify_libvirt/dsl.py and core/spec; change those instead. -->"
_HEAD = ("key", "type", "unit", "default", "description")


def render_pages() -> dict[str, str]:
    """Render every page, by its name."""
    pages = {f"{noun(node_type)}.md": _page(node_type) for node_type in dsl.NODE_TYPES}
    return {**pages, "relationships.md": _relationships(), "workflows.md": _workflows(), "README.md": _index()}


def noun(node_type: dsl.NodeType) -> str:
    """Return what a node type is called in file names."""
    return node_type.params.rpartition(".")[2]


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    """Return a Markdown table; a column that is empty everywhere is left out."""
    names = list(head)
    cells = [[_cell(text) for text in line] for line in lines]
    kept = [at for at in range(len(names)) if any(line[at] for line in cells)]
    body = ["| " + " | ".join(line[at] for at in kept) + " |" for line in cells]
    return ["| " + " | ".join(names[at] for at in kept) + " |", "|" + "---|" * len(kept), *body, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _page(node_type: dsl.NodeType) -> str:
    lines = [
        f"# {node_type.name}", "", NOTE, "",
        f"{title(node_type.model)}. Derived from `{node_type.derived_from}`.", "",
        *_properties(node_type),
        *_params(node_type.model),
        *_operations(node_type.operations),
        *_runtime(noun(node_type)),
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def _properties(node_type: dsl.NodeType) -> list[str]:
    found = [(f"`{key}`", _default(entry), entry["description"]) for key, entry in dsl.PROPERTIES.items()]
    params = ("`params`", "`{}`", f"What to create: the keys below (data type `{node_type.params}`).")
    return ["## Properties", "", *table(("property", "default", "description"), [*found, params])]


def _default(entry: Any) -> str:
    return _shown(entry.get("default"))


def _shown(value: Any) -> str:
    return "" if value in (None, "") else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _params(model: type[BaseModel]) -> list[str]:
    """Return the table of the model's own keys, then one for each mapping below them, each model once."""
    lines = [
        "## params", "",
        "As a property or as an input of the operation that makes the object. Booleans and integers may be texts.", "",
    ]  # fmt: skip
    declared = [row for row in rows(model) if not row.input_only]
    lines += table(_HEAD, map(_line, declared))
    inputs = [row for row in rows(model) if row.input_only]
    if inputs:
        lines += ["As inputs only:", "", *table(_HEAD, map(_line, inputs))]
    for path, part in _below(model, "params", set()):
        lines += [f"### {path}", "", f"{title(part)}.", "", *table(_HEAD, map(_line, rows(part)))]
    return lines


def _line(row: Row) -> tuple[str, ...]:
    default = row.default if row.default in ("", "required") else f"`{row.default}`"
    return f"`{row.key}`", row.type, row.unit, default, row.description


def _below(model: type[BaseModel], path: str, seen: set[type[BaseModel]]) -> Iterator[tuple[str, type[BaseModel]]]:
    for row in rows(model):
        listed = "[]" if row.type.startswith("list of") else ""
        for part in row.parts:
            if part in seen:
                continue
            seen.add(part)
            kind = f" with type: {tag(part)}" if tag(part) else ""
            where = f"{path}.{row.key}{listed}"
            yield where + kind, part
            yield from _below(part, where, seen)


def _operations(operations: Iterable[dsl.Operation]) -> list[str]:
    lines = [
        (
            f"`{operation.interface}.{operation.name}`",
            f"`{operation.function}`",
            ", ".join(f"`{name}`" for name in operation.inputs or {}),
        )
        for operation in operations
        if operation.function not in dsl.LATER
    ]
    text = "Every operation also takes `params` and the properties above as inputs, undeclared."
    return ["## Operations", "", text, "", *table(("operation", "function", "declared inputs"), lines)]


def _runtime(kind: str) -> list[str]:
    found = [(f"`{one.key}`", one.description) for one in RUNTIME_PROPERTIES if one.description and kind in one.kinds]
    return ["## Runtime properties", "", *table(("key", "description"), found)]


def _relationships() -> str:
    lines = [
        f"# {dsl.CONNECTED_TO}", "", NOTE, "",
        "From a domain to a network. Derived from `cloudify.relationships.connected_to`. When the relationship is",
        "established, the addresses known by then are written to the runtime properties of the domain.", "",
        "Other dependencies (a pool, a volume, a seed) are plain `cloudify.relationships.depends_on`.", "",
        *_operations(dsl.CONNECTED_TO_OPERATIONS),
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def _workflows() -> str:
    lines = ["# Workflows", "", NOTE, "", "Declared by the plugin, beside those of the base types.", ""]
    for name, parameters in dsl.WORKFLOWS.items():
        found = [(f"`{key}`", _shown(value), text) for key, (text, value) in parameters.items()]
        lines += [f"## {name}", "", *table(("parameter", "default", "description"), found)]
    return "\n".join(lines).rstrip() + "\n"


def _index() -> str:
    pages = [(f"[{t.name}]({noun(t)}.md)", f"{title(t.model)}.") for t in dsl.NODE_TYPES]
    found = [
        *pages,
        (f"[{dsl.CONNECTED_TO}](relationships.md)", "Connects a domain to a network."),
        ("[workflows](workflows.md)", f"{', '.join(dsl.WORKFLOWS)}."),
    ]
    return "\n".join(["# Types", "", NOTE, "", *table(("type", "what it is"), found)]).rstrip() + "\n"
