"""The command ``cfy-libvirt``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from cloudify_libvirt import __version__
from cloudify_libvirt.cli import backup, cache, doctor, drift, local_setup, orphans, plan, snapshot, volume
from cloudify_libvirt.core.errors import CoreError

# 2, click's own, says that something was found: a script must be able to tell that from a misspelt option.
USAGE = 64


class _Readable(click.Group):
    """Prints an error of the tree as one line, without a traceback."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _told():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _told():
            return super().invoke(ctx)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except CoreError as error:
        raise click.ClickException(str(error)) from error
    except click.UsageError as error:
        vars(error)["exit_code"] = USAGE
        raise


@click.group(cls=_Readable, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Tools around the Cloudify plugin for libvirt.

    Exit codes: 0 done, and nothing is wrong; 1 it failed, or something is damaged; 2 something was found (changes to
    make, drift, orphans; doctor: no hypervisor); 64 wrong usage.
    """


@main.command()
def version() -> None:
    """Print the version of the plugin."""
    click.echo(__version__)


@main.command("local-setup")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="CFY_WORKDIR",
    help="Directory that holds .cloudify. Default: $CFY_WORKDIR, else your home directory.",
)
def local_setup_command(home: Path | None) -> None:
    """Prepare cfy for local mode, offline.

    Lets imports of the public base types and of this plugin end at the installed files, whatever
    version a blueprint names, and makes the local profile the active one. What else stands in
    config.yaml is kept; a copy of the old file is left beside it. Can be run again at any time.
    """
    for line in local_setup.set_up((home or Path.home()).absolute()):
        click.echo(line)


main.add_command(backup.backup)
main.add_command(cache.cache)
main.add_command(cache.image)
main.add_command(doctor.doctor)
main.add_command(orphans.orphans)
main.add_command(snapshot.snapshot)
main.add_command(volume.volume)
main.add_command(drift.drift)
main.add_command(plan.plan)
