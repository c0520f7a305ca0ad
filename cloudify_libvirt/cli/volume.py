"""Commands for volumes: contents to and from any host, through libvirt's streams."""

from __future__ import annotations

from pathlib import Path

import click

from cloudify_libvirt.cli.options import json_option, print_json
from cloudify_libvirt.core.image.cache import ImageCache
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.storage import uploads
from cloudify_libvirt.core.storage.bases import Wish
from cloudify_libvirt.core.units import human_size
from cloudify_libvirt.core.volume import Volume

_uri = click.option("--uri", default="qemu:///system", show_default=True, help="The hypervisor.")


@click.group()
def volume() -> None:
    """Bring volumes to a pool of a host, and from there."""


@volume.command("download")
@click.argument("pool")
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_uri
@json_option
def download_command(pool: str, name: str, file: Path, uri: str, as_json: bool) -> None:
    """Write a volume's content to FILE, which must not exist.

    Holes are kept. What a running machine writes to is refused. Of an overlay, only what differs
    from its base is written.
    """
    found = Volume.get(storage.active_pool(connect(uri), pool), name)
    size = found.download(file.absolute())
    shown = {"file": str(file.absolute()), "bytes": size}
    print_json(shown) if as_json else click.echo(f"{human_size(size)} written to {file}")


@volume.command("upload")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("pool")
@click.argument("name")
@_uri
@json_option
def upload_command(file: Path, pool: str, name: str, uri: str, as_json: bool) -> None:
    """Make a volume with the content of FILE; there must be none of that name.

    What an upload left that was cut off is made anew. The format (qcow2 or raw) is found by looking
    into it. A packed file is unpacked. Holes are kept.
    """
    image = ImageCache().fetch(str(file.absolute()))
    target = storage.active_pool(connect(uri), pool)
    with uploads.begun(target, name) as claim:
        made = storage.clone(target, Wish(name, format=image.format), image, claim)
    if as_json:
        print_json({"path": made.path, "format": image.format, "bytes": image.size_bytes})
        return
    click.echo(f"{made.path} ({image.format}, {human_size(image.size_bytes)})")
