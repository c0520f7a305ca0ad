"""The rules by which an operation's values are merged: contract of the existing plugin, section 4, and B1, B6, B25."""

from __future__ import annotations

from typing import Any

import pytest

from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.record import OWN_KEYS
from cloudify_libvirt.request import Request, inside_blueprint
from tests.driver.conftest import URI, Node


def request(node: Node, **inputs: Any) -> Request:
    return Request(node.ctx(), "domain", inputs)


def test_params_come_from_properties_then_runtime_then_inputs() -> None:
    node = Node(params={"a": 1, "b": 1, "c": 1}, runtime={"params": {"b": 2, "c": 2, "d": 2}})
    params = request(node, params={"c": 3, "e": 3}).params
    assert {key: params[key] for key in "abcde"} == {"a": 1, "b": 2, "c": 3, "d": 2, "e": 3}


def test_the_merge_is_shallow() -> None:
    node = Node(params={"networks": [{"network": "a"}, {"network": "b"}], "map": {"x": 1, "y": 1}})
    params = request(node, params={"networks": [{"network": "c"}], "map": {"x": 2}}).params
    assert params["networks"] == [{"network": "c"}] and params["map"] == {"x": 2}


def test_inputs_of_create_are_there_in_later_operations() -> None:
    node = Node(params={"memory": "1 GiB"})
    _ = request(node, params={"memory": "2 GiB", "vcpu": 2}).params
    later = request(node).params
    assert (later["memory"], later["vcpu"]) == ("2 GiB", 2)


def test_a_changed_property_takes_effect() -> None:
    """B25: the copy of an older property in runtime gives way to the property of today."""
    node = Node(params={"memory": "1 GiB", "vcpu": 1})
    _ = request(node).params
    node.params["memory"] = "4 GiB"
    assert request(node).params["memory"] == "4 GiB"
    assert request(node).params["vcpu"] == 1


def test_what_a_script_wrote_beats_the_property() -> None:
    node = Node(params={"disks": [{"file": "/template"}]})
    _ = request(node).params
    node.runtime["params"] = {**node.runtime["params"], "disks": [{"file": "/rewritten"}]}
    assert request(node).params["disks"] == [{"file": "/rewritten"}]


def test_runtime_params_written_before_create_are_honoured() -> None:
    node = Node(params={"name": ""}, runtime={"params": {"vcpu": 3}})
    assert request(node).params["vcpu"] == 3


def test_name_and_uuid_are_derived_and_kept() -> None:
    node = Node()
    first = request(node).params
    assert first["name"] == "vm_x0"
    assert node.runtime["params"]["instance_uuid"] == first["instance_uuid"] == request(node).params["instance_uuid"]
    assert Request(Node().ctx(), "domain", {}).params["instance_uuid"] == first["instance_uuid"]
    other = Node(deployment="other")
    assert request(other).params["instance_uuid"] != first["instance_uuid"]


def test_a_given_uuid_is_kept() -> None:
    uid = "11111111-2222-4333-8444-555555555555"
    assert request(Node(), params={"instance_uuid": uid}).params["instance_uuid"] == uid


def test_names_may_tell_the_instances_apart() -> None:
    nodes = [Node(params={"name": "node-{{ number }}"}, index=index) for index in (1, 5)]  # a Manager counts from 1
    assert [request(node).name for node in nodes] == ["node-1", "node-5"]


def test_seeds_are_not_recorded() -> None:
    node = Node(params={"cloud_init": {"user_data": {"password": "geheim"}}})
    assert request(node).params["cloud_init"]["user_data"] == {"password": "geheim"}
    assert "geheim" not in repr(node.runtime)


def test_params_that_are_no_map() -> None:
    with pytest.raises(InvalidSpec, match="input params of node vm: list is not a map"):
        _ = request(Node(), params=["name"]).params


@pytest.mark.parametrize(
    ("inputs", "runtime", "properties", "expected"),
    [
        ({}, {}, {"libvirt_auth": "p:///x"}, "p:///x"),
        ({}, {"libvirt_auth": "r:///x"}, {"libvirt_auth": "p:///x"}, "r:///x"),
        ({"libvirt_auth": "i:///x"}, {"libvirt_auth": "r:///x"}, {"libvirt_auth": "p:///x"}, "i:///x"),
        ({"libvirt_auth": ""}, {}, {"libvirt_auth": "p:///x"}, "p:///x"),
        ({}, {}, {"libvirt_auth": ""}, "qemu:///system"),
    ],
)
def test_uri(inputs: Any, runtime: Any, properties: Any, expected: str) -> None:
    node = Node(runtime=dict(runtime), properties=properties)
    assert request(node, **inputs).uri == expected
    assert node.runtime["libvirt_auth"] == expected


def test_a_uri_that_was_not_evaluated() -> None:
    node = Node(properties={"libvirt_auth": {"get_attribute": ["host", "uri"]}})
    with pytest.raises(InvalidSpec, match=r"get_attribute was not evaluated.*inputs of the operation"):
        _ = request(node).uri


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), ("true", True), ("yes", True), ("false", False), ("", False), (None, False)]
)
@pytest.mark.parametrize("place", ["property", "input"])
def test_use_external_resource(value: object, expected: bool, place: str) -> None:
    """B1 and B6: as property or input, and "false" is false."""
    node = Node(properties={"use_external_resource": value} if place == "property" else {})
    inputs = {"use_external_resource": value} if place == "input" else {}
    assert request(node, **inputs).external is expected


def test_the_input_decides_against_the_property() -> None:
    node = Node(properties={"use_external_resource": True})
    assert request(node, use_external_resource=False).external is False


def test_clearing_leaves_what_others_wrote() -> None:
    node = Node(runtime=dict.fromkeys(OWN_KEYS, 1) | {"resource_id": "vm", "mine": "stays"})
    request(node).record.clear()
    assert node.runtime == {"resource_id": None, "backups": {}, "mine": "stays"}


def test_an_unchanged_value_is_not_assigned_again() -> None:
    """Each assignment marks the instance dirty and costs a write of its file."""

    class Journal(dict):  # type: ignore[type-arg]
        writes = 0

        def __setitem__(self, key: str, value: object) -> None:
            Journal.writes += 1
            super().__setitem__(key, value)

    node = Node(runtime=Journal())
    record = request(node).record
    record.assign(ip="10.0.0.1")
    record.assign(ip="10.0.0.1")
    assert Journal.writes == 1


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret", "a/../../b"])
def test_templates_stay_inside_the_blueprint(path: str) -> None:
    with pytest.raises(InvalidSpec, match="leaves the blueprint's directory"):
        inside_blueprint(path, "node vm")


def test_template_order() -> None:
    """template_resource beats template_content, which beats the packaged one."""
    node = Node(resources={"mine.j2": b"<mine/>"})
    both = request(node, template_resource="mine.j2", template_content="<text/>").template("domain.xml.j2")
    assert (both.text, both.origin) == ("<mine/>", "mine.j2")
    assert request(node, template_content="<text/>").template("domain.xml.j2").text == "<text/>"
    packaged = request(node).template("domain.xml.j2")
    assert (packaged.text, packaged.name) == (None, "domain.xml.j2")
    assert request(node).uri == URI
