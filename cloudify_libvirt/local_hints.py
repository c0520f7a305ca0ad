"""What to do about a blueprint or inputs that the engine's parser refuses: the nearest right name, and how to give it.

The parser says what is wrong and where, and not what would be right. Its words are read here, and never changed: what
is not recognised gets no hint. No import of the engine: cfy loads this at its start.

Source: dsl_parser.tasks, dsl_parser.elements.node_templates and .relationships of cloudify-common 7.0
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cloudify_libvirt import shipped

Json = Mapping[str, Any]

_PROPERTY = re.compile(r"'(?P<node>[^']*)' node '(?P<path>[^']*)' property is not part of")
_NODE_TYPE = re.compile(r"Could not locate node type: '(?P<name>[^']*)'; existing types: (?P<known>\[.*?\])")
_TARGET = re.compile(r"relationship instance under node '[^']*' of type '[^']*' declares an undefined target node "
                     r"'(?P<name>[^']*)'")  # fmt: skip
_UNKNOWN = re.compile(r"Unknown inputs (?P<names>\[.*?\]) specified - expected inputs: (?P<known>\[.*?\])")
_MISSING = re.compile(r"Required inputs (?P<names>\[.*?\]) were not specified")
_INPUT_TYPE = re.compile(r"^Property type validation failed in '(?P<name>[^']*)': the defined type is '(?P<kind>\w+)'")
_NOT_ASCII = re.compile(r"illegal characters in line: (?P<line>\d+), column")
_EXAMPLES = {"integer": "3", "float": "1.5", "boolean": "true", "list": "[a, b]", "dict": "{a: b}"}


def hints(said: str, blueprint: Path | None = None) -> list[str]:
    """Return what may help against a message of the parser, a line each; ``blueprint`` is the file that it read."""
    return list(_hints(said, blueprint))


def _hints(said: str, blueprint: Path | None) -> Iterator[str]:
    if found := _PROPERTY.search(said):
        yield from _property(found["path"], _document(blueprint), found["node"])
    elif found := _NODE_TYPE.search(said):
        yield from _nearest(found["name"], _listed(found["known"]))
    elif found := _TARGET.search(said):
        yield from _nearest(found["name"], _section(_document(blueprint), "node_templates"), "The nodes")
    elif found := _UNKNOWN.search(said):
        for name in _listed(found["names"]):
            yield from _nearest(name, _listed(found["known"]))
    elif found := _MISSING.search(said):
        pairs = ";".join(f"{name}=..." for name in _listed(found["names"]))
        yield f"Give them: -i '{pairs}', or -i FILE.yaml with a line for each."
    elif found := _INPUT_TYPE.search(said):
        yield f"As in -i '{found['name']}: {_EXAMPLES.get(found['kind'], '...')}'."
    elif found := _NOT_ASCII.search(said):
        # The engine counts lines from 0.
        yield f"Give the text of line {int(found['line']) + 1} as an input, with get_input in its place: -i FILE.yaml."


def _listed(text: str) -> list[str]:
    """Return a list that the message has in Python's writing."""
    try:
        return [str(one) for one in ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        return []


def _nearest(name: str, known: Iterable[str], what: str = "") -> Iterator[str]:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        yield f"Did you mean {near[0]!r}?"
    elif what and names:
        yield f"{what} are {', '.join(names)}."


def _property(path: str, document: Json, node: str) -> Iterator[str]:
    """Look for the nearest key on the level of the one that is wrong, in the type of the node."""
    *above, name = path.split(".")
    types = _kind_of(document, node)
    level: Json = types
    for part in above:
        level = _section(_all(document, "data_types"), str((level.get(part) or {}).get("type")), "properties")
    for hint in _nearest(name, level, "The keys there" if above else "The properties"):
        yield hint.replace("mean '", f"mean '{'.'.join([*above, ''])}") if above else hint


def _kind_of(document: Json, node: str) -> Json:
    """Return the properties that a node's type has, those that it inherits too."""
    kinds, found = _all(document, "node_types"), dict[str, Any]()
    kind: Any = _section(document, "node_templates", node).get("type")
    for _ in range(len(kinds)):
        one = _section(kinds, str(kind))
        found = {**_section(one, "properties"), **found}
        kind = one.get("derived_from")
    return found


def _all(document: Json, section: str) -> Json:
    """Return a section of our plugin and the blueprint together."""
    return {**_section(_document(shipped.plugin_file()), section), **_section(document, section)}


def _section(document: Json, *keys: str) -> Json:
    found: Any = document
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _document(path: Path | None) -> Json:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, Mapping) else {}
