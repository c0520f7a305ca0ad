"""Commands for backups: ``backup create|list|show|verify|restore|delete|prune``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn
from rich.progress import Progress as Bar

from cloudify_libvirt.cli.options import confirm, json_option, print_json, yes_option
from cloudify_libvirt.core.backup import keeping
from cloudify_libvirt.core.backup.chain import Keep
from cloudify_libvirt.core.backup.create import Hooks
from cloudify_libvirt.core.backup.create import create as make_point
from cloudify_libvirt.core.backup.job import Progress
from cloudify_libvirt.core.backup.keeping import Place
from cloudify_libvirt.core.backup.manifest import Manifest
from cloudify_libvirt.core.backup.plan import FULL_EVERY, Order
from cloudify_libvirt.core.backup.restore import restore as restore_disks
from cloudify_libvirt.core.backup.restore import restore_as
from cloudify_libvirt.core.backup.store import Store
from cloudify_libvirt.core.backup.verify import verify as look_at
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import Missing
from cloudify_libvirt.core.parse import document
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.units import human_size

_OWNER = "metadata/{https://cloudify.co/libvirt/1}owner"
_ALONE = "local"


@dataclass(frozen=True)
class Where:
    """Which backups: those of one domain in one place."""

    uri: str
    domain: str
    directory: str
    pool: str
    pool_uri: str
    deployment: str

    @property
    def store(self) -> Store:
        """Return the store; the deployment is the one that the domain's mark names, unless one is given."""
        place = Place(self.directory, self.pool, self.pool_uri or self.uri)
        return place.store(self.deployment or self._marked(), self.domain)

    def _marked(self) -> str:
        found = Domain.find(connect(self.uri), self.domain)
        mark = document(found.xml()).find(_OWNER) if found else None
        return _ALONE if mark is None else str(mark.get("deployment") or _ALONE).replace("/", "@")

    def let_go(self) -> None:
        """Drop the domain's checkpoints that no point needs any more, if the domain is there."""
        found = Domain.find(connect(self.uri), self.domain)
        for left in keeping.let_go(found, self.store) if found else []:
            click.echo(f"left for the next run: {left}", err=True)

    def some(self) -> None:
        """Raise ``Missing`` where there is no point at all: a misspelt name is no sound backup."""
        points, damaged = keeping.listed(self.store)
        if not points and not damaged:
            remedy = "Check the name and the place; --deployment says whose backups they are."
            raise Missing("find", f"a point of {self.store.label}", "there is none at all", remedy)

    def found(self) -> Domain:
        """Return the domain itself; raise ``Missing`` when there is none."""
        return Domain.get(connect(self.uri), self.domain, "See: virsh list --all")


_OPTIONS = (
    click.argument("domain"),
    click.option("--dir", "directory", default="", help="Directory of the backups."),
    click.option("--pool", default="", help="Pool of the backups, in place of a directory."),
    click.option("--pool-uri", default="", help="Host of that pool; the guest's when absent."),
    click.option("--deployment", default="", help="Whose backups; that which the domain's mark names when absent."),
    click.option("--uri", default="qemu:///system", show_default=True, help="Host of the guest."),
    json_option,
)


def _command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a subcommand of a function of the place, ``as_json`` and its own options."""

    def decorate(function: Callable[..., None]) -> click.Command:
        def run(
            domain: str, directory: str, pool: str, pool_uri: str, deployment: str, uri: str, **options: Any
        ) -> None:
            if bool(directory) == bool(pool):
                raise click.UsageError("say where the backups are: --dir DIRECTORY or --pool POOL, one of them")
            function(Where(uri, domain, directory, pool, pool_uri, deployment), **options)

        run.__doc__ = function.__doc__
        run.__click_params__ = list(getattr(function, "__click_params__", []))  # type: ignore[attr-defined]
        for option in reversed(_OPTIONS):
            run = option(run)
        return backup.command(name)(run)

    return decorate


@contextmanager
def _shown_progress() -> Iterator[Progress]:
    """Draw a bar on a terminal; be silent elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total or None)

        yield show


def _line(one: Manifest) -> str:
    why = f"  ({one.reason})" if one.reason else f"  on {one.parent}"
    return f"{one.point:<24} {one.created}  {one.kind:<11} {human_size(one.size_bytes):>10}{why}"


def _described(one: Manifest) -> dict[str, Any]:
    shown: dict[str, Any] = one.model_dump(mode="json")
    return {**shown, "kind": one.kind, "bytes": one.size_bytes}


@click.group()
def backup() -> None:
    """Back up guests while they run, check the backups, and restore them."""


@_command("create")
@click.option("--point", default="", help="Name of the point; by the time when absent.")
@click.option("--kind", type=click.Choice(["auto", "full", "incremental"]), default="auto", show_default=True)
@click.option("--quiesce/--no-quiesce", default=None, help="Insist on file systems at rest, or leave them alone.")
@click.option("--timeout", default=3600.0, show_default=True, help="Seconds that the copying may take.")
@click.option("--full-every", type=click.IntRange(1), default=FULL_EVERY, show_default=True, help="Points of a chain.")
@click.option("--staging-pool", default="", help="Pool of the guest's host that data passes on its way.")
@click.option("--exclude", multiple=True, help="Target of a disk to leave out, as in vdb.")
@click.option("--content", is_flag=True, help="Record the checksum of what the guest sees; reads everything again.")
def create(where: Where, as_json: bool, timeout: float, **order: Any) -> None:
    """Make a point: what changed since the last one, or everything, and why."""
    with _shown_progress() as show:
        hooks = Hooks(progress=show, note=lambda text: click.echo(text, err=True))
        made = make_point(where.found(), where.store, Order(timeout_s=timeout, **order), hooks)
    print_json(_described(made)) if as_json else click.echo(_line(made))


@_command("list")
def list_command(where: Where, as_json: bool) -> None:
    """List the points, the oldest first."""
    points, damaged = keeping.listed(where.store)
    if as_json:
        print_json({"points": [_described(one) for one in points], "damaged": damaged})
        return
    for one in points:
        click.echo(_line(one))
    for name, why in damaged.items():
        click.echo(f"{name:<24} damaged: {why}")
    if not points and not damaged:
        click.echo(f"no backups of domain '{where.domain}' there", err=True)


@_command("show")
@click.option("--point", default="", help="Name of the point; the newest when absent.")
def show(where: Where, as_json: bool, point: str) -> None:
    """Show what one point consists of."""
    found = _described(keeping.show(where.store, point))
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        for item in value if isinstance(value, list) else [value]:
            click.echo(f"{key}: {json.dumps(item) if isinstance(item, dict) else item}")


@_command("verify")
@click.option("--point", default="", help="Name of the point; all when absent.")
@click.option("--deep", is_flag=True, help="Put each disk together, and compare what the guest saw where recorded.")
def verify(where: Where, as_json: bool, point: str, deep: bool) -> None:
    """Check chains, sizes and checksums; the exit code is 1 when something is wrong, or nothing is there."""
    where.some()
    with _shown_progress() as progress:
        report = look_at(where.store, point, progress, deep=deep)
    if as_json:
        print_json({**asdict(report), "sound": report.sound})
    else:
        for finding in report.findings:
            click.echo(f"point '{finding.point}': {finding.reason}")
        click.echo(f"{len(report.points)} points, {len(report.findings)} faults")
    if not report.sound:
        raise SystemExit(1)


@_command("restore")
@click.option("--point", default="", help="Name of the point; the newest when absent.")
@click.option("--as", "new_name", default="", help="Make a new domain of this name.")
@click.option("--to-pool", default="", help="Pool for the disks of a new domain.")
@click.option("--allow-stop", is_flag=True, help="Stop the guest if it runs.")
@yes_option
def restore(where: Where, as_json: bool, point: str, new_name: str, to_pool: str, allow_stop: bool, yes: bool) -> None:
    """Put a guest's disks back, or make a new domain of a point; it is off afterwards."""
    if not new_name:
        # What cannot be is said before it is asked for.
        where.found()
        keeping.show(where.store, point)
        confirm(f"What domain '{where.domain}' wrote since is lost. Go on?", yes=yes, as_json=as_json)
    with _shown_progress() as progress:
        hooks = Hooks(progress=progress, note=lambda text: click.echo(text, err=True))
        if new_name:
            done = restore_as(connect(where.uri), where.store, point, new_name, hooks, to_pool)
        else:
            done = restore_disks(where.found(), where.store, point, hooks, allow_stop=allow_stop)
    if as_json:
        print_json(asdict(done))
        return
    click.echo(f"restored {', '.join(done.disks)} of domain '{done.domain}' ({done.uuid}) from '{done.point}'")
    for lacking in done.lacking:
        click.echo(f"without {lacking}" if new_name else lacking)
    click.echo(f"It is off; start it: virsh -c '{where.uri}' start '{done.domain}'")


@_command("delete")
@click.option("--point", required=True, help="Name of the point.")
@yes_option
def delete(where: Where, as_json: bool, point: str, yes: bool) -> None:
    """Delete one point that no other stands on."""
    confirm(f"Nothing can be restored from point '{point}' then. Go on?", yes=yes, as_json=as_json)
    keeping.delete(where.store, point)
    where.let_go()
    print_json({"deleted": [point]}) if as_json else click.echo(f"deleted {point}")


@_command("prune")
@click.option("--keep-last", type=click.IntRange(0), default=0, help="That many of the newest points.")
@click.option("--keep-daily", type=click.IntRange(0), default=0, help="The newest of each of that many days.")
@click.option("--keep-weekly", type=click.IntRange(0), default=0, help="The newest of each of that many weeks.")
@click.option("--keep-monthly", type=click.IntRange(0), default=0, help="The newest of each of that many months.")
@click.option("--dry-run", is_flag=True, help="Remove nothing; print what would go.")
@yes_option
def prune(
    where: Where, as_json: bool, keep_last: int, keep_daily: int, keep_weekly: int, keep_monthly: int, dry_run: bool,
    yes: bool,
) -> None:  # fmt: skip
    """Delete what a rotation lets go, never what a kept point stands on."""
    if not any((keep_last, keep_daily, keep_weekly, keep_monthly)):
        raise click.UsageError("say what to keep, as in --keep-last 7: without that everything would go")
    keep = Keep(keep_last, keep_daily, keep_weekly, keep_monthly)
    going = [] if dry_run else keeping.prune(where.store, keep, dry_run=True)
    if going:
        confirm(f"Nothing can be restored from {', '.join(going)} then. Go on?", yes=yes, as_json=as_json)
    where.some()
    gone = keeping.prune(where.store, keep, dry_run=dry_run)
    if not dry_run:
        where.let_go()
    if as_json:
        print_json({"deleted": gone, "dry_run": dry_run})
        return
    for point in gone:
        click.echo(f"{'would delete' if dry_run else 'deleted'} {point}")
    if not gone:
        click.echo("nothing to delete: each point is kept, or one that is kept stands on it")
