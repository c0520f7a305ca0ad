"""A definition brought to what is declared: what nobody declares (addresses, other tools' metadata) stays. Pure.

Source: https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cloudify_libvirt.core.drift.compare import CONFIG, Difference, Spot, Subject, spots
from cloudify_libvirt.core.drift.rules import SKIPPED_LIVE, local, normalised

# Amounts that mean another thing with another unit.
_UNIT = "unit"
# Of these the parts depend on each other, and have an order: the whole takes the place of the whole.
_WHOLE = frozenset({"iotune", "bandwidth", "blkiotune", "memoryBacking", "numatune"})


@dataclass(frozen=True)
class Change:
    """One difference, with its elements in the two documents as they were read."""

    difference: Difference
    spot: Spot

    @property
    def field(self) -> str:
        """Return the user's name of what differs."""
        return self.difference.field

    @property
    def device(self) -> tuple[Any, Any]:
        """Return the declared and the found device that it is about; None: not there. Both None: of no device."""
        return _device(self.spot.wanted), _device(self.spot.found)

    @property
    def goes(self) -> bool:
        """Tell whether a whole device is there that was not declared."""
        return self.spot.wanted is None and self.spot.found is self.device[1]

    @property
    def comes(self) -> bool:
        """Tell whether a whole device is missing."""
        spot = self.spot
        return spot.wanted is not None and spot.attribute is None and spot.wanted is self.device[0]

    @property
    def shown_live(self) -> bool:
        """Tell whether the document of the running domain shows it."""
        element = self.spot.found if self.spot.wanted is None else self.spot.wanted
        return SKIPPED_LIVE.isdisjoint({local(one) for one in (element, *element.iterancestors())})


def _device(element: Any) -> Any:
    while element is not None:
        parent = element.getparent()
        if parent is not None and local(parent) == "devices":
            return element
        element = parent
    return None


def changes(subject: Subject, declared: Any, found: Any, where: str = CONFIG) -> list[Change]:
    """Return what of a declared document is otherwise in the found one; both are roots of documents as read."""
    (wanted, of_wanted), (there, of_there) = _normalised(declared), _normalised(found)
    said = spots(subject, wanted, there, where)
    back = {**of_wanted, **of_there}

    def raw(element: Any) -> Any:
        return None if element is None else back.get(element)

    return [
        Change(difference, Spot(raw(spot.wanted), raw(spot.found), spot.attribute))
        for difference, spot in said
        # What was only written out has no place of its own.
        if raw(spot.wanted) is not None or raw(spot.found) is not None
    ]


def _normalised(root: Any) -> tuple[Any, dict[Any, Any]]:
    """Return the document in the one form that is compared, and each of its elements' counterpart in ``root``."""
    known: dict[Any, Any] = {}

    def read(_text: str) -> Any:
        twin = copy.deepcopy(root)
        known.update(zip(twin.iter(), root.iter(), strict=True))
        return twin

    return normalised("", read), known


def apply(wished: Iterable[Change]) -> None:
    """Write changes into the document that was found."""
    for change in list(wished):
        _apply(change.spot)


def settle_boot(declared: Any, found: Any) -> None:
    """Take the one way to say the order of devices to start from that is not declared: libvirt refuses both."""
    if declared.find("devices/*/boot") is not None:
        _remove_all(found.find("os"), "boot")
    elif declared.find("os/boot") is not None:
        for device in found.find("devices"):
            _remove_all(device, "boot")


def _apply(spot: Spot) -> None:
    wanted, found = _whole(spot)
    if wanted is not None:
        _replace(wanted, found)
    elif spot.wanted is None and spot.attribute:
        spot.found.attrib.pop(spot.attribute, None)
    elif spot.wanted is None:
        _remove(spot.found)
    elif spot.attribute is None:
        _insert(spot.wanted, spot.found)
    elif spot.attribute:
        if local(spot.found) == "source":
            # What stood below the old content does not stand below the new one.
            _remove_all(spot.found.getparent(), "backingStore")
        spot.found.set(spot.attribute, spot.wanted.get(spot.attribute, ""))
        _take_unit(spot.wanted, spot.found)
    else:
        spot.found.text = spot.wanted.text
        _take_unit(spot.wanted, spot.found)


def _remove_all(parent: Any, tag: str) -> None:
    for one in parent.findall(tag):
        parent.remove(one)


def _take_unit(wanted: Any, found: Any) -> None:
    found.attrib.pop(_UNIT, None)
    if wanted.get(_UNIT) is not None:
        found.set(_UNIT, wanted.get(_UNIT))


def _whole(spot: Spot) -> tuple[Any, Any]:
    """Return the declared and the found element that change as a whole, if the spot is in one; else None twice."""
    wanted, found = spot.wanted, spot.found
    if wanted is not None and spot.attribute is None:
        # What is missing has no counterpart; where it would be has.
        wanted = wanted.getparent()
    while wanted is not None and found is not None:
        if local(wanted) in _WHOLE:
            return wanted, found
        wanted, found = wanted.getparent(), found.getparent()
    return None, None


def _replace(wanted: Any, found: Any) -> None:
    parent = found.getparent()
    if parent is not None:
        parent.replace(found, copy.deepcopy(wanted))


def _remove(element: Any) -> None:
    parent = element.getparent()
    if parent is not None:
        parent.remove(element)


def _insert(wanted: Any, parent: Any) -> None:
    """Put a copy below ``parent``, behind the last of its kind."""
    twin = copy.deepcopy(wanted)
    twin.tail = None
    like = [one for one in parent if isinstance(one.tag, str) and local(one) == local(wanted)]
    if like:
        parent.insert(parent.index(like[-1]) + 1, twin)
    else:
        parent.append(twin)


def passwords(subject: Subject, declared: Any, found: Any, where: str = CONFIG) -> list[Change]:
    """Return the screens whose password is another; ``found`` was read with its secrets. None is said."""
    pairs = zip(declared.findall("devices/graphics"), found.findall("devices/graphics"), strict=False)
    return [
        Change(
            Difference(subject.label, f"graphics[{number}].password", "as in the blueprint", "another", where),
            Spot(one, other, "passwd"),
        )
        for number, (one, other) in enumerate(pairs)
        if one.get("passwd") and one.get("passwd") != other.get("passwd")
    ]
