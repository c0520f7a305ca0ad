"""The disks of a domain whose definition is gone: what the guest wrote of late may be in files that stand on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.drift.rules import REMOVABLE, content, key
from cloudify_libvirt.core.errors import InvalidSpec, Unsupported
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.snapshot import above
from cloudify_libvirt.core.snapshot.above import Stack
from cloudify_libvirt.core.snapshot.xml import with_sources
from cloudify_libvirt.core.update import listed
from cloudify_libvirt.request import Request

# The input of heal that says which file each disk had: by target, or by the path of the disk's own file.
CHOICE = "disk_files"
_OVERLAY = ".qcow2"
_HOW = (
    "Say which file each had, here those that were written to last: cfy executions start execute_operation "
    """-b {deployment} -p '{{"operation": "cloudify.interfaces.lifecycle.heal", "node_instance_ids": ["{instance}"], """
    """"operation_kwargs": {{"disk_files": {{{pairs}}}}}}}' --allow-custom-parameters. Nothing was changed."""
)


@dataclass(frozen=True)
class Disk:
    """One disk of the domain, and the stacks of files that may be its: more than one, or one that is not certain.

    ``target`` is "" where an older install did not record it; ``why`` says why nobody can tell, "" where it is known.
    """

    target: str
    path: str
    stacks: tuple[Stack, ...]
    why: str

    @property
    def label(self) -> str:
        """Say which disk it is."""
        return f"disk {self.target} ({self.path})" if self.target else f"disk {self.path}"

    @property
    def text(self) -> str:
        """Say what is wrong."""
        files = ", ".join(path for stack in self.stacks for path in stack.paths[1:])
        on = f"{files} stand{'s' if files.count(', ') == 0 else ''} on its {self.label}" if files else self.label
        return f"its definition is gone, and {on}: {self.why}"


def stacked(request: Request) -> Iterator[Disk]:
    """Yield the disks on which files stand, as a definition that names the disk itself would lose these."""
    if request.session.driver != "qemu":
        return
    files = _recorded(request)
    disks = [
        Disk(target, path, tuple(above.stacks(request.session, path, str(request.record.get("uuid")), files)), "")
        for target, path in _disks(request)
    ]
    on_disks = {path for disk in disks for stack in disk.stacks for path in stack.paths}
    loose = sorted(set(files) - on_disks)
    for disk in disks:
        if disk.stacks:
            yield Disk(disk.target, disk.path, disk.stacks, _doubt(request, disk, files, loose))
    if loose and not any(disk.stacks for disk in disks):
        target, path = next(iter(_disks(request)), ("", ""))
        yield Disk(target, path, (), _loose(loose))


def _recorded(request: Request) -> list[str]:
    """Return the files of our snapshots that can be disks."""
    return [str(path) for path in request.record.get("snapshot_files") or () if str(path).endswith(_OVERLAY)]


def _disks(request: Request) -> Iterator[tuple[str, str]]:
    """Yield target and path of the disks that were declared last, and of the root."""
    last = {path: target for target, path in listed.disks(request.record.get("declared") or ())}
    roots = (entry for entry in request.record.get("made") or () if entry["kind"] == "root")
    pools = ((Pool.find(request.session, entry["pool"]), entry["name"]) for entry in roots)
    own = [str(PurePosixPath(pool.directory) / name) for pool, name in pools if pool is not None and pool.directory]
    for path in dict.fromkeys([*own, *last]):
        if path.startswith("/"):
            yield last.get(path, ""), path


def _doubt(request: Request, disk: Disk, recorded: list[str], loose: list[str]) -> str:
    """Say why nobody can tell which file the guest wrote to; "" where that is certain."""
    stack = disk.stacks[0]
    foreign = [path for path in stack.paths[1:] if path not in recorded]
    if len(disk.stacks) > 1:
        return "nobody can tell which one the guest wrote to"
    if foreign:
        return f"we did not make {', '.join(foreign)}, and nobody can tell whether the guest wrote to it"
    if request.record.get("snapshot_job"):
        return "a snapshot was being made, gone back to or deleted"
    if loose:
        return _loose(loose)
    return "" if stack.in_order else "a file was written to after what stands on it, as by a merge"


def _loose(paths: list[str]) -> str:
    return f"{', '.join(paths)} of our snapshots stand on no disk of it any more"


def remedy(request: Request, disks: list[Disk]) -> str:
    """Say how to go on."""
    pairs = ", ".join(f'"{disk.target or disk.path}": "{_newest(disk)}"' for disk in disks)
    ids = {"deployment": request.ctx.deployment.id, "instance": request.ctx.instance.id}
    return _HOW.format(pairs=pairs, **ids)


def _newest(disk: Disk) -> str:
    return max((stack.top for stack in disk.stacks), key=lambda one: one.modified_ns).path if disk.stacks else disk.path


def unseen(request: Request) -> list[str]:
    """Return the pools that are off, and may hold files on the disks."""
    if request.session.driver != "qemu":
        return []
    return above.pools_off(request.session, [*_recorded(request), *(path for _target, path in _disks(request))])


def unclear(request: Request) -> list[Disk]:
    """Return the disks of which neither a record nor the caller says which file they had; pools are started for it."""
    given = _given(request)
    return [one for one in stacked(request) if one.why and not {one.target, one.path} & given.keys()]


def _given(request: Request) -> dict[str, str]:
    given = request.inputs.get(CHOICE) or {}
    if not isinstance(given, Mapping):
        reason = f"{CHOICE} is not a map"
        raise InvalidSpec("heal", request.label, reason, 'Give one, such as {"vda": "/path/of/the/file"}.')
    return {str(name): str(path) for name, path in given.items()}


def on_top(request: Request, xml: str) -> str:
    """Return the definition with each disk on the file that the guest wrote to last; see ``unclear`` before."""
    given, disks = _given(request), {disk.path: disk for disk in stacked(request)}
    for element in _fixed(parse.document(xml)):
        target, own = key(element), content(element)
        disk = disks.get(own)
        known = disk.stacks[0].top.path if disk and disk.stacks and not disk.why else own
        path = given.get(target) or given.get(own) or known
        if path != own:
            _check(request, target, path)
            # One after the other: of an encrypted disk the definition says all that its file stands on.
            for one in _up_to(disk, path):
                xml = with_sources(xml, {target: one})
            request.record.note(f"its disk {target} is {path}, which stands on {own}")
    return xml


def _up_to(disk: Disk | None, path: str) -> tuple[str, ...]:
    """Return the files that stand on a disk's own, up to one of them."""
    found = next((stack.paths for stack in (disk.stacks if disk else ()) if path in stack.paths[1:]), ("", path))
    return found[1 : found.index(path) + 1]


def _check(request: Request, target: str, path: str) -> None:
    with above.opened(request.session, path) as volume:
        found = volume.facts()
    if found.format != "qcow2":
        reason = f"{path} is {found.format}, and what stands on a disk is qcow2"
        raise Unsupported(f"use as disk {target} of", request.label, reason, "Name another file, or the disk's own.")


def as_running(found: Domain, declared: Any) -> Any:
    """Return a definition's root with the disks that the running domain has: no other text says what it writes to."""
    root, there = copy.deepcopy(declared), {key(disk): disk for disk in _fixed(parse.document(found.xml()))}
    for disk in _fixed(root):
        live = there.get(key(disk))
        if live is not None and content(live) != content(disk):
            _take_source(disk, live)
    return root


def _take_source(disk: Any, live: Any) -> None:
    """Give a disk the content of another, with its format."""
    theirs, own = live.find("source"), disk.find("source")
    if theirs is None or own is None:
        return
    for one in live.iter("source"):
        one.attrib.pop("index", None)
    disk.replace(own, theirs)
    disk.set("type", live.get("type"))
    # What an encrypted file stands on libvirt must be told, with the keys.
    disk.extend(one for one in live.findall("backingStore") if one.find(".//encryption") is not None)
    if disk.find("driver") is not None and live.find("driver") is not None:
        disk.find("driver").set("type", live.find("driver").get("type"))


def _fixed(root: Any) -> list[Any]:
    return [disk for disk in root.findall("devices/disk") if disk.get("device") not in REMOVABLE]
