"""Secrets: keys that the hypervisor's host keeps, so that no document, log or record of ours holds them.

Source: https://libvirt.org/formatsecret.html
"""

from __future__ import annotations

from typing import Any, Literal

from cloudify_libvirt.core.document.render import TemplateSource, render
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import Conflict, Missing, libvirt_call
from cloudify_libvirt.core.parse import VolumeFacts
from cloudify_libvirt.core.session import Session

Usage = Literal["volume", "ceph", "iscsi"]


class Secret:
    """A secret of one host: what it is for can be read, its value cannot when it is private."""

    def __init__(self, session: Session, handle: Any) -> None:
        """Wrap one of libvirt's secrets."""
        self.session = session
        self.handle = handle

    @property
    def uuid(self) -> str:
        """Return the secret's UUID, in lower case."""
        return str(self.handle.UUIDString())

    @property
    def target(self) -> str:
        """Return how messages call the secret."""
        return _label(self.session, self.uuid)

    @classmethod
    def find(cls, session: Session, uuid: str) -> Secret | None:
        """Return the secret with that UUID, or None: also when it was ephemeral and the daemon started anew."""
        try:
            with libvirt_call("look up", _label(session, uuid)):
                return cls(session, session.connection.secretLookupByUUIDString(uuid))
        except Missing:
            return None

    @classmethod
    def find_by_usage(cls, session: Session, usage_type: Usage, usage_name: str) -> Secret | None:
        """Return the secret that is for this volume (its path), Ceph name or iSCSI target, or None."""
        number = getattr(libvirt, f"VIR_SECRET_USAGE_TYPE_{usage_type.upper()}")
        try:
            with libvirt_call("look up", f"the secret for {usage_name} on {session.uri}"):
                return cls(session, session.connection.secretLookupByUsage(number, usage_name))
        except Missing:
            return None

    @classmethod
    def define(
        cls,
        session: Session,
        uuid: str,
        usage_type: Usage,
        usage_name: str,
        *,
        private: bool = True,
        ephemeral: bool = True,
    ) -> Secret:
        """Define the secret, or find our own of an earlier attempt; it has no value yet.

        ``private``: nobody can read the value back. ``ephemeral``: the value and the definition stay in the
        daemon's memory, and are gone when it ends; otherwise the host keeps both in a file of root's.

        Raises:
            Conflict: another secret is for the same thing.
        """
        other = cls.find_by_usage(session, usage_type, usage_name)
        if other is not None and other.uuid != uuid:
            raise Conflict(
                "define",
                _label(session, uuid),
                f"secret {other.uuid} is for {usage_name} already",
                "Use that secret by its UUID, or remove it: virsh secret-undefine UUID.",
            )
        variables = {"uuid": uuid, "usage_type": usage_type, "usage_name": usage_name,
                     "private": private, "ephemeral": ephemeral}  # fmt: skip
        xml = render(TemplateSource(name="secret.xml.j2"), variables, schema="secret", node=usage_name)
        with libvirt_call("define", _label(session, uuid)):
            return cls(session, session.connection.secretDefineXML(xml, 0))

    def set_value(self, value: bytes) -> None:
        """Give the secret its value; errors say nothing of it."""
        with libvirt_call("set the value of", self.target):
            self.handle.setValue(value, 0)

    def undefine(self) -> None:
        """Remove the secret; fine when it is gone."""
        try:
            with libvirt_call("remove", self.target):
                self.handle.undefine()
        except Missing:
            return


def _label(session: Session, uuid: str) -> str:
    return f"secret {uuid} on {session.uri}"


def secret_of(session: Session, facts: VolumeFacts, target: str) -> str:
    """Return the UUID of the secret with the key of a volume; "" when it is not encrypted.

    Raises:
        Missing: it is encrypted, and no secret of the host is for it.
    """
    if not facts.encrypted:
        return ""
    found = facts.secret or getattr(Secret.find_by_usage(session, "volume", facts.path), "uuid", "")
    if not found:
        remedy = "Run start of the volume's node, which gives the key to the host, or name the secret of the disk."
        raise Missing("unlock", target, "it is encrypted, and the host has no secret for it", remedy)
    return str(found)
