"""The import resolver that ``cfy-libvirt local-setup`` registers for local mode."""

from __future__ import annotations

from typing import Any

from dsl_parser.exceptions import DSLParsingLogicException
from dsl_parser.import_resolver.default_import_resolver import DefaultImportResolver

from cloudify_libvirt import shipped

_CATALOGUE = ("plugin:", "blueprint:")
_IMPORT_FAILED = 13  # dsl_parser's number for an import that cannot be read


class LocalResolver(DefaultImportResolver):  # type: ignore[misc]
    """Answer the base types and this plugin from the installed files; leave the rest to the rules.

    A rule of the user's own comes first, so that any import can still be pointed elsewhere.
    """

    def fetch_import(self, import_url: str, dsl_version: str | None = None, **_: Any) -> Any:
        """Return the text of one import; ``dsl_version`` is the blueprint's, such as ``1_4``."""
        if not any(import_url.startswith(prefix) for rule in self.rules for prefix in rule):
            path = shipped.answer(import_url, dsl_version)
            if path is not None:
                return path.read_text(encoding="utf-8")
            self._refuse_catalogue(import_url)
        return super().fetch_import(import_url)

    @staticmethod
    def _refuse_catalogue(import_url: str) -> None:
        """Say what to do about an import that only a Manager's catalogue can answer."""
        if import_url.startswith(_CATALOGUE):
            raise DSLParsingLogicException(
                _IMPORT_FAILED,
                f"Import failed: {import_url} comes from a Manager's catalogue, which local mode does not have. "
                f"Point it to a file with a rule in ~/.cloudify/config.yaml, under import_resolver, parameters, "
                f"rules: - {{'{import_url}': 'file:///path/to/file.yaml'}}",
            )
