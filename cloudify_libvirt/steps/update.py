"""Bring a domain that exists to the memory and vCPUs of its parameters."""

from __future__ import annotations

from typing import Any

from cloudify_libvirt.core import units
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.units import parse_seconds, to_kib
from cloudify_libvirt.core.update import sizes
from cloudify_libvirt.request import Request

# The sizes by their parameters, and what a definition that was read calls them.
KEYS = {
    sizes.MEMORY: "memory_kib", sizes.MAX_MEMORY: "max_memory_kib", sizes.VCPU: "vcpus", sizes.MAX_VCPU: "max_vcpus"
}  # fmt: skip


def check(domain: Domain, request: Request, *, with_dimms: bool = False) -> None:
    """Refuse, before anything is changed, what a running guest cannot give, or the host not bring."""
    sizes.check(domain, wish(request, with_dimms=with_dimms))


def sizes_of(domain: Domain, request: Request, *, with_dimms: bool = False) -> dict[str, Any]:
    """Change memory and vCPUs to what the merged parameters name; return what waits, by value.

    The input ``timeout_s`` bounds the wait for the guest's answer (10 s).
    """
    timeout_s = parse_seconds(request.inputs.get("timeout_s") or sizes.CONFIRM_TIMEOUT_S, "timeout_s")
    outcome = sizes.apply(domain, wish(request, with_dimms=with_dimms), timeout_s)
    for text in outcome.done:
        request.record.note(f"{domain.name}: {text}")
    for pending in outcome.pending:
        if not pending.held:
            request.record.warn(f"{domain.name} is not there yet: {pending}")
    return {pending.what: _entry(pending) for pending in outcome.pending}


def _entry(pending: sizes.Pending) -> dict[str, Any]:
    entry = {"wanted": pending.wanted, "now": pending.now, "why": pending.why, "at_start": pending.at_start}
    # No restart is for what the guest may still do; see ``change``.
    return {**entry, "how": "live"} if pending.held else entry


def wish(request: Request, *, with_dimms: bool = False) -> sizes.Size:
    """Return the size that the parameters name; what they leave out stays as it is."""
    spec = request.draft
    given = spec.model_fields_set
    memory = spec.memory_kib if given & {"memory", "memory_size"} else None
    most = to_kib(spec.max_memory) if spec.max_memory else spec.memory_maxsize
    vcpus = spec.vcpu if "vcpu" in given else None
    return sizes.Size(memory_kib=memory, max_memory_kib=most, vcpus=vcpus, max_vcpus=spec.max_vcpu, dimms=with_dimms)


def there(domain: Domain, name: str, wanted: int) -> bool:
    """Tell whether a running guest has a size that was pending."""
    if name == sizes.MEMORY:
        return sizes.close(sizes.actual_kib(domain) * units.KIB, wanted * units.KIB)
    return bool(getattr(sizes.read(domain.xml()), KEYS[name]) == wanted)


def settle(request: Request) -> None:
    """Forget what waited for the start of the domain that just happened; a balloon must still be asked."""
    pending = request.record.get("update_pending")
    if pending:
        request.record.assign(update_pending={key: entry for key, entry in pending.items() if not entry["at_start"]})
    if request.record.get("detach_pending"):
        request.record.assign(detach_pending=[])
