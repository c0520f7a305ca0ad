"""What was declared, compared with what the host has: field by field, in meaning, and only what was declared. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lxml import etree

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.drift.dimms import fold
from cloudify_libvirt.core.drift.names import field_name, in_words, root_name
from cloudify_libvirt.core.drift.rules import (
    CONTAINERS,
    EXTRAS,
    EXTRAS_OF_LISTS,
    REMOVABLE,
    SKIPPED,
    SKIPPED_LIVE,
    content,
    key,
    local,
    normalised,
    same,
)

CONFIG, LIVE = "config", "live"
# What of a disk, beside its source, says how its content is kept.
_OF_CONTENT = frozenset({("disk", "type"), ("driver", "type")})


@dataclass(frozen=True)
class Difference:
    """One thing that is not as declared; None in ``declared`` or ``found``: not there. ``field`` in the user's words.

    ``where``: config (the stored definition), live (the running object), or host (what no definition says).
    """

    object: str
    field: str
    declared: Any
    found: Any
    where: str = "host"
    # What an update that was carried out waits for.
    pending: str = ""

    def __str__(self) -> str:
        """Say it in one line."""
        declared, found = (in_words(self.field, value) for value in (self.declared, self.found))
        waits = f"; pending: {self.pending}" if self.pending else ""
        return f"{self.object}: {self.field} ({self.where}): declared {declared}, found {found}{waits}"

    @property
    def change(self) -> str:
        """Say what becomes of it once it is as declared."""
        return f"{self.field} {in_words(self.field, self.found)} -> {in_words(self.field, self.declared)}"

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it; ``pending`` only where something is."""
        return {name: value for name, value in asdict(self).items() if name != "pending" or value}


@dataclass(frozen=True)
class Spot:
    """Where a difference is in the two documents: what was declared, or is to go, and what was found or would hold it.

    ``attribute``: that attribute differs; "": the text. None: ``wanted`` is missing below ``found``, or with
    ``wanted`` None, ``found`` is there though nothing like it was declared.
    """

    wanted: Any
    found: Any
    attribute: str | None = None


@dataclass(frozen=True)
class Subject:
    """Whose definitions are compared.

    ``names``: what the user calls an element, by its kind and key ("disk vda" -> "disks[0]"). ``instead``: by a
    disk's declared content, what stands for it, such as the files of its snapshots. ``ours``: kind and key of what
    an operation attached beside what is declared. ``dimms``: memory can come in DIMMs, as ``memory_slots`` says.
    """

    kind: str
    label: str
    names: Mapping[str, str] = field(default_factory=dict)
    instead: Mapping[str, frozenset[str]] = field(default_factory=dict)
    ours: frozenset[str] = frozenset()
    dimms: bool = False


def compare(subject: Subject, declared: str, found: str, where: str = CONFIG) -> list[Difference]:
    """Return what of the ``declared`` document is otherwise in the ``found`` one."""
    wanted, there = (normalised(xml, parse.document) for xml in (declared, found))
    return [difference for difference, _spot in spots(subject, wanted, there, where)]


def spots(subject: Subject, wanted: Any, there: Any, where: str = CONFIG) -> list[tuple[Difference, Spot]]:
    """Return what is otherwise in a normalised document than in the other, each with where that is."""
    if subject.kind == "domain":
        for root in (wanted, there):
            fold(root, whole=subject.dimms)
    comparison = _Comparison(subject, where)
    comparison.element(wanted, there, _Place())
    return comparison.differences


@dataclass(frozen=True)
class _Place:
    """Where in the document: ``owner`` is the user's name of the listed thing, ``path`` the way below it."""

    owner: str = ""
    kind: str = ""
    path: tuple[str, ...] = ()

    def below(self, tag: str) -> _Place:
        return _Place(self.owner, self.kind, (*self.path, tag))

    def name(self, attribute: str = "") -> str:
        way = "/".join((*self.path, *([f"@{attribute}"] if attribute else ())))
        name = field_name(self.kind, way) if self.kind else root_name(way)
        return f"{self.owner}.{name}" if self.owner and name else self.owner or name


@dataclass
class _Comparison:
    subject: Subject
    where: str
    differences: list[tuple[Difference, Spot]] = field(default_factory=list)

    def say(self, name: str, declared: Any, found: Any, spot: Spot) -> None:
        self.differences.append((Difference(self.subject.label, name, declared, found, self.where), spot))

    def element(self, wanted: Any, found: Any, place: _Place) -> None:
        """Compare one element with its counterpart."""
        tag = local(wanted)
        text = (wanted.text or "").strip()
        if text and not same(tag, "", text, found.text or "") and not self._ballooned(tag, text, found):
            self.say(place.name(), text, (found.text or "").strip() or None, Spot(wanted, found, ""))
        for name, value in wanted.attrib.items():
            there = found.get(name)
            moot = (tag, name) in _OF_CONTENT and (self._stands(wanted, found) or _both_empty(wanted, found))
            if not same(tag, name, value, there) and not moot:
                self.say(place.name(name), value, there, Spot(wanted, found, name))
        for child in dict.fromkeys(local(one) for one in _elements(wanted)):
            self._children(child, wanted, found, place)
        self._extras(wanted, found, place)

    def _ballooned(self, tag: str, text: str, found: Any) -> bool:
        """Tell whether a running guest just never gave memory back: without a driver it keeps its maximum."""
        if self.where != LIVE or tag != "currentMemory" or self.subject.dimms:
            return False
        most = found.getparent().findtext("memory")
        return bool(found.text == most and int(found.text) >= int(text))

    def _stands(self, wanted: Any, found: Any) -> bool:
        """Tell whether another content stands for the declared one in the disk that these are, or are part of."""
        disk, there = _disk_of(wanted), _disk_of(found)
        if disk is None or there is None or local(disk) != "disk":
            return False
        return content(there) in self.subject.instead.get(content(disk), frozenset())

    def _ours(self, element: Any) -> bool:
        return f"{local(element)} {key(element)}".strip() in self.subject.ours

    def _skipped(self, tag: str) -> bool:
        return tag in SKIPPED[self.subject.kind] or (self.where == LIVE and tag in SKIPPED_LIVE)

    def _children(self, tag: str, wanted: Any, found: Any, place: _Place) -> None:
        """Pair the children of one kind, compare the pairs, and name what is left."""
        if self._skipped(tag) or (tag == "source" and self._stands(wanted, found)):
            return
        declared = [one for one in _elements(wanted) if local(one) == tag]
        there = [one for one in _elements(found) if local(one) == tag]
        for one, other in self._pairs(declared, there):
            below = self._place_of(one, place, declared)
            if other is None and tag in CONTAINERS:
                before = len(self.differences)
                self.element(one, etree.Element(tag), below)
                self.differences[before:] = [(said, Spot(one, found)) for said, _spot in self.differences[before:]]
            elif other is None:
                if not _says_nothing(one):
                    self.say(below.name(), summary(one), None, Spot(one, found))
            else:
                self.element(one, other, below)

    def _place_of(self, element: Any, place: _Place, siblings: list[Any]) -> _Place:
        tag, name = local(element), key(element)
        listed = name or len(siblings) > 1
        if not listed or tag in ("boot", "controller"):
            return place.below(tag)
        called = self.subject.names.get(f"{tag} {name}") if name else None
        outer = place.owner if tag in ("range", "host", "hostname") and place.owner else ""
        if called is None:
            position = name or str(siblings.index(element))
            called = f"{field_name('', tag) or tag}[{position}]"
        kind = "drive" if tag == "disk" and element.get("device") in REMOVABLE else tag
        return _Place(f"{outer}.{called}" if outer else called, kind)

    def _pairs(self, declared: list[Any], there: list[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield each declared element with its counterpart, or None: by key, by equality, in order."""
        left = list(there)
        open_: list[Any] = []
        for one in declared:
            name = key(one)
            match = next((other for other in left if name and key(other) == name), None)
            if match is None and not name:
                match = next((other for other in left if not self._differences(one, other)), None)
            if match is None:
                open_.append(one)
            else:
                left.remove(match)
                yield one, match
        for one in open_:
            # A disk that is at another place is another disk; a card with another MAC is the card, changed.
            other = next(iter(left), None) if not key(one) or local(one) in ("interface", "range") else None
            if other is not None and not any(key(other) == key(own) != "" for own in declared):
                left.remove(other)
                yield one, other
            else:
                yield one, None

    def _differences(self, wanted: Any, found: Any) -> list[tuple[Difference, Spot]]:
        other = _Comparison(self.subject, self.where)
        other.element(wanted, found, _Place())
        return other.differences

    def _extras(self, wanted: Any, found: Any, place: _Place) -> None:
        """Name what is there though nothing like it was declared, of the kinds where that counts."""
        parent = local(wanted)
        listed = {tag for outer, tag in EXTRAS_OF_LISTS if outer == parent and wanted.find(tag) is not None}
        for tag in (EXTRAS.get(parent, frozenset()) | listed | _emptied(wanted)) - SKIPPED[self.subject.kind]:
            declared = [one for one in _elements(wanted) if local(one) == tag]
            there = [one for one in _elements(found) if local(one) == tag]
            matched = [id(other) for _one, other in self._pairs(declared, there) if other is not None]
            for one in (one for one in there if id(one) not in matched and not self._ours(one) and not _bare(one)):
                part = bool(place.owner) and not key(one)
                below = place.below(tag) if part else self._place_of(one, place, [*there, None])
                self.say(below.name(), None, summary(one), Spot(None, one))


def _disk_of(element: Any) -> Any:
    """Return the disk that an element is, or is directly part of; else what that is part of."""
    return element if local(element) == "disk" else element.getparent()


def _both_empty(wanted: Any, found: Any) -> bool:
    """Tell whether there is no medium, as declared: a running drive has no format then."""
    drives = (_disk_of(wanted), _disk_of(found))
    return all(one is not None and one.get("device") in REMOVABLE and not content(one) for one in drives)


def _emptied(wanted: Any) -> frozenset[str]:
    """Return what a drive that was declared without a medium must not have."""
    drive = local(wanted) == "disk" and wanted.get("device") in REMOVABLE
    return frozenset({"source"}) if drive else frozenset()


def _bare(element: Any) -> bool:
    """Tell whether it is what libvirt leaves of a medium that was ejected."""
    return local(element) == "source" and set(element.attrib) <= {"index", "startupPolicy"}


def _elements(parent: Any) -> list[Any]:
    return [child for child in parent if isinstance(child.tag, str)]


def _says_nothing(element: Any) -> bool:
    """Tell whether an element only says no: libvirt leaves it out."""
    quiet = all(same(local(element), name, value, None) for name, value in element.attrib.items())
    empty = not (element.text or "").strip() and bool(element.attrib or len(element))
    # What has a key is one of a list, though the key is "0": that of the first vCPU.
    return not key(element) and quiet and empty and all(_says_nothing(child) for child in _elements(element))


def summary(element: Any) -> str:
    """Return in words what an element says, one line."""
    parts = [f"{name}={value}" for name, value in element.attrib.items() if name != "passwd"]
    text = (element.text or "").strip()
    inner = [summary(child) for child in _elements(element) if local(child) not in ("address", "alias", "backingStore")]
    said = " ".join(part for part in (*parts, text, *(f"({one})" for one in inner)) if part)
    return f"{local(element)} {said}".strip()
