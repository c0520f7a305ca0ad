"""Operations of cloudify.libvirt.domain."""

from __future__ import annotations

from cloudify_libvirt.binding import External, Missing, as_operation, operates_on, removes
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import domain as steps


@as_operation("domain")
def precreate(request: Request) -> None:
    """Check the parameters and the connection before anything is made."""
    steps.check(request)


@as_operation("domain")
def create(request: Request) -> None:
    """Record the merged parameters; no libvirt object is made yet."""
    steps.create(request)


@as_operation("domain")
def configure(request: Request) -> None:
    """Define the domain with its volumes, or find the existing one."""
    steps.configure(request)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def start(domain: Domain, request: Request) -> None:
    """Start the domain."""
    steps.start(domain, request)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def get_state(domain: Domain, request: Request) -> bool:
    """Tell whether the domain runs and has its addresses; the engine asks again until it does."""
    return steps.get_state(domain, request)


@operates_on(Domain, kind="domain", missing=Missing.SKIP, external=External.SKIP)
def prestop(domain: Domain, request: Request) -> None:
    """Ask the guest to shut down without waiting, so that many shut down at once; ``stop`` waits."""
    steps.prestop(domain, request)


@operates_on(Domain, kind="domain", missing=Missing.SKIP, external=External.SKIP)
def stop(domain: Domain, request: Request) -> None:
    """Shut the guest down: agent, ACPI, then destroy."""
    steps.stop(domain, request)


@removes(Domain, kind="domain")
def delete(domain: Domain | None, request: Request) -> None:
    """Undefine the domain and remove what was made for it."""
    steps.delete(domain, request)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def reboot(domain: Domain, request: Request) -> None:
    """Ask the guest to restart."""
    steps.reboot(domain)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def suspend(domain: Domain, request: Request) -> None:
    """Pause the guest."""
    steps.suspend(domain)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def resume(domain: Domain, request: Request) -> None:
    """Let a paused guest go on."""
    steps.resume(domain)
