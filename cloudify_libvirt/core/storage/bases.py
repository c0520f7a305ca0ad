"""Volumes made from images: base images shared per pool, overlays above them, full clones.

A base image is a volume of the pool, named by the image's content. It comes with its first overlay
and goes with the last one, under a lock that holds across processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.document.render import TemplateSource, render
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import Busy, Conflict, CoreError, InUse, InvalidTemplate, Missing
from cloudify_libvirt.core.image.cache import Image
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.spec.variables import Backing, VolumeFacts
from cloudify_libvirt.core.storage import formats, stream
from cloudify_libvirt.core.storage.users import Users
from cloudify_libvirt.core.units import check_growth, whole_kib
from cloudify_libvirt.core.volume import Volume, check_room

BASE_PREFIX, BASE_NAME = formats.BASE_PREFIX, formats.BASE_NAME


@dataclass(frozen=True)
class Wish:
    """A volume to make: ``capacity_bytes`` None means the source's own size, ``format`` "" its own format.

    ``preallocation``: off, metadata, falloc or full. ``secret``: UUID of the secret with the key of a volume that is
    to be encrypted.
    """

    name: str
    capacity_bytes: int | None = None
    format: str = "qcow2"
    allocation_bytes: int = 0
    write_xml: Callable[[VolumeFacts], str] | None = None
    preallocation: str = "off"
    secret: str = ""

    def xml(self, capacity_bytes: int, below: Backing | None = None, format_: str = "") -> str:
        """Return the definition, from the packaged template unless ``write_xml`` brings another."""
        allocation = max(capacity_bytes, self.allocation_bytes) if self.reserves else self.allocation_bytes
        facts = VolumeFacts(capacity_bytes, allocation, format_ or self.format, below, self.secret)
        xml = (self.write_xml or self._packaged)(facts)
        if parse.volume(xml).secret != self.secret:
            reason = "the template leaves out the encryption that is asked for"
            remedy = "Take <encryption> over from the packaged volume.xml.j2; its secret is {{ secret }}."
            raise InvalidTemplate("make", f"volume '{self.name}'", reason, remedy)
        return xml

    @property
    def reserves(self) -> bool:
        """True when space for everything is taken at once."""
        return self.preallocation in ("falloc", "full")

    def thick(self, format_: str) -> bool:
        """Tell whether growth takes the space at once, too; libvirt can do so with raw only."""
        return self.reserves and format_ == "raw" and not self.secret

    def flags(self, format_: str = "") -> int:
        """Return the flags of its creation: libvirt takes raw's preallocation from the allocation alone."""
        reserved = self.preallocation != "off" and (format_ or self.format) == "qcow2"
        return int(libvirt.VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA) if reserved else 0

    def _packaged(self, facts: VolumeFacts) -> str:
        variables = {**asdict(facts), "name": self.name}
        return render(TemplateSource(name="volume.xml.j2"), variables, schema="storagevol", node=self.name)


@dataclass(frozen=True)
class Claim:
    """The right to a volume's name: recorded by an earlier attempt (``mine``), or by ``record`` before it is made."""

    mine: bool
    record: Callable[[], None]


def claimed(pool: Pool, name: str, claim: Claim) -> Volume | None:
    """Return what an earlier attempt of ours made, or None with the claim recorded; call with the pool's lock held.

    Raises:
        Conflict: the volume is somebody else's.
    """
    found = Volume.find(pool, name)
    if claim.mine:
        return found
    if found is not None:
        raise taken(pool, name)
    claim.record()
    return None


def taken(pool: Pool, name: str) -> Conflict:
    """Return the error for a name that somebody else's volume has."""
    return Conflict(
        "create",
        f"volume '{name}' of pool '{pool.name}'",
        "a volume of this name exists",
        "Choose another params.name, set use_external_resource to use it as it is, or delete what an earlier "
        "install left.",
    )


def active_pool(session: Session, name: str) -> Pool:
    """Return the pool, started."""
    remedy = "Name an existing pool in params.pool, or add a node of type cloudify.libvirt.pool."
    pool = Pool.get(session, name, remedy)
    pool.start()
    return pool


def empty(pool: Pool, wish: Wish, claim: Claim) -> Volume:
    """Make a volume without content; what an earlier attempt made is made anew, as it may be half of it."""
    capacity = wish.capacity_bytes or 0
    check_room(pool, max(wish.allocation_bytes, capacity if wish.reserves else 0), wish.name)
    volume = _fresh(pool, wish, claim, capacity)
    if wish.preallocation == "full":
        with _whole(volume):
            volume.zero(capacity)
    return volume


def _fresh(pool: Pool, wish: Wish, claim: Claim, capacity_bytes: int, format_: str = "") -> Volume:
    with pool.lock():
        found = claimed(pool, wish.name, claim)
        if found is not None:
            found.delete()
        return Volume.create(pool, wish.xml(capacity_bytes, format_=format_), wish.name, wish.flags(format_))


def blob(pool: Pool, name: str, data: bytes, claim: Claim, besides: str = "") -> Volume:
    """Make a raw volume with exactly this content; what an earlier attempt made otherwise is made anew.

    Raises:
        InUse: another domain than the one with UUID ``besides`` has it.
    """
    wish = Wish(name, len(data), "raw")
    with pool.lock():
        found = claimed(pool, name, claim)
        if found is not None:
            if _holds(found, data):
                return found
            found.delete(besides)
        volume = Volume.create(pool, wish.xml(len(data)), name)
    with _whole(volume):
        volume.upload(data)
    return volume


def _holds(volume: Volume, data: bytes) -> bool:
    """Tell whether a volume has this content, and nothing behind it: a guest may be reading it."""
    try:
        if volume.facts().capacity_bytes != len(data):
            return False
        return stream.read(volume.pool.session, volume.handle, 0, len(data), volume.target) == data
    except Missing:
        # libvirt lists what somebody removed until the pool is refreshed.
        return False


def overlay(pool: Pool, wish: Wish, image: Image, claim: Claim) -> Volume:
    """Make a thin copy of an image: nothing is copied but the image once per pool."""
    capacity = whole_kib(capacity_of(wish, image))
    with pool.lock():
        # Recorded first: the base has no other owner until the overlay stands above it.
        found = claimed(pool, wish.name, claim)
        base = _base(pool, image)
        try:
            volume = overlay_above(pool, wish, capacity, Backing(base.path, image.format), found)
        except CoreError:
            _drop_unused(base)
            raise
    volume.grow(capacity)
    return volume


def overlay_above(pool: Pool, wish: Wish, capacity: int, below: Backing, found: Volume | None) -> Volume:
    """Make a thin copy above a volume; ``found``, of an earlier attempt, is kept where it stands above the same."""
    facts = found.facts() if found is not None else None
    if found is not None and facts and (facts.backing, facts.backing_format) != (below.path, below.format):
        found.delete()
        found = None
    return found or Volume.create(pool, wish.xml(capacity, below), wish.name)


@contextmanager
def _whole(volume: Volume) -> Iterator[None]:
    """Delete the volume when what fills it fails."""
    try:
        yield
    except CoreError:
        _drop_unused(volume)
        raise


def _drop_unused(volume: Volume) -> None:
    """Delete the volume, if it can be; for use while another error is on its way."""
    with suppress(CoreError):
        volume.delete()


def clone(pool: Pool, wish: Wish, image: Image, claim: Claim) -> Volume:
    """Make a full copy of an image, in the wanted format; what an earlier attempt made is made anew."""
    format_ = wish.format or image.format
    capacity = capacity_of(wish, image) if format_ == "raw" else whole_kib(capacity_of(wish, image))
    # A file can be uploaded as it is; what libvirt must convert has to be in a pool of its own first.
    if format_ != image.format or wish.secret or wish.flags(format_):
        return _converted(pool, replace(wish, format=format_), image, claim, capacity)
    check_room(pool, image.file_bytes, wish.name)
    volume = _fresh(pool, wish, claim, image.size_bytes, format_)
    with _whole(volume):
        volume.upload(image.path)
        if capacity > image.size_bytes:
            volume.grow(capacity, thick=wish.thick(format_), format_=format_)
    return volume


def _converted(pool: Pool, wish: Wish, image: Image, claim: Claim, capacity: int) -> Volume:
    check_room(pool, 2 * image.file_bytes, wish.name)
    with pool.lock():
        found = claimed(pool, wish.name, claim)
        base = _base(pool, image)
        try:
            return copy(pool, wish, base, image.format, found, capacity)
        finally:
            _drop_unused(base)


def copy(pool: Pool, wish: Wish, source: Volume, format_: str, found: Volume | None, capacity: int) -> Volume:
    """Make a full copy of a volume of that format, converted and encrypted as wished, instead of what was ``found``.

    Call with the pool's lock held.

    Raises:
        Unsupported: its host takes it for another format, and would have to convert it.
    """
    source = formats.readable(source, format_)
    by_bytes = source.is_misread(format_)
    if by_bytes and (wish.format != "raw" or wish.secret):
        raise formats.misread(source)
    if found is not None:
        found.delete()
    volume = Volume.create(pool, wish.xml(capacity), wish.name, wish.flags(), None if by_bytes else source)
    with _whole(volume):
        if by_bytes:
            formats.copy_bytes(source, volume)
        else:
            volume.grow(capacity, thick=wish.thick(wish.format), format_=wish.format)
    return volume


def capacity_of(wish: Wish, image: Image) -> int:
    """Return the size of the disk; raise when it would cut the image."""
    wanted = wish.capacity_bytes or image.size_bytes
    check_growth("make", f"volume '{wish.name}'", image.size_bytes, wanted, "the image's")
    return wanted


def base_name(image: Image) -> str:
    """Return the name of an image's base volume: by content."""
    return f"{BASE_PREFIX}{image.sha256[:32]}.{image.format}"


def _base(pool: Pool, image: Image) -> Volume:
    """Return the base volume; call with the pool's lock held."""
    name = base_name(image)
    found = Volume.find(pool, name)
    if found is None:
        check_room(pool, image.file_bytes, name)
        found = Volume.create(pool, Wish(name, format=image.format).xml(image.size_bytes), name)
    elif _is_complete(found, image.path):
        return found
    with _whole(found):
        found.upload(image.path)
    return found


def _is_complete(base: Volume, source: Path) -> bool:
    """Tell whether an upload reached the last block of the image that is not empty."""
    offset, block = stream.last_block(source, stream.PROOF_BYTES)
    return not block or stream.read(base.pool.session, base.handle, offset, len(block), base.target) == block


def release_base(pool: Pool, path: str) -> bool:
    """Delete a base image that no overlay needs any more; True when it went.

    Looked at anew, under the lock: of several who remove their overlays at once, the last one sees that none is left.
    """
    name = Path(path).name
    if not BASE_NAME.fullmatch(name):
        # A volume of the user's, whatever it is called: only ours goes with its last overlay.
        return False
    try:
        with pool.lock():
            base, look = Volume.find(pool, name), Users(pool.session)
            if base is None or base.path != path or look.overlays(path):
                return False
            base.delete(look=look)
    except (InUse, Busy):
        # Who holds it, or the pool's lock, removes it with the last overlay.
        return False
    return True


def release_unneeded(pool: Pool) -> None:
    """Delete the base images of a pool that no overlay needs any more."""
    for name in filter(BASE_NAME.fullmatch, pool.volume_names()):
        release_base(pool, str(PurePosixPath(pool.path) / name))


def remove(
    pool: Pool,
    name: str,
    besides: str = "",
    *,
    look: Users | None = None,
    wipe: bool = False,
    complete: bool = True,
) -> bool:
    """Delete a volume that we made, and its base image with the last overlay; missing is fine.

    ``look``: who uses what, seen already by the operation that removes several. ``wipe``: overwrite it before.
    ``complete``: False when it is not known that it was ever finished.

    Raises:
        InUse: another domain or an overlay needs the volume.
    """
    volume, look = _there(pool, name), look or Users(pool.session)
    backing = volume.facts().backing if volume else ""
    if volume is not None:
        volume.delete(besides, look=look, wipe=wipe)
    if volume is None or not complete:
        # A base image may be there all the same: it was made first, and is nobody's without an overlay.
        release_unneeded(pool)
    elif backing:
        release_base(pool, backing)
    return volume is not None


def _there(pool: Pool, name: str) -> Volume | None:
    """Return the volume unless it is gone, or its file is; then libvirt forgets it, too."""
    volume = Volume.find(pool, name)
    try:
        if volume is not None:
            volume.facts()
    except Missing:
        pool.refresh()
        return None
    return volume
