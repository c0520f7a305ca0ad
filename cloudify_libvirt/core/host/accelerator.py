"""Which accelerator a guest gets: measured, not believed.

A host may have /dev/kvm and advertise domains of type kvm while guests crawl under it (nested or
emulated virtualization). So a few thousand guest instructions are run and timed.
Source of the calls and structures: https://docs.kernel.org/virt/kvm/api.html
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.session import Session

PROBE_LIMIT_S = 2.0
DEVICE = Path("/dev/kvm")


@dataclass(frozen=True)
class Choice:
    """The domain type to use, the CPU mode that starts there, and why."""

    domain_type: str
    cpu_mode: str
    why: str


def choose(session: Session, wanted: str) -> Choice:
    """Return the accelerator for ``wanted`` (auto, kvm or tcg) on this hypervisor.

    Raises:
        InvalidSpec: kvm is asked for and the host does not offer it.
    """
    if wanted == "tcg":
        return Choice("qemu", "maximum", "accelerator: tcg was asked for")
    offered = "kvm" in parse.guest_types(session.fact("capabilities", session.connection.getCapabilities))
    if wanted == "kvm":
        if not offered:
            raise InvalidSpec(
                "use KVM on",
                f"hypervisor {session.uri}",
                "the host does not offer it",
                "Enable virtualization and load the kvm module there, or set accelerator: auto.",
            )
        return Choice("kvm", "host-passthrough", "accelerator: kvm was asked for")
    if not offered:
        return Choice("qemu", "maximum", "the host offers no KVM")
    if not session.is_local:
        return Choice("kvm", "host-passthrough", "the host offers KVM (not measured: it is remote)")
    works, why = session.fact("kvm probe", measure)
    return Choice("kvm", "host-passthrough", why) if works else Choice("qemu", "maximum", why)


def measure() -> tuple[bool, str]:
    """Run guest instructions under KVM on this machine; tell whether they ran in time, and what was seen.

    In a process of its own: a vCPU that hangs in the kernel can only be killed.
    """
    if not DEVICE.exists():
        return False, f"{DEVICE} is missing here"
    probe = [sys.executable, "-m", "cloudify_libvirt.core.host.kvm_probe"]
    try:
        result = subprocess.run(probe, capture_output=True, text=True, timeout=PROBE_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return False, f"KVM is offered, but a test guest did not finish within {PROBE_LIMIT_S:g} s"
    said = (result.stdout or result.stderr).strip().splitlines()
    return result.returncode == 0, said[-1] if said else f"the KVM probe ended with {result.returncode}"
