"""As users' scripts do it: between create and configure the machine gets its disks, MACs and models."""

from cloudify import ctx

params = ctx.source.instance.runtime_properties["params"]
path = ctx.target.instance.runtime_properties["params"]["path"]
params["disks"] = [{"bus": "virtio", "dev": "vda", "file": path, "type": "qcow2"}]
for number, network in enumerate(params["networks"]):
    if not network.get("mac"):
        network["mac"] = f"52:54:00:aa:cc:{number:02x}"
    network["type"] = "virtio"
ctx.source.instance.runtime_properties._set_changed()
ctx.source.instance.update()
