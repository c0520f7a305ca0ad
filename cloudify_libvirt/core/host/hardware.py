"""What this host's hypervisor cannot give to a guest, said before anything is made, with what mends it.

Source: https://libvirt.org/formatdomaincaps.html; packages of Debian 12.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.errors import Unsupported, libvirt_call
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.spec.domain import DomainSpec

VSOCK = Path("/dev/vhost-vsock")
# 9.0 has it in its schema, and does not read it: seen on Debian 12.
_PASST_SINCE = 9_001_000
_UEFI_PACKAGES = {"x86_64": "ovmf", "i686": "ovmf-ia32", "aarch64": "qemu-efi-aarch64", "armv7l": "qemu-efi-arm"}
# Modes of networks whose guests are on devices that tag by themselves.
_TAGGING = frozenset({"hostdev", "passthrough"})

Finding = tuple[str, str, str]


@dataclass(frozen=True)
class Platform:
    """What kind of machine is asked for."""

    domain_type: str
    arch: str
    machine: str
    cpu_mode: str


class Host:
    """What a hypervisor offers to machines of one kind; asked for once per connection, when first needed."""

    def __init__(self, session: Session, platform: Platform) -> None:
        """Ask nothing yet."""
        self.session = session
        self.platform = platform

    @cached_property
    def capabilities(self) -> Any:
        """Return the root of the domain capabilities."""
        wanted = self.platform

        def ask() -> str:
            return str(
                self.session.connection.getDomainCapabilities(
                    None, wanted.arch, wanted.machine or None, wanted.domain_type, 0
                )
            )

        name = f"domain capabilities ({wanted.domain_type}, {wanted.arch}, {wanted.machine})"
        return parse.document(self.session.fact(name, ask))

    def values(self, path: str, name: str) -> set[str]:
        """Return the values of an enumeration, as of ``devices/tpm``, ``backendModel``."""
        return {str(value.text) for value in self.capabilities.iterfind(f"{path}/enum[@name='{name}']/value")}

    @cached_property
    def cpu_modes(self) -> set[str]:
        """Return the CPU modes that start."""
        return {str(mode.get("name")) for mode in self.capabilities.iterfind("cpu/mode[@supported='yes']")}

    @cached_property
    def cpu_models(self) -> set[str]:
        """Return the names of the CPU models."""
        return {str(model.text) for model in self.capabilities.iterfind("cpu/mode[@name='custom']/model")}


def check(session: Session, spec: DomainSpec, platform: Platform, label: str) -> None:
    """Raise for the first thing asked for that the host lacks.

    Raises:
        Unsupported: with what lacks and how to mend it.
    """
    for error in lacking(session, spec, platform, label):
        raise error


def lacking(session: Session, spec: DomainSpec, platform: Platform, label: str) -> Iterator[Unsupported]:
    """Yield an error for each thing asked for that the host lacks."""
    if session.driver != "qemu":
        return
    host = Host(session, platform)
    rules: tuple[Callable[[DomainSpec, Host], Iterator[Finding]], ...] = (
        _cpu, _firmware, _tpm, _filesystems, _interfaces, _vsock, _screen, _disks, _pages,
    )  # fmt: skip
    for rule in rules:
        for what, reason, remedy in rule(spec, host):
            yield Unsupported("give", f"{what} to {label}", reason, remedy)


def uefi_package(arch: str) -> str:
    """Return Debian's package of the UEFI firmware for a CPU."""
    return _UEFI_PACKAGES.get(arch, "ovmf")


def _cpu(spec: DomainSpec, host: Host) -> Iterator[Finding]:
    mode = spec.wanted_cpu_mode
    if mode == "host-passthrough" and host.platform.domain_type == "qemu":
        yield (
            "the host's CPU", "host-passthrough needs KVM, and this domain is emulated (TCG)",
            "Set cpu_mode: maximum, which has all that the emulation can do, or accelerator: kvm where KVM works.",
        )  # fmt: skip
    elif mode in ("maximum", "host-model", "host-passthrough") and mode not in host.cpu_modes:
        known = ", ".join(sorted(host.cpu_modes - {"custom"}))
        yield f"cpu_mode {mode}", f"the host has no such mode for {host.platform.domain_type}", f"It has {known}."
    model = spec.cpu.model if spec.cpu else None
    if model and model not in host.cpu_models:
        near = difflib.get_close_matches(model, sorted(host.cpu_models), n=3)
        yield f"CPU model {model}", "the host knows no such model", f"Did you mean {' or '.join(near)}?" if near else ""


def _firmware(spec: DomainSpec, host: Host) -> Iterator[Finding]:
    wanted = spec.firmware
    if wanted is None or wanted.type != "uefi" or wanted.loader:
        return
    package = uefi_package(host.platform.arch)
    if "efi" not in host.values("os", "firmware"):
        yield "UEFI", "the host has no UEFI firmware for it", f"Install it there: apt install {package}."
    if wanted.secure_boot and "yes" not in host.values("os/loader", "secure"):
        remedy = f"Install {package} there, and use machine: q35."
        yield "secure boot", f"the host has no firmware with it for machine {host.platform.machine}", remedy


def _tpm(spec: DomainSpec, host: Host) -> Iterator[Finding]:
    if spec.tpm is None:
        return
    if "emulator" not in host.values("devices/tpm", "backendModel"):
        yield "a TPM", "the host has no TPM emulator", "Install it there: apt install swtpm swtpm-tools."
    elif spec.tpm.model not in host.values("devices/tpm", "model"):
        models = ", ".join(sorted(host.values("devices/tpm", "model")))
        yield f"a TPM of model {spec.tpm.model}", "the machine has no such model", f"It has {models}."


def _filesystems(spec: DomainSpec, host: Host) -> Iterator[Finding]:
    for share in spec.filesystems:
        driver = "virtiofs" if share.driver == "virtiofs" else "path"
        if driver not in host.values("devices/filesystem", "driverType"):
            yield f"directory {share.source}", f"the host's QEMU has no {share.driver}", "Use the other driver."
        if not host.session.is_local:
            continue
        if not Path(share.source).is_dir():
            yield f"directory {share.source}", "there is no such directory", "Make it, or correct filesystems."
        if share.driver == "virtiofs" and not share.binary and not _virtiofsd():
            remedy = "Install it: apt install qemu-system-common (virtiofsd from Debian 13 on), or use driver: 9p."
            yield f"directory {share.source}", "the host has no virtiofsd", remedy


def _virtiofsd() -> bool:
    found = (Path(place).glob("*.json") for place in ("/usr/share/qemu/vhost-user", "/etc/qemu/vhost-user"))
    return any("virtiofsd" in path.name for paths in found for path in paths)


def _interfaces(spec: DomainSpec, host: Host) -> Iterator[Finding]:
    session = host.session
    for card in spec.networks:
        if card.passt:
            with libvirt_call("ask for the version of", f"hypervisor {session.uri}"):
                version = session.connection.getLibVersion()
            if version < _PASST_SINCE:
                yield "an interface of passt", "libvirt there is older than 9.1", "Use user: true."
            if session.is_local and shutil.which("passt") is None:
                remedy = "Install it: apt install passt, or use user: true."
                yield "an interface of passt", "the host has no passt", remedy
        if card.vlan and card.network and not card.virtualport:
            yield from _vlan(session, card.network)


def _vlan(session: Session, name: str) -> Iterator[Finding]:
    """Refuse a VLAN on a network of plain Linux bridges, which libvirt refuses only when the guest starts."""
    network = Network.find(session, name)
    if network is None:
        return
    root = parse.document(network.xml())
    forward = root.find("forward")
    mode = "" if forward is None else forward.get("mode", "nat")
    if mode not in _TAGGING and root.find("virtualport[@type='openvswitch']") is None:
        remedy = "Use a network on an Open vSwitch bridge, or a network of its own over a VLAN device of the host."
        yield "a VLAN", f"network '{name}' is on a plain Linux bridge, to which libvirt gives no VLANs", remedy


def _vsock(spec: DomainSpec, host: Host) -> Iterator[Finding]:
    if spec.vsock and host.session.is_local and not VSOCK.exists():
        yield "a vsock", f"the host has no {VSOCK}", "Load its module there: modprobe vhost_vsock."


def _screen(spec: DomainSpec, host: Host) -> Iterator[Finding]:
    for screen in spec.graphics:
        if screen.type not in host.values("devices/graphics", "type"):
            package = "qemu-system-modules-spice" if screen.type == "spice" else "qemu-system-gui"
            yield f"a screen by {screen.type}", "the host's QEMU has no such", f"Install {package} there, or use vnc."
    model = spec.video.model if spec.video else "none"
    if model not in host.values("devices/video", "modelType") | {"none"}:
        models = ", ".join(sorted(host.values("devices/video", "modelType")))
        yield f"a graphics card {model}", "the host's QEMU has no such", f"It has {models}."


def _disks(spec: DomainSpec, host: Host) -> Iterator[Finding]:
    for disk in spec.disks:
        bus = disk.bus or ("ide" if (disk.dev or "").startswith("hd") else None)
        if "q35" in host.platform.machine and bus in ("ide", "fdc"):
            yield f"a disk on {bus}", "a q35 has none", "Use bus: sata, scsi or virtio, or machine: pc."
        # Older blueprints go through as they are.
        if spec.modern and disk.bus and disk.bus not in host.values("devices/disk", "bus"):
            buses = ", ".join(sorted(host.values("devices/disk", "bus")))
            yield f"a disk on {disk.bus}", "the machine has no such bus", f"It has {buses}."


def _pages(spec: DomainSpec, host: Host) -> Iterator[Finding]:
    backing = spec.memory_backing
    if not backing or not backing.hugepages or not spec.has_memory:
        return
    session = host.session
    sizes = parse.page_sizes_kib(session.fact("capabilities", session.connection.getCapabilities))
    size = backing.page_kib or (2048 if 2048 in sizes else max(sizes, default=0))
    if size not in sizes:
        known = ", ".join(f"{size} KiB" for size in sorted(sizes))
        yield "huge pages", f"the host has no pages of {size} KiB", f"It has {known}."
        return
    with libvirt_call("count the huge pages of", f"hypervisor {session.uri}"):
        free = sum(int(cell.get(size, 0)) for cell in session.connection.getFreePages([size], -1, 1).values())
    needed = -(-spec.max_memory_kib // size)
    if free < needed:
        place = f"/sys/kernel/mm/hugepages/hugepages-{size}kB/nr_hugepages"
        yield "huge pages", f"it needs {needed} of {size} KiB, the host has {free} free", f"Raise {place} there."
