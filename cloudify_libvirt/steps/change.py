"""Bring a domain to its properties of today: while it runs, in its definition, and at a restart that was allowed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cloudify_libvirt.binding import existing
from cloudify_libvirt.core import parse, states
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.drift.compare import CONFIG, LIVE, Difference, Subject
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.ownership import mark
from cloudify_libvirt.core.storage import growth
from cloudify_libvirt.core.units import check_growth, parse_bool, parse_seconds
from cloudify_libvirt.core.update import definition, hotplug, listed, live, sizes, table
from cloudify_libvirt.core.update.definition import Change
from cloudify_libvirt.core.wait import wait_until
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared, drift, machine, parts, restart, status
from cloudify_libvirt.steps import domain as domains
from cloudify_libvirt.steps import update as sized

_AT_START = "it takes effect at the next start"
_ALLOW = "; allow_restart: true does so now"
_HELD = "the guest has not given it back yet"
# Of these the sizes' own step takes care, and of these that of the object's life.
_SIZES = frozenset({*sized.KEYS, "max_vcpu"})


def update(request: Request) -> None:
    """Carry out all differences between properties and host; record what waits, and for what.

    The inputs ``timeout_s`` (10 s) and ``allow_restart`` bound the wait for the guest, and allow a restart.
    """
    domain = existing(Domain, request, "update")
    if not request.external:
        # Before the record follows the properties, which seldom name them.
        machine.keep_macs(request)
    _update(domain, request)


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
    work, run = _Work.of(domain, request), domain.handle.ID()
    left = {one.field for one in work.differences(LIVE)} | work.seed().keys()
    kept = {
        name: entry
        for name, entry in pending.items()
        if name in left or entry.get("run") == run or (name in sized.KEYS.values() and not _there(domain, name, entry))
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
        return sized.sizes_of(domain, request)
    return _Work.of(domain, request).carry_out(before)


@dataclass
class _Work:
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
    def of(cls, domain: Domain, request: Request) -> _Work:
        now = declared.of_today(request)
        plan, xml = declared.domain(now)
        subject = declared.subject(now, f"domain '{domain.name}'", plan, xml, domain)
        return cls(domain, request, now, plan, subject, parse.document(xml), declared.devices(request))

    def carry_out(self, before: dict[str, Any]) -> dict[str, Any]:
        """Change definition, surroundings and running guest; return what waits."""
        for volume, size in drift.roots(self.now, self.plan):
            check_growth("resize", volume.target, volume.facts().capacity_bytes, size)
        # First what may be rejected as a whole.
        stored = self._redefine()
        waiting = sized.sizes_of(self.domain, self.request)
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
        found = self._document(where) if root is None else root
        gone = self._taken_back
        for one in (
            *definition.changes(self.subject, self.wanted, found, where),
            *definition.passwords(self.subject, self.wanted, found, where),
        ):
            foreign = one.goes and not listed.is_one(self.subject, gone, one.spot.found)
            if one.field not in _SIZES and not foreign and not declared.implied(self.now.spec, one.difference):
                yield one

    @property
    def _taken_back(self) -> list[str]:
        return listed.taken_back(self.last, listed.listed(self.wanted))

    def _keep_devices(self) -> None:
        """Record the devices of today, and those of before that are still there."""
        roots = [self._document(one) for one in ((CONFIG, LIVE) if self.domain.active else (CONFIG,))]
        there = [device for root in roots for device in root.iterfind("devices/*")]
        held = [one for one in self._taken_back if any(listed.is_one(self.subject, [one], device) for device in there)]
        self.request.record.put(declared=[*listed.listed(self.wanted), *held])

    def _document(self, where: str) -> Any:
        return parse.document(self.domain.secret_xml(stored=where != LIVE))

    def _redefine(self) -> list[Change]:
        """Write the differences into the stored definition; one that is rejected leaves the old one."""
        if not self.domain.persistent:
            # As heal does: what the running domain says is of this run alone.
            self._check_contents(self._document(LIVE), anew=True)
            self._define(self.wanted, ["existence"])
            return []
        self._rename()
        root = self._document(CONFIG)
        stored = [one for one in self.differences(CONFIG, root) if one.field != "name"]
        refuse_replacement(self.domain, stored)
        self._check_contents(root)
        if stored:
            definition.apply(stored)
            definition.settle_boot(self.wanted, root)
            self._define(root, [one.field for one in stored])
        return stored

    def _check_contents(self, root: Any, *, anew: bool = False) -> None:
        """Refuse to point a disk away from what no blueprint named: it may be all that the guest wrote of late."""
        for one in listed.elsewhere(self.subject, self.wanted, root, self.last, anew=anew):
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
        try:
            Domain.define(self.domain.session, hotplug.as_text(root), self.domain.name, self.domain.uuid)
        except CoreError as error:
            remedy = f"Its old definition stands, and it runs on as it did. Change {fields} back, or otherwise."
            raise type(error)(f"change {fields} of", self.domain.target, error.reason, remedy) from error

    def _surroundings(self) -> None:
        """Change what no definition says: autostart, mark, fixed addresses, size of the root; the seed where off."""
        self.domain.autostart(self.now.spec.autostart)
        xml = hotplug.as_text(self.wanted)
        if any(drift.lost_mark(self.domain, xml, self.subject.label)):
            mark.put(self.domain, xml)
        parts.renew_reservations(self.request, self.plan)
        for volume, size in drift.roots(self.now, self.plan):
            growth.grow(volume, size)
        if not self.domain.active and self.seed():
            parts.renew_seed(self.request, self.plan)

    def seed(self) -> dict[str, Any]:
        """Return the seed as pending where it is not as declared: a running guest may read it."""
        found = next((one for one in drift.parts_of(self.now, self.plan, "") if one.field == "cloud_init"), None)
        return {"cloud_init": self._waits(found)} if found is not None else {}

    def _live(self) -> tuple[list[Change], dict[str, str]]:
        """Change the running domain; return what was to change, and what it refused, by field."""
        wished = [one for one in self.differences(LIVE) if _how(one) is table.How.LIVE]
        refused = live.carry_out(self.domain, self.wanted, self._document(CONFIG), wished)
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
        for one in wished:
            if (one.field, one.difference.where) not in open_:
                self.request.record.note(f"changed {one.difference}")


def _how(change: Change) -> table.How:
    return table.how("domain", change.field, active=True).how


def refuse_replacement(domain: Domain, wished: list[Change]) -> None:
    """Raise where only another domain could be what is asked for."""
    fields = [one.field for one in wished if _how(one) is table.How.REPLACE]
    if fields:
        reason = f"{', '.join(fields)} cannot change in place"
        raise CoreError("change", domain.target, reason, "Change it back; or back up what it holds, and reinstall it.")
