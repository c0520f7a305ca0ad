"""A disk's overlay written back into the file below it, by a block job of the hypervisor.

Source: https://libvirt.org/html/libvirt-libvirt-domain.html (virDomainBlockCommit, virDomainBlockJobAbort)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import Conflict, CoreError, TimedOut, libvirt_call, quiet
from cloudify_libvirt.core.snapshot import xml as snapshot_xml
from cloudify_libvirt.core.states import OFF
from cloudify_libvirt.core.wait import wait_until

TIMEOUT_S = 3600.0


@contextmanager
def awake(domain: Domain, *, was_off: bool) -> Iterator[None]:
    """Let the hypervisor's block jobs run: a domain that is off is started paused, no guest code runs.

    Raises:
        Conflict: it has a saved state, which a start would use up.
    """
    if domain.state in OFF:
        with libvirt_call("read", domain.target):
            saved = bool(domain.handle.hasManagedSaveImage(0))
        if saved:
            remedy = "Start it first, or drop the saved state: virsh managedsave-remove."
            raise Conflict("merge the files of", domain.target, "it has a saved state", remedy)
        with libvirt_call("start (paused, to merge its files)", domain.target):
            domain.handle.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    try:
        yield
    finally:
        if was_off:
            domain.destroy()


def merge(domain: Domain, target: str, top: str, base: str, timeout_s: float = TIMEOUT_S) -> None:
    """Write what ``top`` holds into ``base``, the file below it; the domain then uses ``base`` instead.

    A job that an attempt before left running is waited for. What is done already is left as it is.

    Raises:
        TimedOut: the job was ended at the deadline; the disk is as it was.
    """
    if not _running(domain, target):
        files = snapshot_xml.chain(domain.xml(), target)
        if top not in files:
            return
        flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE if files[0] == top else 0
        with libvirt_call("merge", _label(domain, target)):
            domain.handle.blockCommit(target, base, top, 0, flags)
    if wait_until(lambda: _ended(domain, target), timeout_s=timeout_s, signal=domain.session.changed) is None:
        quiet(lambda: domain.handle.blockJobAbort(target, 0))
        raise TimedOut("merge", _label(domain, target), f"it is not done after {timeout_s:g} s", "Try again later.")
    files = snapshot_xml.chain(domain.xml(), target)
    if top in files:
        remedy = "Is there room where the file below it is?"
        raise CoreError("merge", _label(domain, target), "its job failed", remedy)


def _running(domain: Domain, target: str) -> bool:
    try:
        with libvirt_call("read the job of", _label(domain, target)):
            job: dict[str, Any] | None = domain.handle.blockJobInfo(target, 0)
    except CoreError as error:
        if error.retryable or domain.state not in OFF:
            raise
        raise domain.failure("merge the files of") from error
    return bool(job)


def _ended(domain: Domain, target: str) -> bool:
    """Tell whether the job is over; one that waits for its end (both files are equal) is ended here."""
    if not _running(domain, target):
        return True
    if any(disk.target == target and disk.ready for disk in snapshot_xml.disks(domain.xml())):
        with libvirt_call("end the merge of", _label(domain, target)):
            domain.handle.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    return False


def _label(domain: Domain, target: str) -> str:
    return f"disk {target} of {domain.target}"
