"""What a snapshot of a domain will be made of. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cloudify_libvirt.core.errors import InvalidSpec, Unsupported
from cloudify_libvirt.core.snapshot.overlay import is_ours
from cloudify_libvirt.core.snapshot.xml import DiskState


@dataclass(frozen=True)
class Wish:
    """What is asked for; None leaves it to what the domain can. ``kind`` is auto, internal or external."""

    name: str
    description: str = ""
    kind: str = "auto"
    memory: bool | None = None
    quiesce: bool | None = None
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedDisk:
    """One disk; ``mode`` is internal, external or no, ``file`` the overlay to come, ``below`` what it stands on.

    ``secret`` has the key of an encrypted disk, and of its overlay.
    """

    target: str
    mode: str
    below: str = ""
    format: str = ""
    file: str = ""
    secret: str = ""
    engine: str = ""


@dataclass(frozen=True)
class Plan:
    """A snapshot before it is made; ``memory`` is no, internal, external or "" (off, or left to libvirt)."""

    kind: str
    memory: str
    disks: tuple[PlannedDisk, ...]
    quiesce: bool
    quiesce_wanted: bool = False
    memory_file: str = ""

    def placed(self, overlays: Mapping[str, str], memory_file: str) -> Plan:
        """Return the plan with the files that it will have."""
        disks = tuple(replace(disk, file=overlays.get(disk.target, "")) for disk in self.disks)
        return replace(self, disks=disks, memory_file=memory_file)


def plan(wish: Wish, disks: Iterable[DiskState], label: str, *, running: bool, agent: bool, pflash: bool) -> Plan:
    """Decide between internal and external, with memory or without, and what happens to each disk.

    Read-only disks, CD-ROMs, floppies and drives without a medium are left out: a guest cannot change them, or
    they are no part of its state.

    Raises:
        InvalidSpec: an excluded disk does not exist, or what is asked for excludes itself.
        Unsupported: what is asked for cannot work with these disks.
    """
    every = list(disks)
    if wish.quiesce and wish.memory is None:
        wish = replace(wish, memory=False)
    _check_targets(wish, every, label)
    taken = [disk for disk in every if _counts(disk) and disk.target not in wish.exclude]
    obstacle = _obstacle(wish, every, taken, running=running, pflash=pflash)
    if wish.kind == "internal" and obstacle:
        raise Unsupported("snapshot", label, f"it cannot be internal: {obstacle}", "Leave the kind out, or external.")
    # One kind per domain: an internal one inside an overlay would keep it from being merged.
    outside = obstacle or any(is_ours(disk.path) for disk in taken)
    kind = wish.kind if wish.kind != "auto" else ("external" if outside else "internal")
    if kind == "external":
        _check_external(taken, label)
    memory = _memory(wish, kind, running)
    return Plan(
        kind,
        memory,
        tuple(_planned(disk, kind if disk in taken else "no") for disk in every),
        quiesce=_quiesce(wish, label, running=running, agent=agent, memory=memory),
        quiesce_wanted=wish.quiesce is True,
    )


def _counts(disk: DiskState) -> bool:
    return disk.kind != "empty" and disk.device in ("disk", "lun") and not disk.readonly


def _check_targets(wish: Wish, disks: list[DiskState], label: str) -> None:
    targets = [disk.target for disk in disks]
    unknown = [target for target in wish.exclude if target not in targets]
    if unknown:
        reason = f"it has no disk {', '.join(unknown)} to leave out"
        raise InvalidSpec("snapshot", label, reason, f"Its disks are {', '.join(targets) or 'none'}.")


def _obstacle(wish: Wish, every: list[DiskState], taken: list[DiskState], *, running: bool, pflash: bool) -> str:
    """Say why the snapshot cannot be internal; "" when it can."""
    other = next((disk for disk in taken if disk.format != "qcow2" or disk.kind not in ("file", "volume")), None)
    if other is not None:
        return f"disk {other.target} is {other.format if other.kind in ('file', 'volume') else other.kind}, not qcow2"
    if not taken:
        return "no disk could hold it"
    left_out = next((disk for disk in every if _counts(disk) and disk not in taken), None)
    if left_out is not None:
        return f"disk {left_out.target} cannot be left out of one"
    if running and wish.memory is False:
        return "of a running guest it always holds the memory"
    if running and pflash:
        return "the firmware's variables are in a file of their own (pflash)"
    return ""


def _check_external(taken: list[DiskState], label: str) -> None:
    if not taken:
        remedy = "A domain without disks that a guest can write has no state to keep while it is off."
        raise Unsupported("snapshot", label, "no disk is left that could have an overlay", remedy)
    for disk in taken:
        if disk.kind not in ("file", "volume") or (disk.encrypted and (disk.kind != "file" or not disk.secret)):
            what = "encrypted, with a key that is not in a secret by UUID: what is written from now on would not be"
            if not disk.encrypted or disk.secret:
                what = f"of type {disk.kind}, and cannot have an {'encrypted ' if disk.encrypted else ''}overlay"
            reason = f"disk {disk.target} is {what}"
            raise Unsupported("snapshot", label, reason, f"Leave it out: exclude {disk.target}.")


def _memory(wish: Wish, kind: str, running: bool) -> str:
    if not running:
        return ""
    return kind if wish.memory is None or wish.memory else "no"


def _quiesce(wish: Wish, label: str, *, running: bool, agent: bool, memory: str) -> bool:
    """Tell whether file systems are frozen: only where the memory, with what was not written yet, is not kept."""
    if wish.quiesce and not running:
        raise InvalidSpec("quiesce", label, "it is off", "A guest that is off is quiet: leave quiesce out.")
    if wish.quiesce and memory not in ("", "no"):
        reason = "a snapshot with memory holds what the guest has not written yet"
        raise InvalidSpec("quiesce", label, reason, "Leave quiesce out, or set memory to false.")
    if wish.quiesce and not agent:
        reason = "the guest agent does not answer"
        raise Unsupported("quiesce", label, reason, "Install qemu-guest-agent in the guest, or leave quiesce out.")
    return running and memory == "no" and agent and wish.quiesce is not False


def _planned(disk: DiskState, mode: str) -> PlannedDisk:
    return PlannedDisk(disk.target, mode, disk.path, disk.format, secret=disk.secret, engine=disk.engine)
