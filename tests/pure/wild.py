"""Values that nobody would write by mistake: strategies for the tests of untrusted input."""

from __future__ import annotations

import typing
from types import UnionType
from typing import Any

import yaml
from goldens import DATA
from hypothesis import strategies as st
from pydantic import BaseModel

# The element and attribute names that must never come to be.
EVIL = "zz9evil"
_HOSTILE = (
    f"</name><{EVIL}/><name>",
    f"' {EVIL}='1",
    f'" {EVIL}="1',
    f"]]><{EVIL}/>",
    f"--><{EVIL}/><!--",
    f"&lt;{EVIL}/&gt;",
    "&e;",
    "{{ 7*7 }}",
    "{% include 'domain.xml.j2' %}",
    "{{ ctx.__class__ }}",
    "{#",
    "<![CDATA[",
    "<?xml version='1.0'?>",
    "\x00",
    "a\x00b",
    "\x1b[2J",
    "\ud800",
    "\ufffe",
    "\u202e\u2066rtl",
    "a\nb",
    "a\r\nb",
    "\t",
    " lead",
    "trail ",
    "\u0130",
    "'",
    '"',
    "&",
    "<",
    ">",
    "/",
    "//",
    "..",
    "../../etc/passwd",
    "/etc/shadow",
    "json:{}",
    "a" * 5000,
    "٣",
    "²",
    "1e9",
    "nan",
    "-1",
    "+5",
    "0x10",
    "1_000",
    "9" * 30,
    "9" * 5000,
    "true",
    "null",
    "=",
    "~",
    "52:54:00:00:00:01",
    "10.0.0.0/8",
    "::1/64",
    "fe80::1%eth0",
    "300 GiB",
    "1 MiB",
    "raw",
    "auto",
    "http://u:p@h/x",
    "http://[",
    "file:///etc/passwd",
    "https://h:99999/",
)
TEXT = st.one_of(
    st.sampled_from(_HOSTILE),
    st.text(max_size=40),
    st.text(st.sampled_from("<>&'\"{}%;:/.[]-0123456789 aA\n"), max_size=20),
)
SCALAR = st.one_of(
    TEXT,
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0, 1, 2, 10**400, b"bytes", object]),
)
JUNK = st.recursive(
    SCALAR,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(TEXT, st.integers(), st.none()), inner, max_size=3)
    ),
    max_leaves=6,
)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _literals(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [value for part in typing.get_args(annotation) for value in _literals(part)]


def _is_list(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (list, tuple):
        return True
    is_union = typing.get_origin(annotation) in (typing.Union, UnionType, typing.Annotated)
    return is_union and any(_is_list(part) for part in typing.get_args(annotation))


def _good(kind: str) -> dict[str, list[Any]]:
    """Collect what the goldens have, by key."""
    found: dict[str, list[Any]] = {}

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                found.setdefault(str(key), []).append(item)
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    for path in sorted((DATA / kind).glob("*.yaml")):
        walk(yaml.safe_load(path.read_text())["params"])
    return found


def golden_params(kind: str) -> list[dict[str, Any]]:
    """Return the params of all goldens."""
    return [yaml.safe_load(path.read_text())["params"] for path in sorted((DATA / kind).glob("*.yaml"))]


def by_model(model: type[BaseModel], good: dict[str, list[Any]], depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings of any fields of the model, most with values of the right kind."""
    fields = {
        name: _field(name, info.annotation, good, depth) for name, info in model.model_fields.items() if name != "extra"
    }
    some = st.lists(st.sampled_from(sorted(fields)), max_size=5, unique=True)
    return some.flatmap(lambda names: st.fixed_dictionaries({name: fields[name] for name in names}))


def _field(name: str, annotation: Any, good: dict[str, list[Any]], depth: int) -> st.SearchStrategy[Any]:
    choices: list[st.SearchStrategy[Any]] = [TEXT, JUNK]
    seen, literals = good.get(name, []), _literals(annotation)
    choices += [st.sampled_from(seen)] * 4 if seen else []
    choices += [st.sampled_from(literals)] * 2 if literals else []
    for model in _models(annotation) if depth < 3 else []:
        inner = by_model(model, good, depth + 1)
        choices.append(st.lists(inner, max_size=3) if _is_list(annotation) else inner)
    return st.one_of(choices)


@st.composite
def mutated(draw: st.DrawFn, bases: list[dict[str, Any]]) -> dict[str, Any]:
    """A good mapping with up to three values, anywhere in it, replaced by wild ones or dropped."""
    params: Any = draw(st.sampled_from(bases))
    for _ in range(draw(st.integers(1, 3))):
        params = _replaced(draw, params)
    return params if isinstance(params, dict) else {}


def _replaced(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value, key=str)))
        return {**value, key: _replaced(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], _replaced(draw, value[at]), *value[at + 1 :]]
    if isinstance(value, str) and draw(st.booleans()):
        return value + draw(TEXT)
    return draw(JUNK)


def params(kind: str, model: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """Parameters of one kind of object."""
    bases, good = golden_params(kind), _good(kind)
    mixed = st.tuples(st.sampled_from(bases), by_model(model, good)).map(lambda pair: {**pair[0], **pair[1]})
    named = by_model(model, good).map(lambda found: {"name": "x", **found})
    return st.one_of(mutated(bases), mixed, named, st.dictionaries(TEXT, JUNK, max_size=3))
