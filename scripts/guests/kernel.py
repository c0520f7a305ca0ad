"""The kernel of a guest: a selection of its modules, and an initramfs that finds the root file system."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from .tools import BuildError, run

SIGNATURE_END = b"~Module signature appended~\n"
SIGNATURE_INFO_BYTES = 12  # struct module_signature; its last four bytes are the length of the signature


def version(stage: Path) -> str:
    """Return the version of the one kernel among the unpacked packages."""
    found = sorted(path.name for path in (stage / "lib/modules").iterdir())
    if len(found) != 1:
        raise BuildError(f"expected one kernel among the packages, found {found or 'none'}")
    return found[0]


def image(stage: Path) -> Path:
    """Return the packed kernel among the unpacked packages."""
    return stage / "boot" / f"vmlinuz-{version(stage)}"


def lightened(module: bytes) -> bytes:
    """Return a module without signature, and with its BTF section under another name.

    Checking the one and reading the other takes most of the time of loading; nothing here needs them.
    """
    module = module.replace(b"\0.BTF\0", b"\0.no-\0")
    if not module.endswith(SIGNATURE_END):
        return module
    body = module[: -len(SIGNATURE_END)]
    length = int.from_bytes(body[-4:], "big")
    return body[: -SIGNATURE_INFO_BYTES - length]


def _paths(stage: Path, release: str, names: Iterable[str]) -> list[str]:
    """Return modules and all they depend on, as paths below lib/modules/RELEASE."""
    needs = {}
    for line in (stage / "lib/modules" / release / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {path.rsplit("/", 1)[1].removesuffix(".ko").replace("-", "_"): path for path in needs}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise BuildError(f"kernel {release} has no module {', '.join(unknown)}")
    wanted = [by_name[name] for name in names]
    return list(dict.fromkeys([*wanted, *(other for path in wanted for other in needs[path])]))


def prepare(stage: Path) -> None:
    """Let depmod write the dependencies of the unpacked kernel's modules."""
    _depmod(stage, version(stage))


def _depmod(root: Path, release: str) -> None:
    run("depmod", "-b", root, release, doing=f"index the modules in {root.name}")


def modules(stage: Path, root: Path, names: Iterable[str]) -> None:
    """Copy modules with their dependencies to a root, lightened and indexed."""
    release = version(stage)
    for path in _paths(stage, release, names):
        target = root / "lib/modules" / release / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(lightened((stage / "lib/modules" / release / path).read_bytes()))
    for name in ("modules.builtin", "modules.order"):
        shutil.copy(stage / "lib/modules" / release / name, root / "lib/modules" / release / name)
    _depmod(root, release)


def pack_initramfs(root: Path, out: Path) -> None:
    """Pack a directory as an initramfs; lz4 is what an emulated processor unpacks fastest."""
    names = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*"))).encode()
    words = ("cpio", "--quiet", "--create", "--format=newc", "--owner=0:0", "--reproducible")
    archive = run(*words, stdin=names, cwd=root, doing="pack the initramfs")
    out.write_bytes(run("lz4", "-l", "-9", "-c", "-q", stdin=archive, doing="compress the initramfs"))
