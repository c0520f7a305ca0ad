"""What a user may ask for of a volume, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.parse import references
from cloudify_libvirt.core.parse import volume as volume_facts
from cloudify_libvirt.core.spec import VolumeFacts, parse_spec, template_variables
from cloudify_libvirt.core.spec.volume import read_content

KEY = {"passphrase": "hunter2"}


def parse(**params: Any) -> Any:
    return parse_spec("volume", {"name": "v", "pool": "p", **params}, node="web", extra=False)


def refused(**params: Any) -> str:
    with pytest.raises(InvalidSpec) as caught:
        parse(**params)
    return str(caught.value)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"file": "disk.raw"}, "must be an absolute path on the machine that runs the operations"),
        ({"content": "x", "file": "/a"}, "content and file are two sources"),
        ({"source_volume": "a", "url": "http://a/b"}, "source_volume and url are two sources"),
        ({"content": {"base64": "%%"}}, "must be base64"),
        ({"content": {"text": "a", "base64": "YQ=="}}, "must be a text, {text: ...} or {base64: ...}"),
        ({"content": "x", "mode": "overlay"}, "an overlay needs image, url, file or source_volume, not content"),
        ({"image": "/a", "format": "raw"}, "an overlay is qcow2; for a raw volume take mode: clone"),
        ({"source_volume": "a", "mode": "overlay", "format": "raw"}, "an overlay is qcow2"),
        ({"file": "/a", "format": "dir"}, "a directory cannot be filled"),
        ({"source_volume": {"pool": "a"}}, "params.source_volume.volume of node web: is required"),
        ({"source_volume": {"pool": "a", "name": "b"}}, "The keys are volume, pool, format"),
        ({"size": "1 MiB", "preallocation": "some"}, "must be one of 'off', 'metadata', 'falloc' or 'full'"),
        ({"size": "1 MiB", "preallocation": "metadata"}, "only qcow2 has metadata"),
        ({"size": "1 MiB", "preallocation": "full", "format": "qcow2"}, "full is for an empty raw volume"),
        ({"file": "/a", "preallocation": "full"}, "full is for an empty raw volume"),
        ({"image": "/a", "preallocation": "falloc"}, "an overlay or a directory holds only what"),
        ({"size": "1 MiB", "encryption": {}}, "give one of passphrase, passphrase_file and secret"),
        ({"size": "1 MiB", "encryption": {**KEY, "passphrase_file": "/k"}}, "give one of passphrase"),
        ({"content": "x", "encryption": KEY}, "it would lie in the pool unencrypted before"),
        ({"image": "/a", "encryption": KEY}, "only a whole volume"),
        ({"size": "1 MiB", "zero_wipe": True, "encryption": KEY}, "zeros over an encrypted volume"),
        ({"size": "1 MiB", "preallocation": "falloc", "encryption": KEY}, "libvirt makes an encrypted raw volume thin"),
        ({"size": "1 MiB", "encryption": {"key": "hunter2"}}, "there is no such key"),
        ({"name": "9 lives", "size": "1 MiB", "encryption": KEY}, "an encrypted volume's name begins with a letter"),
    ],
)
def test_refused(params: dict[str, Any], reason: str) -> None:
    said = refused(**params)
    assert reason.lower() in said.lower()
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("grün", "grün".encode()),
        ({"text": "a"}, b"a"),
        ({"base64": "AP8="}, b"\0\xff"),
        (b"\1", b"\1"),
        ({}, None),
        (3, None),
    ],
)
def test_content(value: object, expected: bytes | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="must be a text"):
            read_content(value)
    else:
        assert read_content(value) == expected


def test_secrets_are_shown_to_nobody() -> None:
    spec = parse(size="1 MiB", encryption=KEY)
    other = parse(content="hunter2")
    seen = str(template_variables(spec, VolumeFacts())) + str(template_variables(other, VolumeFacts()))
    assert "hunter2" not in repr(spec) + repr(other) + seen


@pytest.mark.parametrize(
    ("params", "overlay"),
    [
        ({"image": "/a"}, True),
        ({"image": "/a", "mode": "clone"}, False),
        ({"url": "http://a/b"}, False),
        ({"url": "http://a/b", "mode": "overlay"}, True),
        ({"file": "/a"}, False),
        ({"source_volume": "a"}, False),
        ({"source_volume": "a", "mode": "overlay"}, True),
        ({"size": "1 MiB", "mode": "overlay"}, False),
    ],
)
def test_what_is_an_overlay(params: dict[str, Any], overlay: bool) -> None:
    assert parse(**params).is_overlay is overlay


def test_references_of_a_document() -> None:
    found = references(
        "<domain><os><kernel>/boot/k</kernel><nvram>/n &amp; 1</nvram></os><devices>"
        "<disk><source file='/a'/><backingStore><source file='/b'/></backingStore>"
        "<mirror><source dev='/m'/></mirror></disk>"
        "<disk><source pool='p' volume='v'/></disk><disk><source protocol='rbd' name='pool/disk'/></disk>"
        "<filesystem><source dir='/d'/></filesystem><interface><source network='n'/></interface></devices></domain>"
    )
    assert found == {"/boot/k", "/n & 1", "/a", "/b", "/m", ("p", "v"), "pool/disk", "/d"}


def test_encryption_of_a_volume() -> None:
    xml = "<volume><name>v</name><target><path>/v</path><encryption format='luks'>{}</encryption></target></volume>"
    closed = volume_facts(xml.format(""))
    known = volume_facts(xml.format("<secret type='passphrase' uuid='u'/>"))
    assert (closed.encrypted, closed.secret, known.encrypted, known.secret) == (True, "", True, "u")
    assert not volume_facts("<volume><name>v</name><target><path>/v</path></target></volume>").encrypted
