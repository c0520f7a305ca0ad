"""What updates of networks, pools and volumes share: what they may do, what is left, and who is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cloudify_libvirt.binding import look_up
from cloudify_libvirt.core.drift.compare import Difference, Subject
from cloudify_libvirt.core.errors import CoreError, quiet
from cloudify_libvirt.core.units import parse_bool
from cloudify_libvirt.core.update.rows import How
from cloudify_libvirt.core.update.table import how
from cloudify_libvirt.core.update.withdrawn import brought
from cloudify_libvirt.request import Request

RESTART = "it counts from the next start; allow_restart: true starts it anew now"
_REPLACE = "that takes another {kind} in its place; allow_replace: true does that"
_AT_START = {How.RESTART, How.NEXT_BOOT}
REMEDY = "What it holds is lost then. Or declare again what it was."


@dataclass(frozen=True)
class Leave:
    """What an update may do beside changes of what runs: inputs of the operation."""

    restart: bool
    replace: bool

    @classmethod
    def of(cls, request: Request) -> Leave:
        """Read the inputs; both are off where nothing is said."""
        given = (parse_bool(request.inputs.get(name) or False, name) for name in ("allow_restart", "allow_replace"))
        return cls(*given)


def again(noun: Any, request: Request) -> Any:
    """Return the object once more; where somebody removed it meanwhile, the next attempt makes it again."""
    found = look_up(noun, request)
    if found is None:
        reason = f"its {noun.noun} went meanwhile"
        raise CoreError("update", request.label, reason, "Run it again.", retryable=True)
    return found


def takes(kind: str, differences: Iterable[Difference], wanted: How) -> list[Difference]:
    """Return the differences that it takes that to carry out, of an object that runs."""
    return [one for one in differences if how(kind, one.field, active=True).how is wanted]


def redefine(found: Any, request: Request, subject: Subject, wanted: str, last: str) -> None:
    """Give an object another definition in place; what nobody of ours declared stays in it.

    Raises:
        CoreError: libvirt refuses it; the old definition stands, and what runs goes on.
    """
    # The test driver has one definition only.
    before = found.xml() if found.session.driver == "test" else found.definition()
    after = brought(subject, wanted, last, before)
    try:
        type(found).define(found.session, after, found.name, found.uuid)
    except CoreError as error:
        if error.retryable:
            raise
        # libvirt forgets a pool whose new definition it cannot write.
        lost = quiet(lambda: look_up(type(found), request), found) is None
        then = "libvirt has lost it over that: run heal." if lost else "It stands as it was."
        remedy = f"{error.remedy} {then}".strip()
        raise type(error)("change the definition of", found.target, error.reason, remedy) from error.__cause__
    request.record.note(f"{found.target} has the definition of today")


def report(
    request: Request, kind: str, left: Iterable[Difference], why: Mapping[str, str], *, active: bool = True,
    remedy: str = REMEDY,
) -> None:  # fmt: skip
    """Record and say what is left; ``why`` by field, "" for all others.

    Raises:
        CoreError: something takes a replacement.
    """
    waiting, refused = {}, {}
    for one in left:
        takes_ = how(kind, one.field, active=active).how
        text = why.get(one.field) or why.get("") or {How.REPLACE: _REPLACE.format(kind=kind)}.get(takes_, RESTART)
        said = How.RESTART if takes_ is How.LIVE else takes_
        waiting[one.field] = {"wanted": one.declared, "now": one.found, "how": str(said), "why": text,
                              "at_start": takes_ in _AT_START}  # fmt: skip
        if takes_ is How.REPLACE:
            refused[f"{one.field} ({one.found} to {one.declared})"] = text
        request.record.warn(f"{one}; {text}")
    if waiting or request.record.get("update_pending"):
        request.record.put(update_pending=waiting)
    if refused:
        reasons = "; ".join(dict.fromkeys(refused.values()))
        raise CoreError("change", f"{', '.join(sorted(refused))} of {request.label}", reasons, remedy)
