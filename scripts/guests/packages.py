"""Debian packages by name: versions, download, unpacking. Where they come from is apt's own configuration."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from .tools import BuildError, progress, run

LISTS = Path("/var/lib/apt/lists")
APT_CONFIGURATION = Path("/etc/apt")
URI_LINE = re.compile(r"^'[^']+' (?P<file>\S+) \d+ (?P<hash>\S+)$", re.MULTILINE)


def apt_state() -> list[str]:
    """What decides which versions apt offers; cheap to read, and equal as long as nothing changed."""
    files = [*LISTS.glob("*Packages*"), *(p for p in APT_CONFIGURATION.rglob("*") if p.is_file())]
    return sorted(f"{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in files)


def _apt_get(*words: str, cwd: Path | None = None, doing: str) -> str:
    sandbox = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    try:
        return run("apt-get", "-q", *sandbox, *words, cwd=cwd, doing=doing).decode()
    except BuildError as error:
        raise BuildError(
            f"{error}\n  do: apt-get update, and check that the Debian 12 archive is in {APT_CONFIGURATION}"
        ) from error


def kernel_package(meta: str) -> str:
    """Return the package with the kernel that a meta package like linux-image-amd64 points to."""
    lines = run(
        "apt-cache", "-o", "APT::Cache::AllVersions=0", "depends", meta, doing=f"find the kernel of {meta}"
    ).decode()
    found = re.search(r"Depends: (linux-image-\d\S*)", lines)
    if not found:
        raise BuildError(f"apt knows no kernel for {meta}; do: apt-get update")
    return found[1]


def versions(names: Sequence[str]) -> list[str]:
    """Return "file hash" of what apt would download for these packages alone."""
    answer = _apt_get("download", "--print-uris", *names, doing=f"ask apt for {' '.join(names)}")
    return sorted(f"{found['file']} {found['hash']}" for found in URI_LINE.finditer(answer))


def versions_with_dependencies(names: Sequence[str]) -> list[str]:
    """Return "file hash" of these packages and all they depend on, for a system that has nothing yet."""
    options = ["-o", "Dir::State::status=/dev/null", "-o", "Debug::NoLocking=1", "--no-install-recommends"]
    answer = _apt_get(*options, "install", "--print-uris", "-y", *names, doing=f"ask apt for {' '.join(names)}")
    return sorted(f"{found['file']} {found['hash']}" for found in URI_LINE.finditer(answer))


def unpack(names: Sequence[str], into: Path) -> None:
    """Download packages and unpack them, uninstalled, into a directory with merged /usr."""
    debs = into.with_name(into.name + ".debs")
    debs.mkdir()
    progress(f"downloading {len(names)} packages")
    _apt_get("download", *names, cwd=debs, doing=f"download {' '.join(names)}")
    merged_usr(into)
    progress("unpacking them")
    for deb in sorted(debs.glob("*.deb")):
        content = run("dpkg-deb", "--fsys-tarfile", deb, doing=f"read package {deb.name}")
        run(
            "tar",
            "-x",
            "--keep-directory-symlink",
            "--no-same-owner",
            "-C",
            into,
            stdin=content,
            doing=f"unpack {deb.name}",
        )


def merged_usr(root: Path) -> None:
    """Make the directories of a system where /bin, /sbin, /lib and /lib64 point into /usr."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")


def debian_sources() -> list[str]:
    """Return the machine's own sources.list lines for the Debian archive (no third parties)."""
    wanted = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    answer = _apt_get("indextargets", "--format", wanted, "Created-By: Packages", doing="read the apt sources")
    lines = set()
    for line in answer.splitlines():
        origin, uri, release, component = line.split("|")
        if origin == "Debian":
            lines.add(f"deb {uri} {release} {component}")
    if not lines:
        raise BuildError("apt has no lists of the Debian archive; do: apt-get update")
    return sorted(lines)
