"""What the hypervisor itself offers: version, drivers, accelerator, firmware, TPM, confinement of guests.

Source: https://libvirt.org/formatcaps.html, https://libvirt.org/formatdomaincaps.html
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.doctor.access import PATH, version_text
from cloudify_libvirt.core.doctor.finding import Finding, Target, ok, problem, warning
from cloudify_libvirt.core.errors import ConnectionLost, CoreError, libvirt_call
from cloudify_libvirt.core.host import accelerator as accelerators
from cloudify_libvirt.core.host import hardware, preflight
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.storage import network_disk

# The oldest that these checks were run on is Debian 12's, 9.0; 7.0 is Debian 11's.
_OLDEST = 7_000_000
# Part, the call that it must answer, and the daemon that has it where there is one per part.
_PARTS: dict[str, Callable[[Session], int]] = {
    "network": lambda session: int(session.connection.numOfNetworks()),
    "storage": lambda session: int(session.connection.numOfStoragePools()),
    "secret": lambda session: int(session.connection.numOfSecrets()),
}
_OWN_USER = "sed -i '/^user *=/d; /^group *=/d' /etc/libvirt/qemu.conf && systemctl restart libvirtd"
_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")


def version(target: Target) -> Iterator[Finding]:
    """Tell the versions of libvirt and of its hypervisor."""
    session = target.connected
    with libvirt_call("ask for the version of", target.uri):
        number, below = session.connection.getLibVersion(), session.connection.getVersion()
    found = f"libvirt {version_text(number)}, {session.driver} {version_text(below)}"
    if number < _OLDEST:
        yield warning("versions", found, f"older than {version_text(_OLDEST)} is untried", "apt-get full-upgrade")
    else:
        yield ok("versions", found)


def parts(target: Target) -> Iterator[Finding]:
    """Tell whether libvirt's parts for networks, storage and secrets answer."""
    for name, ask in _PARTS.items():
        try:
            with libvirt_call("ask", f"the {name} driver of {target.uri}"):
                count = ask(target.connected)
        except ConnectionLost:
            raise
        except CoreError as fault:
            yield problem(f"{name} driver", fault.reason, f"no {name} without it", _part_command(name, fault))
        else:
            yield ok(f"{name} driver", f"{count} active")


def _part_command(name: str, fault: CoreError) -> str:
    if "socket" in fault.reason:
        return f"systemctl enable --now virt{name}d.socket"
    return f"apt-get install libvirt-daemon-driver-{name} && systemctl restart libvirtd"


def accelerator(target: Target) -> Iterator[Finding]:
    """Measure KVM here by a throw-away guest; elsewhere only what the host says of itself is known."""
    session = target.connected
    offered = "kvm" in parse.guest_types(session.fact("capabilities", session.connection.getCapabilities))
    if not session.is_local:
        choice = accelerators.choose(session, "auto")
        yield (ok if offered else warning)("KVM", choice.why, "guests are emulated without it, many times slower")
        return
    works, seen = session.fact("kvm probe", accelerators.measure)
    if works and offered:
        yield ok("KVM", seen)
        return
    found = seen if not works else f"{seen}, but libvirt does not offer it"
    why = "guests are emulated (accelerator: auto takes TCG), many times slower"
    yield warning("KVM", found, why, _kvm_command(works=works))


def _kvm_command(*, works: bool) -> str:
    if works:
        return "usermod -aG kvm libvirt-qemu && systemctl restart libvirtd"
    if accelerators.DEVICE.exists():
        # Broken below: only the host of this host, or its firmware, can give it.
        return ""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    modules = {" vmx": "kvm_intel", " svm": "kvm_amd"}
    return next((f"modprobe {module}" for flag, module in modules.items() if flag in flags), "")


def _offer(target: Target) -> hardware.Host:
    """Return what the host offers to an emulated guest of its own kind of CPU."""
    session = target.connected
    arch = parse.host_arch(session.fact("capabilities", session.connection.getCapabilities))
    machine = "q35" if arch in ("x86_64", "i686") else ""
    return hardware.Host(session, hardware.Platform("qemu", arch, machine, ""))


def firmware(target: Target) -> Iterator[Finding]:
    """Tell whether guests can have UEFI, and secure boot."""
    host, why = _offer(target), "guests with firmware: uefi do not start"
    command = f"apt-get install {hardware.uefi_package(host.platform.arch)}"
    if "efi" not in host.values("os", "firmware"):
        yield warning("UEFI", "there is no UEFI firmware", why, command)
    elif "yes" not in host.values("os/loader", "secure"):
        yield warning("UEFI", "there is none with secure boot", "guests with secure_boot do not start", command)
    else:
        yield ok("UEFI", "with secure boot")


def tpm(target: Target) -> Iterator[Finding]:
    """Tell whether guests can have an emulated TPM."""
    missing = [name for name in ("swtpm", "swtpm_setup") if not shutil.which(name, path=PATH)]
    if not target.connected.is_local:
        missing = []
    if "emulator" not in _offer(target).values("devices/tpm", "backendModel"):
        missing = missing or ["a TPM emulator that libvirt can use"]
    if missing:
        why = "guests with a tpm do not start"
        yield warning("TPM", f"{' and '.join(missing)} missing", why, "apt-get install swtpm swtpm-tools")
    else:
        yield ok("TPM", "emulated by swtpm")


def network_disks(target: Target) -> Iterator[Finding]:
    """Tell whether QEMU reaches disks on Ceph, GlusterFS and iSCSI servers; counts where a pool has such volumes."""
    missing = [protocol for protocol in network_disk.PROTOCOLS if network_disk.lacks(protocol)]
    if not missing:
        yield ok("network disks", "by " + ", ".join(network_disk.PROTOCOLS))
        return
    with libvirt_call("list the pools of", target.uri):
        types = {parse.pool(one.XMLDesc(0)).type for one in target.connected.connection.listAllStoragePools(0)}
    used = sorted(types & {"iscsi-direct" if protocol == "iscsi" else protocol for protocol in missing})
    found = f"QEMU has no part for {', '.join(missing)}"
    if used:
        why = f"guests with volumes of pools of type {', '.join(used)} do not start"
        yield warning("network disks", found, why, network_disk.INSTALL)
    else:
        yield ok("network disks", f"{found}; no pool needs it")


def security(target: Target) -> Iterator[Finding]:
    """Tell who confines guests: their own user, AppArmor, SELinux."""
    session = target.connected
    models = parse.security_models(session.fact("capabilities", session.connection.getCapabilities))
    user = preflight.guests_user(session)
    if user is not None and user[0] == 0:
        yield warning("guests' user", "guests run as root", "who breaks out of a guest owns the host", _OWN_USER)
    else:
        yield ok("guests' user", f"uid {user[0]}, gid {user[1]}" if user else "the host does not say")
    if not target.connected.is_local:
        yield ok("confinement", ", ".join(models) or "none")
    elif _kernel_has_apparmor() and "apparmor" not in models:
        why = "guests are confined by their user alone"
        command = "apt-get install apparmor apparmor-utils && systemctl restart libvirtd"
        yield warning("confinement", "the kernel has AppArmor, and libvirt does not use it", why, command)
    else:
        yield ok("confinement", ", ".join(models) or "none, as this kernel has none")


def _kernel_has_apparmor() -> bool:
    try:
        return _APPARMOR.read_text(encoding="ascii").strip() == "Y"
    except OSError:
        return False
