"""Operations of cloudify.libvirt.domain."""

from __future__ import annotations

from cloudify_libvirt.binding import External, Missing, as_operation, operates_on, removes
from cloudify_libvirt.checking import changes, checks
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import backup as backups
from cloudify_libvirt.steps import change, drift, drift_report, hotplug, statistics, status, validation
from cloudify_libvirt.steps import domain as steps
from cloudify_libvirt.steps import heal as healing
from cloudify_libvirt.steps import pull as pulling
from cloudify_libvirt.steps import snapshot as snapshots


@as_operation("domain", records=False)
def validate(request: Request) -> None:
    """Say all that stands against this node, before anything is made."""
    validation.domain(request)


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
    steps.suspend(domain, request)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def resume(domain: Domain, request: Request) -> None:
    """Let a paused guest go on."""
    steps.resume(domain, request)


@changes("domain")
def update(request: Request) -> None:
    """Bring the domain to its parameters of today: at once where it can, else at its next start."""
    change.update(request)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def performance(domain: Domain, request: Request) -> dict[str, float]:
    """Measure CPU and memory; recorded as ``stat``."""
    return statistics.performance(domain, request)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def perfomance(domain: Domain, request: Request) -> dict[str, float]:
    """Do the same as ``performance``, in the spelling of existing blueprints."""
    return statistics.performance(domain, request)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def attach_device_flags(domain: Domain, request: Request) -> None:
    """Attach one device, now and for the next start."""
    hotplug.attach(domain, request)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def update_domain_flags(domain: Domain, request: Request) -> None:
    """Change one device that the domain has, now and for the next start."""
    hotplug.update(domain, request)


@operates_on(Domain, kind="domain", missing=Missing.SKIP, external=External.ACT)
def detach_device_flags(domain: Domain, request: Request) -> None:
    """Detach one device, now and for the next start."""
    hotplug.detach(domain, request)


@as_operation("domain")
def snapshot_create(request: Request) -> None:
    """Make a snapshot, or with snapshot_incremental: false a backup in files."""
    snapshots.create(request)


@as_operation("domain")
def snapshot_apply(request: Request) -> None:
    """Go back to a snapshot, or restore a backup from files."""
    snapshots.apply(request)


@as_operation("domain")
def snapshot_check(request: Request) -> None:
    """Say whether the domain can go back, before any does."""
    snapshots.check(request)


@as_operation("domain")
def snapshot_delete(request: Request) -> None:
    """Delete a snapshot, or a backup in files."""
    snapshots.delete(request)


@as_operation("domain")
def snapshot_rotate(request: Request) -> None:
    """Let those go that the rotation no longer keeps."""
    snapshots.let_old_ones_go(request)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def backup_create(domain: Domain, request: Request) -> dict[str, object]:
    """Back the guest up while it runs: full, or what changed since the last point."""
    return backups.create(domain, request)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def backup_list(domain: Domain, request: Request) -> list[dict[str, object]]:
    """Return the points that there are."""
    return backups.listed(domain, request)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def backup_verify(domain: Domain, request: Request) -> dict[str, object]:
    """Check chains and checksums of one point, or of all."""
    return backups.verify(domain, request)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def backup_restore(domain: Domain, request: Request) -> dict[str, object]:
    """Put the disks back to a point, or make a new domain of it."""
    return backups.restore(domain, request)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def backup_delete(domain: Domain, request: Request) -> None:
    """Delete a point that no other stands on."""
    backups.delete(domain, request)


@operates_on(Domain, kind="domain", missing=Missing.FAIL, external=External.ACT)
def backup_prune(domain: Domain, request: Request) -> list[str]:
    """Let old points go by a rotation."""
    return backups.prune(domain, request)


@checks("domain")
def check_status(request: Request) -> None:
    """Raise when the domain is not as it should be: gone, off, without a disk, network or address."""
    status.check(request, status.domain)


@checks("domain")
def check_drift(request: Request) -> list[dict[str, object]] | None:
    """Return what is not as declared, in definition, running guest and host; None when all is."""
    return drift_report.check(request, drift.domain)


@as_operation("domain")
def heal(request: Request) -> None:
    """Bring the domain back with the same UUID, MACs and addresses; lost disks are reported."""
    healing.domain(request)


@as_operation("domain")
def pull(request: Request) -> None:
    """Record the addresses of today."""
    pulling.domain(request)
