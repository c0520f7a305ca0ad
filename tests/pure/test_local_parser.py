"""Documents as libyaml reads them for us: the same values, lines, columns and errors as by the engine's own loader."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dsl_parser import exceptions, utils, yaml_loader
from dsl_parser.holder import Holder

from cloudify_libvirt import local_parser

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path
    for place in ("blueprints", "types", "tests/data", "tests/contract")
    for path in (ROOT / place).rglob("*.yaml")
    if path.stat().st_size < 60_000
) + sorted(ROOT.glob("plugin*.yaml"))
# What the two are known to see otherwise, and what is close to it.
ODD = [
    "",
    "\n",
    "a: b",
    "- ",
    "- a\n- - b\n  -\n",
    "a:\n",
    "{}",
    "[]\n",
    "a: {b: , c: 1}\n",
    "a: {b: }\n",
    "a: [b, ]\n",
    "a: {b?: 1}\n",
    "? a\n: b\n",
    "a? : b\n",
    "! a\n",
    "!!str 1\n",
    "!x a\n",
    "|#-\n",
    "a: |2#\n  b\n",
    "a: |\n  b\n\n",
    "a: >-\n  b\n  c\n",
    "a: | # why\n  b\n",
    "a: <name>.\n",
    "a: b|c\n",
    "%YAML 1.1\n---\na: 1\n",
    "--- a\n...\n",
    "a: \tb\n",
    "\ta: b\n",
    "a: 'it''s'\n",
    'a: "x\\n\\x41"\n',
    "a: é\n",
    "\ufeffa: b\n",
    "a: b\r\nc: d\r\n",
    "a: &x [1]\nb: *x\n",
    "a: &x {k: 1}\nb: {<<: *x, l: 2}\n",
    "a: *nowhere\n",
    "a: 1\na: 2\n",
    "a: 2001-01-01\n",
    "a: 2001-99-99\n",
    "a: 1:30\n",
    "a: 0x1f\nb: 1_000\nc: .5\nd: ~\ne: yes\nf: null\n",
    "a: [\n",
    "a: {b: [}\n",
    "a: 'x\n",
    "a:\n  - b\n c: d\n",
    "a: @b\n",
    "a: `b`\n",
    "a: %b\n",
    "- a\nb: c\n",
    "a: b: c\n",
    "{a: b, c}\n",
    "{a, b: [c, {d: e}]}\n",
    "[a: b]\n",
    "a: # b\n  c\n",
    "a:\n- b\n",
    "a: - b\n",
    "a: b\n---\nc: d\n",
    "# only this\n",
    "a: " + "b " * 2000 + "\n",
    "null\n",
    "'a': 'b'\n",
]
TOKENS = [
    "- ",
    "? ",
    ": ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "'",
    '"',
    "|",
    ">",
    "|-",
    ">+",
    "&a ",
    "*a",
    "!!str ",
    "!x ",
    "#",
    " #",
    "---\n",
    "...\n",
    "\t",
    "\n",
    "\n\n",
    "  ",
    "<<: *a",
    "~",
    "0x1f",
    "1:30",
    "2001-01-01",
    "é",
    "\r\n",
    "`",
    "@",
    "=",
    "- - ",
    "a: b",
    "''",
    '""',
    "<a>.",
    "a|b",
]


@pytest.fixture(autouse=True)
def improved() -> Iterator[None]:
    before = yaml_loader.load
    assert local_parser.improve()
    yield
    yaml_loader.load = before


def described(value: Any, seen: dict[int, int] | None = None) -> Any:
    """Describe a document with all that the engine keeps of it."""
    seen = {} if seen is None else seen
    if not isinstance(value, Holder):
        return type(value).__name__, repr(value)
    if id(value) in seen:
        return "again", seen[id(value)]
    seen[id(value)] = len(seen)
    inner: Any = described(value.value)
    if isinstance(value.value, dict):
        inner = [(described(key, seen), described(item, seen)) for key, item in value.value.items()]
    elif isinstance(value.value, list):
        inner = [described(item, seen) for item in value.value]
    return type(value.value), inner, {name: mark for name, mark in vars(value).items() if name != "value"}


def read(load: Any, text: str) -> Any:
    """Return what comes of a text, be it an error."""
    try:
        return described(load(text, "file.yaml"))
    except Exception as error:  # noqa: BLE001 - of any kind, the same is expected
        return type(error), str(error)


def same(text: str) -> bool:
    return bool(read(local_parser.load, text) == read(local_parser._engine_load, text))


def test_the_installed_engine_is_the_known_one() -> None:
    assert local_parser.digest() == local_parser._KNOWN


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_of_ours(path: Path) -> None:
    assert same(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["plugin.yaml", "plugin_1_4.yaml", "plugin_1_5.yaml", "types/types.yaml"])
def test_the_plugins_own_files_are_read_by_libyaml(name: str) -> None:
    """Else it would all be for nothing."""
    assert local_parser._PLAIN.fullmatch((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ODD)
def test_an_odd_text(text: str) -> None:
    assert same(text)


def test_broken_files() -> None:
    random_ = random.Random(11)
    texts = [text for path in FILES if len(text := path.read_text(encoding="utf-8")) < 2500]
    plain = 0
    for _ in range(1500):
        lines = random_.choice(texts).split("\n")
        start = random_.randrange(len(lines))
        text = "\n".join(lines[start : start + random_.randrange(1, 12)])
        for _ in range(random_.randrange(1, 4)):
            at, what = random_.randrange(len(text) + 1), random_.random()
            text = text[:at] + (
                random_.choice(TOKENS) + text[at:] if what < 0.6 else text[at + random_.randrange(1, 6) :]
            )
        text += random_.choice(["\n", ""])
        plain += bool(local_parser._PLAIN.fullmatch(text))
        assert same(text), text
    assert plain > 300


def test_errors_have_the_engines_words() -> None:
    with pytest.raises(exceptions.DSLParsingFormatException) as caught:
        utils.load_yaml("a:\n  - b\n c: d\n", "Failed to parse DSL", "file.yaml")
    assert str(caught.value).startswith("Failed to parse DSL: Illegal yaml; while parsing a block mapping")
    assert "expected <block end>, but found '<block mapping start>'" in str(caught.value)


def test_an_empty_document_is_an_empty_map() -> None:
    assert local_parser.load("# nothing\n", "f").restore() == {}


@pytest.mark.parametrize(
    "otherwise",
    [
        "yaml_loader.__file__ = __file__ = '/dev/null'",
        "import yaml; yaml.__with_libyaml__ = False",
    ],
    ids=["another loader", "no libyaml"],
)
def test_another_engine_is_left_alone(otherwise: str) -> None:
    code = f"""
        from dsl_parser import yaml_loader
        {otherwise}
        before = yaml_loader.load
        from cloudify_libvirt import local_parser
        assert local_parser.improve() is False
        assert yaml_loader.load is before
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], check=True)
