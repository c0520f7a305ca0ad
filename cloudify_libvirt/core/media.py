"""ISO 9660 media from files in memory, and the files that cloud-init reads from such a medium.

Equal input gives equal bytes, whatever the clock, the time zone and the order of the files: a medium
can be compared with the one that a host already has.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import jinja2
import pycdlib
import yaml

from cloudify_libvirt.core.document import sandbox
from cloudify_libvirt.core.errors import InvalidSpec

_SECTOR = 2048
# Drives read ahead over the end, and busybox finds no label on a medium of less than 68 KiB (its
# superblock buffer); other ISO writers add 150 sectors for such readers, too.
_PADDING_BYTES = 150 * _SECTOR
_FILE_MODE, _DIRECTORY_MODE = 0o100444, 0o040555
# Joliet allows 64 UCS-2 characters a name and 16 a volume identifier; pycdlib counts UTF-8 bytes.
_NAME_BYTES, _IDENT_LENGTH = 64, 16
_DEPTH = 8  # ECMA-119 6.8.2.1, the root included
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f*:;?\\\ud800-\udfff]")  # Joliet specification, "Allowed character set"

# The instant that every date of a medium shows: 1 January 2000, UTC, in the two formats of ECMA-119.
_RECORD_DATE = bytes([100, 1, 1, 0, 0, 0, 0])  # 9.1.5
_LONG_DATE = b"2000010100000000\x00"  # 8.4.26.1
_NO_DATE = b"0" * 16 + b"\x00"


def build_iso(files: Mapping[str, bytes], *, vol_ident: str = "cidata", sys_ident: str = "") -> bytes:
    """Write ``{path: content}`` to an ISO 9660 image with Joliet (level 3) and Rock Ridge names.

    ``a/b/c`` makes the directories. Files are readable by everybody and owned by root.

    Raises:
        InvalidSpec: a path, or an identifier, that such a medium cannot carry.
    """
    _check_ident("vol_ident", vol_ident)
    _check_ident("sys_ident", sys_ident)
    tree = _tree(files)
    iso = pycdlib.PyCdlib()
    iso.new(
        interchange_level=3,
        joliet=3,
        rock_ridge="1.09",
        vol_ident=vol_ident,
        sys_ident=sys_ident,
        app_ident_str="CLOUDIFY-LIBVIRT",
    )
    _add(iso, tree, "", "")
    image = io.BytesIO()
    iso.write_fp(image)
    iso.close()
    return _freeze_dates(bytearray(image.getvalue())) + bytes(_PADDING_BYTES)


def _check_ident(field: str, value: str) -> None:
    if len(value) > _IDENT_LENGTH or not value.isascii() or not value.isprintable():
        raise InvalidSpec(
            "build an ISO image with", f"{field} {value!r}", f"it is not printable ASCII of at most {_IDENT_LENGTH}"
        )


def _refuse(path: str, reason: str) -> InvalidSpec:
    return InvalidSpec("put into an ISO image", f"the file {path!r}", reason, "Use relative paths such as a/b/c.")


def _parts(path: str) -> list[str]:
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise _refuse(path, "the path is empty or absolute, or has an empty, '.' or '..' part")
    if len(parts) > _DEPTH:
        raise _refuse(path, f"it lies deeper than {_DEPTH} levels")
    for part in parts:
        if _FORBIDDEN.search(part):
            raise _refuse(path, "Joliet allows no control characters and none of * : ; ? \\ in a name")
        if len(part.encode()) > _NAME_BYTES:
            raise _refuse(path, f"a name in it is longer than {_NAME_BYTES} bytes")
    return parts


def _tree(files: Mapping[str, bytes]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path in sorted(files):
        *directories, name = _parts(path)
        place = root
        for directory in directories:
            place = place.setdefault(directory, {})
            if not isinstance(place, dict):
                raise _refuse(path, f"{directory!r} is a file and a directory at once")
        if name in place:
            raise _refuse(path, f"{name!r} is a file and a directory at once")
        place[name] = files[path]
    return root


def _add(iso: pycdlib.PyCdlib, tree: dict[str, Any], iso_parent: str, joliet_parent: str) -> None:
    taken: set[str] = set()
    for name, content in sorted(tree.items()):
        joliet_path = f"{joliet_parent}/{name}"
        is_directory = isinstance(content, dict)
        iso_path = f"{iso_parent}/{_plain_name(name, taken, is_directory)}"
        if is_directory:
            iso.add_directory(iso_path, rr_name=name, joliet_path=joliet_path, file_mode=_DIRECTORY_MODE)
            _add(iso, content, iso_path, joliet_path)
        else:
            source = io.BytesIO(content)
            iso.add_fp(source, len(content), iso_path, rr_name=name, joliet_path=joliet_path, file_mode=_FILE_MODE)


def _plain_name(name: str, taken: set[str], is_directory: bool) -> str:
    """Return a name of capital letters, digits and ``_`` for readers that know only ISO 9660."""
    stem, dot, extension = name.upper().rpartition(".")
    if is_directory or not dot:
        stem, extension = name.upper(), ""
    stem = re.sub("[^A-Z0-9_]", "_", stem)[:20] or "_"
    extension = re.sub("[^A-Z0-9_]", "_", extension)[:3]
    candidate, number = stem, 0
    while f"{candidate}.{extension}" in taken:
        number += 1
        candidate = f"{stem}_{number}"
    taken.add(f"{candidate}.{extension}")
    return candidate if is_directory else f"{candidate}.{extension};1"


# pycdlib takes the clock and the local time zone, for volumes always. Patching its clock would reach
# other threads, so the dates of the finished image are overwritten where the standards put them.


def _freeze_dates(image: bytearray) -> bytes:
    for start in _volume_descriptors(image):
        # ECMA-119 8.4.26-8.4.29: creation, modification, expiration, effective.
        image[start + 813 : start + 881] = _LONG_DATE + _LONG_DATE + _NO_DATE + _LONG_DATE
        _freeze_record(image, start + 156)
        _freeze_directory(image, start + 156, set())
    return bytes(image)


def _volume_descriptors(image: bytearray) -> Iterator[int]:
    start = 16 * _SECTOR
    while image[start] != 255:  # ECMA-119 8.3.1: the set terminator
        if image[start] in (1, 2):  # primary; supplementary, which is Joliet's
            yield start
        start += _SECTOR


def _freeze_directory(image: bytearray, record: int, seen: set[int]) -> None:
    extent, length = _u32(image, record + 2), _u32(image, record + 10)
    if extent in seen:
        return
    seen.add(extent)
    at, end = extent * _SECTOR, extent * _SECTOR + length
    while at < end:
        if image[at] == 0:  # records do not cross a sector: the rest of this one is padding
            at = (at // _SECTOR + 1) * _SECTOR
            continue
        _freeze_record(image, at)
        if image[at + 25] & 2:
            _freeze_directory(image, at, seen)
        at += image[at]


def _freeze_record(image: bytearray, at: int) -> None:
    image[at + 18 : at + 25] = _RECORD_DATE
    name_length = image[at + 32]
    _freeze_rock_ridge(image, at + 33 + name_length + (name_length + 1) % 2, at + image[at])


def _freeze_rock_ridge(image: bytearray, at: int, end: int) -> None:
    """Overwrite the time stamps (TF) of one system use area (SUSP 4) and its continuations (CE)."""
    while at + 4 <= end and image[at + 2] >= 4:
        kind, length = bytes(image[at : at + 2]), image[at + 2]
        if kind == b"TF":
            image[at + 5 : at + length] = _RECORD_DATE * ((length - 5) // len(_RECORD_DATE))
        elif kind == b"CE":
            start = _u32(image, at + 4) * _SECTOR + _u32(image, at + 12)
            _freeze_rock_ridge(image, start, start + _u32(image, at + 20))
        at += length


def _u32(image: bytearray, at: int) -> int:
    number: int = struct.unpack_from("<I", image, at)[0]
    return number


# --- cloud-init --------------------------------------------------------------------------------------

_FIELDS = ("hostname", "user_data", "meta_data", "network_config", "ssh_authorized_keys")
_HOSTNAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")
# Source: https://cloudinit.readthedocs.io/en/latest/explanation/format.html (and MIME's own headers).
_HEADERS = ("#", "Content-Type:", "MIME-Version:", "From ")


def nocloud_files(cloud_init: Mapping[str, Any], *, hostname: str, instance_id: str) -> dict[str, bytes]:
    """Compose the files of a NoCloud medium: ``meta-data``, ``user-data``, maybe ``network-config``.

    Args:
        cloud_init: ``{hostname?, user_data?, meta_data?, network_config?, ssh_authorized_keys?}``;
            the three in the middle are mappings or text. What the user wrote there wins.
        hostname: the name where ``cloud_init`` has none.
        instance_id: a new one makes cloud-init run its per-instance modules again.

    Raises:
        InvalidSpec: names the field, and never its value.
    """
    unknown = sorted(set(cloud_init) - set(_FIELDS))
    if unknown:
        raise InvalidSpec("use", f"cloud_init.{unknown[0]}", "there is no such key", f"Keys: {', '.join(_FIELDS)}.")
    hostname = str(cloud_init.get("hostname") or hostname)
    if not _HOSTNAME.fullmatch(hostname):
        raise _invalid("hostname", "it is not a host name (letters, digits, '-', '.')")
    keys = _ssh_keys(cloud_init.get("ssh_authorized_keys"))
    user_data, is_verbatim = _user_data(cloud_init.get("user_data"), hostname, keys)
    meta_data: dict[str, Any] = {"instance-id": instance_id, "local-hostname": hostname}
    if is_verbatim and keys:
        meta_data["public-keys"] = keys
    meta_data.update(_mapping(cloud_init.get("meta_data"), "meta_data"))
    files = {"meta-data": _dump(meta_data, "meta_data"), "user-data": user_data}
    network = cloud_init.get("network_config")
    if network:
        parsed = _mapping(network, "network_config")
        encoded = _encoded(network, "network_config") if isinstance(network, str) else None
        files["network-config"] = encoded or _dump(parsed, "network_config")
    return files


def _invalid(field: str, reason: str, remedy: str = "") -> InvalidSpec:
    return InvalidSpec("use", f"cloud_init.{field}", reason, remedy)


def _ssh_keys(keys: Any) -> list[str]:
    if keys is None or keys == "":
        return []
    if not isinstance(keys, list | tuple):
        raise _invalid("ssh_authorized_keys", "it is not a list")
    for index, key in enumerate(keys):
        if not isinstance(key, str) or len(key.split()) < 2 or "\n" in key.strip():
            raise _invalid(
                f"ssh_authorized_keys[{index}]", "it is not a public key on one line", "Example: ssh-ed25519 AAAA... me"
            )
    return [key.strip() for key in keys]


def _user_data(user_data: Any, hostname: str, keys: list[str]) -> tuple[bytes, bool]:
    """Return the text and whether it is the user's own, that nothing could be merged into."""
    if isinstance(user_data, str) and user_data and not _is_cloud_config(user_data):
        if not user_data.startswith(_HEADERS):
            raise _invalid(
                "user_data", "the text has no header", "Start it with #cloud-config, #!/bin/sh or another known header."
            )
        return _encoded(user_data, "user_data"), True
    config = _mapping(user_data, "user_data")
    config.setdefault("hostname", hostname)
    own = config.get("ssh_authorized_keys") or []
    if keys and not isinstance(own, list):
        raise _invalid("user_data.ssh_authorized_keys", "it is not a list")
    if keys:
        config["ssh_authorized_keys"] = list(dict.fromkeys([*own, *keys]))
    return b"#cloud-config\n" + _dump(config, "user_data"), False


def _is_cloud_config(text: str) -> bool:
    # "#cloud-config-archive" and "#cloud-config-jsonp" are other formats.
    return re.match(r"#cloud-config(?![\w-])", text) is not None


def _mapping(value: Any, field: str) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f" at line {mark.line + 1}" if mark else ""
            # Without the cause: its text quotes the value.
            raise _invalid(field, f"it is not valid YAML{where}") from None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _invalid(field, "it is not a mapping")
    plain: dict[str, Any] = _plain(value)
    return plain


def _plain(value: Any) -> Any:
    """Turn the engine's own dict and list classes, which PyYAML refuses, into plain ones."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _dump(value: dict[str, Any], field: str) -> bytes:
    try:
        text = yaml.safe_dump(value, default_flow_style=False, sort_keys=True, allow_unicode=True, width=4096)
    except (yaml.YAMLError, TypeError, ValueError, RecursionError):
        raise _invalid(field, "it has a value that YAML cannot carry") from None
    return _encoded(text, field)


def _encoded(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _invalid(field, "it is not Unicode text") from None


# Without comments: bash's ${#array[@]} would open one, and swallow the rest of the script.
_JINJA = sandbox.BoundedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=True, comment_start_string="\0#", comment_end_string="#\0"
)


def expand(template: Any, variables: Mapping[str, Any], *, field: str = "cloud_init") -> Any:
    """Expand ``{{ ... }}`` in every string of ``template``, at any depth; mapping keys stay as they are.

    Text with ``## template: jinja`` as its first line is cloud-init's to expand, in the guest, and stays.

    Raises:
        InvalidSpec: names the field, below ``field``, and never its value.
    """
    if isinstance(template, Mapping):
        return {key: expand(item, variables, field=f"{field}.{key}") for key, item in template.items()}
    if isinstance(template, list | tuple):
        return [expand(item, variables, field=f"{field}[{index}]") for index, item in enumerate(template)]
    if isinstance(template, str):
        return _expand_text(template, variables, field)
    return template


_EXPRESSION_ERRORS = (
    jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError,
)  # fmt: skip


@lru_cache(maxsize=256)
def _compiled(text: str) -> jinja2.Template:
    return _JINJA.from_string(text)


def _expand_text(text: str, variables: Mapping[str, Any], field: str) -> str:
    if not re.search(r"\{[{%]", text) or re.match(r"##\s*template:\s*jinja", text):
        return text
    try:
        return sandbox.rendered(_compiled(text), variables)
    except jinja2.UndefinedError as error:
        known = ", ".join(sorted(variables))
        raise InvalidSpec("expand", field, str(error.message), f"Variables: {known}.") from None
    except jinja2.TemplateSyntaxError as error:
        remedy = "Put text that is no template between {% raw %} and {% endraw %}."
        raise InvalidSpec("expand", field, f"it is not a valid template at line {error.lineno}", remedy) from None
    except _EXPRESSION_ERRORS as error:
        raise InvalidSpec("expand", field, f"the template fails with {type(error).__name__}") from None
