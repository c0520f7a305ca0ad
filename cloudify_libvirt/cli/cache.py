"""Commands for images: ``cache list|prune|verify`` and ``image list|show|pull``."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from cloudify_libvirt.cli.options import json_option, print_json
from cloudify_libvirt.core import units
from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.image import bases as image_bases
from cloudify_libvirt.core.image.cache import ImageCache, Progress
from cloudify_libvirt.core.image.catalogue import Catalogue, Found, is_name
from cloudify_libvirt.core.image.inventory import Inventory, Item
from cloudify_libvirt.core.image.urls import public_url
from cloudify_libvirt.core.session import connect

_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def _age(value: str) -> float:
    match = re.fullmatch(r"(\d+)\s*([mhdw])", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not a number with m, h, d or w, as in 30d")
    return int(match[1]) * _SECONDS[match[2]]


def _size(value: str) -> int:
    try:
        return int(value) if value.isdigit() else units.read_size(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}") from error


def _described(item: Item) -> dict[str, Any]:
    return {**asdict(item), "used_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(item.used_at))}


def _line(item: Item) -> str:
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.used_at))
    where = ", ".join(item.sources) or ("a transfer that broke" if not item.sha256 else "no source")
    use = "  in use" if item.in_use else ""
    return f"{item.name[:16]}  {item.format:<9} {units.human_size(item.disk_bytes):>10}  {used}  {where}{use}"


@click.group()
def cache() -> None:
    """Look after the images that were downloaded."""


@cache.command("list")
@click.option("--uri", help="Also list the base images in the pools of this hypervisor.")
@json_option
def list_command(uri: str | None, as_json: bool) -> None:
    """List the images, the longest unused first."""
    images = ImageCache()
    items = Inventory(images).items()
    bases = image_bases.bases(connect(uri)) if uri else []
    if as_json:
        shown = {"directory": str(images.directory), "images": [_described(item) for item in items]}
        print_json({**shown, "bases": [asdict(base) for base in bases]} if uri else shown)
        return
    for item in items:
        click.echo(_line(item))
    total = units.human_size(sum(item.disk_bytes for item in items))
    click.echo(f"{len(items)} in {images.directory}, {total} on the disk")
    for base in bases:
        click.echo(f"pool {base.pool}: {base.name}  {', '.join(base.users) or 'unused'}")


@cache.command()
@click.option("--older-than", type=_age, help="Only what was not used for so long, as in 30d or 12h.")
@click.option("--keep-bytes", type=_size, help="Only until the rest takes no more than this, as in '20 GiB'.")
@click.option("--dry-run", is_flag=True, help="Remove nothing; print what would go.")
@click.option("--uri", help="With --pools: the hypervisor.")
@click.option("--pools", is_flag=True, help="Also remove base images in its pools that no disk needs any more.")
@json_option
def prune(
    older_than: float | None, keep_bytes: int | None, dry_run: bool, uri: str | None, pools: bool, as_json: bool
) -> None:
    """Remove images from the cache, but never one that a process may be reading.

    Without limits all go; they are downloaded again when they are wanted. Disks do not depend on the cache.
    """
    if pools != bool(uri):
        raise click.UsageError("--pools and --uri go together")
    if uri:
        # A host that is away is said before anything is removed.
        connect(uri)
    gone = Inventory(ImageCache()).prune(older_than_s=older_than, keep_bytes=keep_bytes, dry_run=dry_run)
    bases = _unneeded(uri, dry_run) if uri else []
    if as_json:
        shown = {"removed": [_described(item) for item in gone], "bases": [asdict(base) for base in bases]}
        print_json({**shown, "dry_run": dry_run})
        return
    verb = "would remove" if dry_run else "removed"
    for item in gone:
        click.echo(f"{verb} {_line(item)}")
    click.echo(f"{verb} {len(gone)}, {units.human_size(sum(item.disk_bytes for item in gone))}")
    for base in bases:
        click.echo(f"{verb} {base.name} from pool {base.pool}")


def _unneeded(uri: str, dry_run: bool) -> list[image_bases.Base]:
    """Remove the base images that no disk needs, or only return them."""
    session = connect(uri)
    if dry_run:
        return [base for base in image_bases.bases(session) if not base.users]
    return image_bases.prune_bases(session)


@cache.command()
@click.option("--remove", is_flag=True, help="Remove the damaged ones; they are downloaded again.")
@json_option
@click.pass_context
def verify(ctx: click.Context, remove: bool, as_json: bool) -> None:
    """Read all images and compare them with their checksums; the exit code is 1 when one is damaged."""
    inventory = Inventory(ImageCache())
    damaged = inventory.damaged()
    removed = [item.name for item in damaged if remove and inventory.drop(item)]
    if as_json:
        print_json({"damaged": [item.name for item in damaged], "removed": removed})
    else:
        for item in damaged:
            done = "" if not remove else ", removed" if item.name in removed else ", in use and not removed"
            click.echo(f"damaged{done}: {item.name}")
        click.echo(f"{len(damaged)} damaged")
    if damaged:
        ctx.exit(1)


@click.group()
def image() -> None:
    """Find images by name, and download them."""


@image.command("list")
@json_option
def list_names(as_json: bool) -> None:
    """List the names that a blueprint can use for images."""
    names = Catalogue()
    rows = {name: names.final(name) for name in sorted(names.entries)}
    if as_json:
        print_json({name: {**entry.model_dump(), "origin": names.origin(name)} for name, entry in rows.items()})
        return
    for name, entry in rows.items():
        same_as = names.entries[name].same_as
        arches = ", ".join(entry.files) or "all"
        click.echo(f"{name:<20} {arches:<16} {f'same as {same_as}' if same_as else entry.title}")


@image.command()
@click.argument("name")
@click.option("--arch", default=platform.machine, help="Architecture. Default: this machine's.")
def show(name: str, arch: str) -> None:
    """Show what a name stands for."""
    print_json(asdict(Catalogue().resolve(name, arch)))


@image.command()
@click.argument("source")
@click.option("--arch", default=platform.machine, help="Architecture. Default: this machine's.")
@click.option("--checksum", default="", help="sha256:HEX, sha512:HEX, or the URL of a list such as SHA256SUMS.")
def pull(source: str, arch: str, checksum: str) -> None:
    """Download a name, URL or path into the cache, and print where it is."""
    found = _found(source, arch)
    with _bar(public_url(found.url).rpartition("/")[2]) as report:
        fetched = ImageCache().fetch(
            found.url,
            checksum=checksum or found.checksum,
            format_=found.format,
            progress=report,
            warn=lambda text: click.echo(f"warning: {text}", err=True),
        )
    click.echo(fetched.path)


def _found(source: str, arch: str) -> Found:
    if is_name(source):
        try:
            return Catalogue().resolve(source, arch)
        except InvalidSpec:
            if not Path(source).is_file():
                raise
    return Found(source, source, "", "", "", "")


@contextmanager
def _bar(name: str) -> Iterator[Callable[[Progress], None]]:
    """Show a bar on a terminal, on standard error; nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    console = Console(stderr=True)
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def report(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(f"{name}: {progress.stage}", total=None)
            bar.update(tasks[progress.stage], completed=progress.done_bytes, total=progress.total_bytes)

        yield report
