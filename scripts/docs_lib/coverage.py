"""Which share of libvirt's schemas the packaged templates reach with typed parameters.

A path is a chain of elements with an attribute or text at its end. The schema's paths are counted down to a bounded
depth, each definition at most once in a chain. A path is reached when a golden document of tests/data made by a
packaged template has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from lxml import etree

from cloudify_libvirt.core.document import schema as schemas

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/data"
KINDS = {"domain": "domain", "network": "network", "pool": "storagepool", "volume": "storagevol"}
DEEPEST = 7
_RNG = "{http://relaxng.org/ns/structure/1.0}"
# Documents of other hypervisors' own name spaces, and what libvirt writes by itself.
_FOREIGN = ("qemu:", "lxc:", "bhyve:", "xen:", "vmware:")

_BY_LIBVIRT = frozenset({"address", "alias", "backingStore", "mirror"})

Path_ = tuple[str, ...]


class Schema:
    """The paths of one Relax NG schema."""

    def __init__(self, name: str) -> None:
        """Read it with all that it includes."""
        self.definitions: dict[str, list[Any]] = {}
        self.start: list[Any] = []
        self._read(Path(schemas.directory(), f"{name}.rng"), set(), top=True)

    def _read(self, path: Path, seen: set[Path], *, top: bool = False) -> None:
        if path in seen:
            return
        seen.add(path)
        root = etree.parse(str(path)).getroot()
        for element in root.iter(f"{_RNG}define"):
            self.definitions.setdefault(element.get("name"), []).append(element)
        for include in root.iter(f"{_RNG}include"):
            self._read(path.parent / include.get("href"), seen)
        if top:
            self.start.extend(root.iter(f"{_RNG}start"))

    def paths(self) -> set[Path_]:
        """Return every path."""
        return {path for start in self.start for path in self._below(start, (), frozenset())}

    def _below(self, node: Any, chain: Path_, used: frozenset[str]) -> Iterator[Path_]:
        for child in node:
            if not isinstance(child.tag, str):
                continue
            kind = child.tag.removeprefix(_RNG)
            if kind == "element":
                yield from self._element(child, chain, used)
            elif kind == "attribute":
                name = child.get("name")
                if name and ":" not in name:
                    yield (*chain, f"@{name}")
            elif kind == "ref":
                yield from self._reference(str(child.get("name")), chain, used)
            elif kind in ("text", "data", "value"):
                if chain:
                    yield (*chain, "text")
            else:
                yield from self._below(child, chain, used)

    def _element(self, element: Any, chain: Path_, used: frozenset[str]) -> Iterator[Path_]:
        name = element.get("name")
        if name is None or name.startswith(_FOREIGN) or len(chain) >= DEEPEST:
            return
        here = (*chain, name)
        yield here
        yield from self._below(element, here, used)

    def _reference(self, name: str, chain: Path_, used: frozenset[str]) -> Iterator[Path_]:
        if name not in used:
            for definition in self.definitions.get(name, []):
                yield from self._below(definition, chain, used | {name})


def reached(kind: str) -> set[Path_]:
    """Return the paths of the goldens that no template of a user's made."""
    found: set[Path_] = set()
    for case in sorted((DATA / kind).glob("*.yaml")):
        if "template" not in yaml.safe_load(case.read_text(encoding="utf-8")):
            root = etree.parse(str(case.with_suffix(".xml"))).getroot()
            found |= set(_of_document(root, ()))
    return found


def _of_document(element: Any, chain: Path_) -> Iterator[Path_]:
    if not isinstance(element.tag, str) or element.tag.startswith("{"):
        return
    here = (*chain, element.tag)
    yield here
    yield from ((*here, f"@{name}") for name in element.attrib)
    if (element.text or "").strip():
        yield (*here, "text")
    for child in element:
        yield from _of_document(child, here)


@lru_cache(maxsize=len(KINDS))
def both(kind: str) -> tuple[frozenset[Path_], frozenset[Path_]]:
    """Return the schema's paths, and those of them that are reached."""
    every = frozenset(Schema(KINDS[kind]).paths())
    return every, every & frozenset(reached(kind))


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} | {100 * part / whole:.0f} %"


def _row(kind: str) -> str:
    every, got = both(kind)
    asked, asked_got = ([path for path in paths if not _BY_LIBVIRT.intersection(path)] for paths in (every, got))
    return f"| {kind} | {_share(len(got), len(every))} | {_share(len(asked_got), len(asked))} |"


def _groups(kind: str) -> list[str]:
    """Return a table row for each element below the root, and each device of a domain."""
    every, got = both(kind)

    def group(path: Path_) -> Path_:
        return path[: 3 if len(path) > 2 and path[1] == "devices" else 2]

    names = sorted({group(path) for path in every if len(path) > 1})
    counts = [(n, sum(group(p) == n for p in got), sum(group(p) == n for p in every)) for n in names]
    return [f"| `{'/'.join(name[1:])}` | {_share(part, whole)} |" for name, part, whole in counts]


def page() -> str:
    """Return docs/coverage.md."""
    lines = [
        "# Which share of libvirt's schemas typed parameters reach",
        "",
        "Made by `scripts/schema-coverage` from the schemas of libvirt 9.0 and the documents of `tests/data`.",
        "",
        "Counted are paths: an element below its parents, an attribute of it, a text in it. A path is reached when",
        "a valid document that a packaged template makes from typed parameters has it. What several devices share,",
        "such as a PCI address, counts at each of them; a definition is followed once in a chain, and",
        f"chains end at {DEEPEST} elements. The second share leaves out what libvirt fills in by itself: addresses,",
        "aliases, backing chains and mirrors. The rest is reached by a template of your own, which may extend ours.",
        "",
        "| kind | paths | share | without what libvirt fills in | share |",
        "| --- | --- | --- | --- | --- |",
        *(_row(kind) for kind in KINDS),
    ]
    for kind in KINDS:
        lines += ["", f"## {kind}", "", "| element | paths | share |", "| --- | --- | --- |", *_groups(kind)]
    return "\n".join(lines) + "\n"
