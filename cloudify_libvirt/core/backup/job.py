"""libvirt's backup job: begun with the guest's file systems at rest, watched to its end.

Source: https://libvirt.org/formatbackup.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from cloudify_libvirt.core.backup import checkpoint as checkpoints
from cloudify_libvirt.core.document.render import TemplateSource, render
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import ChainBroken, CoreError, Missing, TimedOut, Unsupported, libvirt_call, quiet
from cloudify_libvirt.core.outage import same
from cloudify_libvirt.core.states import OFF, RUNNING
from cloudify_libvirt.core.wait import wait_until

# How long freezing may take: a guest's file systems write everything out first.
FREEZE_TIMEOUT_S = 30
_LEFT_BITMAP = re.compile(r"Bitmap already exists: (?P<name>[\w.-]*\w)")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class DiskJob:
    """What a job does with one disk: written to ``path`` ("": left out), since a checkpoint or all of it.

    ``tracked``: its changes from now on are remembered for the next increment. ``secret``: UUID of the secret with
    the key of an encrypted disk, which is its copy's, too.
    """

    target: str
    path: str
    since: str
    tracked: bool
    format: str = "qcow2"
    secret: str = ""


def begin(domain: Domain, disks: Sequence[DiskJob], checkpoint: str, description: str) -> None:
    """Start the job; it copies the disks as they are now, whatever the guest writes meanwhile.

    Raises:
        ChainBroken: a checkpoint cannot tell any more what changed.
    """
    rows = [asdict(disk) for disk in disks]
    backup = render(TemplateSource(name="backup.xml.j2"), {"disks": rows}, schema="domainbackup", node=domain.name)
    start = checkpoints.definition(domain, checkpoint, rows, description) if checkpoint else None

    def begun() -> None:
        try:
            with libvirt_call("back up", domain.target):
                domain.handle.backupBegin(backup, start, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
        except CoreError as error:
            raise _explained(domain, error) from error.__cause__

    try:
        begun()
    except CoreError as error:
        if not checkpoint or _left_bitmap(error) != checkpoint:
            raise
        checkpoints.drop_unwritten(domain, checkpoint, rows)
        begun()


def _left_bitmap(error: CoreError) -> str:
    """Return the name of a bitmap that is in the way; "" where that is not what is wrong."""
    found = _LEFT_BITMAP.search(error.reason)
    return found["name"] if found else ""


def _explained(domain: Domain, error: CoreError) -> CoreError:
    """Return what says more of a job that did not begin."""
    # Source: libvirt, qemu_backup.c, qemuBackupDiskPrepareOneBitmaps: only an increment has one.
    if _left_bitmap(error).startswith("backup-"):
        reason = "libvirtd was ended during an increment; the guest has a bitmap of that until it is shut down"
        return ChainBroken("back up", domain.target, reason, "Make a full backup.")
    if "unable to save metadata" in error.reason:
        # The job runs all the same: libvirt writes its checkpoint down last.
        abort(domain)
        remedy = "Is there room in /var/lib/libvirt of its host?"
        return CoreError("back up", domain.target, error.reason, remedy, retryable=error.retryable)
    return error


@contextmanager
def at_rest(domain: Domain, wanted: bool | None) -> Iterator[str]:
    """Hold the guest's file systems still, if its agent can; yield "" or why they are not.

    ``wanted``: True insists, None does without where it cannot be. They go on in any case.
    """
    why = _obstacle(domain, wanted)
    if why:
        if wanted:
            raise Unsupported("freeze the file systems of", domain.target, why, "Run qemu-ga in it, or do without.")
        yield why
        return
    why = _freeze(domain, insist=bool(wanted))
    try:
        yield why
    finally:
        if why:
            thaw(domain)
        else:
            _thaw_frozen(domain)


def _obstacle(domain: Domain, wanted: bool | None) -> str:
    if wanted is False:
        return "it was not asked for"
    if domain.state not in RUNNING:
        return "the guest is paused"
    return "" if domain.facts().agent_connected else "no guest agent answers"


def _freeze(domain: Domain, *, insist: bool) -> str:
    quiet(lambda: domain.handle.agentSetResponseTimeout(FREEZE_TIMEOUT_S, 0))
    try:
        with libvirt_call("freeze the file systems of", domain.target):
            domain.handle.fsFreeze()
    except CoreError as error:
        if insist:
            raise
        return error.reason
    return ""


def _thaw_frozen(domain: Domain) -> None:
    """Let the file systems go on that stand still by us; silence would leave a guest that writes nothing."""
    name, target = domain.name, domain.target
    try:
        domain = same(domain)
        if domain.state in OFF:
            return
        with libvirt_call("thaw the file systems of", target):
            domain.handle.fsThaw()
    except CoreError as error:
        remedy = f"They stand still until this is done: virsh domfsthaw {name}"
        raise CoreError("thaw the file systems of", target, error.reason, remedy, retryable=error.retryable) from error


def thaw(domain: Domain) -> None:
    """Let the guest's file systems go on, also when libvirtd went meanwhile; nothing to do where they do."""
    with suppress(CoreError):
        domain = same(domain)
    if quiet(lambda: domain.facts().agent_connected, False):
        quiet(lambda: domain.handle.fsThaw())


def running(domain: Domain) -> bool:
    """Tell whether a backup job runs."""
    if domain.state in OFF:
        return False
    try:
        with libvirt_call("read the backup of", domain.target):
            domain.handle.backupGetXMLDesc(0)
    except Missing:
        return False
    return True


def abort(domain: Domain) -> None:
    """End a job; nothing to do where none runs."""
    if quiet(lambda: running(domain), False):
        quiet(lambda: domain.handle.abortJob())
        wait_until(lambda: not running(domain), timeout_s=30, signal=domain.session.changed)


def finish(domain: Domain, timeout_s: float, progress: Progress) -> None:
    """Wait for the job's end.

    Raises:
        GuestFailed: the guest ended meanwhile, with the cause.
        TimedOut: it took too long, and was ended.
    """

    def ended() -> bool:
        if not running(domain):
            return True
        stats = quiet(lambda: domain.handle.jobStats(0), {}) or {}
        progress("copying", int(stats.get("disk_processed", 0)), int(stats.get("disk_total", 0)))
        return False

    done = False
    try:
        done = bool(wait_until(ended, timeout_s=timeout_s, signal=domain.session.changed))
    finally:
        if not done:
            abort(domain)
    if not done:
        raise TimedOut("back up", domain.target, f"it was not done after {timeout_s:g} s", "Give it more timeout_s.")
    if domain.state in OFF:
        raise domain.failure("back up")
    _check(domain)
    _closed(domain)


def _closed(domain: Domain) -> None:
    """Return when the hypervisor has closed the files, too: libvirt calls the job done a moment before.

    Until then what is in the files is not all there. libvirt closes them under the domain's job lock, for which any
    question to the guest waits. Source: libvirt, qemu_blockjob.c, qemuBlockJobProcessEventConcludedBackup
    """
    with libvirt_call("back up", domain.target):
        domain.handle.memoryStats()


def _check(domain: Domain) -> None:
    stats = quiet(lambda: domain.handle.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED), {}) or {}
    if stats.get("operation") != libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP or not stats.get("success"):
        reason = str(stats.get("errmsg") or "the job ended without success, as libvirt says")
        raise CoreError("back up", domain.target, reason, "Is there room in the pool that it is staged in?")
