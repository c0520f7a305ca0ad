"""Removal of orphans: by the same guarded ways as uninstall, never what somebody else uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import CoreError, InUse
from cloudify_libvirt.core.host.console import remove_logs
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.ownership import ledger, removal
from cloudify_libvirt.core.ownership.ledger import Entry
from cloudify_libvirt.core.ownership.orphans import Look, Orphan
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.secret import Secret
from cloudify_libvirt.core.snapshot import overlay
from cloudify_libvirt.core.snapshot import snapshots as snapshot
from cloudify_libvirt.core.states import ALIVE
from cloudify_libvirt.core.storage import bases as storage


@dataclass
class Removal:
    """One round over a host's orphans. ``running``: running guests are ended, too. ``left`` says what stays, and why.

    ``force``: also what nobody can tell to be ours.
    """

    look: Look
    running: bool = False
    force: bool = False
    left: list[str] = field(default_factory=list)

    def run(self, orphans: list[Orphan]) -> None:
        """Remove each, and forget it; what fails is noted, and the others still go."""
        for orphan in orphans:
            if not orphan.certain and not self._may_force(orphan):
                continue
            try:
                with ledger.held(orphan.entry):
                    self._remove(orphan)
            except CoreError as error:
                self.left.append(str(error))

    def _may_force(self, orphan: Orphan) -> bool:
        """Tell whether consent is enough; nothing is when the instance may well live, on a Manager."""
        asked_in_vain = not orphan.marked_only and not orphan.entry.home
        if self.force and not asked_in_vain:
            return True
        hint = "remove it by hand (virsh) if it is nobody's" if asked_in_vain else "--force removes it"
        self.left.append(f"{_label(orphan.entry)}: {orphan.why}; {hint}")
        return False

    def prune(self) -> None:
        """Forget what is gone from the host, of instances that are in no deployment any more."""
        for entry in self.look.entries:
            if entry.uri != self.look.session.uri or self.look.lives(entry) is not False:
                continue
            with ledger.held(entry):
                if self.look.lives(entry) is False and self.look.of_entry(entry) is None:
                    ledger.forget(entry)

    def _remove(self, orphan: Orphan) -> None:
        entry = orphan.entry
        # Somebody may have installed it meanwhile.
        alive = self.look.mark_lives(entry) if orphan.marked_only else self.look.of_entry(entry) is None
        if alive:
            return
        ways: dict[str, Any] = {
            "domain": self._domain,
            "network": self._network,
            "volume": self._volume,
            "pool": self._pool,
        }
        ways[entry.kind](entry, self.look.object_of(entry))
        rest = None if orphan.marked_only else self.look.of_entry(entry)
        if rest is None:
            ledger.forget(entry)

    def _warn(self, text: str) -> None:
        self.left.append(text)

    def _domain(self, entry: Entry, domain: Domain | None) -> None:
        journal, session = entry.journal, self.look.session
        files = list(journal.get("snapshot_files") or [])
        if domain is not None:
            if domain.state in ALIVE and not self.running:
                raise InUse("remove", domain.target, "it runs", "Stop it, or add --running.")
            files += snapshot.files(domain) if domain.session.driver == "qemu" else []
            domain.destroy()
            domain.undefine()
        uuid = str(journal.get("uuid") or "")
        logs = (str(journal.get("console_log") or ""), *(journal.get("serial_logs") or ()))
        left = overlay.remove_all(session, files, uuid) if files else []
        for path, error in [*remove_logs(session, logs, uuid), *left]:
            self._warn(f"left {path} alone: {error.reason}")
        removal.release(session, journal.get("reservations") or [])
        removal.remove_parts(session, self.look.untaken(journal.get("made") or []), uuid, self._warn)

    def _network(self, _entry: Entry, network: Network | None) -> None:
        if network is None:
            return
        users = network.users()
        if users:
            raise InUse("remove", network.target, f"running domains are on it: {', '.join(users[:5])}", "Stop them.")
        network.stop()
        network.undefine()

    def _volume(self, entry: Entry, _object: Any) -> None:
        journal, session = entry.journal, self.look.session
        part = {"pool": journal.get("pool", ""), "name": journal.get("resource_id", ""), "kind": ""}
        pool = Pool.find(session, part["pool"]) if self.look.untaken([part]) and part["pool"] else None
        if pool is not None and not pool.vanished:
            pool.start()
            storage.remove(pool, part["name"], complete=bool(journal.get("filled")))
        self._secret(journal)

    def _pool(self, entry: Entry, pool: Pool | None) -> None:
        if pool is not None:
            held = pool.contents() or (pool.volume_names() if pool.active else [])
            if held:
                reason = f"it is not empty: {', '.join(held[:5])}"
                raise InUse("remove", pool.target, reason, "Remove what it holds, or move it.")
            pool.stop()
            if entry.journal.get("built") and not pool.vanished:
                pool.delete_target()
            pool.undefine()
        self._secret(entry.journal)

    def _secret(self, journal: dict[str, Any]) -> None:
        secret = Secret.find(self.look.session, journal["secret"]) if journal.get("secret") else None
        if secret is not None:
            secret.undefine()


def _label(entry: Entry) -> str:
    return f"{entry.kind} '{entry.journal.get('resource_id')}' of deployment '{entry.deployment}'"
