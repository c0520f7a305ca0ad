"""Volumes that QEMU itself reaches over the network: what a domain's disk says of them.

libvirt turns volumes of pools of types rbd and gluster into no disk of its own, so the pool's servers and credentials
are written out; a key stays in its secret. Source: formatdomain.html#hard-drives-floppy-disks-cdroms
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.errors import Unsupported
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.spec.disk_network import NetworkAuth, NetworkHost, NetworkSource
from cloudify_libvirt.core.volume import Volume

_SECRETS = {"chap": "iscsi", "ceph": "ceph"}


# Protocols that pools' volumes have, and where QEMU keeps what it reaches them with if that is a part of its own.
PROTOCOLS = ("rbd", "gluster", "iscsi")
_MODULES = ("/usr/lib/*/qemu", "/usr/lib64/qemu", "/usr/lib/qemu")
INSTALL = "apt-get install qemu-block-extra"


def lacks(protocol: str) -> bool:
    """Tell whether this machine's QEMU lacks the part for a protocol; a QEMU without parts has all or says so itself.

    Source: packages.debian.org/qemu-block-extra; QEMU, docs/devel/build-system, modules
    """
    found = [path for pattern in _MODULES for path in Path("/").glob(f"{pattern[1:]}/*.so")]
    return bool(found) and f"block-{protocol}.so" not in {path.name for path in found}


def source_of(pool: Pool, volume: Volume) -> NetworkSource:
    """Return where the hypervisor finds the volume.

    Raises:
        Unsupported: the pool is of a type whose volumes no disk can be, or this host's QEMU cannot reach them.
    """
    root = parse.document(pool.xml())
    source, type_ = root.find("source"), str(root.get("type", ""))
    names = {"rbd": _rbd_name, "gluster": _gluster_name, "iscsi-direct": _iscsi_name}
    if source is None or type_ not in names:
        reason = f"volumes of pools of type {type_} have no path on the host, and a disk needs one"
        raise Unsupported("attach", volume.target, reason, "Take a template of your own for this disk.")
    protocol = "iscsi" if type_ == "iscsi-direct" else type_
    if pool.session.shares_files and lacks(protocol):
        reason = f"this host's QEMU has no part for {protocol}, and a domain with the disk would not start"
        raise Unsupported("attach", volume.target, reason, f"Install it: {INSTALL}")
    return NetworkSource(
        protocol=protocol,
        name=names[type_](source, volume),
        hosts=tuple(NetworkHost(host.get("name", ""), host.get("port", "")) for host in source.findall("host")),
        initiator=_attribute(source, "initiator/iqn", "name"),
        auth=_auth(source),
    )


def _rbd_name(source: Any, volume: Volume) -> str:
    return f"{source.findtext('name')}/{volume.name}"


def _gluster_name(source: Any, volume: Volume) -> str:
    directory = _attribute(source, "dir", "path").strip("/")
    return "/".join(filter(None, (source.findtext("name"), directory, volume.name)))


def _iscsi_name(source: Any, volume: Volume) -> str:
    # unit:HOST:BUS:TARGET:LUN or, of some releases, without one of them. The number of the unit is the last.
    found = re.search(r"(\d+)$", volume.name)
    return f"{_attribute(source, 'device', 'path')}/{found[1] if found else 0}"


def _auth(source: Any) -> NetworkAuth | None:
    element, secret = source.find("auth"), source.find("auth/secret")
    if element is None or secret is None:
        return None
    by = "uuid" if secret.get("uuid") else "usage"
    return NetworkAuth(
        username=element.get("username", ""),
        type=_SECRETS.get(element.get("type", ""), "ceph"),
        by=by,
        secret=secret.get(by, ""),
    )


def _attribute(element: Any, path: str, name: str) -> str:
    found = element.find(path)
    return "" if found is None else str(found.get(name, ""))
