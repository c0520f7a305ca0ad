"""Download an image to this host, once, and tell where it is.

Inputs:
    url: http(s) or file URL, or a path.
    checksum: ``sha256:HEX`` or ``sha512:HEX`` of the file at the URL, or the URL of a list such as SHA256SUMS. Give
        it: then a known image needs no network.
    format: raw, qcow2 or tar, to have it checked; ``raw`` keeps its content from being looked at.
    destination: absolute path for a copy of this instance's own; without it the image in the cache is used.
Runtime properties: ``path``, ``format`` (raw, qcow2, tar), ``size_bytes`` (what a guest sees), ``sha256``.
"""

from pathlib import Path

from cloudify import ctx
from cloudify.state import ctx_parameters as inputs

from cloudify_libvirt.core.image.cache import ImageCache
from cloudify_libvirt.core.storage.clone import copy_image
from cloudify_libvirt.scripting import absolute, run_script, text


def download(_own, inputs, record):
    """Fetch, and copy if told; a second run finds everything done."""
    source, checksum = text(inputs, "url"), text(inputs, "checksum", "")
    destination = absolute(inputs, "destination", "")
    image = ImageCache().fetch(source, checksum=checksum, format_=text(inputs, "format", ""), warn=record.warn)
    path = destination or image.path
    if destination and not (record.get("destination") == str(destination) and destination.exists()):
        if not _is_copy(destination, image):
            copy_image(image.path, destination)
        record.put(destination=str(destination))
    record.put(path=str(path), format=image.format, size_bytes=image.size_bytes, sha256=image.sha256)
    record.note(f"image {Path(path).name}: {image.format}, sha256 {image.sha256}")


def _is_copy(destination, image):
    """Tell whether a killed run made the whole copy: it appears in one step, so its content decides."""
    return destination.is_file() and ImageCache().fetch(str(destination)).sha256 == image.sha256


run_script(download, ctx, inputs)
