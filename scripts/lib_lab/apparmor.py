"""AppArmor around a lab's guests, where the kernel has it and libvirt's profiles are installed.

libvirt makes a profile per guest below /etc/apparmor.d/libvirt, and loads it into the kernel, which has one set of
profiles for the whole machine: the directory is the lab's own, and what a lab that was killed left loaded goes with it.

Source: https://libvirt.org/drvqemu.html#apparmor-svirt-confinement
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from pathlib import Path

from lib_lab.model import PATH, Lab

ENABLED = Path("sys/module/apparmor/parameters/enabled")
PROFILES = Path("etc/apparmor.d/libvirt")
NEEDED = (PROFILES / "TEMPLATE.qemu", Path("etc/apparmor.d/usr.sbin.libvirtd"), Path("usr/lib/libvirt/virt-aa-helper"))
KERNEL = Path("/sys/kernel/security")
PREFIX = "libvirt-"


def usable(root: Path = Path("/")) -> bool:
    """Tell whether the kernel has AppArmor switched on, and libvirt's profiles and helper are below ``root``."""
    try:
        enabled = (root / ENABLED).read_text().strip() == "Y"
    except OSError:
        return False
    return enabled and all((root / path).exists() for path in NEEDED)


def driver(root: Path = Path("/")) -> str:
    """Return the line of qemu.conf; none lets libvirtd take AppArmor where it is confined itself."""
    if usable(root) and shutil.which("apparmor_parser", path=PATH):
        return ""
    return 'security_driver = "none"\n'


def prepare(lab: Lab) -> None:
    """Create the lab's own directory of guests' profiles."""
    place = lab.home / "apparmor"
    if usable() and not place.exists():
        place.mkdir()
        for template in (Path("/") / PROFILES).glob("TEMPLATE*"):
            shutil.copy2(template, place)


def mounts(lab: Lab) -> list[tuple[str, ...]]:
    """Return arguments of mount(8) that let libvirtd in the lab use AppArmor; none where it cannot."""
    place = lab.home / "apparmor"
    if not place.exists():
        return []
    return [("-t", "securityfs", "securityfs", str(KERNEL)), ("--bind", str(place), f"/{PROFILES}")]


def unload(lab: Lab) -> None:
    """Take the profiles of guests that ended with their lab out of the kernel."""
    for path in (lab.home / "apparmor").glob(f"{PREFIX}*"):
        name = path.name.removesuffix(".files")
        with contextlib.suppress(ValueError, OSError):
            uuid.UUID(name.removeprefix(PREFIX))
            (KERNEL / "apparmor" / ".remove").write_text(name)
        path.unlink()
