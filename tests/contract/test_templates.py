"""Section 7: templates written for the existing plugin, their variables and filter; what the packaged ones make."""

from __future__ import annotations

from typing import Any

import pytest
from cloudify.exceptions import NonRecoverableError
from lxml import etree

from cloudify_libvirt import domain_tasks, network_tasks
from cloudify_libvirt.core.session import Session
from tests.contract.places import DISK, KIND, Node

# Every variable that the document names, as old templates use them.
OLD_TEMPLATE = """<?xml version='1.0'?>
<domain type='{{ domain_type }}'>
  <name>{{ name }}</name>
  <uuid>{{ instance_uuid }}</uuid>
  <description>{{ ctx.instance.id }}/{{ ctx.node.id }}/{{ ctx.node.properties.params.mine }}/{{ ctx.deployment.id }}/{{
    ctx.instance.runtime_properties.params.name }}/{{ mine }}</description>
  <memory unit='KiB'>{{ memory_maxsize }}</memory>
  <currentMemory unit='KiB'>{{ memory_size }}</currentMemory>
  <vcpu>{{ vcpu }}</vcpu>
  <os><type>hvm</type>{% if nvram %}
    <loader readonly='yes' type='pflash'>/code.fd</loader><nvram>{{ nvram }}</nvram>{% endif %}</os>
  <features><acpi/></features>
  {{ extra | toxml }}
  <devices>
  {% for disk in disks %}
    <disk type='file' device='disk'>
      <driver name='qemu' type='{{ disk.type }}'/><source file='{{ disk.file }}'/>
      <target dev='{{ disk.dev }}' bus='{{ disk.bus }}'/>{% if disk.readonly %}<readonly/>{% endif %}
    </disk>
  {% endfor %}
  {% for network in networks %}
    <interface type='network'><source network='{{ network.network }}'/><target dev='{{ network.dev }}'/>
      {% if network.mac %}<mac address='{{ network.mac }}'/>{% endif %}
      {% if network.type %}<model type='{{ network.type }}'/>{% endif %}</interface>
  {% endfor %}
  {% for device in serial_devices %}
    <serial type='dev'><source path='{{ device.source_path }}'/><target port='{{ device.target_port }}'/></serial>
  {% endfor %}
  {% for device in usb_devices %}
    <hostdev mode='subsystem' type='usb'><source><vendor id='{{ device.vendor_id }}'/>
      <product id='{{ device.product_id }}'/></source></hostdev>
  {% endfor %}
  {% for device in pci_devices %}
    <hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='{{ device.bus }}'
      slot='{{ device.slot }}' function='{{ device.function }}'/></source></hostdev>
  {% endfor %}
  {% for device in tpm_devices %}
    <tpm model='tpm-tis'><backend type='passthrough'><device path='{{ device.path }}'/></backend></tpm>
  {% endfor %}
  </devices>
</domain>
"""
DEVICES = [
    {"type": "serial", "source_path": "/dev/ttyS0", "target_port": 1},
    {"type": "usb", "vendor_id": "0x1234", "product_id": "0xbeef"},
    {"type": "pci", "bus": "0x06", "slot": "0x02", "function": "0x0"},
    {"type": "tpm", "path": "/dev/tpm0"},
]


def configured(session: Session, node: Node, **inputs: Any) -> Any:
    """The definition that configure made; it is removed again."""
    node.run(domain_tasks.create)
    node.run(domain_tasks.configure, **inputs)
    root = etree.fromstring(session.connection.lookupByName(node.runtime["resource_id"]).XMLDesc())
    node.run(domain_tasks.delete)
    return root


def old_node(**params: Any) -> Node:
    given = {
        "name": "old", "vcpu": 2, "memory_size": 65536, "domain_type": KIND, "mine": "own & free",
        "disks": [{"bus": "virtio", "dev": "vda", "file": DISK, "type": "qcow2", "readonly": True}],
        "networks": [{"network": "default", "dev": "vnet0"}],
        "extra": {"metadata": {}, "on_crash": "preserve"}, **params,
    }  # fmt: skip
    return Node(params=given)


def test_a_template_with_every_old_variable(session: Session) -> None:
    node = old_node(devices=DEVICES, nvram="/var/nvram.fd")
    root = configured(session, node, template_content=OLD_TEMPLATE)
    assert root.get("type") == KIND and root.findtext("name") == "old" and root.findtext("vcpu") == "2"
    assert root.findtext("memory") == "131072" and root.findtext("currentMemory") == "65536"
    assert root.findtext("description") == f"{node.id}/{node.name}/own & free/dep/old/own & free"
    assert root.findtext("on_crash") == "preserve", "the filter toxml"
    assert root.findtext("os/nvram") == "/var/nvram.fd"
    disk = root.find("devices/disk")
    assert disk.find("source").get("file") == DISK and disk.find("readonly") is not None
    assert root.find("devices/interface/source").get("network") == "default"
    assert root.find("devices/serial/source").get("path") == "/dev/ttyS0"
    assert root.find("devices/hostdev[@type='usb']/source/vendor").get("id") == "0x1234"
    assert root.find("devices/hostdev[@type='pci']/source/address").get("bus") == "0x06"
    assert root.find("devices/tpm/backend/device").get("path") == "/dev/tpm0"


def test_lists_without_an_entry_are_false(session: Session) -> None:
    root = configured(session, old_node(), template_content=OLD_TEMPLATE)
    assert [root.find(f"devices/{name}") for name in ("serial", "hostdev", "tpm")] == [None] * 3
    assert root.find("os/nvram") is None


def test_a_resource_comes_before_a_text(session: Session) -> None:
    node = old_node()
    node.resources["templates/own.xml"] = OLD_TEMPLATE.replace("{{ vcpu }}", "7").encode()
    root = configured(session, node, template_resource="templates/own.xml", template_content="<nonsense/>")
    assert root.findtext("vcpu") == "7"


def test_a_variable_that_nobody_defines_is_named(session: Session) -> None:
    node = old_node()
    node.run(domain_tasks.create)
    with pytest.raises(NonRecoverableError, match=r"line 2 of template_content.*'domain_typ' is undefined"):
        node.run(domain_tasks.configure, template_content=OLD_TEMPLATE.replace("domain_type", "domain_typ"))


def test_the_packaged_domain_is_what_guests_see_today(session: Session) -> None:
    """The test driver has neither machine types nor emulators."""
    node = Node(params={
        "name": "packaged", "memory_size": 65536, "domain_type": KIND, "networks": [{"network": "default"}],
        "disks": [{"bus": "virtio", "dev": "vda", "file": DISK, "type": "qcow2"}], "devices": DEVICES,
    })  # fmt: skip
    root = configured(session, node)
    assert {feature.tag for feature in root.find("features")} == {"acpi", "apic", "pae"}
    assert KIND == "test" or root.find("os/type").get("machine").startswith("pc-i440fx-")
    assert root.find("os/boot").get("dev") == "hd" and root.find("clock").get("offset") == "utc"
    assert [root.findtext(name) for name in ("on_poweroff", "on_reboot", "on_crash")] == [
        "destroy",
        "restart",
        "restart",
    ]
    controllers = [c.get("model") for c in root.findall("devices/controller[@type='scsi']")]
    assert controllers == ["virtio-scsi"]
    assert root.find("devices/memballoon").get("model") == "virtio"
    assert {entry.get("bus") for entry in root.findall("devices/input")} == {"ps2"}
    assert root.find("devices/graphics") is None and root.find("devices/serial[@type='pty']") is not None
    disk = root.find("devices/disk")
    driver = {"type": "qcow2"} if KIND == "test" else {"name": "qemu", "type": "qcow2"}
    assert disk.get("type") == "file" and dict(disk.find("driver").attrib) == driver
    # Only where one is given: libvirt says so of the machine's own.
    card = root.find("devices/interface/model")
    assert card is None if KIND == "test" else card.get("type") == "rtl8139"


def test_the_packaged_network(session: Session) -> None:
    params = {
        "name": "old-net", "dev": "vbr-old", "forwards": [{"mode": "nat"}],
        "ips": [
            {"address": "10.78.0.1", "netmask": "255.255.255.0", "dhcp": {"start": "10.78.0.2", "end": "10.78.0.9"}}
        ],
    }  # fmt: skip
    node = Node(name="net", params=params)
    node.run(network_tasks.create)
    root = etree.fromstring(session.connection.networkLookupByName("old-net").XMLDesc())
    assert root.find("bridge").get("name") == "vbr-old" and root.find("forward").get("mode") == "nat"
    assert root.find("ip").get("netmask") == "255.255.255.0"
    assert dict(root.find("ip/dhcp/range").attrib) == {"start": "10.78.0.2", "end": "10.78.0.9"}
    node.run(network_tasks.delete)


@pytest.mark.parametrize("old", ["domain_file", "domain_template"])
def test_inputs_of_releases_before_0_7(session: Session, old: str) -> None:
    node = old_node(name="")
    node.resources["templates/own.xml"] = OLD_TEMPLATE.encode()
    text = "templates/own.xml" if old == "domain_file" else OLD_TEMPLATE
    node.run(domain_tasks.create, params={"resource_id": "older"})
    node.run(domain_tasks.configure, **{old: text})
    root = etree.fromstring(session.connection.lookupByName("older").XMLDesc())
    assert root.findtext("on_crash") == "preserve", "the packaged template has none"
    node.run(domain_tasks.delete)


# Written as authors wrote them for the existing plugin, each in a way of its own.
OLD_STYLES = {
    "devices, as it was never there": """<domain type='test'><name>{{ name }}</name><memory>{{ memory_size }}</memory>
      <os><type>hvm</type></os>{% if devices %}<wrong/>{% endif %}
      {% for device in devices %}<wrong/>{% endfor %}{{ devices }}</domain>""",
    "defined, or not": """<domain type='test'><name>{{ name }}</name><memory>{{ memory_maxsize }}</memory>
      <os><type>hvm</type>{% if nvram is defined %}<wrong/>{% endif %}</os>
      <devices>{% if serial_devices is defined %}<wrong/>{% endif %}
      {%- if pci_devices is not defined and not usb_devices and tpm_devices | length == 0 %}<input type='mouse'/>
      {%- endif %}</devices></domain>""",
    "defaults": """<domain type='test'><name>{{ name }}</name><memory>{{ memory_size|default(1) }}</memory>
      <os><type>hvm</type></os>
      <description>{{ domain_cpu | default("maximum", true) }} {{ nvram | default("none") }}
      {{- title | default("untitled") }}{{ mine | default("!") }}</description>
      <devices>{% for net in networks %}<interface type='network'><source network='{{ net.network }}'/>
      <mac address='{{ net["mac"] | default("52:54:00:00:00:01") }}'/>
      <model type='{{ net.type | default("virtio") }}'/>{% if net.addrs %}<wrong/>{% endif %}</interface>
      {% endfor %}</devices></domain>""",
    "values that one node gives and another does not": """<domain type='test'><name>{{ name }}</name>
      <memory>{{ memory_size }}</memory><os><type>hvm</type>{% if loader %}<loader>{{ loader }}</loader>{% endif %}
      </os><description>{{ note }}{{ ctx.instance.runtime_properties.written }}{{ ctx.node.properties.own }}{% if
      ctx.instance.runtime_properties.params.other %}wrong{% endif %}</description><devices>
      {%- for disk in disks %}<disk type='file'><driver type='{{ disk.type }}' {% if disk.tuning
      %}cache='{{ disk.tuning }}'{% endif %}/><source file='{{ disk.file }}'/>
      <target dev='{{ disk.dev }}' bus='{{ disk.bus }}'/>{% if disk.readonly %}<readonly/>{% endif %}{{ disk.note }}
      </disk>{% endfor %}</devices></domain>""",
    "names of its own, macros and sums": """{% macro tag(name, text) %}<{{ name }}>{{ text }}</{{ name }}>{% endmacro %}
      {% set kind = domain_type or 'test' %}<domain type='{{ kind }}'>{{ tag('name', name + (suffix or '')) }}
      {{ tag('memory', memory_size) }}<os><type>hvm</type></os><devices>{% for n in range(disks | length) %}{% endfor %}
      {% for device in serial_devices + usb_devices %}<wrong/>{% endfor %}</devices></domain>""",
}  # fmt: skip


@pytest.mark.parametrize("style", OLD_STYLES)
def test_templates_of_the_old_style_run_unchanged(session: Session, style: str) -> None:
    """What nobody set is undefined for tests and defaults, and nothing elsewhere."""
    node = old_node()
    del node.params["mine"]
    root = configured(session, node, template_content=OLD_STYLES[style].replace("'test'", f"'{KIND}'"))
    text = etree.tostring(root, encoding="unicode")
    assert root.findtext("name") == "old" and "wrong" not in text
    if style == "defaults":
        assert root.findtext("description") == "custom noneuntitled!"
        card = root.find("devices/interface")
        assert card.find("model").get("type") == "virtio" and card.find("mac").get("address") != "52:54:00:00:00:01"
    if "one node" in style:
        assert root.find("os/loader") is None and not (root.findtext("description") or "").strip()
        assert root.find("devices/disk/driver").get("cache") is None
        assert root.find("devices/disk/readonly") is not None


MISSPELT = {
    "{% if devicez %}{% endif %}": "'devicez' is undefined",
    "{% if domain_typ %}{% endif %}": "'domain_typ' is undefined. Did you mean domain_type",
    "{{ memory_max_size }}": "'memory_max_size' is undefined. Did you mean memory_maxsize",
    "{% for disk in disks %}{{ disk.read_only }}{% endfor %}": "has no attribute 'read_only'",
    "{% for card in networks %}{{ card.macs }}{% endfor %}": "has no attribute 'macs'",
    "{{ serial_device }}": "'serial_device' is undefined. Did you mean serial_devices",
}


@pytest.mark.parametrize("text", MISSPELT)
def test_what_is_misspelt_is_named_with_its_line(session: Session, text: str) -> None:
    node = old_node()
    node.run(domain_tasks.create)
    with pytest.raises(NonRecoverableError, match=rf"line 6 of template_content: .*{MISSPELT[text]}"):
        node.run(domain_tasks.configure, template_content=OLD_TEMPLATE.replace("{{ mine }}", "{{ mine }}" + text))


def test_a_new_template_is_strict(session: Session) -> None:
    """With the hardware of today nothing may be left out, whatever it is like; what is known and not set may be."""
    node = old_node(memory_size=None, memory="64 MiB")
    node.run(domain_tasks.create)
    for text, name in (("{{ flavour }}", "flavour"), ("{% for d in disks %}{{ d.own }}{% endfor %}", "own")):
        with pytest.raises(NonRecoverableError, match=rf"line 6 of template_content: .*'{name}'"):
            node.run(domain_tasks.configure, template_content=OLD_TEMPLATE.replace("{{ mine }}", text))
    root = configured(session, node, template_content=OLD_TEMPLATE.replace("{{ mine }}", "{{ title | default('-') }}"))
    assert (root.findtext("description") or "").endswith("/-")


def test_what_an_old_template_leaves_out_is_said(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    node = old_node()
    configured(session, node, template_content=OLD_TEMPLATE.replace("{{ mine }}", "{{ flavour }}"))
    assert "line 6 of template_content: nothing defines 'flavour'; it is taken as empty" in caplog.text
