"""What is told to an active network, and what is taken back of a definition: pure."""

from __future__ import annotations

import pytest
from lxml import etree

from cloudify_libvirt.core.drift.compare import Subject
from cloudify_libvirt.core.parse import document
from cloudify_libvirt.core.update.network_entries import Entry, entries
from cloudify_libvirt.core.update.table import ROWS, how
from cloudify_libvirt.core.update.withdrawn import brought, withdrawn

SUBJECT = Subject("network", "it")


def network(inner: str = "", dhcp: str = "", attributes: str = "") -> str:
    ip = f"<ip address='10.1.0.1' netmask='255.255.255.0'>{f'<dhcp>{dhcp}</dhcp>' if dhcp else ''}</ip>"
    return f"<network{attributes}><name>n</name><bridge name='b'/>{inner}{ip}</network>"


def told(wanted: str, there: str) -> list[tuple[str, str, int]]:
    return [(one.command, one.section, one.place) for one in entries(document(wanted), document(there))]


RANGE = "<range start='10.1.0.{}' end='10.1.0.{}'/>"
HOST = "<host mac='52:54:00:00:00:0{}' ip='10.1.0.{}'/>"


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        (network(), network(), []),
        # The same, said otherwise.
        (
            network(dhcp="<host mac='52:54:00:00:00:0A' ip='10.1.0.5'/>"),
            network(dhcp="<host ip='10.1.0.5' mac='52:54:00:00:00:0a'/>"),
            [],
        ),
        (
            network(dhcp=HOST.format(1, 6)),
            network(dhcp=HOST.format(1, 5)),
            [("delete", "IP_DHCP_HOST", 0), ("add", "IP_DHCP_HOST", 0)],
        ),
        # Never without a range; but what begins and ends alike comes after the other went.
        (
            network(dhcp=RANGE.format(2, 9)),
            network(dhcp=RANGE.format(2, 8)),
            [("add", "IP_DHCP_RANGE", 0), ("delete", "IP_DHCP_RANGE", 0)],
        ),
        (
            network(dhcp="<range start='10.1.0.2' end='10.1.0.9'><lease expiry='1' unit='hours'/></range>"),
            network(dhcp=RANGE.format(2, 9)),
            [("delete", "IP_DHCP_RANGE", 0), ("add", "IP_DHCP_RANGE", 0)],
        ),
        (
            network("<portgroup name='a' default='yes'/>"),
            network("<portgroup name='a'/><portgroup name='b'/>"),
            [("modify", "PORTGROUP", -1), ("delete", "PORTGROUP", -1)],
        ),
        (
            network("<dns><txt name='a' value='2'/></dns>"),
            network("<dns><txt name='a' value='1'/></dns>"),
            [("delete", "DNS_TXT", -1), ("add", "DNS_TXT", -1)],
        ),
    ],
)
def test_what_is_told(wanted: str, there: str, expected: list[tuple[str, str, int]]) -> None:
    assert told(wanted, there) == expected


def test_the_second_address_is_told_by_its_number() -> None:
    six = "<ip family='ipv6' address='fd00::1' prefix='64'><dhcp>{}</dhcp></ip>"
    wanted, there = (network().replace("</network>", six.format(inner) + "</network>") for inner in (
        "<host id='0:1:2' ip='fd00::5'/>", "<host id='0:1:2' ip='fd00::4'/>"))  # fmt: skip
    assert told(wanted, there) == [("delete", "IP_DHCP_HOST", 1), ("add", "IP_DHCP_HOST", 1)]


def test_an_entry_that_goes_is_named_by_no_more_than_it_needs() -> None:
    there = network("<dns><host ip='10.1.0.9'><hostname>web</hostname></host></dns>")
    assert list(entries(document(network()), document(there))) == [Entry("delete", "DNS_HOST", '<host ip="10.1.0.9"/>')]


def test_another_subnet_is_not_changed_by_its_lists() -> None:
    other = network(dhcp=HOST.format(1, 5)).replace("10.1.0", "10.2.0")
    assert told(other, network(dhcp=HOST.format(1, 5))) == []


THEIRS = HOST.format(9, 99)


@pytest.mark.parametrize(
    ("last", "now", "there", "field", "gone"),
    [
        (network("<mtu size='1400'/>"), network(), network("<mtu size='1400'/>"), "mtu", "mtu"),
        (network(dhcp=HOST.format(1, 5)), network(), network(dhcp=HOST.format(1, 5) + THEIRS),
         "ips[10.1.0.1].dhcp", "10.1.0.5'"),
        (network(attributes=" ipv6='yes'"), network(), network(attributes=" ipv6='yes'"), "ipv6", "ipv6"),
        (network("<dns><txt name='a' value='1'/></dns>"), network(),
         network("<dns><txt name='a' value='1'/></dns>"), "dns.txt[a]", "txt"),
    ],
)  # fmt: skip
def test_what_is_not_declared_any_more_goes(last: str, now: str, there: str, field: str, gone: str) -> None:
    said = withdrawn(SUBJECT, document(last), document(now), document(there))
    assert field in {one.field for one in said} | ({"ips[10.1.0.1].dhcp"} if "dhcp" in field else set())
    assert gone not in brought(SUBJECT, now, last, there)
    # What changed meanwhile, or went, is nobody's to take back.
    assert withdrawn(SUBJECT, document(last), document(now), document(now)) == []


def test_what_others_added_stays() -> None:
    last = network(dhcp=RANGE.format(2, 9) + HOST.format(1, 5))
    now = network(dhcp=RANGE.format(2, 9))
    metadata = "<metadata><x:note xmlns:x='urn:x'>theirs</x:note></metadata>"
    there = network(f"{metadata}<dns><host ip='10.1.0.9'><hostname>web</hostname></host></dns>",
                    dhcp=RANGE.format(2, 9) + HOST.format(1, 5) + THEIRS)  # fmt: skip
    after = brought(SUBJECT, now, last, there)
    assert "10.1.0.99" in after and "theirs" in after and ">web<" in after and "10.1.0.5'" not in after
    assert etree.fromstring(after).find("ip/dhcp/range") is not None


@pytest.mark.parametrize("kind", ["network", "pool", "volume", "iso9660"])
def test_no_row_hides_behind_another(kind: str) -> None:
    """A row whose own name, with something in each bracket, an earlier row answers for is never asked."""
    for row in (row for row in ROWS if row.kind == kind):
        name = row.field.replace("[*]", "[1]").rstrip("*") or "whatever"
        assert how(kind, name, active=True).field == row.field
