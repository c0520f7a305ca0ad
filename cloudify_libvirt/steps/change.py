"""Bring a domain to its properties of today: while it runs, in its definition, and at a restart that was allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from cloudify_libvirt.binding import existing
from cloudify_libvirt.core import parse, states
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.drift.compare import CONFIG, LIVE, Difference, Subject
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.host import preflight
from cloudify_libvirt.core.host.lock import host_lock
from cloudify_libvirt.core.ownership import mark
from cloudify_libvirt.core.snapshot import above
from cloudify_libvirt.core.storage import growth
from cloudify_libvirt.core.units import check_growth, parse_bool, parse_seconds
from cloudify_libvirt.core.update import definition, dimms, hotplug, listed, live, sizes, table
from cloudify_libvirt.core.update.definition import Change
from cloudify_libvirt.core.wait import wait_until
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared, drift, machine, parts, restart, status, undefined
from cloudify_libvirt.steps import domain as domains
from cloudify_libvirt.steps import update as sized

_AT_START = "it takes effect at the next start"
_ALLOW = "; allow_restart: true does so now"
_HELD = "the guest has not given it back yet"
# Of these the sizes' own step takes care, and of these that of the object's life.
_SIZES = frozenset(sized.KEYS)


def update(request: Request) -> None:
    """Carry out all differences between properties and host; record what waits, and for what.

    The inputs ``timeout_s`` (10 s) and ``allow_restart`` bound the wait for the guest, and allow a restart.
    """
    domain = existing(Domain, request, "update")
    refuse_loss(request)
    if not request.external:
        # Before the record follows the properties, which seldom name them.
        machine.choose_macs(request, domain)
    _update(domain, request)


def refuse_loss(request: Request) -> None:
    """Raise ``DataLost`` where a disk is gone: a guest that runs has its last contents, and must not be restarted."""
    lost = [finding for finding in status.lost(request) if finding.lost]
    if lost:
        status.check(request, lambda _request: iter(lost))


def _update(domain: Domain, request: Request) -> None:
    waiting: dict[str, Any] = {}
    if not request.record.get("restarting") or domain.active:
        waiting = _pass(domain, request)
    stops = _may_restart(domain, request, waiting)
    if stops:
        request.record.put(update_pending=waiting)
        restart.check(domain, request)
        request.record.put(restarting=True)
        request.record.note(f"restarting {domain.name} for {', '.join(waiting)}")
    if request.record.get("restarting"):
        with restart.or_back(domain, request):
            if stops:
                domains.stop(domain, request)
            # What can only be done while it is off; also when an earlier attempt was killed here.
            _pass(domain, request)
            domains.restarted(domain, request)
        request.record.put(restarting=None)
        waiting = _pass(domain, request)
    if status.wanted_state(request) == "running" and domain.state not in states.RUNNING:
        domains.restarted(domain, request)
    _record(domain, request, waiting)


def confirm(domain: Domain, request: Request) -> None:
    """Forget what was pending and is so now; nothing is changed."""
    pending = dict(request.record.get("update_pending") or {})
    if not pending or request.external or not domain.active:
        return
    work, run = Work.of(domain, request), domain.handle.ID()
    left = {one.field for one in work.differences(LIVE)} | work.seed().keys()
    kept = {
        name: entry
        for name, entry in pending.items()
        if name in left or entry.get("run") == run or (name in sized.KEYS and not _there(domain, name, entry))
    }
    if kept != pending:
        request.record.put(update_pending=kept)


def _there(domain: Domain, name: str, entry: dict[str, Any]) -> bool:
    return sized.there(domain, name, int(entry["wanted"]))


def _record(domain: Domain, request: Request, waiting: dict[str, Any]) -> None:
    for name, entry in waiting.items():
        if entry.get("how"):
            request.record.warn(f"{domain.name} is not there yet: {name}: {entry['why']}")
    if waiting or request.record.get("update_pending"):
        request.record.put(update_pending=waiting)


def _may_restart(domain: Domain, request: Request, waiting: dict[str, Any]) -> bool:
    asked = request.inputs.get("allow_restart")
    allowed = request.draft.allow_restart if asked is None else parse_bool(asked, "allow_restart")
    # What the sizes' step left says no way.
    needed = any(entry["at_start"] and (_ALLOW in entry["why"] or "how" not in entry) for entry in waiting.values())
    return allowed and needed and domain.state in states.RUNNING


def _pass(domain: Domain, request: Request) -> dict[str, Any]:
    """Do what can be done now; return what waits, by field."""
    before = dict(request.record.get("update_pending") or {})
    if request.external or not status.made(request):
        sized.check(domain, request)
        return sized.sizes_of(domain, request)
    return Work.of(domain, request).carry_out(before)


@dataclass
class Work:
    """One look at a domain, and what is done about what it finds."""

    domain: Domain
    request: Request
    now: Request
    plan: machine.Plan
    subject: Subject
    wanted: Any
    # The devices that were declared before.
    last: list[str]

    @classmethod
    def of(cls, domain: Domain, request: Request, now: Request | None = None) -> Work:
        """Look at both; ``now``: the request of today, where somebody prepared one."""
        now = now or declared.of_today(request)
        plan, xml = declared.domain(now)
        subject = declared.subject(now, f"domain '{domain.name}'", plan, xml, domain)
        return cls(domain, request, now, plan, subject, parse.document(xml), declared.devices(request))

    def carry_out(self, before: dict[str, Any]) -> dict[str, Any]:
        """Change definition, surroundings and running guest; return what waits."""
        for root in drift.roots(self.now, self.plan, self.domain):
            check_growth("resize", root.target, root.capacity_bytes, root.wanted_bytes)
        with_dimms = self.subject.dimms
        sized.check(self.domain, self.request, with_dimms=with_dimms)
        self._say_left()
        # First what may be rejected as a whole.
        stored = self._redefine()
        waiting = sized.sizes_of(self.domain, self.request, with_dimms=with_dimms)
        self._surroundings()
        if not self.domain.active:
            self._keep_devices()
            self._say_done(stored, [])
            return waiting
        wished, refused = self._live()
        self._keep_devices()
        left = list(self.differences(LIVE))
        self._say_done([*stored, *wished], left)
        hidden = {one.field: self._waits(one.difference, hidden=True) for one in stored if self._hides(one)}
        run = self.domain.handle.ID()
        earlier = {name: entry for name, entry in before.items() if entry.get("run") == run}
        shown = {one.field: self._waits(one.difference, refused.get(one.field, "")) for one in left}
        return {**waiting, **earlier, **hidden, **self.seed(), **shown}

    def differences(self, where: str, root: Any = None) -> Iterator[Change]:
        """Yield what differs in the stored definition, or in the running domain, and is ours to change."""
        for one in self.all(where, root):
            foreign = self.is_foreign(one)
            if one.field not in _SIZES and not foreign and not declared.implied(self.now.spec, one.difference):
                yield one

    def all(self, where: str, root: Any = None) -> Iterator[Change]:
        """Yield what differs, whoever it is for to change."""
        found = self.document(where) if root is None else root
        yield from definition.changes(self.subject, self.wanted, found, where)
        yield from definition.passwords(self.subject, self.wanted, found, where)

    def is_foreign(self, change: Change) -> bool:
        """Tell whether it is what no blueprint declared: who attached a device, or limited a disk, keeps that."""
        return not listed.is_known(self.subject, self.last, listed.listed(self.wanted), change)

    def _say_left(self) -> None:
        """Name what stays of a machine that was installed before it was recorded what was declared."""
        if self.request.record.get("declared") is not None:
            return
        every = [*self.all(CONFIG), *(self.all(LIVE) if self.domain.active else ())]
        left = {one.field: str(one.difference.found) for one in every if self.is_foreign(one)}
        if left:
            named = ", ".join(f"{field} ({found})" for field, found in sorted(left.items()))
            self.request.record.warn(
                f"{self.domain.name} was installed by a release that did not record what was declared, and nobody can "
                f"tell who added what the blueprint does not have; it stays: {named}. To have one taken away, declare "
                "it as it is, update, take it out of the blueprint and update again; or detach it (detach_device_flags)"
            )

    def _keep_devices(self) -> None:
        """Record the devices of today, and those of before that are still there."""
        roots = [self.document(one) for one in ((CONFIG, LIVE) if self.domain.active else (CONFIG,))]
        there = [device for root in roots for device in root.iterfind("devices/*")]
        gone = listed.taken_back(self.last, listed.listed(self.wanted))
        held = [one for one in gone if any(listed.stands(self.subject, one, device) for device in there)]
        self.request.record.put(declared=[*listed.listed(self.wanted), *held])

    def document(self, where: str) -> Any:
        """Return the root of the stored definition, or of the running domain's, with its secrets."""
        return parse.document(self.domain.secret_xml(stored=where != LIVE))

    def _redefine(self) -> list[Change]:
        """Write the differences into the stored definition; one that is rejected leaves the old one."""
        if not self.domain.persistent:
            # As heal does: but for its disks, what the running domain says is of this run alone.
            self._check_contents(self.document(LIVE))
            self._define(undefined.as_running(self.domain, self.wanted), ["existence"])
        self._rename()
        root = self.document(CONFIG)
        stored = [one for one in self.differences(CONFIG, root) if one.field != "name"]
        refuse_replacement(self.domain, stored)
        self._check_contents(root)
        definition.apply(stored)
        resized = dimms.settle(self.wanted, root, with_dimms=self.subject.dimms)
        if stored:
            definition.settle_boot(self.wanted, root)
        if stored or resized:
            self._define(root, [*(one.field for one in stored), *([sizes.MEMORY] if resized else [])])
        return stored

    def _check_contents(self, root: Any) -> None:
        """Refuse to point a disk away from what no blueprint named: it may be all that the guest wrote of late."""
        for one in listed.elsewhere(self.subject, self.wanted, root, self.last):
            reason = f"it is in {one.found}, which no blueprint named; {one.declared} is declared"
            remedy = (
                "Merge it, where it stands on that (virsh blockcommit), or declare what it is in. Nothing was changed."
            )
            raise CoreError("change", f"{one.field} of {self.domain.target}", reason, remedy)

    def _rename(self) -> None:
        """Give a domain that is off its new name; UUID and volumes stay."""
        if not self.domain.active and self.domain.rename(str(self.wanted.findtext("name"))):
            self.request.record.put(resource_id=self.domain.name)

    def _define(self, root: Any, changed: list[str]) -> None:
        fields = ", ".join(dict.fromkeys(changed))
        declared.remember(self.request, self.wanted)
        text, label = hotplug.as_text(root), self.domain.target
        new = _macs(text) - _macs(self.domain.xml())
        with host_lock(self.request.uri, "macs") if new else nullcontext():
            preflight.check_macs(self.domain.session, self.domain.uuid, new, label, fresh=True)
            try:
                Domain.define(self.domain.session, text, self.domain.name, self.domain.uuid)
            except CoreError as error:
                remedy = f"Its old definition stands, and it runs on as it did. Change {fields} back, or otherwise."
                raise type(error)(f"change {fields} of", label, error.reason, remedy) from error

    def _surroundings(self) -> None:
        """Change what no definition says: autostart, mark, fixed addresses, size of the root; the seed where off."""
        self.domain.autostart(self.now.spec.autostart)
        xml = hotplug.as_text(self.wanted)
        if any(drift.lost_mark(self.domain, xml, self.subject.label)):
            mark.put(self.domain, xml)
        parts.renew_reservations(self.request, self.plan)
        for root in drift.roots(self.now, self.plan, self.domain):
            with above.opened(self.domain.session, root.path) as volume:
                growth.grow(volume, root.wanted_bytes, format_=root.format)
        if not self.domain.active and self.seed():
            parts.renew_seed(self.request, self.plan)

    def seed(self) -> dict[str, Any]:
        """Return the seed as pending where it is not as declared: a running guest may read it."""
        found = next(
            (one for one in drift.parts_of(self.now, self.plan, self.domain, "") if one.field == "cloud_init"), None
        )
        return {"cloud_init": self._waits(found)} if found is not None else {}

    def _live(self) -> tuple[list[Change], dict[str, str]]:
        """Change the running domain; return what was to change, and what it refused, by field."""
        wished = [one for one in self.differences(LIVE) if _how(one) is table.How.LIVE]
        refused = live.carry_out(self.domain, self.wanted, self.document(CONFIG), wished)
        asked = {one.field for one in wished if one.goes} - refused.keys()
        timeout_s = parse_seconds(self.request.inputs.get("timeout_s") or sizes.CONFIRM_TIMEOUT_S, "timeout_s")
        if asked:
            wait_until(
                lambda: not asked & {one.field for one in self.differences(LIVE)},
                timeout_s=timeout_s,
                signal=self.domain.session.changed,
            )
        return wished, {**dict.fromkeys(asked, _HELD), **refused}

    def _hides(self, change: Change) -> bool:
        """Tell whether a running domain does not show what its definition has now."""
        return _how(change) is not table.How.LIVE and not change.shown_live

    def _waits(self, found: Difference, refused: str = "", *, hidden: bool = False) -> dict[str, Any]:
        way = table.how("domain", found.field, active=True).how
        waits = way is table.How.NEXT_BOOT or refused == _HELD
        restart = _AT_START if waits else _AT_START + _ALLOW
        why = f"{refused}; {restart}" if refused else restart
        entry = {"wanted": found.declared, "now": found.found, "why": why, "at_start": True, "how": str(way)}
        return {**entry, "run": self.domain.handle.ID()} if hidden else entry

    def _say_done(self, wished: list[Change], left: list[Change]) -> None:
        open_ = {(one.field, one.difference.where) for one in left}
        done = [one.difference.change for one in wished if (one.field, one.difference.where) not in open_]
        for text in dict.fromkeys(done):
            self.request.record.note(f"changed {text} of {self.domain.target}")


def _macs(xml: str) -> set[str]:
    return {card.mac for card in parse.domain(xml).interfaces if card.mac}


def _how(change: Change) -> table.How:
    return table.how("domain", change.field, active=True).how


def refuse_replacement(domain: Domain, wished: list[Change]) -> None:
    """Raise where only another domain could be what is asked for."""
    fields = [one.field for one in wished if _how(one) is table.How.REPLACE]
    if fields:
        reason = f"{', '.join(fields)} cannot change in place"
        raise CoreError("change", domain.target, reason, "Change it back; or back up what it holds, and reinstall it.")
