"""What local mode does when a blueprint asks for an agent on its host."""

from __future__ import annotations

from typing import Any

from cloudify.decorators import operation
from cloudify.exceptions import NonRecoverableError


@operation(resumable=True)  # type: ignore[untyped-decorator]
def create(**_: Any) -> None:
    """Refuse: nothing in local mode can put an agent onto a host."""
    raise NonRecoverableError(
        "cannot create an agent: local mode has none. Set agent_config: {install_method: none} on this node, "
        "or run the blueprint on a Manager."
    )
