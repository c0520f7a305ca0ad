"""What must be told to an active network so that its lists are as wanted: the entries that libvirt changes live. Pure.

Sources: https://libvirt.org/html/libvirt-libvirt-network.html#virNetworkUpdate; virNetworkDefUpdate*, which say what
makes an entry the same: hosts and ranges may come once, and of most lists an entry cannot be modified.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lxml import etree

from cloudify_libvirt.core.drift.compare import Subject
from cloudify_libvirt.core.drift.rules import key
from cloudify_libvirt.core.update.withdrawn import alike

ADD, DELETE, MODIFY = "add", "delete", "modify"
_SUBJECT = Subject("network", "")


@dataclass(frozen=True)
class Entry:
    """One call: ``section`` and ``command`` without libvirt's prefixes; ``place``: number of the ``ip``, or -1."""

    command: str
    section: str
    xml: str
    place: int = -1


# Lists below the root: section -> path.
_LISTS = {
    "DNS_HOST": "dns/host",
    "DNS_TXT": "dns/txt",
    "DNS_SRV": "dns/srv",
    "PORTGROUP": "portgroup",
    "FORWARD_INTERFACE": "forward/interface",
}
# What is enough to name an entry that goes; more than that may match others, too.
_NAMED_BY = {"DNS_HOST": ("ip",), "FORWARD_INTERFACE": ("dev",), "PORTGROUP": ("name",)}


def entries(wanted: Any, there: Any) -> Iterator[Entry]:
    """Yield the calls that bring the lists of the live document ``there`` to those of ``wanted``."""
    for section, path in _LISTS.items():
        yield from _of_list(section, wanted.findall(path), there.findall(path))
    for place, found in enumerate(there.findall("ip")):
        like = next((one for one in wanted.findall("ip") if _same_subnet(one, found)), None)
        if like is not None:
            for section in ("RANGE", "HOST"):
                path = f"dhcp/{section.lower()}"
                yield from _of_list(f"IP_DHCP_{section}", like.findall(path), found.findall(path), place)


def _same_subnet(one: Any, other: Any) -> bool:
    return key(one) == key(other) and all(
        alike(_SUBJECT, _without_lists(first), _without_lists(second)) for first, second in ((one, other), (other, one))
    )


def _without_lists(ip: Any) -> Any:
    return etree.Element(ip.tag, dict(ip.attrib))


def _of_list(section: str, wanted: list[Any], there: list[Any], place: int = -1) -> Iterator[Entry]:
    gone, new = _unpaired(there, wanted), _unpaired(wanted, there)
    if section == "PORTGROUP":
        known = {key(one) for one in gone}
        yield from (_entry(MODIFY, section, one, place) for one in new if key(one) in known)
        changed = {key(one) for one in new}
        gone = [one for one in gone if key(one) not in changed]
        new = [one for one in new if key(one) not in known]
    early = [one for one in new if section == "IP_DHCP_RANGE" and not _clashes(one, gone)]
    # There is always a range, so that the server does not end in between.
    yield from (_entry(ADD, section, one, place) for one in early)
    yield from (_entry(DELETE, section, _named(section, one), place) for one in gone)
    yield from (_entry(ADD, section, one, place) for one in new if one not in early)


def _unpaired(these: list[Any], those: list[Any]) -> list[Any]:
    """Return the elements of ``these`` that none of ``those`` says the same as."""
    # Most are the same to the letter; to find out what means the same takes longer.
    known = Counter(_text(one) for one in those)
    rest = [one for one in these if not _taken(known, _text(one))]
    left = [one for one in those if _taken(known, _text(one))]
    found = []
    for one in rest:
        same = next((other for other in left if alike(_SUBJECT, one, other) and alike(_SUBJECT, other, one)), None)
        if same is None:
            found.append(one)
        else:
            left.remove(same)
    return found


def _taken(known: Counter[str], text: str) -> bool:
    """Take one of those that are left, if there is one."""
    there = known[text] > 0
    known[text] -= there
    return there


def _text(element: Any) -> str:
    return str(etree.tostring(element, method="c14n", with_tail=False).decode())


def _clashes(entry: Any, others: list[Any]) -> bool:
    return any((entry.get("start"), entry.get("end")) == (one.get("start"), one.get("end")) for one in others)


def _named(section: str, element: Any) -> Any:
    if section not in _NAMED_BY:
        return element
    return etree.Element(element.tag, {name: element.get(name, "") for name in _NAMED_BY[section]})


def _entry(command: str, section: str, element: Any, place: int) -> Entry:
    alone = copy.deepcopy(element)
    alone.tail = None
    alone.attrib.pop("connections", None)
    return Entry(command, section, etree.tostring(alone, encoding="unicode"), place)
