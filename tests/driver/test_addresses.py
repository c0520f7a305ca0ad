"""Addresses: merged from their sources by MAC, waited for together."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import GuestFailed
from cloudify_libvirt.core.host import addresses, readiness
from cloudify_libvirt.core.host.addresses import IPV4, IPV6, Interface, first_address, merge, usable
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.session import Session
from tests.driver.conftest import define, define_network, network_xml

MAC_1, MAC_2 = "52:54:00:00:00:01", "52:54:00:00:00:02"


def card(mac: str = MAC_1) -> Interface:
    return Interface(mac, "net", "vnet0")


def reported(mac: str, *found: tuple[str, int, int]) -> dict[str, object]:
    return {"hwaddr": mac, "addrs": [{"addr": a, "prefix": p, "type": t} for a, p, t in found]}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.2", True), ("fd00::5", True), ("2001:db8::1", True), ("203.0.113.7", True),
        ("127.0.0.1", False), ("::1", False), ("169.254.3.4", False), ("fe80::1", False), ("fe80::1%eth0", False),
        ("0.0.0.0", False), ("::", False), ("224.0.0.1", False), ("ff02::1", False), ("", False), ("nonsense", False),
    ],
)  # fmt: skip
def test_usable(address: str, expected: bool) -> None:
    assert usable(address) is expected


def test_macs_meet_in_one_form_and_foreign_ones_are_left_out() -> None:
    cards = [card(MAC_1), card(MAC_2)]
    merge(cards, {
        "eth0": reported("52-54-00-00-00-02", ("10.0.0.2", 24, IPV4)),
        "docker0": reported("02:42:00:00:00:01", ("172.17.0.1", 16, IPV4)),
        "lo": {"hwaddr": None, "addrs": [{"addr": "127.0.0.1", "prefix": 8, "type": IPV4}]},
        "down": {"hwaddr": MAC_1.upper(), "addrs": None},
    })  # fmt: skip
    assert [c.addresses for c in cards] == [[], [{"addr": "10.0.0.2", "prefix": 24, "type": IPV4}]]


def test_each_address_once_and_in_order_of_the_sources() -> None:
    cards = [card()]
    merge(cards, {"vnet0": reported(MAC_1, ("10.0.0.2", 24, IPV4))})
    merge(cards, {"eth0": reported(MAC_1, ("fe80::1", 64, IPV6), ("10.0.0.2", 24, IPV4), ("fd00::2", 64, IPV6))})
    assert [entry["addr"] for entry in cards[0].addresses] == ["10.0.0.2", "fd00::2"]
    assert cards[0].has_ipv4
    assert (first_address(cards), first_address(cards, IPV6)) == ("10.0.0.2", "fd00::2")
    assert first_address([card()]) == ""


def test_look_up_on_a_running_domain(session: Session) -> None:
    domain = define(session, "seen")
    assert addresses.look_up(domain)[0].addresses == []
    domain.start()
    cards = addresses.look_up(domain)
    assert [c.network for c in cards] == ["default"] and cards[0].host_device.startswith("testnet")
    assert first_address(cards).startswith("192.168.")


@pytest.fixture
def dark(session: Session) -> Iterator[Network]:
    """A network on which guests have only link-local addresses, which do not count."""
    network = define_network(session, "dark", "169.254.9.1")
    network.start()
    yield network
    readiness._waiting.clear()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent and ARP are asked at every look."""
    for pause in ("OFTEN_S", "OFTEN_OF_EACH_S", "RARELY_S"):
        monkeypatch.setattr(readiness, pause, 0.0)


def enlighten(network: Network) -> None:
    """Give the network usable addresses, as when a guest gets its lease."""
    network.stop()
    Network.define(network.session, network_xml(network.name, "10.99.9.1", network.uuid), network.name, network.uuid)
    network.start()


def started(session: Session, name: str, network: str, mac: str) -> Domain:
    domain = define(session, name, network=network, mac=mac)
    domain.start()
    return domain


def crash(domain: Domain, directory: Path) -> None:
    domain.handle.coreDump(str(directory / "core"), libvirt.VIR_DUMP_CRASH)


def idle() -> int:
    return 0


def test_an_address_that_is_known_ends_the_turn(session: Session) -> None:
    domain = started(session, "one", "default", MAC_1)
    cards = readiness.turn(domain, {}, queued=idle)
    assert cards is not None and first_address(cards).startswith("192.168.")
    assert not readiness._waiting


def test_a_turn_without_an_address_ends_and_may_come_again(session: Session, dark: Network, quick: None) -> None:
    domain = started(session, "one", "dark", MAC_1)
    assert readiness.turn(domain, {}, queued=idle, turn_s=0.2) is None
    enlighten(dark)
    cards = readiness.turn(domain, {}, queued=idle, turn_s=60)
    assert cards is not None and first_address(cards).startswith("10.99.")  # the driver adds the domain's id


def test_an_address_that_comes_during_the_turn_ends_it(session: Session, dark: Network, quick: None) -> None:
    domain = started(session, "one", "dark", MAC_1)
    timer = threading.Timer(0.3, enlighten, [dark])
    begin = time.monotonic()
    timer.start()
    assert readiness.turn(domain, {}, queued=idle, turn_s=120) is not None
    assert time.monotonic() - begin < 60
    timer.join()


def test_a_turn_gives_way_to_a_guest_with_news(session: Session, dark: Network, quick: None) -> None:
    """One worker, two guests: the first's turn ends when the second has its address."""
    first = started(session, "first", "dark", MAC_1)
    other_network = define_network(session, "dark2", "169.254.8.1")
    other_network.start()
    second = started(session, "second", "dark2", MAC_2)
    assert readiness.turn(second, {}, queued=idle, turn_s=0.1) is None
    timer = threading.Timer(0.3, enlighten, [other_network])
    begin = time.monotonic()
    timer.start()
    assert readiness.turn(first, {}, queued=lambda: 1, turn_s=120) is None
    assert 0.2 < time.monotonic() - begin < 60
    timer.join()
    assert readiness.turn(second, {}, queued=idle, turn_s=60) is not None
    assert list(readiness._waiting) == [f"{session.uri} {first.uuid}"]


def test_a_turn_gives_way_to_other_work_but_not_to_the_others_that_wait(
    session: Session, dark: Network, quick: None
) -> None:
    first, second = started(session, "first", "dark", MAC_1), started(session, "second", "dark", MAC_2)
    assert readiness.turn(first, {}, queued=idle, turn_s=0.1) is None
    begin = time.monotonic()
    assert readiness.turn(second, {}, queued=lambda: 1, turn_s=0.5) is None, "one call waits: that of the first guest"
    assert time.monotonic() - begin >= 0.5
    begin = time.monotonic()
    assert readiness.turn(second, {}, queued=lambda: 2, turn_s=120) is None
    assert time.monotonic() - begin < 60


def test_an_engine_that_does_not_show_its_queue(session: Session, dark: Network) -> None:
    domain = started(session, "one", "dark", MAC_1)
    assert readiness.turn(domain, {}, queued=lambda: None, turn_s=0.1) is None


def test_a_crash_ends_the_wait_at_once_with_its_cause(
    session: Session, dark: Network, quick: None, tmp_path: Path
) -> None:
    domain = started(session, "one", "dark", MAC_1)
    timer = threading.Timer(0.3, crash, [domain, tmp_path])
    timer.start()
    begin = time.monotonic()
    with pytest.raises(GuestFailed, match=r"cannot wait for an address of domain 'one'.*: it crashed") as caught:
        readiness.turn(domain, {}, queued=idle, turn_s=120)
    assert time.monotonic() - begin < 60
    assert not caught.value.retryable
    assert not readiness._waiting
    timer.join()


def test_a_crash_of_another_guest_ends_the_turn_too(
    session: Session, dark: Network, quick: None, tmp_path: Path
) -> None:
    first, second = started(session, "first", "dark", MAC_1), started(session, "second", "dark", MAC_2)
    assert readiness.turn(second, {}, queued=idle, turn_s=0.1) is None
    crash(second, tmp_path)
    begin = time.monotonic()
    assert readiness.turn(first, {}, queued=lambda: 1, turn_s=120) is None
    assert time.monotonic() - begin < 60
    with pytest.raises(GuestFailed, match="domain 'second'"):
        readiness.turn(second, {}, queued=idle)


def test_a_second_card_may_come_a_little_later(
    session: Session, dark: Network, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "CARD_GRACE_S", 0.6)
    more = f"<interface type='network'><mac address='{MAC_2}'/><source network='dark'/></interface>"
    domain = define(session, "two-cards", network="default", mac=MAC_1, extra=more)
    domain.start()
    begin = time.monotonic()
    cards = readiness.turn(domain, {}, queued=idle, turn_s=120)
    assert cards is not None and [bool(c.addresses) for c in cards] == [True, False]
    assert 0.5 < time.monotonic() - begin < 60


def test_what_is_forgotten_is_no_news(session: Session, dark: Network, quick: None) -> None:
    first, second = started(session, "first", "dark", MAC_1), started(session, "second", "dark", MAC_2)
    assert readiness.turn(second, {}, queued=idle, turn_s=0.05) is None
    readiness.forget(second)
    second.destroy()
    begin = time.monotonic()
    assert readiness.turn(first, {}, queued=idle, turn_s=0.5) is None
    assert time.monotonic() - begin >= 0.5


def test_overdue_says_what_is_known(session: Session, dark: Network) -> None:
    domain = started(session, "one", "dark", MAC_1)
    text = str(readiness.overdue(domain, 30.4))
    assert f"cannot find an address of {domain.target}: none is known after 30 s." in text
    assert f"{MAC_1} on dark" in text and "guest agent not connected" in text and "wait_for_ip: false" in text
