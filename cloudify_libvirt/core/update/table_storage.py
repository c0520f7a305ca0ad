"""How a change of each field of a pool, a volume or an ISO image is carried out. Pure.

Sources: https://libvirt.org/formatstorage.html and libvirt-storage. A pool that is active keeps its definition until
it stops; a stop takes nothing from guests that run with files of a directory. Of a volume libvirt changes the size
and the content, and nothing else.
"""

from __future__ import annotations

from cloudify_libvirt.core.update.rows import How, Row

_CALLS = "https://libvirt.org/html/libvirt-libvirt-storage.html#"
_FORMAT = "https://libvirt.org/formatstorage.html#"
_POOL = f"{_FORMAT}storage-pool-xml"
_VOLUME = f"{_FORMAT}storage-volume-xml"
_DEFINE = f"{_CALLS}virStoragePoolDefineXML"


def _replace(kind: str, field: str, source: str, note: str) -> Row:
    return Row(kind, field, How.REPLACE, How.REPLACE, source, note)


def _restart(field: str, source: str, note: str = "") -> Row:
    return Row("pool", field, How.RESTART, source=source, note=note)


_OTHER_DATA = "other data: the pool is made anew, if it holds nothing"

# The first row that answers counts.
POOL: tuple[Row, ...] = (
    Row("pool", "autostart", How.LIVE, source=f"{_CALLS}virStoragePoolSetAutostart"),
    Row("pool", "state", How.LIVE, source=f"{_CALLS}virStoragePoolCreate"),
    Row("pool", "existence", How.LIVE, source=_DEFINE, note="defined again, as heal does"),
    _restart("mode", f"{_CALLS}virStoragePoolBuild", "of the directory; the pool is off for a moment, guests go on"),
    _restart("owner", f"{_CALLS}virStoragePoolBuild", "as mode"),
    _restart("group", f"{_CALLS}virStoragePoolBuild", "as mode"),
    _restart("source.hosts[*]*", _POOL, "the same data by another way"),
    _restart("source.protocol*", _POOL, "mounted anew"),
    _restart("source.mount_options*", _POOL, "mounted anew"),
    _restart("source.options*", _POOL, "of the client, from the pool's next start"),
    _restart("source.initiator*", _POOL, "logged in anew"),
    _restart("source.auth*", _POOL, "logged in anew"),
    _replace("pool", "path", _DEFINE, "its volumes stay where they are; only a pool that holds none is made anew"),
    _replace("pool", "type", _DEFINE, _OTHER_DATA),
    _replace("pool", "source*", _POOL, _OTHER_DATA),
    _replace("pool", "name", _DEFINE, "libvirt keeps name and UUID"),
    _restart("*", _POOL, "the definition has it at once"),
)

VOLUME: tuple[Row, ...] = (
    Row("volume", "size", How.LIVE, source=f"{_CALLS}virStorageVolResize",
        note="grows, under a running guest by virDomainBlockResize; a smaller size is refused"),
    _replace("volume", "existence", f"{_CALLS}virStorageVolCreateXML", "what was in it is lost; never made up"),
    _replace("volume", "mode", _VOLUME, "libvirt has no call for it: chmod on the host"),
    _replace("volume", "format*", _VOLUME, "the content goes"),
    _replace("volume", "backing*", _VOLUME, "the content goes"),
    _replace("volume", "encryption*", _VOLUME, "the content goes"),
    _replace("volume", "pool", _VOLUME, "made in the other pool; the content goes"),
    _replace("volume", "name", _VOLUME, "libvirt cannot rename one; the content goes"),
    _replace("volume", "*", _VOLUME, "changed on the host alone: refused, with allow_replace, too"),
)  # fmt: skip

ISO: tuple[Row, ...] = (
    Row("iso9660", "files", How.LIVE, source=f"{_CALLS}virStorageVolUpload",
        note="written anew into the same volume; a drive that holds it is opened before, and closed after"),
    _replace("iso9660", "volume", f"{_CALLS}virStorageVolCreateXML", "another node's to make"),
)  # fmt: skip

ROWS: tuple[Row, ...] = (*POOL, *VOLUME, *ISO)
