"""Checkpoints: from when on a running domain's disks remember what changes.

Source: https://libvirt.org/formatcheckpoint.html
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cloudify_libvirt.core.backup import bitmaps
from cloudify_libvirt.core.backup.names import is_checkpoint
from cloudify_libvirt.core.document.render import TemplateSource, render
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import Conflict, CoreError, Unsupported, libvirt_call
from cloudify_libvirt.core.parse import document, number
from cloudify_libvirt.core.states import OFF


def names(domain: Domain) -> set[str]:
    """Return the names of the domain's checkpoints; none where the driver has none."""
    if domain.session.driver != "qemu":
        return set()
    with libvirt_call("list the checkpoints of", domain.target):
        return {str(one.getName()) for one in domain.handle.listAllCheckpoints(0)}


def ours(domain: Domain) -> set[str]:
    """Return the names of those that backups of ours stand on."""
    return set(filter(is_checkpoint, names(domain)))


def changed_bytes(domain: Domain, name: str) -> dict[str, int]:
    """Return how much of each disk (by target) changed since; of a running domain only.

    Raises:
        ChainBroken: a disk lost its memory of that, by a crash for example.
    """
    with libvirt_call("read", f"checkpoint '{name}' of {domain.target}"):
        xml = _look_up(domain, name).getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE)
    disks = document(xml).findall("disks/disk")
    return {disk.get("name", ""): number(disk.get("size")) for disk in disks if disk.get("size")}


def _look_up(domain: Domain, name: str) -> Any:
    return domain.handle.checkpointLookupByName(name)


def drop(domain: Domain, name: str) -> None:
    """Delete a checkpoint; the one before it goes on to remember. One that is broken is only forgotten.

    Of a guest that is off its bitmaps are removed from the disks' files.

    Raises:
        Conflict: a file cannot be written now; the checkpoint stays.
        Unsupported: the guest is off, on another machine.
    """
    target = f"checkpoint '{name}' of {domain.target}"
    if domain.state in OFF:
        _drop_bitmaps(domain, {name})
        _forget(domain, name)
        return
    try:
        with libvirt_call("delete", target):
            _look_up(domain, name).delete(0)
    except CoreError:
        _forget(domain, name)


def _forget(domain: Domain, name: str) -> None:
    with libvirt_call("forget", f"checkpoint '{name}' of {domain.target}"):
        _look_up(domain, name).delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def definition(
    domain: Domain, name: str, disks: Sequence[Mapping[str, Any]], description: str = "", created: int | None = None
) -> str:
    """Return a checkpoint's document; ``disks``: those of a backup job, ``created``: seconds since 1970."""
    variables = {"checkpoint": name, "description": description, "disks": disks, "created": created}
    source = TemplateSource(name="checkpoint.xml.j2")
    return render(source, variables, schema="domaincheckpoint", node=domain.name)


def drop_unwritten(domain: Domain, name: str, disks: Sequence[Mapping[str, Any]]) -> None:
    """Remove the bitmaps of a checkpoint that libvirt began and could not write down, as on a full disk.

    Nothing of libvirt's names them any more, so they are made known again to be deleted.
    """
    xml = definition(domain, name, disks, created=int(time.time()))
    with libvirt_call("delete", f"what is left of checkpoint '{name}' of {domain.target}"):
        domain.handle.checkpointCreateXML(xml, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)
    drop(domain, name)


def _drop_bitmaps(domain: Domain, wanted: set[str]) -> None:
    if not domain.session.shares_files:
        name = min(wanted)
        reason = f"it is off, and what checkpoint '{name}' keeps is in files of another machine"
        commands = f"virsh start --paused {domain.name}; virsh checkpoint-delete {domain.name} {name}; virsh destroy"
        raise Unsupported("clean up", domain.target, reason, f"On its host: {commands} {domain.name}")
    for bitmap in bitmaps.found(domain):
        if bitmap.name in wanted:
            bitmaps.remove(domain, bitmap)


def drop_all(domain: Domain, wanted: Iterable[str]) -> list[str]:
    """Drop checkpoints; return what could not go now, in words: the next run tries again."""
    left = []
    for name in sorted(wanted):
        try:
            drop(domain, name)
        except CoreError as error:
            left.append(f"checkpoint '{name}': {error.reason}")
    return left


def refuse_revert(domain: Domain, target: str, *, internal: bool) -> None:
    """Raise ``Conflict`` where a revert would fail at a checkpoint or bitmap that is not ours to drop; touch nothing.

    ``internal``: the snapshot is inside the disks' files, which may have no bitmap at all then.
    """
    present = names(domain)
    foreign = sorted(name for name in present if not is_checkpoint(name))
    if foreign:
        reason = f"it has checkpoints of another tool ({', '.join(foreign[:5])}), which would be wrong then"
        remedy = f"While it runs: virsh checkpoint-delete {domain.name} {foreign[0]}"
        raise Conflict("go back to", target, reason, remedy)
    if not internal:
        return
    running = domain.state not in OFF
    for bitmap in bitmaps.found(domain):
        if bitmap.name not in present and (running or not bitmap.ours):
            reason = f"file {bitmap.path} has the bitmap '{bitmap.name}', with which QEMU goes back to nothing"
            raise Conflict("go back to", target, reason, f"Shut it down, then on its host: {bitmap.command}")


def drop_ours(domain: Domain, *, disks_go: bool = False) -> list[str]:
    """Drop all our checkpoints and, of a guest that is off, what is left of earlier ones; return their names.

    ``disks_go``: other files come in place of the disks, so that what is in files of another machine does not count.
    """
    mine = sorted(ours(domain))
    for name in mine:
        if disks_go and domain.state in OFF:
            _forget(domain, name)
        else:
            drop(domain, name)
    if domain.state in OFF:
        for bitmap in bitmaps.found(domain):
            if bitmap.ours:
                bitmaps.remove(domain, bitmap)
    return mine
