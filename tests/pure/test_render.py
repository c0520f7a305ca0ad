"""Documents: goldens, libvirt's schemas, and errors that point at the template."""

import time

import goldens
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from cloudify_libvirt.core.document import schema as schemas
from cloudify_libvirt.core.document.render import TemplateSource, render, template_directory, toxml
from cloudify_libvirt.core.errors import InvalidSpec, InvalidTemplate
from cloudify_libvirt.core.spec import DomainFacts, NetworkFacts, OwnershipMark, parse_spec, template_variables

HAVE_SCHEMAS = pytest.mark.skipif(
    not (goldens.Path(schemas.directory()) / "domain.rng").exists(), reason="libvirt's schemas are not installed"
)
XML_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\ufffe\uffff"), min_size=1, max_size=20
)

OWN = """\
<domain type="{{ domain_type }}">
  <name>{{ name }}</name>
  <memory>{{ memory_size }}</memory>
  <os>
    <type>hvm</type>
  </os>
  <devices>
    {# a comment
       of two lines #}
    {% for disk in disks %}
    <disk type="file">
      <source file="{{ disk.file }}"/>
      <target dev="{{ disk.dev }}" bus="{{ disk.bus }}"/>
    </disk>
    {% endfor %}
    HERE
  </devices>
</domain>
"""


def variables(**params):
    spec = parse_spec("domain", {"name": "vm", "memory": "1 GiB", **params}, node="web", extra=True)
    facts = DomainFacts(goldens.UUID, "qemu", "q35", disks=spec.disks, interfaces=spec.networks)
    return template_variables(spec, facts)


def own(text, schema="domain", **params):
    source = TemplateSource(text, "vm.xml.j2", "resources/vm.xml.j2")
    return render(source, variables(**params), schema=schema, node="web")


def refused(text, schema="domain", **params):
    with pytest.raises(InvalidTemplate) as caught:
        own(text, schema, **params)
    text = str(caught.value)
    assert text.startswith("cannot render template resources/vm.xml.j2 of node web: ")
    return text.removeprefix("cannot render template resources/vm.xml.j2 of node web: ")


@pytest.mark.parametrize("case", goldens.cases(*goldens.SCHEMAS), ids=lambda case: f"{case.kind}-{case.path.stem}")
class TestGoldens:
    def test_the_document_is_the_golden_one(self, case):
        assert case.rendered() == case.golden.read_text(encoding="utf-8")

    @HAVE_SCHEMAS
    def test_the_golden_is_valid(self, case):
        path = goldens.Path(schemas.directory()) / f"{goldens.SCHEMAS[case.kind]}.rng"
        relaxng = etree.RelaxNG(etree.parse(str(path)))
        assert relaxng.validate(etree.parse(str(case.golden))), relaxng.error_log


def test_every_golden_has_its_case():
    known = {case.golden for case in goldens.cases(*goldens.SCHEMAS)}
    # Snapshots have documents of libvirt's, no params of a node: test_snapshot.py compares theirs.
    assert {path for path in goldens.DATA.glob("*/*.xml") if path.parent.name != "snapshot"} == known


@pytest.mark.parametrize("kind", goldens.SCHEMAS)
def test_packaged_templates_are_there(kind):
    assert (template_directory() / f"{kind}.xml.j2").is_file()


@HAVE_SCHEMAS
@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ('<diskk type="file" device="disk"/>',
         'element <diskk type="file" device="disk"> (line 16 of resources/vm.xml.j2) is not allowed inside <devices>. '
         "Did you mean <disk>?"),
        ('<interface type="user">\n<model tpe="e1000"/></interface>',
         'element <model tpe="e1000"> (line 17 of resources/vm.xml.j2) is not valid: '
         'the attribute tpe="e1000" is not known. Did you mean type?'),
        ('<controller type="usb" model="wheel"/>',
         'element <controller type="usb" model="wheel"> (line 16 of resources/vm.xml.j2) is not valid: '
         'the attribute model="wheel" has a wrong name, place or value.'),
        ("<interface/>",
         "element <interface> (line 16 of resources/vm.xml.j2) is not valid inside <devices>: "
         "it must not be there, or lacks something, or has a wrong value."),
        ('<graphics type="vnc" passwd="hunter2" port="x"/>',
         'element <graphics type="vnc" passwd="***" port="x"> (line 16 of resources/vm.xml.j2) is not valid: '
         'the attribute port="x" has a wrong name, place or value.'),
        ('<disk type="file"><target dev="vdb"/>\n<target dev="vdc"/></disk>',
         'element <target dev="vdb"> (line 16 of resources/vm.xml.j2) is not valid inside <disk>'),
        ("<vcpu>1</vcpu>", "element <vcpu> (line 16 of resources/vm.xml.j2) must not have the value '1'."),
    ],
)  # fmt: skip
def test_a_schema_error_names_element_line_and_place(line, answer):
    for disks in ([], [{"file": "/a", "dev": "vda", "bus": "virtio"}]):
        assert refused(OWN.replace("HERE", line), disks=disks).startswith(answer)


@HAVE_SCHEMAS
def test_the_line_is_that_of_a_value_inside_a_loop():
    disks = [{"file": "/a", "dev": f"vd{letter}", "bus": "virtio"} for letter in "abc"]
    text = refused(OWN.replace("HERE", "").replace('bus="{{', 'wheels="{{'), disks=disks)
    assert text.startswith('element <target dev="vda" wheels="virtio"> (line 13 of resources/vm.xml.j2)')


@HAVE_SCHEMAS
@pytest.mark.parametrize(
    ("document", "answer"),
    [
        ("<domain/>", "element <domain> (line 1 of resources/vm.xml.j2) lacks the element <name>"),
        ("\n<network/>", "element <network> (line 2 of resources/vm.xml.j2) stands where <domain> must be"),
        ('<domain type="x"><name>a</name><memory>1</memory><os><type>hvm</type></os></domain>',
         'element <domain type="x"> (line 1 of resources/vm.xml.j2) is not valid: the attribute type="x"'),
        ('<domain type="kvm"><name>a</name>\n<name>b</name><memory>1</memory><os><type>hvm</type></os></domain>',
         "element <name> (line 2 of resources/vm.xml.j2) must not be there twice inside <domain>"),
        ('<domain type="kvm"><name>a</name>\n<memory>1x</memory><os><type>hvm</type></os></domain>',
         "element <memory> (line 2 of resources/vm.xml.j2) must not have the value '1x'"),
    ],
)  # fmt: skip
def test_a_schema_error_at_the_top(document, answer):
    assert refused(document).startswith(answer)


@HAVE_SCHEMAS
@pytest.mark.parametrize(
    ("schema", "document", "answer"),
    [
        ("network", '<network><name>a</name>\n<bridge naem="b"/></network>', "element <bridge naem="),
        ("storagepool", '<pool type="dir"><name>a</name>\n<target/></pool>', "element <target> (line 2"),
        ("storagevol", "<volume><name>a</name>\n<capacity>x</capacity><target/></volume>", "element <capacity> (line"),
        ("domainsnapshot", "<domainsnapshot><memory snapshot='maybe'/></domainsnapshot>", "element <memory snapshot"),
    ],
)
def test_every_schema_is_checked(schema, document, answer):
    assert refused(document, schema).startswith(answer)


def test_without_schemas_the_hypervisor_checks(monkeypatch, tmp_path):
    monkeypatch.setenv("LIBVIRT_SCHEMA_DIR", str(tmp_path))
    assert own("<anything/>") == "<anything/>\n"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("{{ nmae }}", "line 16 of resources/vm.xml.j2: 'nmae' is undefined. Did you mean name?"),
        ("{{ zzzzzz }}", "line 16 of resources/vm.xml.j2: 'zzzzzz' is undefined. The variables are accelerator,"),
        ("\n{{ owner.zzz }}", "line 17 of resources/vm.xml.j2: 'str object' has no attribute 'zzz'."),
        ("{{ 1 // 0 }}", "line 16 of resources/vm.xml.j2: ZeroDivisionError:"),
        ("{{ [] + 1 }}", "line 16 of resources/vm.xml.j2: TypeError:"),
        ("{% include 'nope' %}", "line 16 of resources/vm.xml.j2: there is no template nope."),
        ("{% include '../setup.py' %}", "line 16 of resources/vm.xml.j2: there is no template ../setup.py."),
        ("{% if %}", "line 16 of resources/vm.xml.j2: syntax error: Expected an expression"),
        ("{{ name.__class__.__mro__ }}", "line 16 of resources/vm.xml.j2: SecurityError: access to attribute"),
        ("<a>\n</b>", "line 17 of resources/vm.xml.j2: not well-formed XML: Opening and ending tag mismatch: a and b"),
        ("&file;", "line 16 of resources/vm.xml.j2: not well-formed XML: Entity 'file' not defined."),
        ("{{ name | nofilter }}", "line 16 of resources/vm.xml.j2: syntax error: No filter named 'nofilter'"),
    ],
)
def test_an_error_names_the_line_of_the_template(line, answer):
    assert refused(OWN.replace("HERE", line)).startswith(answer)


def test_an_error_in_a_block_that_overrides_a_packaged_one():
    text = refused('{% extends "domain.xml.j2" %}\n\n{% block os %}\n<os>{{ nmae }}</os>\n{% endblock %}')
    assert text.startswith("line 4 of resources/vm.xml.j2: 'nmae' is undefined")


@HAVE_SCHEMAS
def test_a_schema_error_in_and_outside_of_an_overriding_block():
    child = '{% extends "domain.xml.j2" %}\n{% block extra_devices %}\n<a1/>\n{% endblock %}'
    assert "(line 3 of resources/vm.xml.j2)" in refused(child)
    source = (template_directory() / "domain.xml.j2").read_text(encoding="utf-8").split("\n")
    line = next(at for at, text in enumerate(source, 1) if "{{ machine }}" in text)
    with pytest.raises(InvalidTemplate, match=rf'\(line {line} of domain\.xml\.j2\) .* machine="a b!" has a wrong'):
        render(TemplateSource(), {**variables(), "machine": "a b!"}, schema="domain", node="web")


def test_a_doctype_is_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    document = f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{secret}">]>\n' + OWN.replace("HERE", "")
    text = refused(document.replace("{{ name }}", "&e;"))
    assert "a DOCTYPE is not allowed" in text
    assert "hunter2" not in text
    bomb = "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>" + "".join(
        f"<!ENTITY {chr(98 + i)} '{f'&{chr(97 + i)};' * 10}'>" for i in range(12)
    )
    assert "DOCTYPE" in refused(bomb + "]><domain/>")


def test_nothing_is_an_error():
    assert "not well-formed XML: Document is empty" in refused("")
    assert "not well-formed XML" in refused("text")


def test_values_are_escaped():
    disk = {"file": '/"><x/>', "dev": "vda", "bus": "ide"}
    root = etree.fromstring(own(OWN.replace("HERE", ""), name="<evil a='b'>&amp;", disks=[disk]))
    assert root.findtext("name") == "<evil a='b'>&amp;"
    assert root.find("devices/disk/source").get("file") == '/"><x/>'


def test_toxml():
    value = {"disk": [{"@type": "a&b", "source": {"@file": "<"}}, {"#text": "x>y"}], "empty": None, "yes": True, "n": 1}
    assert str(toxml(value)) == (
        '<disk type="a&amp;b"><source file="&lt;"></source></disk><disk>x&gt;y</disk>'
        "<empty></empty><yes>true</yes><n>1</n>"
    )


def test_ctx_is_handed_through():
    spec = parse_spec("domain", {"name": "vm"}, node="web", extra=True)
    ctx = {"instance": {"id": "vm_1"}}
    found = template_variables(spec, DomainFacts("u", "qemu"), ctx)
    text = render(TemplateSource("<domain>{{ ctx.instance.id }}</domain>"), found, schema="none", node="web")
    assert text == "<domain>vm_1</domain>\n"


def test_an_open_auto_cidr_is_an_error():
    spec = parse_spec("network", {"name": "n", "cidr": "auto"}, node="web", extra=False)
    with pytest.raises(InvalidSpec, match="cidr is still auto"):
        template_variables(spec, NetworkFacts("u"))


disks = st.fixed_dictionaries(
    {"file": XML_TEXT.map(lambda text: f"/{text}")},
    optional={"readonly": st.booleans(), "device": st.sampled_from(["disk", "cdrom"]), "type": st.just("qcow2")},
)
interfaces = st.one_of(
    st.fixed_dictionaries({"network": XML_TEXT}, optional={"type": st.just("e1000"), "mtu": st.just("1400")}),
    st.just({"user": True}),
    st.just({"bridge": "br0"}),
)
domains = st.fixed_dictionaries(
    {"name": XML_TEXT.filter(lambda text: text.strip() and text not in (".", ".."))},
    optional={
        "memory_size": st.integers(1, 2**40),
        "vcpu": st.integers(1, 500),
        "title": XML_TEXT.filter(str.strip),
        "description": XML_TEXT,
        "disks": st.lists(disks, max_size=4),
        "networks": st.lists(interfaces, max_size=3),
        "hardware": st.sampled_from(["modern", "classic"]),
        "domain_type": st.sampled_from(["qemu", "kvm", "lxc", "xen", "test"]),
    },
)


@settings(max_examples=300, deadline=None)
@given(domains, XML_TEXT)
def test_any_domain_of_valid_values_is_a_valid_document(params, owner):
    params.setdefault("memory_size", 1024)
    spec = parse_spec("domain", params, node="web", extra=False)
    mark = OwnershipMark(owner, "n", "n_1", "1")
    facts = DomainFacts(goldens.UUID, spec.domain_type, "q35", disks=spec.disks, interfaces=spec.networks, mark=mark)
    root = etree.fromstring(render(TemplateSource(), template_variables(spec, facts), schema="domain", node="web"))
    assert root.findtext("name") == spec.name
    assert [s.get("file") or s.get("dir") for s in root.iterfind("devices//source") if "bridge" not in s.attrib][
        : len(spec.disks)
    ] == [disk.file for disk in spec.disks]
    assert root.find("metadata/{*}owner").get("deployment") == owner


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*OWN.split("\n"), "<a>", "{{", "}}", "{% endfor %}", "{{ x.y }}", "&", "\x01"])))
def test_any_template_renders_or_fails_readably(lines):
    try:
        own("\n".join(lines))
    except InvalidTemplate as error:
        assert "resources/vm.xml.j2" in str(error)


def test_it_is_fast():
    params = {"name": "vm", "memory": "1 GiB", "disks": [{"file": "/a"}] * 2, "networks": [{"network": "n"}] * 2}
    facts_of = {"machine": "q35"}

    def once():
        spec = parse_spec("domain", params, node="web", extra=False)
        parsed = time.process_time()
        facts = DomainFacts(goldens.UUID, "qemu", disks=spec.disks, interfaces=spec.networks, **facts_of)
        render(TemplateSource(), template_variables(spec, facts), schema="domain", node="web")
        return parsed, time.process_time()

    once()
    spent = []
    for _ in range(20):
        start = time.process_time()
        parsed, done = once()
        spent.append((parsed - start, done - parsed))
    assert min(parse for parse, _ in spent) < 0.001
    assert min(rendering for _, rendering in spent) < 0.010
