"""Make this instance's own disk from an image on this host.

Inputs:
    source: absolute path of a qcow2 or raw image (``base`` is the same).
    destination: absolute path of the disk, which becomes qcow2.
    mode: ``overlay`` (default: reads from the image, which must stay) or ``clone`` (stands alone).
    size: of the disk, with its unit, such as ``20 GiB``; default: the image's own.
    format: of the image, to have it checked; ``raw`` keeps its content from being looked at.
Runtime properties: ``path``, ``format``, ``size_bytes``, ``source``, ``mode``.
"""

from cloudify import ctx
from cloudify.state import ctx_parameters as inputs

from cloudify_libvirt.core.storage.clone import clone_image, plan_clone
from cloudify_libvirt.core.units import parse_size
from cloudify_libvirt.scripting import absolute, run_script, text


def clone(_own, inputs, record):
    """Clone once; a disk that this instance made is never touched again."""
    source = absolute(inputs, "source" if inputs.get("source") else "base")
    destination, mode = absolute(inputs, "destination"), text(inputs, "mode", "overlay")
    size = parse_size(inputs["size"], "inputs.size") if inputs.get("size") else None
    source_format = text(inputs, "format", "")
    if record.get("path") == str(destination) and destination.exists():
        record.note(f"disk {destination}: made before, left as it is")
        return
    found, size_bytes = plan_clone(source, mode, size, source_format)
    if not destination.exists():
        # Recorded before it exists: after a kill it can be told from a file that was there before.
        facts = {"path": str(destination), "format": "qcow2", "size_bytes": size_bytes}
        record.put(**facts, source=str(source), mode=mode)
    clone_image(source, destination, mode=mode, size_bytes=size, source_format=found)
    record.note(f"disk {destination}: {mode} of {source}")


run_script(clone, ctx, inputs)
