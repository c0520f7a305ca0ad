"""Everything that stands against a node, said at once, before anything of it is made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cloudify_libvirt.core.doctor import room, table
from cloudify_libvirt.core.doctor.finding import Finding, Noun, Target
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import ConnectionLost, CoreError, InvalidSpec, Unsupported
from cloudify_libvirt.core.host import preflight
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.spec import parse_spec
from cloudify_libvirt.core.units import human_size
from cloudify_libvirt.core.volume import check_room
from cloudify_libvirt.request import TEMPLATE_INPUTS, Request
from cloudify_libvirt.steps import domain as domains
from cloudify_libvirt.steps import machine
from cloudify_libvirt.steps import network as networks
from cloudify_libvirt.steps import pool as pools

# Either raises the first problem, or yields all that there are.
Rule = Callable[[Request], Iterable[CoreError] | None]


class Several(CoreError):
    """More than one problem of a node; ``errors``: each."""

    def __init__(self, action: str, target: str, reason: str, errors: list[CoreError], *, retryable: bool) -> None:
        """Keep the errors that the reason is made of."""
        super().__init__(action, target, reason, retryable=retryable)
        self.errors = errors


# A host's warnings are said once per execution, not by each of its nodes.
_said: set[tuple[str, str, str]] = set()


def domain(request: Request) -> None:
    """Check a domain: parameters, name, ways to its disks, hardware, memory."""
    _run(request, domains.check_name, _domain_host, _ways, _hardware, _memory)


def network(request: Request) -> None:
    """Check a network: parameters, name, bridge, subnets, and what libvirt serves it with."""
    _run(request, networks.check_name, networks.check_place, _network_host)


def pool(request: Request) -> None:
    """Check a pool: parameters, name, directory, what its type needs, room."""
    _run(request, *pools.CHECKS, _pool_place)


def volume(request: Request) -> None:
    """Check a volume: parameters, and room in its pool where that exists."""
    _run(request, _volume_room)


def iso9660(request: Request) -> None:
    """Check an ISO image: parameters."""
    _run(request)


def _run(request: Request, *rules: Rule) -> None:
    """Raise all problems in one error; nothing is said of what is not ours."""
    if request.external:
        return
    # Without parameters and connection nothing else can be looked at.
    errors = [error for ask in (_draft, _session) for error in _errors(ask, request)]
    errors = errors or [error for rule in rules for error in _errors(rule, request)]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        reason = f"{len(errors)} problems: " + "; ".join(f"({n}) {error}" for n, error in enumerate(errors, 1))
        retryable = all(error.retryable for error in errors)
        raise Several("install", request.label, reason, errors, retryable=retryable) from errors[0]


def _errors(rule: Rule, request: Request) -> list[CoreError]:
    try:
        return list(rule(request) or ())
    except ConnectionLost:
        raise
    except CoreError as error:
        return [error]


def _draft(request: Request) -> None:
    """Read the parameters; a key that nobody knows is wrong, unless a template may use it."""
    given = request.operation_inputs
    to_come = given is None or any(inputs.get(key) for inputs in given for key in TEMPLATE_INPUTS & inputs.keys())
    if to_come or request.has_own_template:
        _ = request.draft
    elif _complete(request) is None:
        parse_spec(request.kind, request.params, node=request.ctx.node.name, extra=False, complete=False)


def _session(request: Request) -> None:
    _ = request.session


def _of_host(request: Request, noun: Noun, but: Collection[str] = ()) -> Iterator[CoreError]:
    """Look at what the host has for such nodes, ``but`` for some checks."""
    yield from _judged(request, table.examine(Target(request.uri, request.session), noun, but))


def _judged(request: Request, findings: Iterable[Finding]) -> Iterator[CoreError]:
    """Yield the problems as errors, and log the warnings."""
    for one in findings:
        mend = f"{one.why[:1].upper()}{one.why[1:]}." + (f" Mend it there: {one.command}" if one.command else "")
        if one.state == "problem":
            yield Unsupported("use", f"{one.looked_at} of {request.session.uri}", one.found, mend)
        elif one.state == "warning":
            _warn(request, f"{one.looked_at} of {request.session.uri}: {one.found}. {mend}")


def _warn(request: Request, text: str) -> None:
    key = (str(request.ctx.deployment.id), str(request.ctx.execution_id or ""), text)
    if key not in _said:
        _said.add(key)
        request.record.warn(text)


def _domain_host(request: Request) -> Iterator[CoreError]:
    spec = request.draft
    # Who asks for emulation, or brings a document of his own, is not told that it is slow.
    accelerated = spec.modern and spec.accelerator != "tcg"
    yield from _of_host(request, "domain", () if accelerated else ("accelerator",))


def _ways(request: Request) -> Iterator[CoreError]:
    """Look whether the guests' user may walk to the disks; those that are not there yet may still be made."""
    session, spec = request.session, request.draft
    if not session.is_local or session.driver != "qemu":
        return
    used = {spec.image.pool or spec.pool} if spec.image else {spec.pool} if spec.cloud_init else set[str]()
    found = [Pool.find(session, name) for name in sorted(used | {disk.pool for disk in spec.disks if disk.pool})]
    directories = [f"{one.path}/{request.name}" for one in found if one is not None and one.path.startswith("/")]
    for path in dict.fromkeys([*(disk.file for disk in spec.disks if disk.file), *directories]):
        if path.startswith("/") and Path(path).parent.is_dir():
            yield from _errors(partial(_way, path=path), request)


def _way(request: Request, path: str) -> None:
    preflight.check_way(request.session, path, Domain.label(request.name, request.session))


def _complete(request: Request) -> Any:
    """Return the spec, or None where a later operation brings the rest of it, or a template."""
    if request.has_own_template:
        return None
    try:
        return request.spec
    except InvalidSpec:
        return None


def _hardware(request: Request) -> Iterable[CoreError]:
    if _complete(request) is None:
        return ()
    label = Domain.label(request.name, request.session)
    return _unless_it_runs(request, lambda one: machine.lacking_hardware(one, label))


def _memory(request: Request) -> Iterable[CoreError]:
    session, spec = request.session, _complete(request)
    if spec is None or not spec.has_memory or session.driver != "qemu":
        return ()
    label = Domain.label(request.name, session)
    return _unless_it_runs(request, lambda _: preflight.check_memory(session, spec.memory_kib, label))


def _unless_it_runs(request: Request, rule: Rule) -> list[CoreError]:
    """Return what a rule finds; nothing of a domain that has all that already: an installed node may be checked."""
    errors = _errors(rule, request)
    found = Domain.find_by_uuid(request.session, str(request.params["instance_uuid"])) if errors else None
    return [] if found is not None and found.active else errors


def _network_host(request: Request) -> Iterator[CoreError]:
    spec = request.draft
    if spec.linux_bridge and (spec.modern or spec.ips):
        yield from _of_host(request, "network")


def _pool_place(request: Request) -> Iterator[CoreError]:
    """Look at the directory of a pool that has one of its own; guests are refused later, if at all."""
    session, spec = request.session, request.draft
    if not spec.kind.own_directory or not session.shares_files:
        return
    place = room.nearest(Path(spec.target_path))
    label = f"pool '{request.name}' ({spec.target_path})"
    found = [room.room_left(label, room.free_bytes(place), str(place))]
    if session.driver == "qemu":
        way = room.walked(session, label, f"{place}/volume")
        found.append(replace(way, state="warning") if way.state == "problem" else way)
    yield from _judged(request, found)


def _volume_room(request: Request) -> None:
    spec, name = request.draft, request.params.get("pool")
    found = Pool.find(request.session, str(name)) if name else None
    if found is None or not found.active or request.record.get("filled"):
        return
    check_room(found, spec.allocation_bytes, request.name)
    wanted, left = spec.capacity_bytes or 0, found.available_bytes
    if wanted > left:
        _warn(request, f"{request.label} may grow to {human_size(wanted)}, {found.target} has {human_size(left)} left")
