"""What is written down of snapshots and backups: names, series, files, and the call that is under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import CoreError, Missing
from cloudify_libvirt.core.snapshot.overlay import Journal
from cloudify_libvirt.core.spec.snapshot import PREFIX, SnapshotSpec, parse_snapshot
from cloudify_libvirt.core.states import OFF
from cloudify_libvirt.request import Request


def asked(request: Request) -> SnapshotSpec:
    """Return what the call asks for; warn of what is ignored but looks like ours."""
    for key in request.inputs:
        if key.startswith(PREFIX) and key.removeprefix(PREFIX) not in SnapshotSpec.model_fields:
            request.record.warn(f"{request.label}: input {key!r} is ignored: there is no such")
    return parse_snapshot(request.inputs, node=request.ctx.node.name)


def full_name(request: Request, name: str) -> str:
    """Return the contract's name of a snapshot."""
    return f"{request.ctx.instance.id}-{name}"


def snapshot_name(request: Request, name: str) -> str:
    """Return the name that libvirt knows: without the slashes that it refuses."""
    return full_name(request, name).replace("/", "_")


def replace_name(wanted: SnapshotSpec, name: str) -> SnapshotSpec:
    """Return the same wish under another name."""
    return wanted.model_copy(update={"name": name})


@contextmanager
def job(request: Request, domain: Domain, operation: str, name: str) -> Iterator[bool]:
    """Write down what is being done and how the guest was; give True when the same was cut off before."""
    old: dict[str, Any] = request.record.get("snapshot_job") or {}
    cut_off = (old.get("operation"), old.get("name")) == (operation, name)
    if not cut_off:
        entry = {"operation": operation, "name": name, "off": domain.state in OFF}
        request.record.put(snapshot_job=entry)
    try:
        yield cut_off
    except CoreError as error:
        if not error.retryable:
            request.record.put(snapshot_job=None)
        raise
    request.record.put(snapshot_job=None)


def journal(request: Request) -> Journal:
    """Return the record of files that were made for snapshots."""

    def known() -> list[str]:
        return list(request.record.get("snapshot_files") or [])

    def add(path: str) -> None:
        if path not in known():
            request.record.put(snapshot_files=[*known(), path])

    def drop(path: str) -> None:
        request.record.put(snapshot_files=[one for one in known() if one != path])

    return Journal(add, drop, known)


def note_series(request: Request, wanted: SnapshotSpec) -> None:
    """Write down what belongs to which series."""
    request.record.put(snapshots=with_series(request, wanted))


def with_series(request: Request, wanted: SnapshotSpec) -> dict[str, Any]:
    """Return what is written down of all series, with one more that is made now."""
    entry = {"type": wanted.type, "incremental": wanted.incremental, "created": time.time()}
    return {**(request.record.get("snapshots") or {}), wanted.name: entry}


def forget_series(request: Request, wanted: SnapshotSpec) -> None:
    """Strike one out."""
    series = dict(request.record.get("snapshots") or {})
    if series.pop(wanted.name, None) is not None:
        request.record.put(snapshots=series)


def rotate(request: Request, wanted: SnapshotSpec, let_go: Callable[[str], None]) -> None:
    """Remove the oldest of the same type and form beyond those that are kept; a failure is only a warning."""
    if wanted.keeps is None:
        return
    series = dict(request.record.get("snapshots") or {})
    same = [name for name, entry in series.items()
            if (entry["type"], entry["incremental"]) == (wanted.type, wanted.incremental)]  # fmt: skip
    same.sort(key=lambda name: float(series[name]["created"]))
    for name in same[: -wanted.keeps]:
        try:
            let_go(name)
        except Missing:
            request.record.note(f"'{name}' of the rotation is gone already")
        except CoreError as error:
            request.record.warn(f"'{name}' of the rotation stays: {error}")
            continue
        forget_series(request, replace_name(wanted, name))
