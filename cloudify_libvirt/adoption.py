"""What an instance made, told to the orchestrator's ledger; and what an earlier install of it made, taken over.

A second ``cfy install`` of the same deployment removes its state first. What stands on the host then is nobody's, but
the ledger still has the journal. With that journal the new instance is where a killed one is that runs again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from cloudify_libvirt import deployments
from cloudify_libvirt.core.errors import AccessDenied, Conflict, CoreError
from cloudify_libvirt.core.ownership import ledger
from cloudify_libvirt.core.ownership import mark as ownership
from cloudify_libvirt.core.ownership.ledger import Entry
from cloudify_libvirt.engine import home_of
from cloudify_libvirt.request import Request

# Of what is recorded, what tells what was made and what is left to do: no parameters, nothing that was a secret.
JOURNAL = (
    "resource_id", "uuid", "made", "filled", "origin", "reservations", "secret", "built", "formatted", "wiped", "pool",
    "path", "bridge", "cidr", "cidr6", "console_log", "serial_logs", "snapshot_files",
    "made_as",
)  # fmt: skip
_TOLD = frozenset({*JOURNAL, "use_external_resource"})
_KINDS = frozenset({"domain", "network", "pool", "volume"})
REMEDY = "Remove what is left (cfy-libvirt orphans --remove), or install under another deployment name."

# Takes the journal of an earlier install, strikes out what is gone; raises Conflict where the rest cannot be kept.
Fits = Callable[[dict[str, Any]], None]


class Mirror:
    """Keeps one instance's entry of the ledger like its journal."""

    def __init__(self, request: Request, *, active: bool) -> None:
        """Read and write nothing until the instance's record changes."""
        self._request = request
        self.active = active and request.kind in _KINDS
        self._known: dict[str, Any] | None = None
        self._recorded: dict[str, Any] = {}
        self._stale = False

    def look(self, changing: str) -> None:
        """Note what the journal says before it is changed."""
        if self._known is None and self.active:
            self._known = self._recorded = self._journal()
            if self._known and not self._entry.path.exists():
                # Of an earlier release, or lost.
                self._known, self._stale = {}, True
        self._stale = self._stale or changing in _TOLD

    def keep(self) -> None:
        """Write the entry if the journal is another one than before."""
        if self._known is None or not self._stale:
            return
        journal = self._journal()
        if journal != self._known:
            if journal:
                self._write(journal)
            else:
                self.forget(self._entry)
        self._known, self._recorded, self._stale = journal, journal, False

    def _write(self, journal: dict[str, Any]) -> None:
        """Write the entry; where that fails, what is new is not recorded: the engine would store that all the same."""
        try:
            ledger.write(replace(self._entry, journal=journal))
        except CoreError:
            new = [key for key, value in journal.items() if _is_new(self._recorded.get(key), value)]
            self._request.record.take_back({key: self._recorded.get(key) for key in new})
            raise

    @cached_property
    def _entry(self) -> Entry:
        """The instance's entry; of an instance that was made, of the host that it was made on."""
        recorded = self._request.record.get("libvirt_auth") if self._known else None
        return entry_of(self._request, str(recorded or "") or self._request.uri)

    def forget(self, entry: Entry) -> None:
        """Remove an entry; where that fails, say so."""
        try:
            ledger.forget(entry)
        except CoreError as error:
            # What it names is gone: it is only looked for in vain.
            self._request.record.warn(str(error))

    def _journal(self) -> dict[str, Any]:
        recorded = self._request.record.all()
        if recorded.get("use_external_resource"):
            return {}
        return {key: recorded[key] for key in JOURNAL if recorded.get(key) not in (None, "", [], {})}


def _is_new(before: Any, now: Any) -> bool:
    """Tell whether a value was not there before, or lists things: an entry of what is gone is only looked for in vain.

    Any other that changed says what is done, and stays known.
    """
    return before is None or isinstance(now, list)


def mirrored(request: Request, *, active: bool = True) -> Mirror:
    """Let the ledger know whatever the request's record stores."""
    mirror = Mirror(request, active=active)
    request.record.before_change, request.record.before_store = mirror.look, mirror.keep
    return mirror


def forget_intent(request: Request) -> None:
    """Forget the entry of an instance that has recorded nothing: a kill came before it could, so nothing was made."""
    mirror = Mirror(request, active=True)
    if not mirror.active or request.record.get("resource_id"):
        return
    try:
        uri = request.uri
    except CoreError:
        # The operation that would have made something could not read it either.
        return
    mirror.forget(entry_of(request, uri))


def entry_of(request: Request, uri: str) -> Entry:
    """Return the instance's entry, without a journal."""
    identity, home = request.identity, home_of(request.ctx)
    return Entry(identity.deployment, identity.node, identity.index, uri, request.kind, identity.instance, home)


def adopt(request: Request, fits: Fits = lambda _journal: None) -> dict[str, Any]:
    """Take over what an earlier install of the same instance made and no deployment has; return its journal, or {}.

    Raises:
        Conflict: it cannot be kept as it is.
    """
    own = entry_of(request, request.uri)
    if request.record.get("resource_id"):
        _finish(request, own)
        return {}
    if not own.home or all(entry.instance == own.instance for entry in ledger.of_key(own)):
        return {}
    with ledger.held(own):
        left = [entry for entry in ledger.of_key(own) if entry.kind == own.kind and _forsaken(entry, own)]
        journal = ledger.merged(left)
        if not journal:
            return {}
        _check_name(request, journal)
        fits(journal)
        request.record.put(**journal, adopted={"instance": left[-1].instance, "since": left[-1].since})
        for entry in left:
            ledger.forget(entry)
    request.record.note(f"{request.label}: takes over what {left[-1].instance} of {left[-1].since} made")
    return journal


def _finish(request: Request, own: Entry) -> None:
    """Forget the entries whose journals were taken over, where a kill came in between."""
    if request.record.get("adopted"):
        for entry in ledger.of_key(own):
            if _forsaken(entry, own):
                ledger.forget(entry)


def _forsaken(entry: Entry, own: Entry) -> bool:
    try:
        living = deployments.lives(entry.home, entry.deployment, entry.instance)
    except OSError as error:
        raise AccessDenied("look at", f"the deployments in {entry.home}", str(error.strerror)) from error
    return entry.instance != own.instance and living is False


def _check_name(request: Request, journal: dict[str, Any]) -> None:
    made = journal.get("resource_id", request.name)
    if made != request.name:
        reason = f"an earlier install of it made '{made}', which is still there, and now it is called '{request.name}'"
        raise Conflict("take over", request.label, reason, f"Give it the old name. {REMEDY}")


def check_ours(request: Request, found: Any, journal: dict[str, Any]) -> None:
    """Raise ``Conflict`` unless an object with our UUID was made by an earlier install of this instance."""
    mark = ownership.mark_on(found)
    mine = request.mark
    if mark is not None:
        same = (mark.orchestrator, mark.deployment, mark.node) == (mine.orchestrator, mine.deployment, mine.node)
        if same and (journal or _mark_is_forsaken(request, mark.instance)):
            return
    elif journal.get("uuid") == found.uuid:
        return
    reason = f"an object with its UUID {found.uuid} exists, {_whose(request, mark)}"
    raise Conflict("define", found.target, reason, REMEDY)


def _mark_is_forsaken(request: Request, instance: str) -> bool:
    """Tell whether only a mark is left of it: what the ledger has is judged by that."""
    if any(entry.instance == instance for entry in ledger.of_key(entry_of(request, request.uri))):
        return False
    return deployments.lives(home_of(request.ctx), request.identity.deployment, instance) is False


def _whose(request: Request, mark: Any) -> str:
    if mark is None or not mark.orchestrator:
        return (
            f"from an earlier install of deployment '{request.identity.deployment}' whose state is gone, or from "
            "somebody else's of the same name"
        )
    if mark.orchestrator != request.mark.orchestrator:
        return f"made by another orchestrator ({mark.orchestrator}) for its deployment '{mark.deployment}'"
    return f"of instance {mark.instance} of deployment '{mark.deployment}'"
