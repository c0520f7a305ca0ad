"""What this orchestrator made and no deployment has any more: found by the ledger and by the marks, and removed.

The ledger names everything; the marks of domains and networks tell of what an older release made, or a ledger that
was lost. What another orchestrator marked, a living instance recorded or somebody uses is none of ours to remove.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import Missing, libvirt_call
from cloudify_libvirt.core.image.bases import bases
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.ownership import mark as ownership
from cloudify_libvirt.core.ownership.ledger import Entry
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.resource import Resource
from cloudify_libvirt.core.secret import Secret
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.spec.variables import OwnershipMark
from cloudify_libvirt.core.states import ALIVE
from cloudify_libvirt.core.volume import Volume

# Tells whether the instance of an entry is one of a deployment; None where that cannot be seen.
Lives = Callable[[Entry], bool | None]

_NOUNS: dict[str, type[Resource]] = {"domain": Domain, "network": Network, "pool": Pool}
# What stands on others goes first.
ORDER = ("domain", "network", "volume", "pool")


@dataclass(frozen=True)
class Item:
    """One thing on a host. ``kind``: domain, network, pool, volume, file, secret or address."""

    kind: str
    name: str
    running: bool = False


@dataclass(frozen=True)
class Orphan:
    """What one instance left. ``certain`` is False where nobody can tell that it is nobody's; ``why`` says why not."""

    entry: Entry
    items: tuple[Item, ...]
    why: str
    certain: bool = True
    marked_only: bool = False

    @property
    def running(self) -> bool:
        """Tell whether a guest of it runs."""
        return any(item.running for item in self.items)


@dataclass
class Look:
    """What is seen of one host; ``entries`` are all that the ledger has, ``lives`` tells which of them still count."""

    session: Session
    entries: list[Entry]
    lives: Lives
    homes: frozenset[str] = frozenset()
    own_id: str = field(default_factory=ownership.orchestrator_id)

    def orphans(self) -> list[Orphan]:
        """Return what is left there, what must go first before what it stands on."""
        mine = [entry for entry in self.entries if entry.uri == self.session.uri]
        listed = [orphan for entry in mine if (orphan := self.of_entry(entry)) is not None]
        known = {str(entry.journal.get("uuid")) for entry in self.entries if self._here(entry)}
        found = sorted([*listed, *self._marked(known)], key=lambda orphan: ORDER.index(orphan.entry.kind))
        return self._with_bases(found)

    def _with_bases(self, found: list[Orphan]) -> list[Orphan]:
        """Return them with the base images that only they need: a base goes with its last overlay."""
        users = {_words(item): number for number, orphan in enumerate(found) for item in orphan.items}
        for base in bases(self.session):
            if base.users and users.keys() >= set(base.users):
                last = max(users[words] for words in base.users)
                item = Item("volume", f"{base.pool}/{base.name}")
                found[last] = replace(found[last], items=(*found[last].items, item))
        return found

    def of_entry(self, entry: Entry) -> Orphan | None:
        """Return what is left of one instance, or None: it lives, or nothing is there any more."""
        living = self.lives(entry)
        if living:
            return None
        items = tuple(self._items(entry))
        if not items:
            return None
        why = f"instance {entry.instance} is in no deployment any more"
        if living is None:
            place = f"in {entry.home}, which is not there" if entry.home else "by a Manager, or in memory only"
            why = f"the state of instance {entry.instance} was kept {place}"
        return Orphan(entry, items, why, certain=living is False)

    @cached_property
    def _taken(self) -> set[tuple[str, str]]:
        """Return what living instances recorded: volumes by pool and name, other objects by their UUID."""
        found: set[tuple[str, str]] = set()
        for entry in self.entries:
            if self._here(entry) and self.lives(entry):
                made = entry.journal.get("made") or []
                found |= {(part["pool"], part["name"]) for part in made}
                found.add((str(entry.journal.get("pool")), str(entry.journal.get("resource_id"))))
                found.add(("", str(entry.journal.get("uuid"))))
        return found

    def _here(self, entry: Entry) -> bool:
        """Tell whether an entry is of this host: its drivers share pools and networks."""
        return urlsplit(entry.uri).hostname == urlsplit(self.session.uri).hostname

    def _items(self, entry: Entry) -> Iterator[Item]:
        journal = entry.journal
        if entry.kind in _NOUNS:
            found = self.object_of(entry)
            if found is not None:
                yield _item(entry.kind, found)
        else:
            yield from self._volumes([{"pool": journal.get("pool", ""), "name": journal.get("resource_id", "")}])
        yield from self._volumes(journal.get("made") or [])
        yield from (Item("address", f"{one['ip']} of {one['mac']}") for one in self._addresses(journal))
        if journal.get("secret") and Secret.find(self.session, journal["secret"]) is not None:
            yield Item("secret", journal["secret"])
        yield from (Item("file", path) for path in self._files(journal))

    def object_of(self, entry: Entry) -> Any:
        """Return the domain, network or pool that the entry names, unless it is another's by now."""
        uuid = str(entry.journal.get("uuid") or "")
        noun = _NOUNS.get(entry.kind)
        if not uuid or noun is None or ("", uuid) in self._taken:
            return None
        found = noun.find_by_uuid(self.session, uuid)
        mark = ownership.mark_on(found) if found is not None else None
        return None if mark is not None and not self._could_be_ours(mark, entry) else found

    def _could_be_ours(self, mark: OwnershipMark, entry: Entry) -> bool:
        same = (mark.deployment, mark.node) == (entry.deployment, entry.node)
        return same and mark.orchestrator in ("", self.own_id)

    def untaken(self, made: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return those volumes that no living instance recorded."""
        return [part for part in made if (part["pool"], part["name"]) not in self._taken]

    def _volumes(self, made: Iterable[dict[str, Any]]) -> Iterator[Item]:
        for part in self.untaken(made):
            pool = Pool.find(self.session, part["pool"]) if part["pool"] else None
            if pool is not None:
                yield from self._in_pool(pool, part["name"], part.get("kind", ""))

    def _in_pool(self, pool: Pool, name: str, kind: str) -> Iterator[Item]:
        if kind == "rootfs":
            directory = PurePosixPath(pool.path) / name
            if self.session.shares_files and Path(directory).is_dir():
                yield Item("file", str(directory))
            return
        # What a stopped pool holds cannot be seen: it may be there.
        if not pool.active or Volume.find(pool, name) is not None:
            yield Item("volume", f"{pool.name}/{name}")

    def _addresses(self, journal: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for one in journal.get("reservations") or []:
            network = Network.find(self.session, one["network"])
            hosts = network.facts().hosts if network is not None else ()
            if any((host.ip, host.mac) == (one["ip"], one["mac"]) for host in hosts):
                yield one

    def _files(self, journal: dict[str, Any]) -> list[str]:
        logs = [journal.get("console_log"), *(journal.get("serial_logs") or ()), *(journal.get("snapshot_files") or ())]
        return [path for path in logs if path and self.session.shares_files and Path(path).is_file()]

    def _marked(self, known: set[str]) -> Iterator[Orphan]:
        """Yield domains and networks with a mark that could be ours, and that the ledger knows nothing of."""
        for kind, found in self._all():
            mark = None if found.uuid in known else _mark(found)
            if mark is None or mark.orchestrator not in ("", self.own_id):
                continue
            made = {"uuid": found.uuid, "resource_id": found.name, **_log_of(found)}
            own = (mark.deployment, mark.node, mark.number, self.session.uri, kind, mark.instance)
            entry = Entry(*own, journal=made)
            if self.mark_lives(entry):
                continue
            why = "its mark names no living instance, and the ledger does not have it"
            if not mark.orchestrator:
                why = "its mark, of an older release, names no orchestrator: it may be another's"
            logs = (Item("file", path) for path in self._files(entry.journal))
            certain = bool(mark.orchestrator) and self._sees_all
            yield Orphan(entry, (_item(kind, found), *logs), why, certain=certain, marked_only=True)

    @property
    def _sees_all(self) -> bool:
        """Tell whether this orchestrator's deployments are files here; those of a Manager are not."""
        return any(Path(home).is_dir() for home in self.homes) and all(entry.home for entry in self.entries)

    def mark_lives(self, entry: Entry) -> bool:
        """Tell whether the instance that a mark names lives in any place that is known."""
        homes = {*self.homes, *(one.home for one in self.entries if one.home)}
        return any(self.lives(replace(entry, home=home)) for home in homes)

    def _all(self) -> Iterator[tuple[str, Any]]:
        yield from (("domain", Domain(self.session, handle)) for handle in self.session.domains())
        yield from (("network", Network(self.session, handle)) for handle in _networks(self.session))


def _networks(session: Session) -> list[Any]:
    with libvirt_call("list the networks of", f"hypervisor {session.uri}"):
        return list(session.connection.listAllNetworks(0))


def _mark(found: Resource) -> OwnershipMark | None:
    try:
        return ownership.mark_on(found)
    except Missing:
        return None


def _log_of(found: Resource) -> dict[str, str]:
    """Return the console log that we gave the domain, told by its name."""
    log = found.facts().console_log if isinstance(found, Domain) else ""
    return {"console_log": log} if log.endswith(f"/{found.uuid}-console.log") else {}


def _item(kind: str, found: Any) -> Item:
    running = kind == "domain" and found.state in ALIVE
    return Item(kind, found.name, running)


def _words(item: Item) -> str:
    """Return how messages of others call it, as in ``users``."""
    pool, _, name = item.name.partition("/")
    return f"volume '{name}' of pool '{pool}'" if item.kind == "volume" else f"{item.kind} '{item.name}'"
