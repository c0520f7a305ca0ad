"""What every libvirt object shares: look-up, definition, adoption of our own half-made object."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from cloudify_libvirt.core.errors import Conflict, CoreError, Missing, libvirt_call
from cloudify_libvirt.core.session import Session


class Resource:
    """One object of one hypervisor, with the names of the calls that find and define its kind."""

    noun: ClassVar[str]
    by_name: ClassVar[str]
    by_uuid: ClassVar[str]
    define_call: ClassVar[str]
    # VIR_NETWORK_XML_INACTIVE and VIR_STORAGE_XML_INACTIVE; domains have another.
    inactive_flag: ClassVar[int] = 1

    def __init__(self, session: Session, handle: Any) -> None:
        """Wrap one of libvirt's objects."""
        self.session = session
        self.handle = handle

    @property
    def name(self) -> str:
        """Return the object's name."""
        return str(self.handle.name())

    @property
    def uuid(self) -> str:
        """Return the object's UUID, in lower case."""
        return str(self.handle.UUIDString())

    @property
    def target(self) -> str:
        """Return how messages call the object."""
        return self.label(self.name, self.session)

    @classmethod
    def label(cls, name: str, session: Session) -> str:
        """Return how messages call an object of that name."""
        return f"{cls.noun} '{name}' on {session.uri}"

    @classmethod
    def find(cls, session: Session, name: str) -> Self | None:
        """Return the object with that name, or None."""
        return cls._look_up(session, cls.by_name, name)

    @classmethod
    def find_by_uuid(cls, session: Session, uuid: str) -> Self | None:
        """Return the object with that UUID, or None."""
        return cls._look_up(session, cls.by_uuid, uuid)

    @classmethod
    def _look_up(cls, session: Session, call: str, key: str) -> Self | None:
        try:
            with libvirt_call("look up", cls.label(key, session)):
                return cls(session, getattr(session.connection, call)(key))
        except Missing:
            return None

    @classmethod
    def get(cls, session: Session, name: str, remedy: str = "") -> Self:
        """Return the object with that name; raise ``Missing`` when there is none."""
        found = cls.find(session, name)
        if found is None:
            raise Missing("find", cls.label(name, session), "it does not exist", remedy)
        return found

    @classmethod
    def check_free(cls, session: Session, name: str, uuid: str) -> None:
        """Raise ``Conflict`` when the name belongs to another object than the one with that UUID."""
        found = cls.find(session, name)
        if found is not None and found.uuid != uuid:
            raise Conflict(
                "define",
                cls.label(name, session),
                f"another {cls.noun} (UUID {found.uuid}) has this name",
                "Choose another params.name, or set use_external_resource to use the existing one.",
            )

    @classmethod
    def define(cls, session: Session, xml: str, name: str, uuid: str) -> Self:
        """Define the object, or bring our own half-made one to this definition; nothing is started."""
        try:
            with libvirt_call("define", cls.label(name, session)):
                return cls(session, cls._define(session, xml))
        except CoreError:
            # libvirt refuses a name that another has, but has no code for that.
            cls.check_free(session, name, uuid)
            raise

    @classmethod
    def _define(cls, session: Session, xml: str) -> Any:
        return getattr(session.connection, cls.define_call)(xml, 0)

    @property
    def active(self) -> bool:
        """Tell whether the object runs."""
        with libvirt_call("read the state of", self.target):
            return bool(self.handle.isActive())

    @property
    def persistent(self) -> bool:
        """Tell whether the object is defined; if not, it goes when it is stopped."""
        with libvirt_call("read", self.target):
            return bool(self.handle.isPersistent())

    @property
    def autostarts(self) -> bool:
        """Tell whether the object starts with the host."""
        with libvirt_call("read", self.target):
            return bool(self.handle.autostart())

    def autostart(self, wanted: bool) -> None:
        """Start the object with the host, or not."""
        if self.autostarts != wanted:
            with libvirt_call("set autostart of", self.target):
                self.handle.setAutostart(int(wanted))

    def definition(self) -> str:
        """Return the stored definition, which the next start follows."""
        return self.xml(self.inactive_flag)

    def xml(self, flags: int = 0) -> str:
        """Return libvirt's description of the object."""
        with libvirt_call("read", self.target):
            return str(self.handle.XMLDesc(flags))
