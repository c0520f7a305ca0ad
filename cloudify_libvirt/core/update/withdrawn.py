"""What was declared once, is not any more, and still stands: it goes, too; what others added stays. Pure.

A definition alone cannot tell what its owner took back from what somebody else put there. The document that was
declared last can.
"""

from __future__ import annotations

import copy
from typing import Any

from lxml import etree

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.drift.compare import CONFIG, Difference, Spot, Subject, summary
from cloudify_libvirt.core.drift.rules import key, local
from cloudify_libvirt.core.update.definition import Change, apply, changes

# What libvirt reads from the host's directory, declared or not.
_READ = {"pool": frozenset({"owner", "group"})}


def withdrawn(subject: Subject, last: Any, declared: Any, found: Any, where: str = CONFIG) -> list[Change]:
    """Return what of the root ``last`` is not in ``declared`` any more, and still as it was in ``found``."""
    found_again = (_still_there(subject, change, found, where) for change in changes(subject, last, declared))
    return [change for change in found_again if change is not None]


def _still_there(subject: Subject, change: Change, found: Any, where: str) -> Change | None:
    """Return what takes back what went from the declaration, or None where it only changed, or went already."""
    spot = change.spot
    if spot.attribute:
        there = _place(subject, spot.wanted, found) if spot.found.get(spot.attribute) is None else None
        value = spot.wanted.get(spot.attribute)
        if there is None or there.get(spot.attribute) != value:
            return None
        return Change(Difference(subject.label, change.field, None, value, where), Spot(None, there, spot.attribute))
    there = _counterpart(subject, spot.wanted, found) if spot.wanted is not None and spot.attribute is None else None
    if there is None or local(there) in _READ.get(subject.kind, frozenset()):
        return None
    return Change(Difference(subject.label, change.field, None, summary(there), where), Spot(None, there))


def _counterpart(subject: Subject, element: Any, found: Any) -> Any:
    """Return the element of another document that says the same at the same place, or None."""
    parent = element.getparent()
    if parent is None:
        return found
    there = _place(subject, parent, found)
    return None if there is None else next((one for one in _like(element, there) if alike(subject, element, one)), None)


def _place(subject: Subject, element: Any, found: Any) -> Any:
    """Return the element of another document that holds what this one holds, or None."""
    parent = element.getparent()
    if parent is None:
        return found
    there = _place(subject, parent, found)
    like = [] if there is None else _like(element, there)
    return next((one for one in like if key(one) == key(element)), None)


def _like(element: Any, parent: Any) -> list[Any]:
    return [one for one in parent if isinstance(one.tag, str) and local(one) == local(element)]


def alike(subject: Subject, wanted: Any, found: Any) -> bool:
    """Tell whether an element says all that another one says."""
    return not changes(subject, _alone(wanted), _alone(found))


def _alone(element: Any) -> Any:
    root = etree.Element("part")
    root.append(copy.deepcopy(element))
    return root


def wished(subject: Subject, declared: str, last: str, found: Any, where: str = CONFIG) -> list[Change]:
    """Return all that must change in the root ``found``; ``last``: what was declared before, "" where nobody knows."""
    wanted = parse.document(declared)
    all_ = changes(subject, wanted, found, where)
    going = {id(change.spot.found) for change in all_ if change.spot.wanted is None}
    taken_back = withdrawn(subject, parse.document(last), wanted, found, where) if last else []
    return all_ + [change for change in taken_back if id(change.spot.found) not in going]


def brought(subject: Subject, declared: str, last: str, found: str) -> str:
    """Return the found document as it is declared; what nobody of ours declared stays as it is."""
    root = parse.document(found)
    apply(wished(subject, declared, last, root))
    return str(etree.tostring(root, encoding="unicode"))
