"""One instance's runtime properties: what operations write there, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

# What operations write; removed by delete, so that the instance can be installed again.
OWN_KEYS = frozenset(
    {
        "libvirt_auth", "params", "params_from_properties", "use_external_resource", "uuid", "index", "ip",
        "networks", "public_ip_address", "ipv4_addresses", "ipv6_addresses", "accelerator", "console_log",
        "serial_logs", "domain_type", "made", "started_at", "shutdown_asked_at", "stale_leases", "bridge", "cidr",
        "cidr6", "rendered_by", "attached", "suspended", "stopped", "by_input",
        "built", "formatted", "secret", "wiped", "reservations", "ssh_command", "path", "filled", "pool",
        "image_user", "arch", "stat", "update_pending", "update_refused", "restarting",
        "detach_pending", "backups", "snapshots", "snapshot_files",
        "snapshot_job", "last_backup", "restore_stopped", "origin", "adopted", "declared", "ejected", "made_as",
    }
)  # fmt: skip


class Record:
    """The instance's runtime properties as a journal: top-level assignment, saved at once."""

    def __init__(self, ctx: Any, *, writable: bool = True) -> None:
        """Stand on one context; its instance is the only one that is ever written."""
        self._ctx = ctx
        self._writable = writable
        # Called before a key is changed, and before it is stored.
        self.before_change: Callable[[str], None] = lambda _key: None
        self.before_store: Callable[[], None] = lambda: None

    @cached_property
    def _instance(self) -> Any:
        return self._ctx.instance

    def get(self, key: str, default: Any = None) -> Any:
        """Return a runtime property."""
        return self._instance.runtime_properties.get(key, default)

    def all(self) -> Mapping[str, Any]:
        """Return all runtime properties, to be looked at."""
        found: Mapping[str, Any] = self._instance.runtime_properties
        return found

    def put(self, **values: Any) -> None:
        """Assign runtime properties and store them now, unless they are stored already."""
        self.assign(**values)
        if getattr(self._instance.runtime_properties, "dirty", True):
            self.before_store()
            self._instance.update()

    def assign(self, **values: Any) -> None:
        """Assign runtime properties; the engine stores them when the operation ends."""
        if not self._writable:
            return
        properties = self._instance.runtime_properties
        for key, value in values.items():
            if key not in properties or properties[key] != value:
                self.before_change(key)
                properties[key] = value

    def forget(self, *keys: str) -> None:
        """Remove runtime properties, those that are there; the engine stores that when the operation ends."""
        if not self._writable:
            return
        properties = self._instance.runtime_properties
        for key in properties.keys() & set(keys):
            self.before_change(key)
            del properties[key]

    def take_back(self, values: Mapping[str, Any]) -> None:
        """Have values again that were there before, None for nothing; tell nobody."""
        properties = self._instance.runtime_properties
        for key, value in values.items():
            if value is None:
                properties.pop(key, None)
            else:
                properties[key] = value

    def clear(self) -> None:
        """Forget what we wrote; ``resource_id`` stays as None and ``backups`` empty, as existing blueprints expect."""
        properties = self._instance.runtime_properties
        had_backups = "backups" in properties
        self.forget(*OWN_KEYS)
        if had_backups:
            properties["backups"] = {}
        if "resource_id" in properties:
            properties["resource_id"] = None

    def note(self, text: str) -> None:
        """Log a step."""
        self._ctx.logger.info(text)

    def warn(self, text: str) -> None:
        """Log a warning."""
        self._ctx.logger.warning(text)
