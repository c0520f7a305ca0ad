"""What a user may ask for: valid, invalid, and how the answer reads."""

from typing import Any, get_args

import goldens
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.spec import (
    MODELS,
    DomainFacts,
    PoolFacts,
    dsl_properties,
    parse_spec,
    place_disks,
    template_variables,
)
from cloudify_libvirt.core.spec.base import Part
from cloudify_libvirt.core.spec.disk import Disk
from cloudify_libvirt.core.spec.plain import plain


def parse(kind: str, extra: bool = False, complete: bool = True, **params: Any) -> Any:
    return parse_spec(kind, params, node="web", extra=extra, complete=complete)


def refused(kind: str, **params: Any) -> str:
    with pytest.raises(InvalidSpec) as caught:
        parse(kind, **params)
    return str(caught.value)


def domain(**params: Any) -> Any:
    return parse("domain", **{"name": "vm", "memory": "1 GiB", **params})


def domain_refused(**params: Any) -> str:
    return refused("domain", **{"name": "vm", "memory": "1 GiB", **params})


def as_value(value: Any) -> Any:
    return plain(value) if isinstance(value, Part) else list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("case", goldens.cases(), ids=lambda case: f"{case.kind}-{case.path.stem}")
def test_cases_give_the_values_they_promise(case):
    spec, promised = case.spec(), case.content.get("spec") or {}
    found = {name: as_value(getattr(spec, name)) for name in promised}
    assert {k: [*v] if isinstance(v, tuple) else v for k, v in found.items()} == promised


def fields(annotation: Any, path: str) -> set[str]:
    """Return the paths of all declared fields below a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        found = set()
        for name, field in annotation.model_fields.items():
            if name != "extra":
                found |= {f"{path}.{name}", *fields(field.annotation, f"{path}.{name}")}
        return found
    return set().union(*(fields(argument, path) for argument in get_args(annotation)))


def keys(value: Any, path: str) -> set[str]:
    """Return the paths of all keys that a case gives."""
    if isinstance(value, dict):
        return set().union(*({f"{path}.{key}", *keys(item, f"{path}.{key}")} for key, item in value.items()))
    if isinstance(value, list):
        return set().union(*(keys(item, path) for item in value))
    return set()


def test_every_declared_field_is_in_a_case():
    declared = set().union(*(fields(model, kind) for kind, model in MODELS.items()))
    given_keys = set().union(*(keys(case.content["params"], case.kind) for case in goldens.cases()))
    # A volume's image has the fields of a domain's, whose case has them all.
    assert {path for path in declared - given_keys if not path.startswith("volume.image.")} == set()


@pytest.mark.parametrize(
    ("kind", "name", "default"),
    [
        ("domain", "name", ""), ("domain", "disks", []), ("domain", "networks", []), ("domain", "devices", []),
        ("domain", "full_dump", False), ("domain", "wait_for_ip", True), ("domain", "domain_type", "qemu"),
        ("network", "name", ""), ("network", "dev", ""), ("network", "forwards", []), ("network", "ips", []),
        ("pool", "name", ""), ("pool", "path", ""),
        ("volume", "name", ""), ("volume", "path", ""), ("volume", "allocation", 0), ("volume", "url", ""),
        ("volume", "zero_wipe", False), ("iso9660", "volume", ""),
    ],
)  # fmt: skip
def test_declared_defaults_are_those_of_the_contract(kind, name, default):
    declared = dsl_properties(MODELS[kind])[name]
    assert declared["default"] == default
    assert type(declared["default"]) is type(default)


@pytest.mark.parametrize(
    ("kind", "name", "dsl_type"),
    [
        ("domain", "vcpu", "integer"), ("domain", "memory_size", "integer"), ("domain", "memory_maxsize", "integer"),
        ("domain", "nvram", "string"), ("pool", "capacity", "integer"), ("volume", "capacity", "integer"),
        ("volume", "pool", "string"), ("iso9660", "pool", "string"),
    ],
)  # fmt: skip
def test_declared_values_without_default_may_be_absent(kind, name, dsl_type):
    declared = dsl_properties(MODELS[kind])[name]
    assert (declared["type"], declared["required"], "default" in declared) == (dsl_type, False, False)


def test_input_only_values_are_not_declared():
    assert not {"domain_cpu", "instance_uuid", "extra"} & set(dsl_properties(MODELS["domain"]))
    assert set(dsl_properties(MODELS["iso9660"])) == {"volume", "pool", "files"}


@pytest.mark.parametrize("kind", MODELS)
def test_everything_declared_is_described_and_valid(kind):
    declared = dsl_properties(MODELS[kind])
    assert [name for name, entry in declared.items() if not entry["description"].endswith((".", "}"))] == []
    defaults = {name: entry["default"] for name, entry in declared.items() if "default" in entry}
    parse_spec(kind, defaults, node="web", extra=False, complete=False)
    assert yaml.safe_load(yaml.safe_dump(declared)) == declared


def test_unknown_keys_name_the_nearest_right_one():
    assert domain_refused(memroy="1 GiB") == (
        "cannot read params.memroy of node web: there is no such key. Did you mean 'memory'?"
    )
    assert "params.networks[1].adress of node web: there is no such key. Did you mean 'ip'?" in domain_refused(
        networks=[{"network": "a"}, {"network": "b", "adress": "10.0.0.1"}]
    )
    assert "The keys are name, instance_uuid, path" in refused("pool", name="p", zzz=1)
    assert "params.devices[0].vendor of node web: there is no such key. Did you mean 'vendor_id'?" in domain_refused(
        devices=[{"type": "usb", "vendor": 1, "product_id": 2}]
    )
    with pytest.raises(InvalidSpec, match=r"params\.extra of node web: there is no such key"):
        parse_spec("domain", {"name": "vm", "memory": "1 GiB", "extra": {}}, node="web", extra=False)


def test_unknown_keys_are_kept_for_a_users_template():
    spec = parse("domain", extra=True, name="vm", flavour="m1", disks=[{"file": "/a", "cache": "none"}])
    assert spec.extra == {"flavour": "m1"}
    variables = template_variables(spec, DomainFacts("u", "qemu", disks=spec.disks))
    assert variables["flavour"] == "m1"
    assert variables["disks"][0]["cache"] == "none"
    assert (variables["memory_size"], variables["memory_maxsize"], variables["nvram"]) == ("", "", "")


def test_a_value_of_an_unknown_key_is_never_shown():
    assert "hunter2" not in domain_refused(password="hunter2")


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"disks": [{"file": {"get_attribute": ["vol", "path"]}}]}, r"params.disks[0].file"),
        ({"title": {"concat": ["a", {"get_input": "b"}]}}, "params.title"),
        ({"cloud_init": {"user_data": {"chpasswd": {"get_secret": "pw"}}}}, "params.cloud_init.user_data.chpasswd"),
        ({"networks": [{"network": "n", "ip": {"get_property": ["a", "b"]}}]}, "params.networks[0].ip"),
    ],
)
def test_functions_that_nobody_evaluated(params, path):
    text = domain_refused(**params)
    assert text.startswith(f"cannot read {path} of node web: the function ")
    assert "inputs of the operation" in text


def test_several_wrong_values_are_told_at_once():
    text = domain_refused(vcpu="two", networks={"network": "n"}, disks=[7], hardware="old")
    assert "4 values are wrong" in text
    assert "params.vcpu must be a whole number, not 'two'" in text
    assert "params.networks must be a list" in text
    assert "params.disks[0] must be a mapping, not 7" in text
    assert "params.hardware must be one of 'auto', 'classic' or 'modern', not 'old'" in text


@pytest.mark.parametrize(
    "cloud_init",
    ["hunter2", {"hostname": "hunter2!"}, {"user_data": ["hunter2"]}, {"ssh_authorized_keys": {"hunter2": 1}}],
)
def test_errors_do_not_show_what_cloud_init_gets(cloud_init):
    assert "hunter2" not in domain_refused(cloud_init=cloud_init)


def test_secrets_are_not_in_the_representation():
    spec = domain(cloud_init={"user_data": "hunter2"})
    assert "hunter2" not in repr(spec) + repr(spec.cloud_init)
    assert "hunter2" not in repr(parse("iso9660", pool="p", volume="v", files={"a": "hunter2"}))
    assert "hunter2" not in refused("iso9660", pool="p", volume="v", files={"../a": "hunter2"})
    assert "hunter2" not in domain_refused(image="ftp://me:hunter2@example.org/a.img")


def test_secrets_do_not_reach_templates():
    spec = domain(cloud_init={"user_data": "hunter2"})
    assert "hunter2" not in repr(template_variables(spec, DomainFacts("u", "qemu")))


@pytest.mark.parametrize("name", ["a&b <c>", "日本", "x" * 200, ".a", "a b", "q\"uote'"])
def test_names_that_libvirt_takes(name):
    assert domain(name=name).name == name


@pytest.mark.parametrize("name", ["", " ", "a/b", "a\nb", "a\rb", ".", "..", "\x00", "a\x07", [], {"a": 1}, True])
def test_names_that_libvirt_refuses(name):
    assert "params.name of node web" in domain_refused(name=name)


@pytest.mark.parametrize("mac", ["52:54:00:AB:cd:ef", "52-54-00-ab-cd-ef", "525400ABCDEF", "5254.00ab.cdef"])
def test_macs_have_one_form(mac):
    assert domain(networks=[{"network": "n", "mac": mac}]).networks[0].mac == "52:54:00:ab:cd:ef"


@pytest.mark.parametrize("mac", ["53:54:00:ab:cd:ef", "ff:ff:ff:ff:ff:ff"])
def test_multicast_macs_are_refused(mac):
    assert "must be unicast" in domain_refused(networks=[{"network": "n", "mac": mac}])


@pytest.mark.parametrize("mac", ["52:54:00", "00:00:00:00:00:00", "zz:54:00:ab:cd:ef", 5])
def test_not_a_mac(mac):
    assert "six bytes" in domain_refused(networks=[{"network": "n", "mac": mac}])


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"memory_size": 1024}, "memory and memory_size say the same"),
        ({"max_memory": "2 GiB", "memory_maxsize": 7}, "max_memory and memory_maxsize say the same"),
        ({"max_memory": "512 MiB"}, "max_memory is less than memory"),
        ({"memory": 1024}, "say the unit"),
        ({"disks": [{"bus": "virtio"}]}, "a disk needs file"),
        ({"disks": [{"file": "a"}]}, "absolute path"),
        ({"disks": [{"file": "/a", "volume": "v"}]}, "file and volume are two sources"),
        ({"disks": [{"file": "/a", "dev": "vda"}, {"file": "/b", "dev": "vda"}]}, "params.disks[1].dev"),
        ({"networks": [{"dev": "vnet0"}]}, "an interface needs network, bridge, or user: true"),
        ({"networks": [{"network": "n", "bridge": "b"}]}, "exclude each other"),
        ({"networks": [{"bridge": "b", "ip": "10.0.0.1"}]}, "needs a libvirt network"),
        ({"networks": [{"network": "n", "ip": "fd00::1"}]}, "must be an IPv4 address"),
        ({"networks": [{"network": "n", "dev": "sixteen-letters-"}]}, "1 to 15"),
        ({"networks": [{"network": "n", "mac": "52:54:00:00:00:01"}] * 2}, "params.networks[1].mac"),
        ({"networks": [{"network": "n", "mtu": 20}]}, "greater than or equal to 68"),
        ({"devices": [{"type": "gpu"}]}, "must be one of 'serial', 'usb', 'pci', 'tpm'"),
        ({"devices": [{"path": "/dev/tpm0"}]}, "needs type: one of 'serial', 'usb', 'pci', 'tpm'"),
        ({"devices": [{"type": "pci", "bus": 1, "slot": 32, "function": 0}]}, "params.devices[0].slot"),
        ({"devices": [{"type": "tpm"}]}, "params.devices[0].path of node web: is required"),
        ({"vcpu": 0}, "params.vcpu"),
        ({"title": "a\nb"}, "one line"),
        ({"domain_type": "vmwear"}, "params.domain_type"),
        ({"image": {"source": "/a", "checksum": "sha256:12"}}, "ALGORITHM:HEX"),
        ({"image": {"source": "/a", "checksum": "md5:" + "a" * 32}}, "with one of sha256, sha512"),
        ({"image": {"source": "/a", "format": "vhdx"}}, "params.image.format"),
        ({"image": {"size": "1 GiB"}}, "params.image.source of node web: is required"),
        ({"image": ["a"]}, "params.image.source"),
        ({"instance_uuid": "x"}, "must be a UUID"),
        ({"init": "sbin/init"}, "absolute path"),
        ({"shutdown_timeout_s": -1}, "params.shutdown_timeout_s"),
        ({"cloud_init": {"hostname": "-a"}}, "a host name has letters"),
    ],
)
def test_wrong_domains(params, reason):
    assert reason in domain_refused(**params)


def test_memory_is_required_but_for_containers_and_existing_domains():
    assert "a domain of type kvm needs memory" in refused("domain", name="vm", domain_type="kvm")
    assert parse("domain", name="vm", domain_type="lxc").memory_kib == 512 * 1024
    existing = parse("domain", complete=False)
    assert not existing.has_memory
    with pytest.raises(InvalidSpec, match="neither memory nor memory_size"):
        _ = existing.memory_kib


def test_the_maximum_of_memory():
    assert parse("domain", name="vm", memory_size=100).max_memory_kib == 200
    assert parse("domain", name="vm", memory_size=100, hardware="modern").max_memory_kib == 100
    # A maximum that an earlier configure froze gives way to a later update of memory_size.
    assert parse("domain", name="vm", memory_size=300, memory_maxsize=200).max_memory_kib == 300


@pytest.mark.parametrize(
    ("params", "modern"),
    [
        ({"memory_size": 1}, False),
        ({"memory": "1 GiB"}, True),
        ({"memory_size": 1, "image": "/a"}, True),
        ({"memory_size": 1, "cloud_init": {}}, True),
        ({"memory": "1 GiB", "hardware": "classic"}, False),
        ({"memory_size": 1, "hardware": "modern"}, True),
    ],
)
def test_hardware_is_modern_when_a_modern_key_is_used(params, modern):
    assert parse("domain", name="vm", **params).modern is modern


def test_an_empty_string_is_not_set():
    spec = domain(vcpu="", title="", nvram=None, image="", disks="", domain_type="", wait_for_ip="")
    assert (spec.vcpu, spec.title, spec.disks, spec.domain_type, spec.wait_for_ip) == (1, None, (), "qemu", True)


def test_specs_are_frozen():
    with pytest.raises(ValidationError):
        domain().vcpu = 2


def test_disks_get_free_targets():
    disks = [Disk(file="/a", dev="vdb"), Disk(file="/b"), Disk(file="/c"), Disk(file="/d", device="cdrom")]
    assert [(d.bus, d.dev) for d in place_disks(disks, "q35", modern=True)] == [
        ("virtio", "vdb"), ("virtio", "vda"), ("virtio", "vdc"), ("scsi", "sda"),
    ]  # fmt: skip
    drive = [Disk(device="cdrom")]
    assert [place_disks(drive, machine, modern=False)[0].bus for machine in ("q35", "pc", "")] == ["sata", "ide", "ide"]
    many = place_disks([Disk(file="/a")] * 28, "pc", modern=True)
    assert [disk.dev for disk in many][25:] == ["vdz", "vdaa", "vdab"]


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"cidr": "10.0.0.0/31"}, "/8 to /30"),
        ({"cidr": "10.0.0.0"}, "as in 10.20.0.0/24, or auto"),
        ({"cidr": "fd00::/64"}, "IPv4 network"),
        ({"cidr": "auto", "ips": [{"address": "10.0.0.1"}]}, "cidr and ips"),
        ({"mode": "nat", "forwards": [{"mode": "nat"}]}, "mode and forwards"),
        ({"mode": "bridge"}, "params.dev"),
        ({"cidr": "10.0.0.0/24", "hosts": [{"mac": "52:54:00:00:00:01", "ip": "10.0.1.1"}]}, "params.hosts[0].ip"),
        ({"cidr": "10.0.0.0/24", "dhcp": "no", "hosts": [{"mac": "525400000001", "ip": "10.0.0.9"}]}, "hosts[0].ip"),
        ({"ips": [{"address": "10.0.0.1", "netmask": "255.255.255.0", "prefix": 24}]}, "netmask and prefix"),
        ({"ips": [{"address": "10.0.0.1", "netmask": "255.0.255.0"}]}, "not a mask"),
        ({"ips": [{"address": "fd00::1", "netmask": "255.255.255.0"}]}, "IPv6 address has a prefix"),
        ({"ips": [{"address": "10.0.0.1", "dhcp": {"start": "11.0.0.1", "end": "11.0.0.9"}}]}, "is outside of"),
        ({"ips": [{"address": "10.0.0.1", "dhcp": {"start": "10.0.0.9", "end": "10.0.0.1"}}]}, "below start"),
        ({"ips": [{"address": "10.0.0.1", "dhcp": {"start": "10.0.0.9", "end": "fd00::1"}}]}, "is outside of"),
        ({"ips": [{"address": "10.0.0.1", "prefix": 64}]}, "not a mask"),
        ({"ips": [{}]}, "params.ips[0].address of node web: is required"),
        ({"dev": "a-very-long-bridge-name"}, "1 to 15"),
        ({"domain": "under_score"}, "host name"),
    ],
)
def test_wrong_networks(params, reason):
    assert reason in refused("network", name="net", **params)


@pytest.mark.parametrize(
    ("cidr", "gateway", "start", "end"),
    [
        ("10.20.0.0/24", "10.20.0.1", "10.20.0.2", "10.20.0.254"),
        ("10.20.0.0/30", "10.20.0.1", "10.20.0.2", "10.20.0.2"),
        ("10.0.0.0/8", "10.0.0.1", "10.0.0.2", "10.0.255.255"),
    ],
)
def test_a_network_is_expanded(cidr, gateway, start, end):
    full = parse("network", name="net", cidr="auto").expanded(cidr)
    (address,) = full.ips
    assert (address.address, address.dhcp.start, address.dhcp.end) == (gateway, start, end)
    assert [forward.mode for forward in full.forwards] == ["nat"]


def test_modes_and_forwards():
    def modes(**params):
        return [forward.mode for forward in parse("network", name="n", **params).wanted_forwards]

    assert (modes(), modes(mode="route", cidr="auto")) == ([], ["route"])
    assert modes(forwards=[{"mode": "vepa", "dev": "e"}]) == ["vepa"]
    assert modes(cidr="auto", mode="isolated") == []


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"capacity": 1}, "params.pool of node web: a volume needs the name of its pool"),
        ({"pool": "p"}, "a volume needs size"),
        ({"pool": "p", "capacity": "x"}, "params.capacity of node web: must be a whole number"),
        ({"pool": "p", "url": "http://a/b", "image": "/a"}, "two sources"),
        ({"pool": "p", "url": "gopher://a/b"}, "http://, https:// or file://"),
        ({"pool": "p", "size": "1 GiB", "format": "vhdx"}, "params.format"),
    ],
)
def test_wrong_volumes(params, reason):
    assert reason in refused("volume", name="vol", **params)


def test_a_volumes_own_keys_complete_its_image():
    spec = parse("volume", name="v", pool="p", image={"source": "/a", "size": "1 GiB"}, size="2 GiB", mode="clone")
    assert (spec.origin.size, spec.origin.mode) == (2 * 1024**3, "clone")


@pytest.mark.parametrize("mode", [493, "755 ", "0888", "17777"])
def test_wrong_modes_of_pools(mode):
    assert "three octal digits in quotes" in refused("pool", name="p", mode=mode)


def test_an_iso_needs_its_volume():
    assert "params.volume" in refused("iso9660", pool="p")
    assert "params.pool" in refused("iso9660", volume="v")
    assert "must be text" in refused("iso9660", pool="p", volume="v", files={"a": {"b": "c"}})


def test_facts_must_fit_the_spec():
    with pytest.raises(TypeError, match="PoolFacts does not complete DomainSpec"):
        template_variables(domain(), PoolFacts("u"))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def wild_params(draw):
    """Draw mappings with real keys at two levels and any values."""
    kind = draw(st.sampled_from(list(MODELS)))
    nested = ["network", "file", "mac", "type", "dev", "ip", "address", "source", "start", "hostname", "vendor_id"]
    inner = st.dictionaries(st.sampled_from(nested), values | st.sampled_from(["usb", "pci", "tpm"]), max_size=3)
    any_value = values | inner | st.lists(inner, max_size=2)
    return kind, draw(st.dictionaries(st.sampled_from(list(MODELS[kind].model_fields)), any_value, max_size=5))


@settings(max_examples=400, deadline=None)
@given(wild_params(), st.booleans(), st.booleans())
def test_whatever_comes_in_either_a_spec_or_a_readable_error_comes_out(given_params, extra, complete):
    kind, params = given_params
    try:
        spec = parse_spec(kind, params, node="web", extra=extra, complete=complete)
    except InvalidSpec as error:
        assert str(error).startswith("cannot read params")
    else:
        assert isinstance(spec, MODELS[kind])


def test_zero_wipe_is_for_raw_volumes():
    with pytest.raises(InvalidSpec, match=r"params\.zero_wipe"):
        parse("volume", name="v", pool="p", size="1 MiB", format="qcow2", zero_wipe=True)
    assert parse("volume", name="v", pool="p", size="1 MiB", zero_wipe="yes").zero_wipe is True
