"""libvirt's Relax NG schemas: does a document keep to one, and if not, which element is to blame.

libvirt checks little of this itself when it defines an object, and libxml2's messages stop at the top level.
Source: /usr/share/libvirt/schemas of the package libvirt0 or libvirt-daemon-common.
"""

from __future__ import annotations

import difflib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lxml import etree

_DEFAULT_DIRECTORY = "/usr/share/libvirt/schemas"
_NAMES = re.compile(r"<(element|attribute)\s+name=[\"']([^\"']+)[\"']|<(name)>([^<]+)</name>")
_SECRET = re.compile("passw|secret|token|key", re.IGNORECASE)
_MOST_SHOWN = 120

# The smallest valid document of each schema: one child after the other is tried in it.
_SKELETONS = {
    "domain": "<domain type='qemu'><name>x</name><memory>1</memory><os><type>hvm</type></os></domain>",
    "network": "<network><name>x</name></network>",
    "storagepool": "<pool type='dir'><name>x</name><target><path>/x</path></target></pool>",
    "storagevol": "<volume><name>x</name><target/></volume>",
    "domainsnapshot": "<domainsnapshot/>",
    "secret": "<secret/>",
    "domainbackup": "<domainbackup/>",
    "domaincheckpoint": "<domaincheckpoint/>",
}

_PARSER = etree.XMLParser(
    resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True
)
# libxml2's validation contexts are not shared between threads.
_lock = threading.Lock()


@dataclass(frozen=True)
class Violation:
    """What breaks the schema; ``line`` is that of the element in the document."""

    line: int
    element: str
    reason: str
    hint: str = ""


def directory() -> str:
    """Return the directory of the schemas: $LIBVIRT_SCHEMA_DIR or that of libvirt's packages."""
    return os.environ.get("LIBVIRT_SCHEMA_DIR") or _DEFAULT_DIRECTORY


def violation(document: bytes, schema: str, root: Any = None) -> Violation | None:
    """Return what breaks the schema; None if nothing does, or if this machine has no schemas.

    ``document`` is well-formed; ``root`` is what ``parse`` made of it, where that is known. The hypervisor's own checks
    remain where there are no schemas.
    """
    relaxng = _compiled(directory(), schema)
    if relaxng is None or _valid(relaxng, parse(document) if root is None else root):
        return None
    return _Search(relaxng, schema).violation(document)


def parse(document: bytes) -> Any:
    """Return the root element; no entity is expanded, nothing is fetched."""
    return etree.fromstring(document, _PARSER)


@lru_cache(maxsize=32)
def _compiled(where: str, schema: str) -> etree.RelaxNG | None:
    path = Path(where, f"{schema}.rng")
    return etree.RelaxNG(etree.parse(str(path))) if path.exists() else None


def _valid(relaxng: etree.RelaxNG, root: Any) -> bool:
    with _lock:
        return bool(relaxng.validate(root))


@lru_cache(maxsize=4)
def _vocabulary(where: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of all elements and all attributes of the schemas."""
    elements: set[str] = set()
    attributes: set[str] = set()
    for path in Path(where).glob("*.rng"):
        for kind, name, free, free_name in _NAMES.findall(path.read_text(encoding="utf-8")):
            if free or kind == "element":
                elements.add(free_name or name)
            if free or kind == "attribute":
                attributes.add(free_name or name)
    return frozenset(elements), frozenset(attributes)


class _Search:
    """Looks for the deepest element whose removal heals a document."""

    def __init__(self, relaxng: etree.RelaxNG, schema: str) -> None:
        self.relaxng = relaxng
        self.skeleton = _SKELETONS[schema].encode()
        self.elements, self.attributes = _vocabulary(directory())

    def violation(self, document: bytes) -> Violation:
        root = parse(document)
        return self._unknown_name(root) or self._bad_child(root) or self._bad_root(parse(document))

    def _unknown_name(self, root: Any) -> Violation | None:
        for element in _own_elements(root):
            if element.tag not in self.elements:
                return _not_allowed(element, _near(element.tag, self.elements, "<{}>"))
            for name in element.attrib:
                if "}" not in name and name not in self.attributes:
                    return _bad_attribute(element, name, "is not known", _near(name, self.attributes, "{}"))
        return None

    def _bad_child(self, root: Any) -> Violation | None:
        for child in list(root):
            host = parse(self.skeleton)
            if host.tag != root.tag:
                return None
            for same in host.findall(child.tag):
                host.remove(same)
            host.append(child)
            if not _valid(self.relaxng, host):
                return self._deepest(child)
        return None

    def _deepest(self, element: Any) -> Violation:
        """Return what to blame in ``element``, without which its document is valid."""
        found = self._attribute(element)
        if found:
            return found
        children = list(element)
        for child in children:
            if self._heals(element, [other for other in children if other is not child], children):
                return self._deepest(child)
        if children and self._heals(element, [], children):
            for child in children:
                if not self._heals(element, [child], children):
                    element[:] = [child]
                    return self._deepest(child)
        inner = (self._attribute(below) for below in list(element.iterdescendants()))
        return next(filter(None, inner), None) or _refused(element)

    def _attribute(self, element: Any) -> Violation | None:
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            healed = _valid(self.relaxng, element.getroottree().getroot())
            element.set(name, value)
            if healed:
                return _bad_attribute(element, name, "has a wrong name, place or value")
        return None

    def _heals(self, element: Any, kept: list[Any], children: list[Any]) -> bool:
        element[:] = kept
        healed = _valid(self.relaxng, element.getroottree().getroot())
        element[:] = children
        return healed

    def _bad_root(self, root: Any) -> Violation:
        host = parse(self.skeleton)
        if root.tag != host.tag:
            return Violation(root.sourceline, _show(root), f"stands where <{host.tag}> must be the root element")
        for needed in host:
            if root.find(needed.tag) is None:
                return Violation(root.sourceline, _show(root), f"lacks the element <{needed.tag}>")
        for name, value in root.attrib.items():
            host = parse(self.skeleton)
            host.set(name, value)
            if not _valid(self.relaxng, host):
                return _bad_attribute(root, name, "has a wrong name or value")
        return self._twice(root) or self._deepest(root)

    def _twice(self, root: Any) -> Violation | None:
        children = list(root)
        for child in reversed(children):
            if self._heals(root, [other for other in children if other is not child], children):
                return Violation(child.sourceline, _show(child), f"must not be there twice inside <{root.tag}>")
        return None


def _own_elements(root: Any) -> Iterator[Any]:
    """Yield the elements of libvirt's own vocabulary, below and with ``root``."""
    yield root
    for child in root:
        if isinstance(child.tag, str) and "}" not in child.tag and child.tag != "metadata":
            yield from _own_elements(child)


def _near(name: str, names: frozenset[str], form: str) -> str:
    near = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.7)
    return f"Did you mean {form.format(near[0])}?" if near else ""


def _not_allowed(element: Any, hint: str = "") -> Violation:
    parent = element.getparent()
    where = "as the root element" if parent is None else f"inside <{parent.tag}>"
    return Violation(element.sourceline, _show(element), f"is not allowed {where}", hint)


def _bad_attribute(element: Any, name: str, reason: str, hint: str = "") -> Violation:
    value = "***" if _SECRET.search(name) else element.get(name)
    return Violation(element.sourceline, _show(element), f'is not valid: the attribute {name}="{value}" {reason}', hint)


def _refused(element: Any) -> Violation:
    text = (element.text or "").strip()
    if text and not len(element) and not _SECRET.search(element.tag):
        return Violation(element.sourceline, _show(element), f"must not have the value {text[:_MOST_SHOWN]!r}")
    parent = element.getparent()
    where = "" if parent is None else f" inside <{parent.tag}>"
    reason = f"is not valid{where}: it must not be there, or lacks something, or has a wrong value"
    return Violation(element.sourceline, _show(element), reason)


def _show(element: Any) -> str:
    pairs = ((name, "***" if _SECRET.search(name) else value) for name, value in element.attrib.items())
    shown = "".join(f' {name}="{value}"' for name, value in pairs)
    return f"element <{etree.QName(element).localname}{shown}>"[:_MOST_SHOWN]
