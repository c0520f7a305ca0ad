"""Who made an object: this orchestrator's own id, and the mark that domains and networks carry.

An orchestrator is one user of one machine: its id is random, made once, and kept where that user alone can read it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import tempfile
import uuid
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import platformdirs
from lxml import etree

from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import CoreError, libvirt_call
from cloudify_libvirt.core.parse import document
from cloudify_libvirt.core.resource import Resource
from cloudify_libvirt.core.spec.variables import OwnershipMark

# As in owner.xml.j2.
NAMESPACE = "https://cloudify.co/libvirt/1"
_ID = re.compile("[0-9a-f]{32}")
_REMEDY = "Give this user a directory that he can write to: XDG_STATE_HOME, or ~/.local/state."


def state_directory() -> Path:
    """Return the directory of what this orchestrator must not forget; homes may be shared by machines."""
    return _state_directory(os.environ.get("XDG_STATE_HOME"), os.environ.get("HOME"))


@lru_cache(maxsize=8)
def _state_directory(*_given: str | None) -> Path:
    return platformdirs.user_state_path("cloudify-libvirt") / _machine()


@lru_cache(maxsize=1)
def _machine() -> str:
    found = platform.node()
    with suppress(OSError):
        found = Path("/etc/machine-id").read_text(encoding="ascii").strip() or found
    # The machine's id itself is not for others' eyes. Source: machine-id(5)
    return hashlib.sha256(f"cloudify-libvirt/{found}".encode()).hexdigest()[:16]


def orchestrator_id() -> str:
    """Return this orchestrator's id, made at the first call.

    Raises:
        CoreError: it can be neither read nor written.
    """
    return _id_in(state_directory())


def known_orchestrator() -> str:
    """Return this orchestrator's id, or "" where it has none yet; nothing is written.

    Raises:
        CoreError: it is there and cannot be read.
    """
    return orchestrator_id() if (state_directory() / "orchestrator").exists() else ""


@lru_cache(maxsize=8)
def _id_in(directory: Path) -> str:
    path = directory / "orchestrator"
    try:
        if not path.exists():
            make_private(directory)
            _publish(path, uuid.uuid4().hex)
        found = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise unwritable(path, error) from error
    if not _ID.fullmatch(found):
        raise CoreError("read", f"the orchestrator's id in {path}", "it is not one", "Restore the file, or remove it.")
    return found


def _publish(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all; who comes second takes the first one's."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="ascii") as draft:
        draft.write(text)
        draft.flush()
        with suppress(FileExistsError):
            os.link(draft.name, path)


def make_private(directory: Path) -> None:
    """Make a directory that its owner alone can look into."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def unwritable(path: Path, error: Exception) -> CoreError:
    """Return the error for a place where nothing can be kept."""
    reason = getattr(error, "strerror", None) or str(error)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return CoreError("keep what is made in", str(path), reason, "Free some space there." if full else _REMEDY)


def mark_on(found: Resource) -> OwnershipMark | None:
    """Return the mark of a domain or network, as it stands in the stored definition; None of a pool, which has none.

    Raises:
        Missing: it went meanwhile.
    """
    if found.noun == "pool":
        return None
    try:
        xml = found.definition()
    except CoreError as error:
        # The test driver has one definition only.
        if "unsupported flags" not in error.reason:
            raise
        xml = found.xml()
    return mark_of(xml)


def mark_of(xml: str) -> OwnershipMark | None:
    """Return the mark in a domain's or network's document, or None; one of older releases names no orchestrator."""
    found: Any = document(xml).find(f"metadata/{{{NAMESPACE}}}owner")
    if found is None:
        return None
    number = str(found.get("number", ""))
    return OwnershipMark(
        str(found.get("deployment", "")),
        str(found.get("node", "")),
        str(found.get("instance", "")),
        str(found.get("version", "")),
        str(found.get("orchestrator", "")),
        int(number) if number.isdecimal() else 0,
    )


def put(found: Resource, xml: str) -> None:
    """Give a domain the mark of a document, where it runs and where it is stored.

    Source: https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainSetMetadata
    """
    wanted: Any = document(xml).find(f"metadata/{{{NAMESPACE}}}owner")
    # libvirt writes the name space itself.
    text = etree.tostring(etree.Element("owner", dict(wanted.attrib)), encoding="unicode")
    flags = (libvirt.VIR_DOMAIN_AFFECT_CONFIG, *([libvirt.VIR_DOMAIN_AFFECT_LIVE] if found.active else []))
    for flag in flags:
        with libvirt_call("mark", found.target):
            found.handle.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, "cfy", NAMESPACE, flag)
