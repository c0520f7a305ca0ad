"""Input of strangers: a valid document that holds what was given and nothing else, or an error that says what is wrong.

Each test makes 800 inputs, the same in each run, some 10,000 in all; or as many new ones as CLOUDIFY_LIBVIRT_FUZZ says.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import goldens
import pytest
import wild
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from cloudify_libvirt.core import errors, parse, units, uri
from cloudify_libvirt.core.backup import definition, manifest
from cloudify_libvirt.core.document import schema
from cloudify_libvirt.core.document.render import TemplateSource, render
from cloudify_libvirt.core.host import hardware
from cloudify_libvirt.core.image import checksum
from cloudify_libvirt.core.image.cache import ImageCache
from cloudify_libvirt.core.image.urls import public_url
from cloudify_libvirt.core.media import build_iso, expand, nocloud_files
from cloudify_libvirt.core.ownership.mark import mark_of
from cloudify_libvirt.core.snapshot import xml as snapshot_xml
from cloudify_libvirt.core.spec import MODELS, parse_spec, template_variables
from cloudify_libvirt.core.spec.snapshot import SnapshotSpec, parse_snapshot

EXAMPLES = int(os.environ.get("CLOUDIFY_LIBVIRT_FUZZ", "0")) or 800
FACTS = {"domain": parse.domain, "network": parse.network, "pool": parse.pool, "volume": parse.volume}
OUTCOMES: Counter[str] = Counter()

fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="CLOUDIFY_LIBVIRT_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module", autouse=True)
def figures() -> Iterator[None]:
    yield
    print("\nfuzz:", dict(sorted(OUTCOMES.items())))


def outcome(test: str, call: Callable[[], Any]) -> Any:
    """Return what the call returns, or None after an error of ours with a message; any other error is a finding."""
    try:
        found = call()
    except errors.CoreError as error:
        assert str(error).startswith("cannot ") and len(str(error)) < 5000, str(error)[:300]
        OUTCOMES[f"{test}: refused"] += 1
        return None
    OUTCOMES[f"{test}: accepted"] += 1
    return found


def document(kind: str, params: dict[str, Any]) -> tuple[Any, str]:
    spec = parse_spec(kind, params, node="vm", extra=False)
    facts = goldens.facts(kind, spec, {})
    xml = render(
        TemplateSource(name=f"{kind}.xml.j2"), template_variables(spec, facts), schema=goldens.SCHEMAS[kind], node="vm"
    )
    return spec, xml


def check_document(kind: str, spec: Any, xml: str) -> None:
    root = etree.fromstring(xml.encode())
    names = {etree.QName(element).localname for element in root.iter(etree.Element)}
    names |= {str(name) for element in root.iter(etree.Element) for name in element.attrib}
    assert wild.EVIL not in names
    assert len(list(root.iter(etree.ProcessingInstruction))) == 0
    assert schema.violation(xml.encode(), goldens.SCHEMAS[kind]) is None
    assert root.findtext("name") == spec.name
    for field in ("title", "description"):
        if getattr(spec, field, None):
            assert root.findtext(field) == re.sub("\r\n?", "\n", getattr(spec, field))
    FACTS[kind](xml)


@pytest.mark.parametrize("kind", sorted(goldens.SCHEMAS))
def test_params(kind: str) -> None:
    @fuzz
    @given(wild.params(kind, MODELS[kind]))
    def run(params: dict[str, Any]) -> None:
        found = outcome(kind, lambda: document(kind, params))
        if found:
            check_document(kind, *found)

    run()
    assert OUTCOMES[f"{kind}: accepted"] and OUTCOMES[f"{kind}: refused"]


@fuzz
@given(wild.params("iso9660", MODELS["iso9660"]), st.booleans())
def test_iso_images(params: dict[str, Any], extra: bool) -> None:
    def make() -> bytes:
        spec = parse_spec("iso9660", params, node="iso", extra=extra)
        texts = {path: text.encode() for path, text in spec.files.items()}
        return build_iso(texts, vol_ident=spec.vol_ident, sys_ident=spec.sys_ident)

    outcome("iso9660", make)


@fuzz
@given(wild.by_model(SnapshotSpec, {}), wild.JUNK)
def test_snapshot_inputs(params: dict[str, Any], junk: Any) -> None:
    inputs = {f"snapshot_{key}": value for key, value in params.items()} | {"snapshot_name": junk}
    outcome("snapshot", lambda: parse_snapshot(inputs, node="vm"))


_FRAGMENTS = st.sampled_from(
    [
        "{{ name }}",
        "{{ memory_size }}",
        "{% for d in disks %}",
        "{% endfor %}",
        "{% if ctx %}",
        "{% endif %}",
        "{{ ctx }}",
        "{{ ctx.instance.id.__class__.__mro__ }}",
        "{% include '/etc/passwd' %}",
        "{% extends 'domain.xml.j2' %}",
        "{% extends '../../../etc/passwd' %}",
        "{% block devices %}",
        "{% endblock %}",
        "{% macro m(n) %}",
        "{% endmacro %}",
        "{{ m(1) }}",
        "{{ m(m) }}",
        "{% set x = name * 9 %}",
        "{{ x }}",
        "{{ range(99999)|list|length }}",
        "{{ [] | attr('x') }}",
        "{{ name | toxml }}",
        "{{ {'a b': 1} | toxml }}",
        "{{ {'@a': 1} | attributes }}",
        "{{ '%9999999d' % 1 }}",
        "{{ 9**9**9 }}",
        "{{ name.format(name) }}",
        "{{ '{0.__class__}'.format(name) }}",
        "{{ namespace() }}",
        "{{ self }}",
        "{{ loop }}",
        "{{ caller() }}",
        "{{ name | center(10**9) }}",
        "{% raw %}",
        "{% endraw %}",
        "{% import 'owner.xml.j2' as o %}",
        "<domain type='qemu'>",
        "</domain>",
        "<name>",
        "</name>",
        "<!DOCTYPE a [<!ENTITY e SYSTEM '/etc/passwd'>]>",
        "&e;",
        "<x/>",
        "<?pi?>",
        "<a:b/>",
        "<!--",
        "-->",
        "\n",
    ]
)
_TEMPLATES = st.lists(st.one_of(_FRAGMENTS, wild.TEXT), max_size=10).map("".join)


@fuzz
@given(_TEMPLATES, wild.TEXT, st.booleans())
def test_templates_of_users(text: str, name: str, inside: bool) -> None:
    body = "<domain type='qemu'><name>{{ name }}</name><memory>1</memory><os><type>hvm</type></os>%s</domain>"
    source = TemplateSource(body % text if inside else text, "own.xml.j2", "own.xml.j2")

    def make() -> str:
        spec = parse_spec("domain", {"name": name, "own": text}, node="vm", extra=True)
        variables = template_variables(spec, goldens.facts("domain", spec, {}))
        return render(source, variables, schema="domain", node="vm")

    xml = outcome("template", make)
    if xml:
        assert "root:" not in xml
        parse.domain(xml)


_CLOUD = st.fixed_dictionaries(
    {},
    optional={
        "hostname": wild.TEXT,
        "user_data": st.one_of(wild.JUNK, wild.TEXT.map("#cloud-config\n{}".format)),
        "meta_data": wild.JUNK,
        "network_config": wild.JUNK,
        "ssh_authorized_keys": wild.JUNK,
        "other": wild.JUNK,
    },
)


@fuzz
@given(_CLOUD, wild.TEXT)
def test_cloud_init(given_: dict[str, Any], name: str) -> None:
    def make() -> bytes:
        spec = parse_spec("domain", {"name": "x", "memory": "1 GiB", "cloud_init": given_}, node="vm", extra=False)
        expanded = expand(given_, {"name": name, "number": 1})
        files = nocloud_files(expanded, hostname="x", instance_id=name)
        assert spec.cloud_init is not None or not given_
        return build_iso(files)

    outcome("cloud_init", make)


@fuzz
@given(st.one_of(wild.JUNK, st.tuples(st.integers(0, 10**30), wild.TEXT).map(lambda pair: f"{pair[0]} {pair[1]}")))
def test_sizes_and_numbers(value: Any) -> None:
    for read in (units.parse_size, units.parse_bool, units.parse_int, units.parse_seconds):
        outcome("unit", lambda read=read: read(value, "field"))


_URL = st.one_of(
    wild.TEXT,
    st.tuples(
        st.sampled_from(["http", "https", "file", "ftp", "gopher", "qemu+ssh", "qemu", "qemu+ext", ""]),
        st.sampled_from(["", "u:p@", "u@", "@", "u:p@x@", "[", "::"]),
        wild.TEXT,
        wild.TEXT,
    ).map(lambda parts: f"{parts[0]}://{parts[1]}{parts[2]}/{parts[3]}"),
)


@fuzz
@given(_URL)
def test_urls(tmp_path_factory: pytest.TempPathFactory, url: str) -> None:
    assert "u:p@" not in str(outcome("public url", lambda: public_url(url)))
    outcome("uri", lambda: uri.check_uri(url))
    if not url.startswith(("http://", "https://")):
        cache = ImageCache(tmp_path_factory.getbasetemp() / "cache")
        outcome("image", lambda: cache.fetch(url, checksum=""))
    outcome("image spec", lambda: document("volume", {"name": "x", "pool": "p", "image": url}))


_DIGITS = st.sampled_from("0123456789abcdefABCDEF")
_HEX = st.sampled_from([64, 64, 128, 63]).flatmap(lambda length: st.text(_DIGITS, min_size=length, max_size=length))
_LINE = st.tuples(st.one_of(_HEX, wild.TEXT), st.sampled_from(["  ", " *", "", "\t"]), wild.TEXT).map("".join)
_TAGGED = st.tuples(st.sampled_from(["SHA256", "SHA512", "MD5"]), wild.TEXT, _HEX).map(
    lambda p: f"{p[0]} ({p[1]}) = {p[2]}"
)


@fuzz
@given(
    st.one_of(wild.TEXT, _URL, _HEX, _HEX.map("sha256:{}".format)),
    st.lists(st.one_of(_LINE, _TAGGED, wild.TEXT), max_size=6),
    wild.TEXT,
)
def test_checksums(text: str, lines: list[str], name: str) -> None:
    outcome("checksum", lambda: checksum.Checksum.parse(text))
    found = outcome("checksum list", lambda: checksum.find_in_list("\n".join(lines), name, "SUMS"))
    assert found is None or len(found.value) == checksum.HEX_DIGITS[found.algorithm]
    checksum.not_listed("\n".join(lines), name, "SUMS")


_MANIFEST = dict.fromkeys(manifest.Manifest.model_fields, "x") | {
    "version": 1,
    "sequence": 1,
    "libvirt": 1,
    "hypervisor": 1,
    "running": True,
    "quiesced": False,
    "disks": [],
    "skipped": [],
    "definition_bytes": 1,
}


@fuzz
@given(wild.mutated([_MANIFEST]), st.one_of(st.binary(max_size=60), st.just(b"")), wild.JUNK)
def test_manifests(content: dict[str, Any], junk: bytes, more: Any) -> None:
    outcome("manifest bytes", lambda: manifest.decode(junk, "point"))
    for inner in (content, {**_MANIFEST, "disks": more}):
        try:
            digest = manifest._digest(inner)
        except (TypeError, ValueError, UnicodeError):
            continue
        text = json.dumps({"manifest": inner, "sha256": digest})
        outcome("manifest", lambda text=text: manifest.decode(text.encode("utf-8", "surrogatepass"), "point"))


_LAUGHS = (
    "<!DOCTYPE l [<!ENTITY a 'ha'>"
    + "".join(f"<!ENTITY a{n} '{'&a%s;' % (n - 1 or '') * 10}'>" for n in range(1, 12))
    + "]><domain>&a11;</domain>"
)
_BASES = [path.read_text() for path in sorted(goldens.DATA.glob("*/*.xml"))] + [
    "<domainsnapshot><name>n</name><creationTime>1</creationTime><disks><disk name='vda'/></disks><domain/>"
    "</domainsnapshot>",
    "<capabilities><host><cpu><pages unit='KiB' size='4'/></cpu><secmodel><model>dac</model>"
    "<baselabel>+1:+2</baselabel></secmodel></host></capabilities>",
    "<network><ip address='10.0.0.1' prefix='24'><dhcp><host mac='x' ip='y'/></dhcp></ip></network>",
    "<volume><capacity>9</capacity><target><path>/x</path></target></volume>",
]
_DOCTYPES = [
    _LAUGHS,
    "<!DOCTYPE d SYSTEM 'http://127.0.0.1:9/x.dtd'><domain/>",
    "<!DOCTYPE d [<!ENTITY % p SYSTEM 'file:///etc/passwd'>%p;]><domain/>",
    "<!DOCTYPE d [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><domain><name>&e;</name></domain>",
    "<xi:include xmlns:xi='http://www.w3.org/2001/XInclude' href='/etc/passwd' parse='text'/>",
    "<a>" * 5000,
    "",
]


@st.composite
def _hostile_xml(draw: st.DrawFn) -> str:
    text = draw(st.one_of(st.sampled_from(_BASES), st.sampled_from(_DOCTYPES)))
    for _ in range(draw(st.integers(0, 3))):
        # A value, a number, or a piece of markup becomes something else.
        places = [
            found.span() for found in re.finditer(r"(?<=[\"'])[^\"'<>]*(?=[\"'])|(?<=>)[^<>]+(?=<)|<[^>]*>", text)
        ]
        if places:
            start, end = draw(st.sampled_from(places))
            text = text[:start] + draw(wild.TEXT) + text[end:]
    return text


def _readers() -> dict[str, Callable[[str], Any]]:
    found = {
        name: function
        for name, function in vars(parse).items()
        if inspect.isfunction(function)
        and next(iter(inspect.signature(function).parameters)) in ("xml", "capabilities")
    }
    found |= {
        "snapshot facts": snapshot_xml.facts,
        "snapshot disks": snapshot_xml.disks,
        "saved": snapshot_xml.saved_domain,
        "chain": lambda xml: snapshot_xml.chain(xml, "vd'a"),
        "mark": mark_of,
        "sources": lambda xml: snapshot_xml.with_sources(xml, {"vda": "/x", "sda": "/y"}),
        "moved": lambda xml: snapshot_xml.moved(xml, {"/x": ("/y", "qcow2"), "/pool/root.qcow2": ("/z", "raw")}),
        "completed": lambda xml: snapshot_xml.completed(xml, "<domainsnapshot><disks/></domainsnapshot>"),
        "another": lambda xml: definition.another(xml, "n", goldens.UUID, {}),
    }
    return found


READERS = _readers()


@fuzz
@given(_hostile_xml())
def test_documents_of_a_hostile_host(xml: str) -> None:
    passwd = "root:x:0:0"
    for name, read in READERS.items():
        assert passwd not in repr(outcome(f"xml {name}", lambda read=read: read(xml)))


def test_the_readers_are_all_there() -> None:
    assert {"document", "domain", "network", "pool", "volume", "references", "hypervisor_user"} <= READERS.keys()
    assert hardware.parse is parse
