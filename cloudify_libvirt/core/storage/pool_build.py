"""Making what a pool stands on: its directory, a file system, a volume group, a partition table; and undoing it.

A device that holds anything is formatted only when the user says overwrite, and never while somebody uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import Conflict, CoreError, InUse
from cloudify_libvirt.core.pool import Pool, domains_that_use
from cloudify_libvirt.core.spec.pool import BuildPolicy
from cloudify_libvirt.core.storage import device, pool_preflight

BEGUN, DONE = "begun", "done"
_OVERWRITE = "Use it as it is (leave source.format to what it holds), or set build: overwrite to erase it."
# Of a directory on another machine, which cannot be looked at.
_NO_DIRECTORY = ("No such file or directory", "ount point does not exist")


@dataclass(frozen=True)
class Build:
    """Bring a pool up. ``formatted`` is what ``record`` wrote under that name before: "", BEGUN or DONE.

    ``record`` stores values for the next attempt and for the end; it is called before anything is made.
    """

    pool: Pool
    policy: BuildPolicy
    formatted: str
    record: Callable[..., None]

    @cached_property
    def facts(self) -> parse.PoolFacts:
        """Return what the pool's definition says."""
        return self.pool.facts

    def run(self) -> None:
        """Start the pool, after making what is missing as far as the policy lets us.

        Raises:
            Conflict: a device holds something.
            InUse: a device is in use.
        """
        overwrite = self.policy == "overwrite" and self.formatted != DONE
        fault = None if overwrite else self.pool.try_start()
        if fault is None and not overwrite:
            return
        if fault is not None and (self.policy == "never" or fault.retryable):
            raise fault
        if overwrite:
            self.pool.stop()
        if self._directory_is_missing(fault):
            self.record(built=True)
            self.pool.build()
            fault = None if overwrite else self.pool.try_start()
            if fault is None and not overwrite:
                return
        self._format(overwrite, fault)
        self.pool.start()

    def _directory_is_missing(self, fault: CoreError | None) -> bool:
        directory = self.pool.directory
        if not directory:
            return False
        if self.pool.session.shares_files:
            return not Path(directory).exists()
        return fault is None or any(words in fault.reason for words in _NO_DIRECTORY)

    def _format(self, overwrite: bool, fault: CoreError | None) -> None:
        if fault is not None and not (self.pool.kind.builds and self.facts.devices):
            raise fault
        if fault is not None and self.facts.type == "fs" and self.facts.format in ("", "auto"):
            reason = f"{fault.reason}; and to make a file system its kind must be known"
            raise CoreError("build", self.pool.target, reason, "Set source.format, as in ext4.") from fault
        for path in self.facts.devices:
            self._check_device(path, overwrite)
        if self.facts.type == "fs" and self.pool.session.shares_files:
            pool_preflight.need_maker(self.facts.format, self.pool.target)
        self._build(overwrite)

    def _check_device(self, path: str, overwrite: bool) -> None:
        users = domains_that_use(self.pool.session, {path, *self._names(path)})
        if self.pool.session.shares_files:
            pool_preflight.check_devices([path], self.pool.target)
            users += device.kernel_users(path)
        target = f"device {path} for {self.pool.target}"
        if users:
            raise InUse("format", target, f"it is used by {', '.join(users[:5])}", "Remove its users first.")
        if overwrite or not self.pool.session.shares_files:
            return
        offset = device.first_data(path)
        if offset is not None:
            raise Conflict("format", target, f"it holds data (the first at byte {offset})", _OVERWRITE)

    def _names(self, path: str) -> list[str]:
        """Return the other paths of a device, as far as they can be seen: by-id links to it, what it links to."""
        return device.names(path) if self.pool.session.shares_files else []

    def _build(self, overwrite: bool) -> None:
        flags = libvirt.VIR_STORAGE_POOL_BUILD_OVERWRITE if overwrite else libvirt.VIR_STORAGE_POOL_BUILD_NO_OVERWRITE
        self.record(formatted=BEGUN)
        try:
            # The builder of ZFS knows no flags; zpool itself refuses devices with known contents.
            self.pool.build(flags if self.pool.kind.overwrites else 0, "" if overwrite else _OVERWRITE)
        except CoreError:
            self.record(formatted="")
            raise
        self.record(formatted=DONE)


def erase(pool: Pool) -> str:
    """Remove the volume group or partition table of an active pool, and stop it; return why it was left, or "".

    libvirt removes a volume group with all that it holds, without asking: here it must be empty, also of what
    libvirt does not list.
    """
    pool.refresh()
    names = pool.volume_names()
    if names:
        return f"it holds {', '.join(names[:5])}"
    if pool.facts.type == "logical" and pool.allocated_bytes:
        return f"{pool.allocated_bytes} bytes of it are taken by what libvirt does not list"
    pool.stop()
    pool.delete_target()
    return ""
