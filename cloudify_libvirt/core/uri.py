"""URIs of hypervisors from blueprints of strangers: what they may say, how they are shown, how they are opened.

Sources: https://libvirt.org/uri.html, https://libvirt.org/remote.html (transports and extra parameters),
libvirt's src/rpc/virnetsocket.c, virNetSocketNewConnectSSH (no_tty is ssh's BatchMode).
"""

from __future__ import annotations

import os
from functools import lru_cache
from urllib.parse import SplitResult, parse_qsl, urlsplit

from cloudify_libvirt.core.errors import ConnectFailed, InvalidSpec
from cloudify_libvirt.core.image.urls import without_login

# The operator's word for all blueprints of a machine: names of options, with commas between them.
ALLOWED_VARIABLE = "CLOUDIFY_LIBVIRT_URI_OPTIONS"

# OpenSSH's words, which libvirt passes on; and libvirt's where they are too many, as for a key that has changed
# (src/rpc/virnetsocket.c, virNetSocketReadWire: 1024 bytes).
HOST_KEY_REFUSED = ("Host key verification failed", "Value too large for defined data type")
KNOWN_HOSTS_REMEDY = (
    "Put the host's key into ~/.ssh/known_hosts of the user that runs this: ssh-keyscan HOST, then compare it."
)
# Options of libvirt that turn a check off, or name what this machine runs or trusts; with what to do instead.
_REFUSED = {
    "no_verify": ("it turns the check of host key or certificate off", KNOWN_HOSTS_REMEDY),
    "no_sanity": ("it turns the check of the certificates' files off", "Correct the certificates."),
    "command": ("it names a program that this machine runs", "Put the ssh or its wrapper into PATH."),
    "pkipath": (
        "it names the authority that certificates are checked with",
        "Put CA and client certificate where libvirt looks for them: /etc/pki or ~/.pki/libvirt.",
    ),
    "known_hosts": ("it names the file that host keys are checked with", KNOWN_HOSTS_REMEDY),
    "authfile": ("it names a file with passwords", "Put it where libvirt looks for it: ~/.config/libvirt/auth.conf."),
}
_OFF = ("", "0")


def shown(uri: str) -> str:
    """Return the URI as messages show it: without a login."""
    try:
        return without_login(uri)
    except ValueError:
        return "with a wrong URI"


def check_uri(uri: object) -> str:
    """Return the URI, if a blueprint may say that.

    Raises:
        InvalidSpec: it is no text, has a password, or an option that only the operator of this machine may allow.
        ConnectFailed: it is no URI.
    """
    if not isinstance(uri, str) or not uri.strip():
        raise InvalidSpec(
            "connect to", "the hypervisor", f"libvirt_auth is {_kind(uri)}, not a libvirt URI",
            "Give one such as qemu:///system, lxc:///system or qemu+ssh://user@host/system.",
        )  # fmt: skip
    return _checked(uri, os.environ.get(ALLOWED_VARIABLE, ""))


@lru_cache(maxsize=64)
def _checked(uri: str, _allowed_options: str) -> str:
    parts = _split(uri)
    if parts.password is not None:
        raise _refusal(
            uri, "a URI of libvirt has no password, and this one would be stored",
            "Leave it out; put it into libvirt's own file: ~/.config/libvirt/auth.conf.",
        )  # fmt: skip
    if "ext" in parts.scheme.split("+")[1:] and "command" not in _allowed():
        raise _refusal(uri, "the transport ext runs a program of this machine", "Use ssh or tls.")
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        _check_option(uri, name, value)
    return uri


def _split(uri: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        parts.port  # noqa: B018 - raises for what is no port
    except ValueError:
        raise ConnectFailed(
            "connect to", "the hypervisor", "libvirt_auth is not a URI",
            "Give one such as qemu:///system, lxc:///system or qemu+ssh://user@host/system.",
        ) from None  # fmt: skip
    return parts


def _kind(value: object) -> str:
    return repr(value) if isinstance(value, str) else f"a {type(value).__name__}"


def _check_option(uri: str, name: str, value: str) -> None:
    if name in _allowed():
        return
    if name == "known_hosts_verify" and value != "normal":
        raise _refusal(uri, f"{name}={value} accepts a host key that nobody has compared", KNOWN_HOSTS_REMEDY)
    if name in _REFUSED and (value not in _OFF or name not in ("no_verify", "no_sanity")):
        why, remedy = _REFUSED[name]
        raise _refusal(uri, f"option {name}: {why}", remedy)


def _allowed() -> frozenset[str]:
    return frozenset(os.environ.get(ALLOWED_VARIABLE, "").replace(" ", "").split(","))


def _refusal(uri: str, reason: str, remedy: str) -> InvalidSpec:
    remedy = f"{remedy} The operator of this machine can allow options by name in {ALLOWED_VARIABLE}."
    return InvalidSpec("connect to", f"hypervisor {shown(uri)}", reason, remedy)


def opened_as(uri: str) -> str:
    """Return the URI as libvirt gets it: ssh asks nobody, and so refuses a host whose key it does not know."""
    parts = urlsplit(uri)
    names = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if "ssh" not in parts.scheme.split("+")[1:] or "no_tty" in names:
        return uri
    return parts._replace(query="&".join(filter(None, (parts.query, "no_tty=1")))).geturl()
