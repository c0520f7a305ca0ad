"""Our deep copies beside those of ``copy.deepcopy``: the same values, types, and sharing within them."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
import textwrap
import types
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

import pytest
from cloudify.manager import DirtyTrackingDict
from cloudify_rest_client.node_instances import NodeInstance
from dsl_parser.holder import Holder
from dsl_parser.models import Plan, Version
from dsl_parser.version import parse_dsl_version

from cloudify_libvirt.local_copies import copied, take_over

Pair = namedtuple("Pair", "left right")


class Attributes(dict[Any, Any]):
    """A dict with attributes, as the engine's models."""


class OwnItems(dict[Any, Any]):
    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, [value])


class OwnCopy(dict[Any, Any]):
    def __deepcopy__(self, memo: Any) -> str:
        return "mine"


class OwnState:
    def __init__(self) -> None:
        self.kept, self.lost = [1], [2]

    def __getstate__(self) -> dict[str, Any]:
        return {"kept": self.kept}


class Restored:
    def __init__(self) -> None:
        self.value = [1]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.restored = state


class Slots:
    __slots__ = ("inner",)

    def __init__(self) -> None:
        self.inner = [1]


class Rows(list[Any]):
    """A list of another class."""


class Text(str):
    """A str of another class."""


class Colour(Enum):
    RED = 1


@dataclass
class Point:
    at: list[int]


class Counting:
    def __new__(cls, *args: Any) -> Any:
        made = super().__new__(cls)
        made.made_by_new = True
        return made


def shape(value: Any, seen: dict[int, int] | None = None) -> Any:
    """Describe a tree: types, values, order, and which parts are one object."""
    seen = {} if seen is None else seen
    if isinstance(value, (str, int, float, bool, bytes, type, types.FunctionType, Enum, datetime)) or value is None:
        return type(value).__name__, repr(value)
    if id(value) in seen:
        return "again", seen[id(value)]
    seen[id(value)] = len(seen)
    described: list[Any] = [type(value)]
    if isinstance(value, dict):
        described += [(shape(key, seen), shape(item, seen)) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        described += [shape(item, seen) for item in value]
    elif isinstance(value, (set, frozenset, bytearray)):
        described.append(sorted(map(repr, value)))
    for name in getattr(type(value), "__slots__", ()):
        described.append((name, shape(getattr(value, name, None), seen)))
    if hasattr(value, "__dict__"):
        described.append(shape(vars(value), seen))
    return described


def with_attributes() -> Attributes:
    made = Attributes(a=[1], b={"c": 2})
    made.note = {"of": made["a"]}
    return made


def shared() -> Any:
    part = {"a": [1]}
    return {"one": part, "two": [part, part["a"]], "three": (part, part), "four": Pair(part, 1)}


def circular() -> Any:
    ring: dict[str, Any] = {"a": []}
    ring["a"].append(ring)
    holder = Holder({})
    holder.value[Holder("self")] = holder
    return [ring, holder, ring["a"]]


def instance() -> NodeInstance:
    properties = DirtyTrackingDict({"a": [1], "b": {"c": 1}})
    return NodeInstance({"id": "vm_1", "runtime_properties": properties, "relationships": [], "version": 3})


CASES: dict[str, Callable[[], Any]] = {
    "atoms": lambda: [1, 1.5, True, None, "a", b"b", 2j, ..., NotImplemented, len, int, range(3), lambda: 1],
    "nested": lambda: {"a": [{"b": [[], {}, ()]}], 1: {None: {True: 1.5}}, (1, "x"): [1]},
    "shared": shared,
    "circular": circular,
    "tuples": lambda: [(), (1, 2), ([1], 2), ((1, [2]), 3), Pair(1, "a"), Pair([1], {"b": Pair(2, 3)})],
    "the engine's version": lambda: {"version": parse_dsl_version("cloudify_dsl_1_3"), "raw": ["x"]},
    "the engine's models": lambda: [Plan({"nodes": [{"a": 1}]}), Version({"raw": "1", "d": (1, 3)})],
    "the engine's documents": lambda: Holder.of({"a": [1, {"b": None}], "c": {"d": "e"}}, filename="f"),
    "the engine's instance": instance,
    "dicts with attributes": with_attributes,
    "dicts with ways of their own": lambda: [OwnItems(a=1), OwnCopy(a=[1]), OrderedDict(a=[1]), Counter("aab")],
    "default dict": lambda: defaultdict(list, {"a": [1]}),
    "objects": lambda: [OwnState(), Restored(), Slots(), Point([1]), Counting(), Colour.RED, ValueError("a", [1])],
    "other builtins": lambda: [{1, 2}, frozenset("ab"), bytearray(b"a"), datetime(2026, 1, 2)],
    "namespaces": lambda: types.SimpleNamespace(a=[1]),
    "subclasses of builtins": lambda: [Rows([1, [2]]), Text("a"), {Text("key"): Text("value")}],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_copy_is_as_deepcopy_makes_it(name: str) -> None:
    value = CASES[name]()
    before = shape(value)
    assert shape(copied(value)) == shape(copy.deepcopy(value))
    assert shape(value) == before


@pytest.mark.parametrize("name", CASES)
def test_a_copy_shares_with_its_original_what_deepcopy_shares(name: str) -> None:
    value = CASES[name]()
    mine = changeable(value)
    assert changeable(copied(value)) & mine == changeable(copy.deepcopy(value)) & mine


def changeable(value: Any, seen: set[int] | None = None) -> set[int]:
    """Return the ids of what can be changed within a tree."""
    seen = set() if seen is None else seen
    inner = list(value.items()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    if isinstance(value, (type, types.FunctionType, Enum)) or id(value) in seen:
        return seen
    if not isinstance(value, tuple) and (isinstance(value, (list, dict, set, bytearray)) or hasattr(value, "__dict__")):
        seen.add(id(value))
    for part in [*inner, *vars(value).values()] if hasattr(value, "__dict__") else inner:
        changeable(part, seen)
    return seen


def test_random_trees() -> None:
    random_ = random.Random(7)

    def tree(level: int, made: list[Any]) -> Any:
        kind = random_.random()
        if made and kind < 0.15:
            return random_.choice(made)
        if level == 0 or kind < 0.4:
            return random_.choice(["a", 1, None, True, 2.5, (1, "b"), Pair(1, 2)])
        if kind < 0.65:
            value: Any = [tree(level - 1, made) for _ in range(random_.randrange(5))]
        elif kind < 0.95:
            cls = random_.choice([dict, dict, dict, Plan, Attributes, OrderedDict])
            value = cls({random_.choice("abcdef"): tree(level - 1, made) for _ in range(random_.randrange(5))})
        else:
            value = Holder(tree(level - 1, made), 1, 2, 3, 4)
        made.append(value)
        return value

    for _ in range(400):
        value = tree(6, [])
        assert shape(copied(value)) == shape(copy.deepcopy(value))


def test_a_deep_tree_is_copied_where_deepcopy_would() -> None:
    value: Any = []
    for _ in range(100):
        value = [{"a": value}]
    assert shape(copied(value)) == shape(copy.deepcopy(value))


def test_within_a_deepcopy_the_memo_counts() -> None:
    value = [1]
    assert copied(value, {id(value): "known"}) == "known"


def test_modules_copy_with_it_and_keep_the_rest_of_copy() -> None:
    module = types.ModuleType("one")
    module.copy = copy
    other = types.ModuleType("two")
    other.copy = copy.copy
    take_over([module, other])
    assert module.copy.deepcopy is copied
    assert module.copy.copy is copy.copy
    assert module.copy.Error is copy.Error
    assert other.copy is copy.copy
    assert copy.deepcopy is not copied


def test_nobody_else_copies_with_it() -> None:
    """Only the engine's modules that are named are changed; the standard library's own is not."""
    code = """
        import copy
        before = copy.deepcopy
        from cloudify_libvirt import local_engine
        assert local_engine.lighten()
        assert copy.deepcopy is before
        import sys
        changed = {name for name, module in sys.modules.items()
                   if getattr(getattr(module, "copy", None), "deepcopy", before) is not before}
        assert changed == set(local_engine._COPYING), changed
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], check=True)
