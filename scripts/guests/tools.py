"""Running commands, and failing with a message that says what to do."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

STARTED = time.monotonic()

# Command -> the Debian package that brings it.
PACKAGE_OF = {
    "apt-get": "apt",
    "cpio": "cpio",
    "dpkg-deb": "dpkg",
    "grub-mkimage": "grub-common",
    "kmod": "kmod",
    "lz4": "lz4",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-img": "qemu-utils",
    "sfdisk": "fdisk",
    "tar": "tar",
    "unshare": "util-linux",
    "zstd": "zstd",
}
SEARCH_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"


class BuildError(Exception):
    """The guest cannot be built; the text is for the user."""


def progress(text: str) -> None:
    """Print one line on stderr, with the seconds since the start."""
    print(f"{time.monotonic() - STARTED:6.1f}s {text}", file=sys.stderr, flush=True)


def require(commands: Sequence[str], files: dict[str, str]) -> None:
    """Check the host for commands and for files (path -> package). Raises BuildError naming the packages."""
    missing = {PACKAGE_OF[name] for name in commands if not shutil.which(name, path=SEARCH_PATH)}
    missing |= {package for path, package in files.items() if not Path(path).exists()}
    if missing:
        raise BuildError(f"missing on this machine; run: apt-get install {' '.join(sorted(missing))}")


def run(*command: str | Path, stdin: bytes | None = None, cwd: Path | None = None, doing: str = "") -> bytes:
    """Run a command and return its standard output.

    doing: what it is for, named in the error. Raises BuildError with the end of its stderr.
    """
    words = [str(word) for word in command]
    environment = {**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C"}
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, cwd=cwd, env=environment, check=False)
    except OSError as error:
        raise BuildError(f"cannot {doing or 'run a command'}: {words[0]}: {error.strerror}") from error
    if done.returncode:
        tail = "\n  ".join(done.stderr.decode(errors="replace").strip().splitlines()[-8:])
        raise BuildError(f"cannot {doing or 'run a command'}: {' '.join(words)[:300]}\n  {tail}")
    return done.stdout


def as_root(*command: str | Path) -> list[str | Path]:
    """Return the command so that files of the caller count as root's: in a user namespace unless we are root."""
    return list(command) if os.geteuid() == 0 else ["unshare", "--map-root-user", *command]
