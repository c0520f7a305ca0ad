"""What every spec shares: frozen models, field types that accept strings, names, addresses."""

from __future__ import annotations

import difflib
import ipaddress
import re
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from cloudify_libvirt.core import units


class Rules(TypedDict):
    """How strictly one mapping is read: the validation context of every model."""

    extra: bool
    complete: bool


# Names of other tools, and of releases before 0.7.0, that are too far from ours to be found by likeness.
_OTHER_NAMES = {
    "resource_id": "name", "ram": "memory", "mem": "memory", "cpu": "vcpu", "cpus": "vcpu", "nics": "networks",
    "interfaces": "networks", "subnet": "cidr", "bridge_name": "dev", "model": "type", "source": "file",
    "address": "ip", "adress": "ip",
}  # fmt: skip

# Characters that XML 1.0 has no way to write. Source: https://www.w3.org/TR/xml/#charsets
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_MAC = re.compile(r"[0-9a-f]{12}", re.ASCII)


def strict(info: ValidationInfo) -> bool:
    """Return True if required values must be there: a packaged template is to be filled with them."""
    rules: Rules | None = info.context
    return rules is None or (rules["complete"] and not rules["extra"])


class Part(BaseModel):
    """A frozen mapping of a blueprint; "" and null count as not set."""

    # Built at first use: most runs need few of the models, and building all takes a tenth of a second.
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, defer_build=True)

    extra: dict[str, Any] = Field(default_factory=dict, repr=False, exclude=True, json_schema_extra={"hidden": True})

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, Mapping):
            return data
        known: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        fields = cls.model_fields
        for key, value in data.items():
            if key not in fields or key == "extra":
                extra[str(key)] = value
            elif value is not None and value != "":
                known[key] = value
        if not extra:
            return known
        rules: Rules | None = info.context
        # Where a required key is absent too, the unknown one is most likely that key misspelt.
        lacks = any(field.is_required() and name not in known for name, field in fields.items())
        if lacks or not (rules and rules["extra"]):
            raise _unknown_key(next(iter(extra)), cls)
        return {**known, "extra": extra}


def _unknown_key(key: str, model: type[BaseModel]) -> PydanticCustomError:
    names = [name for name in model.model_fields if name not in ("extra", "addrs")]
    other = _OTHER_NAMES.get(key, "")
    near = [other] if other in names else difflib.get_close_matches(key, names, n=1)
    remedy = f"Did you mean {near[0]!r}?" if near else f"The keys are {', '.join(names)}."
    return PydanticCustomError("unknown_key", "there is no such key", {"key": key, "remedy": remedy})


def text(value: object) -> str:
    """Return ``value`` as text that XML can hold."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("must be text")
    if _NOT_XML.search(found := str(value)):
        raise ValueError("must not contain control characters")
    return found


def line(value: object) -> str:
    """Return ``value`` as text without a line break."""
    found = text(value)
    if "\n" in found or "\r" in found:
        raise ValueError("must be one line")
    return found


def object_name(value: object) -> str:
    """Return a name that libvirt accepts: no slash, no line break, not blank."""
    found = line(value)
    if "/" in found or not found.strip() or found in (".", ".."):
        raise ValueError("a name must not be blank, '.' or '..', and must not contain '/'")
    return found


def interface_name(value: object) -> str:
    """Return the name of a host interface. Source: linux/if.h, IFNAMSIZ is 16 with the final NUL."""
    if not re.fullmatch(r"[A-Za-z0-9_.\-]{1,15}", line(value)) or value in (".", ".."):
        raise ValueError("the name of a host interface has 1 to 15 letters, digits, '_', '-' or '.'")
    return line(value)


def unicast_mac(value: object) -> str:
    """Return a MAC address in lower case with colons."""
    digits = re.sub(r"[:.\-]", "", line(value)).lower()
    if not _MAC.fullmatch(digits) or digits == "0" * 12:
        raise ValueError("a MAC address has six bytes, as in 52:54:00:12:34:56")
    if int(digits[:2], 16) & 1:
        raise ValueError("a MAC address of an interface must be unicast: an even first byte, as in 52:54:00:12:34:56")
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def ipv4(value: object) -> str:
    """Return an IPv4 address."""
    try:
        return str(ipaddress.IPv4Address(line(value)))
    except ValueError:
        raise ValueError("must be an IPv4 address, as in 10.20.0.5") from None


def ip(value: object) -> str:
    """Return an IPv4 or IPv6 address."""
    try:
        return str(ipaddress.ip_address(line(value)))
    except ValueError:
        raise ValueError("must be an IP address, as in 10.20.0.5 or fd00::5") from None


def uuid_text(value: object) -> str:
    """Return a UUID in libvirt's form: lower case with dashes."""
    try:
        return str(uuid.UUID(line(value)))
    except ValueError:
        raise ValueError("must be a UUID, as in 4dea22b3-1d52-d8f3-2516-782e98ab3fa0") from None


def absolute_path(value: object) -> str:
    """Return a path of the hypervisor's host."""
    if not line(value).startswith("/"):
        raise ValueError("must be an absolute path on the hypervisor's host")
    return line(value)


Text = Annotated[str, BeforeValidator(text)]
Line = Annotated[str, BeforeValidator(line)]
Name = Annotated[str, BeforeValidator(object_name)]
InterfaceName = Annotated[str, BeforeValidator(interface_name)]
Mac = Annotated[str, BeforeValidator(unicast_mac)]
Ipv4 = Annotated[str, BeforeValidator(ipv4)]
Ip = Annotated[str, BeforeValidator(ip)]
Uuid = Annotated[str, BeforeValidator(uuid_text)]
AbsolutePath = Annotated[str, BeforeValidator(absolute_path)]
Flag = Annotated[bool, BeforeValidator(units.read_bool)]
Count = Annotated[int, BeforeValidator(units.read_int), Field(ge=0)]
Positive = Annotated[int, BeforeValidator(units.read_int), Field(ge=1)]
Size = Annotated[int, BeforeValidator(units.read_size), Field(ge=1)]
INPUT_ONLY: dict[str, Any] = {"input_only": True}


def dsl(dsl_type: str | None = None, default: Any = None) -> dict[str, Any]:
    """Return the metadata of a field that the plugin's data types declare; no default means: may be absent.

    A declared integer or boolean makes the engine refuse the texts "300" and "true", which we read; only what
    the contract types has one.
    """
    found = {} if dsl_type is None else {"dsl_type": dsl_type}
    return found if default is None else {**found, "dsl_default": default}


class Spec(Part):
    """What a user may ask for, of one kind of object."""

    name: Name = Field(default="", description="Name of the object; empty means the instance id.",
                       json_schema_extra=dsl(default=""))  # fmt: skip
    instance_uuid: Uuid | None = Field(
        default=None, description="UUID of the object; generated when absent.", json_schema_extra=INPUT_ONLY
    )

    @model_validator(mode="after")
    def _named(self, info: ValidationInfo) -> Spec:
        if strict(info) and not self.name:
            raise missing("name", "the object needs a name")
        return self


def missing(key: str, reason: str) -> PydanticCustomError:
    """Return the error for a key that is not set; ``reason`` says what is right."""
    return PydanticCustomError("missing_key", "{reason}", {"key": key, "reason": reason})


def dsl_properties(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Return the properties of the DSL data type of ``model``, in the order of declaration.

    Each value has ``description`` and, where they are set, ``type`` and ``default``; without a default it has
    ``required: False``, because the engine otherwise insists on a value. Input-only fields are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, field in model.model_fields.items():
        meta = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if meta.get("input_only") or meta.get("hidden"):
            continue
        entry: dict[str, Any] = {"type": meta["dsl_type"]} if "dsl_type" in meta else {}
        entry |= {"default": meta["dsl_default"]} if "dsl_default" in meta else {"required": False}
        found[name] = {**entry, "description": field.description or ""}
    return found
