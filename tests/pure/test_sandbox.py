"""Templates of strangers: no way out to Python's objects or to files, and an end to time and memory."""

from __future__ import annotations

import resource
import time
from types import SimpleNamespace

import pytest

from cloudify_libvirt.core import media
from cloudify_libvirt.core.document import sandbox
from cloudify_libvirt.core.document.render import TemplateSource, render
from cloudify_libvirt.core.errors import CoreError, InvalidSpec, InvalidTemplate

DOCUMENT = "<domain type='qemu'><name>%s</name><memory>1</memory><os><type>hvm</type></os></domain>"
CTX = SimpleNamespace(instance=SimpleNamespace(id="vm_1", runtime_properties={"a": 1}), node=SimpleNamespace(name="vm"))


def rendered(text: str) -> str:
    source = TemplateSource(DOCUMENT % text, "own.xml.j2", "own.xml.j2")
    return render(source, {"name": "x", "ctx": CTX}, schema="domain", node="vm")


@pytest.mark.parametrize(
    "text",
    [
        "{{ ctx.__class__ }}",
        "{{ ctx.__class__.__mro__[1].__subclasses__() }}",
        "{{ ctx['__class__'] }}",
        "{{ ctx | attr('__class__') }}",
        "{{ ctx.instance.__dict__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ range.__class__.__base__ }}",
        "{{ '{0.__class__}'.format(ctx) }}",
        "{{ '{0.__class__}'.format_map({'0': ctx}) }}",
        "{{ ('%s' | attr('format')).__self__ }}",
        "{{ ''.__class__.__base__ }}",
        "{{ (1).__class__ }}",
        "{{ name.join.__self__ }}",
        "{% include '/etc/passwd' %}",
        "{% include '../../../../../../etc/passwd' %}",
        "{% extends '../../../../../../etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{% from '../setup.py' import x %}",
        "{{ url_for.__globals__ }}",
        "{{ request }}",
        "{{ config }}",
        "{{ open('/etc/passwd') }}",
        "{{ environment.loader }}",
        "{{ undefined_thing.__class__ }}",
    ],
)
def test_no_way_out(text: str) -> None:
    with pytest.raises(InvalidTemplate) as caught:
        rendered(text)
    assert "root:" not in str(caught.value) and "own.xml.j2" in str(caught.value)


GROWING = "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = "
GREEDY = [
    "{{ range(10**9) }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ name * 1000 }}{% endfor %}",
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% else %}ab{% endif %}{% endmacro %}{{ m(60) }}",
    "{{ 'x' * 10**10 }}",
    "{{ [0] * 10**10 }}",
    "{{ 9 ** (9 ** 9) }}",
    "{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '%*d' % (10**10, 1) }}",
    "{{ '%9999999999d' | format(1) }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "{{ '{:>{}}'.format(1, 10**10) }}",
    "{{ '{x:>9999999999}'.format_map({'x': 1}) }}",
    "{{ 'x' | center(10**10) }}",
    "{{ 'x\ny' | indent(10**10) }}",
    "{{ 'x'.ljust(10**10) }}",
    "{{ 'x'.zfill(10**10) }}",
    "{{ 'x\t'.expandtabs(10**9) }}",
    "{{ (1).to_bytes(10**10, 'big') }}",
    "{{ [1] | batch(10**10, 'x') | list }}",
    "{{ range(2) | slice(10**10) | list }}",
    "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "{{ range(99999) | join('a' * 100000) }}",
    "{{ ('a' * 100000).join('b' * 100000) }}",
    GROWING + "n.x ~ n.x %}{% endfor %}",
    GROWING + "n.x + n.x %}{% endfor %}",
    GROWING + "n.x * 2 %}{% endfor %}",
    GROWING + "[n.x, n.x] | join %}{% endfor %}",
    GROWING + "'%s%s' % (n.x, n.x) %}{% endfor %}",
    GROWING + "'{0}{0}'.format(n.x) %}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}"
    "{% endfor %}",
    "{% set y %}{% for i in range(99999) %}" + "constant" * 1000 + "{% endfor %}{% endset %}",
]


@pytest.mark.parametrize("text", GREEDY, ids=range(len(GREEDY)))
def test_greed_has_an_end(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In seconds and megabytes, not hours and gigabytes; in a document as in a seed."""
    monkeypatch.setattr(sandbox, "MOST_SECONDS", 1.0)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(InvalidTemplate):
        rendered(text)
    with pytest.raises(InvalidSpec):
        media.expand({"user_data": text}, {"name": "x"})
    assert time.monotonic() - begin < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "KiB"


def test_what_templates_do_is_still_possible() -> None:
    text = (
        "{% for i in range(3) %}{{ '%02d' % i }}{{ '{:>3}'.format(i) | trim }}{{ 'ab' * 2 }}{{ name ~ i }}{% endfor %}"
        "{{ ['a', 'b'] | join('-') }}{{ 'x' | center(3) | trim }}{{ 2 ** 10 }}{{ 'aXb' | replace('X', '-') }}"
        "{{ ctx.instance.id }}{{ ctx.instance.runtime_properties.a }}{{ 1073741824 | default(2) }}"
    )
    assert ">000ababx0011ababx1022ababx2a-bx1024a-bvm_111073741824<" in rendered(text)


def test_one_rendering_inside_another_keeps_the_bounds_of_both() -> None:
    with pytest.raises(CoreError):
        media.expand("{{ range(10**9) }}", {})
    assert media.expand("{{ number + 1 }}", {"number": 1}) == "2"
    sandbox.tick()


def test_a_view_of_ctx_acts_on_nothing() -> None:
    before = dict(CTX.instance.runtime_properties)
    for text in ("{{ ctx.instance.update() }}", "{{ ctx.logger.info('x') }}", "{{ ctx.get_resource('x') }}"):
        with pytest.raises(InvalidTemplate):
            rendered(text)
    assert before == CTX.instance.runtime_properties
