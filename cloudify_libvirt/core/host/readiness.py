"""Waiting for guests' addresses: all that are waited for in this process together.

The engine may have one worker thread for many machines. Whoever waits here looks at everybody's
guests, and gives way as soon as another one has something to report or the engine has other work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import CoreError, GuestFailed, Missing, TimedOut
from cloudify_libvirt.core.host import addresses
from cloudify_libvirt.core.host.addresses import Interface
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.parse import DomainFacts, InterfaceFacts
from cloudify_libvirt.core.states import OFF
from cloudify_libvirt.core.wait import wait_until

# How long one turn may hold its worker thread: each is a few lines of log, or a process on a Manager.
TURN_S = 10.0
# Shorter where it cannot be seen who else wants the worker.
BLIND_TURN_S = 6.0
# How long other cards, or IPv4, may come after the first address; within one turn.
CARD_GRACE_S, IPV4_GRACE_S = 3.0, 5.0
# How often the agent and this host's ARP table are asked, so that what they know is reported within 0.2 s; with many
# guests each of them less often. The agent answers in 10 to 50 ms, and slower while the guest boots: it has REST times
# as long until the next question. RARELY is the longest pause, and that of libvirt's own reading of the ARP table,
# which goes to the daemon and may leave an error in its log each time.
OFTEN_S, OFTEN_OF_EACH_S, RARELY_S = 0.1, 0.005, 0.5
AGENT_REST = 4.0

StaleLeases = dict[str, list[list[object]]]


@dataclass
class Guest:
    """One guest whose addresses are waited for.

    ``stale``: {mac: [[ip, expiry], ...]} of leases that were there before this boot; they say nothing.
    """

    domain: Domain
    stale: StaleLeases
    _first_seen: float | None = None
    _asked: dict[str, float] = field(default_factory=dict, repr=False)
    _said: dict[str, dict[str, object]] = field(default_factory=lambda: {"AGENT": {}, "ARP": {}}, repr=False)
    _agent_took_s: float = 0.0
    _question: threading.Thread | None = field(default=None, repr=False)
    _seen_events: int = -1
    _facts: DomainFacts | None = field(default=None, repr=False)

    def look(self) -> list[Interface] | None:
        """Return the cards once enough is known, else None.

        Raises:
            GuestFailed: the guest has ended.
        """
        try:
            facts = self._fresh_facts()
        except Missing as error:
            raise self._ended() from error
        if self.domain.state in OFF:
            raise self._ended()
        cards = addresses.cards_of(facts)
        addresses.merge(cards, self._leases())
        self._merge_said(cards)
        if not all(card.has_ipv4 for card in cards):
            self._ask_slow_sources(facts)
            self._merge_said(cards)
        return cards if self._enough(cards) else None

    def _ended(self) -> GuestFailed:
        return self.domain.failure("wait for an address of", "Mend what its console says, then install again.")

    def has_news(self) -> bool:
        """Tell whether a look would return or raise."""
        try:
            return self.look() is not None
        except CoreError:
            return True

    def _fresh_facts(self) -> DomainFacts:
        seen = self.domain.session.changed.count
        if self._facts is None or seen != self._seen_events:
            self._facts, self._seen_events = self.domain.facts(), seen
        return self._facts

    def _leases(self) -> dict[str, object]:
        reported = self.domain.reported_addresses("LEASE")
        for entry in reported.values():
            old = self.stale.get(entry.get("hwaddr") or "")
            if old:
                entry["addrs"] = [a for a in entry.get("addrs") or [] if not self._is_stale(entry["hwaddr"], a["addr"])]
        return reported

    def _is_stale(self, mac: str, ip: str) -> bool:
        """Tell whether the lease is the very one from before this boot; a renewed one has a later expiry."""
        facts = self._facts
        names = {card.network for card in facts.interfaces if card.mac == mac} if facts else set()
        now = [lease for name in names for lease in leases_of(self.domain, name, mac)]
        return any(lease in self.stale[mac] for lease in now if lease[0] == ip)

    def _merge_said(self, cards: list[Interface]) -> None:
        for said in self._said.values():
            addresses.merge(cards, said)

    def _ask_slow_sources(self, facts: DomainFacts) -> None:
        often_s = min(RARELY_S, max(OFTEN_S, OFTEN_OF_EACH_S * len(_waiting)))
        if facts.agent_connected and self._due("AGENT", min(RARELY_S, max(often_s, AGENT_REST * self._agent_took_s))):
            self._ask_agent()
        if self.stale:
            return
        if self._due("ARP", RARELY_S):
            self._said["ARP"] = addresses.heard_of(self.domain)
        elif self._due("this host's ARP table", often_s):
            self._said["ARP"] = self._said["ARP"] | addresses.neighbours(self.domain)

    def _due(self, source: str, pause_s: float) -> bool:
        """Tell whether a source may be asked again, and take it for asked."""
        now = time.monotonic()
        if source in self._asked and now - self._asked[source] < pause_s:
            return False
        self._asked[source] = now
        return True

    def _ask_agent(self) -> None:
        """Ask in a thread of its own, and be woken by the answer: an agent that hangs must not stop the wait."""
        if self._question is None or not self._question.is_alive():
            self._question = threading.Thread(target=self._hear_agent, name="guest agent", daemon=True)
            self._question.start()

    def _hear_agent(self) -> None:
        begin = time.monotonic()
        said = self.domain.reported_addresses("AGENT")
        self._agent_took_s = time.monotonic() - begin
        if said != self._said["AGENT"]:
            self._said["AGENT"] = said
            self.domain.session.changed.set()

    def _enough(self, cards: list[Interface]) -> bool:
        if not any(card.addresses for card in cards):
            return not cards
        now = time.monotonic()
        self._first_seen = self._first_seen or now
        if all(card.has_ipv4 for card in cards):
            return True
        grace = CARD_GRACE_S if any(card.has_ipv4 for card in cards) else IPV4_GRACE_S
        return now - self._first_seen >= grace


_waiting: dict[str, Guest] = {}
_in_turn: set[str] = set()


def leases_of(domain: Domain, network: str, mac: str) -> list[list[object]]:
    """Return [[ip, expiry], ...] of one card's leases now."""
    found = Network.find(domain.session, network) if network else None
    return [[lease["ipaddr"], lease["expirytime"]] for lease in found.leases(mac)] if found else []


def stale_leases(domain: Domain, cards: Iterable[InterfaceFacts]) -> StaleLeases:
    """Return the leases that the domain's cards have before it boots."""
    found = {card.mac: leases_of(domain, card.network, card.mac) for card in cards}
    return {mac: leases for mac, leases in found.items() if leases}


def turn(
    domain: Domain, stale: StaleLeases, *, queued: Callable[[], int | None], turn_s: float = TURN_S
) -> list[Interface] | None:
    """Wait for the domain's addresses, for one turn; None: not yet, come again.

    ``queued`` returns how many calls wait for a worker of this process. The turn ends early, with
    None, when another guest has news, or when more calls wait than those for the other guests.
    """
    key = f"{domain.session.uri} {domain.uuid}"
    if key in _waiting and _waiting[key].domain.session is not domain.session:
        # Known by a connection that was lost since.
        del _waiting[key]
    guest = _waiting.setdefault(key, Guest(domain, stale))

    def other_work() -> bool:
        return (queued() or 0) > len(_waiting.keys() - _in_turn)

    def check() -> tuple[list[Interface] | None] | None:
        cards = guest.look()
        if cards is not None:
            return (cards,)
        others = (other for name, other in list(_waiting.items()) if name not in _in_turn)
        return (None,) if other_work() or any(other.has_news() for other in others) else None

    _in_turn.add(key)
    try:
        longest = TURN_S if queued() is not None else BLIND_TURN_S
        answer = wait_until(check, timeout_s=min(turn_s, longest), signal=domain.session.changed)
    except CoreError:
        _waiting.pop(key, None)
        raise
    finally:
        _in_turn.discard(key)
    cards = answer[0] if answer else None
    if cards is not None:
        _waiting.pop(key, None)
    return cards


def forget(domain: Domain) -> None:
    """Stop waiting for a domain."""
    _waiting.pop(f"{domain.session.uri} {domain.uuid}", None)


def overdue(domain: Domain, waited_s: float) -> TimedOut:
    """Return the error for a guest that has no address by its deadline, with what is known of it."""
    forget(domain)
    facts = domain.facts()
    cards = ", ".join(f"{card.mac} on {card.network or card.bridge or 'no network'}" for card in facts.interfaces)
    agent = "connected" if facts.agent_connected else "not connected"
    remedy = (
        f"It runs; its cards: {cards}; guest agent {agent}. Asked: DHCP leases, agent, ARP. Does the guest ask for "
        "DHCP? Set params.wait_for_ip: false for a guest without an address, or a larger params.address_timeout_s."
    )
    return TimedOut("find an address of", domain.target, f"none is known after {waited_s:.0f} s", remedy)
