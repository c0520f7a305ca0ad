"""Changes of a running domain, each by the call of libvirt that makes it; the stored definition is not touched.

Source: https://libvirt.org/html/libvirt-libvirt-domain.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from cloudify_libvirt.core.drift.rules import local
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import CoreError, libvirt_call
from cloudify_libvirt.core.spec.fields import members
from cloudify_libvirt.core.update import definition, hotplug
from cloudify_libvirt.core.update.definition import Change

# Source: virDomainLifecycle and virDomainLifecycleAction
_EVENTS = {"on_poweroff": "POWEROFF", "on_reboot": "REBOOT", "on_crash": "CRASH"}
# Source: VIR_DOMAIN_SCHEDULER_*, VIR_DOMAIN_MEMORY_*
_SHARES = {"shares": "cpu_shares", "period": "vcpu_period", "quota": "vcpu_quota"}
_LIMITS = {name: name for name in ("hard_limit", "soft_limit", "swap_hard_limit")}


def carry_out(domain: Any, wanted: Any, stored: Any, wished: Iterable[Change]) -> dict[str, str]:
    """Make the changes; return by field why the running domain refused what it refused.

    ``wanted`` and ``stored``: roots of the declared and of the stored definition. Only what may pass is raised.
    """
    refused: dict[str, str] = {}
    for fields, act in _actions(domain, wanted, stored, list(wished)):
        try:
            act()
        except CoreError as error:
            if error.retryable:
                raise
            refused |= dict.fromkeys(fields, error.reason.rstrip("."))
    return refused


Action = tuple[list[str], Callable[[], Any]]


def _actions(domain: Any, wanted: Any, stored: Any, wished: list[Change]) -> Iterable[Action]:
    """Yield what to do, with the fields that it is about: away first, so that names and places are free."""
    for one in (one for one in wished if one.goes):
        yield [one.field], partial(hotplug.ask_back, domain, one.spot.found)
    for one in (one for one in wished if one.comes):
        yield [one.field], partial(_attach, domain, one.spot.wanted, stored)
    devices: dict[Any, list[Change]] = {}
    others: dict[Handler, list[str]] = {}
    for one in (one for one in wished if not one.goes and not one.comes):
        if one.device[1] is not None and local(one.device[1]) in _UPDATED:
            devices.setdefault(one.device[1], []).append(one)
        else:
            others.setdefault(_handler(one), []).append(one.field)
    yield from _device_actions(domain, devices)
    yield from ((fields, partial(act, domain, wanted)) for act, fields in others.items())


def _device_actions(domain: Any, devices: dict[Any, list[Change]]) -> Iterable[Action]:
    for found, group in devices.items():
        tuned = [one for one in group if ".iotune" in one.field]
        changed = [one for one in group if one not in tuned]
        if tuned:
            yield [one.field for one in tuned], partial(_tune, domain, tuned[0])
        if changed:
            yield [one.field for one in changed], partial(_update, domain, found, changed)


# --- devices

_UPDATED = frozenset({"disk", "interface", "graphics"})


def _attach(domain: Any, element: Any, stored: Any) -> None:
    """Attach a device where the stored definition has it, so that the next start changes nothing; else anywhere."""
    place = next((one for one in stored.find("devices") if hotplug.same(element, one)), None)
    if place is not None:
        try:
            hotplug.attach_live(domain, place)
        except CoreError as error:
            if error.retryable:
                raise
        else:
            return
    hotplug.attach_live(domain, element)


def _update(domain: Any, found: Any, changed: list[Change]) -> None:
    definition.apply(changed)
    if local(found) == "interface" and found.get("type") == "network":
        # These are of the port that it has on the old network.
        for name in ("portid", "bridge"):
            found.find("source").attrib.pop(name, None)
    hotplug.update_live(domain, found)


def _tune(domain: Any, change: Change) -> None:
    """Set all limits of a disk: what is not declared has none."""
    wanted, found = change.device
    asked = wanted.find("iotune") if wanted is not None else None
    limits: dict[str, Any] = {} if asked is None else {one.tag: _value(one) for one in asked}
    name = found.find("target").get("dev")
    with libvirt_call(f"limit disk {name} of", domain.target):
        # A limit of the whole and limits of its parts exclude each other: the old ones go first.
        _set_limits(domain, name, dict.fromkeys((*_RATES, *(f"{rate}_max" for rate in _RATES)), 0))
        if limits:
            _set_limits(domain, name, limits)


_RATES = tuple(f"{way}_{what}_sec" for way in ("total", "read", "write") for what in ("bytes", "iops"))


def _set_limits(domain: Any, name: str, limits: dict[str, Any]) -> None:
    domain.handle.setBlockIoTune(name, limits, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _value(element: Any) -> Any:
    return int(element.text) if element.tag != "group_name" else element.text


# --- what is no device

Handler = Callable[[Any, Any], None]


def _text(kind: str) -> Handler:
    def change(domain: Any, wanted: Any) -> None:
        number = getattr(libvirt, f"VIR_DOMAIN_METADATA_{kind.upper()}")
        with libvirt_call(f"set the {kind} of", domain.target):
            domain.handle.setMetadata(number, wanted.findtext(kind), None, None, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    return change


def _cpu_time(domain: Any, wanted: Any) -> None:
    limits = _integers(wanted.find("cputune"), _SHARES)
    with libvirt_call("set the share of CPU time of", domain.target):
        domain.handle.setSchedulerParametersFlags(limits, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _memory_limits(domain: Any, wanted: Any) -> None:
    limits = _integers(wanted.find("memtune"), _LIMITS)
    with libvirt_call("set the memory limits of", domain.target):
        domain.handle.setMemoryParameters(limits, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _integers(parent: Any, names: dict[str, str]) -> dict[str, int]:
    return {call: int(parent.findtext(name)) for name, call in names.items() if parent.findtext(name)}


def _vcpu_pins(domain: Any, wanted: Any) -> None:
    for pin in wanted.findall("cputune/vcpupin"):
        with libvirt_call(f"pin vCPU {pin.get('vcpu')} of", domain.target):
            domain.handle.pinVcpuFlags(int(pin.get("vcpu")), _cpus(domain, pin), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _emulator_pin(domain: Any, wanted: Any) -> None:
    with libvirt_call("pin the emulator of", domain.target):
        cpus = _cpus(domain, wanted.find("cputune/emulatorpin"))
        domain.handle.pinEmulator(cpus, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _cpus(domain: Any, pin: Any) -> tuple[bool, ...]:
    """Return the CPUs of the host that a pin names, as the map that libvirt takes."""
    total = domain.session.connection.getCPUMap()[0]
    chosen = members(str(pin.get("cpuset")))
    return tuple(number in chosen for number in range(total))


def _events(domain: Any, wanted: Any) -> None:
    for tag, name in _EVENTS.items():
        action = str(wanted.findtext(tag)).upper().replace("-", "_")
        kind = getattr(libvirt, f"VIR_DOMAIN_LIFECYCLE_{name}")
        number = getattr(libvirt, f"VIR_DOMAIN_LIFECYCLE_ACTION_{action}")
        with libvirt_call(f"set {tag} of", domain.target):
            domain.handle.setLifecycleAction(kind, number, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _statistics(domain: Any, wanted: Any) -> None:
    stats = wanted.find("devices/memballoon/stats")
    with libvirt_call("set the period of the memory statistics of", domain.target):
        domain.handle.setMemoryStatsPeriod(int(stats.get("period")), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _io_threads(domain: Any, wanted: Any) -> None:
    """Add threads up to the declared number, or take those beyond it away."""
    most = int(wanted.findtext("iothreads") or 0)
    with libvirt_call("change the I/O threads of", domain.target):
        there = {one[0] for one in domain.handle.ioThreadInfo(libvirt.VIR_DOMAIN_AFFECT_LIVE)}
        for number in range(1, most + 1):
            if number not in there:
                domain.handle.addIOThread(number, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        for number in sorted(one for one in there if one > most):
            domain.handle.delIOThread(number, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _all_of_cpu_tune(domain: Any, wanted: Any) -> None:
    tune = wanted.find("cputune")
    if _integers(tune, _SHARES):
        _cpu_time(domain, wanted)
    _vcpu_pins(domain, wanted)
    if tune.find("emulatorpin") is not None:
        _emulator_pin(domain, wanted)


def _at_start(_domain: Any, _wanted: Any) -> None:
    raise CoreError("change", "a running domain", "libvirt has no call for it")


_HANDLERS: tuple[tuple[str, Handler], ...] = (
    ("title", _text("title")),
    ("description", _text("description")),
    ("cpu_tune.vcpus", _vcpu_pins),
    ("cpu_tune.emulator", _emulator_pin),
    ("cpu_tune.", _cpu_time),
    ("cpu_tune", _all_of_cpu_tune),
    ("memory_tune", _memory_limits),
    ("events.", _events),
    ("balloon.stats_period_s", _statistics),
    ("iothreads", _io_threads),
)


def _handler(change: Change) -> Handler:
    return next((act for start, act in _HANDLERS if change.field.startswith(start)), _at_start)
