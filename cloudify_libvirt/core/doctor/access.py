"""Is there a way to the hypervisor: library, daemon, socket, names of hosts.

Source: https://libvirt.org/daemons.html, https://libvirt.org/auth.html; packages of Debian 12 and 13.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from cloudify_libvirt.core.doctor.finding import Finding, Target, ok, problem, warning
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import AccessDenied, ConnectFailed, CoreError, LibraryMissing
from cloudify_libvirt.core.session import is_local

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LIBRARY = "apt-get install libvirt0 libvirt-dev pkg-config gcc python3-dev && pip install libvirt-python"
_DRIVERS = {name: f"libvirt-daemon-driver-{name}" for name in ("qemu", "lxc", "xen", "vbox")}
_DAEMON = "apt-get install libvirt-daemon-system qemu-system-x86 qemu-utils dnsmasq-base"
_MODULAR = "systemctl enable --now virt{driver}d.socket virtnetworkd.socket virtstoraged.socket virtlogd.socket"
_EVERYTHING = "nothing works without a connection"
_NO_DRIVER = "no connection driver"


def library(_target: Target) -> Iterator[Finding]:
    """Tell whether libvirt's client library and its Python binding are there."""
    try:
        version = libvirt.getVersion()
    except LibraryMissing as fault:
        yield problem(fault.target, fault.reason, _EVERYTHING, _LIBRARY)
        return
    yield ok("libvirt's client library", version_text(version))


def version_text(number: int) -> str:
    """Return a version of libvirt's as people write it."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def connection(target: Target) -> Iterator[Finding]:
    """Tell whether the hypervisor answers, and if not, who stands in the way."""
    if target.session is not None:
        yield ok(target.uri, "it answers")
    elif target.fault is not None and not isinstance(target.fault, LibraryMissing):
        found, command = _in_the_way(target.uri, target.fault)
        yield problem(target.uri, found, _EVERYTHING, command)


def _in_the_way(uri: str, fault: CoreError) -> tuple[str, str]:
    """Return what stands in the way, and the command against it."""
    if _NO_DRIVER in fault.reason:
        return fault.reason, _driver_command(uri)
    if isinstance(fault, ConnectFailed) and not fault.retryable:
        return f"{fault.reason} {fault.remedy}", ""
    if not is_local(uri):
        return fault.reason, f"virsh -c '{uri}' version"
    if isinstance(fault, AccessDenied):
        return _refused(fault)
    return _no_daemon(uri, fault)


def _driver_command(uri: str) -> str:
    package = _DRIVERS.get(urlsplit(uri).scheme.partition("+")[0])
    return f"apt-get install {package} && systemctl restart libvirtd" if package else ""


def _refused(fault: CoreError) -> tuple[str, str]:
    """Say who may use the socket that refused."""
    user = _user()
    path = Path(next(iter(re.findall(r"'(/[^']+)'", fault.reason)), "/run/libvirt/libvirt-sock"))
    group = _group_of(path)
    if group == "root":
        return f"{fault.reason}; {path} is for root alone, this is {user}", "sudo -i"
    found = f"{fault.reason}; {user} is not in group {group or 'libvirt'}"
    return found, f"usermod -aG {group or 'libvirt'} {user} # then log in again"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _group_of(path: Path) -> str:
    """Return the group that may use the socket: "root" when there is none, "" when nobody can tell."""
    try:
        found = path.stat()
        return grp.getgrgid(found.st_gid).gr_name if found.st_mode & stat.S_IWGRP else "root"
    except (OSError, KeyError):
        return ""


def _no_daemon(uri: str, fault: CoreError) -> tuple[str, str]:
    driver = urlsplit(uri).scheme.partition("+")[0]
    if shutil.which("libvirtd", path=PATH):
        return f"libvirtd does not answer: {fault.reason}", "systemctl enable --now libvirtd"
    if shutil.which(f"virt{driver}d", path=PATH):
        return f"virt{driver}d does not answer: {fault.reason}", _MODULAR.format(driver=driver)
    extra = f" {_DRIVERS['lxc']}" if driver == "lxc" else ""
    return f"no libvirt daemon is installed here: {fault.reason}", _DAEMON + extra


def names(target: Target) -> Iterator[Finding]:
    """Tell whether the names of the hosts resolve: the one in the URI, else this machine's own."""
    remote = None if is_local(target.uri) else urlsplit(target.uri).hostname
    name = remote or socket.gethostname()
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except OSError as error:
        found = f"it has no address ({error.strerror or error})"
        if remote:
            command = f"echo 'ADDRESS {name}' >> /etc/hosts"
            yield problem(f"host name {name}", found, "the connection goes to that name", command)
        else:
            why = "migration, certificates and consoles use a host's own name"
            yield warning(f"host name {name}", found, why, f"echo '127.0.1.1 {name}' >> /etc/hosts")
        return
    yield ok(f"host name {name}", ", ".join(sorted(addresses)))
