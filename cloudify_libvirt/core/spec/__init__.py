"""Validated models of what a user may ask for: one noun a file."""

from cloudify_libvirt.core.spec.base import Spec, dsl_properties
from cloudify_libvirt.core.spec.cloud_init import CloudInit
from cloudify_libvirt.core.spec.copies import only_copied
from cloudify_libvirt.core.spec.disk import Disk
from cloudify_libvirt.core.spec.domain import DomainSpec
from cloudify_libvirt.core.spec.interface import Interface
from cloudify_libvirt.core.spec.iso9660 import IsoSpec
from cloudify_libvirt.core.spec.network import NetworkSpec
from cloudify_libvirt.core.spec.parsing import MODELS, Kind, parse_spec, refuse_functions
from cloudify_libvirt.core.spec.placement import place_disks
from cloudify_libvirt.core.spec.pool import PoolSpec
from cloudify_libvirt.core.spec.variables import (
    Backing,
    DomainFacts,
    NetworkFacts,
    OwnershipMark,
    PoolFacts,
    VolumeFacts,
    template_variables,
)
from cloudify_libvirt.core.spec.volume import Image, VolumeSpec

__all__ = [
    "MODELS",
    "Backing",
    "CloudInit",
    "Disk",
    "DomainFacts",
    "DomainSpec",
    "Image",
    "Interface",
    "IsoSpec",
    "Kind",
    "NetworkFacts",
    "NetworkSpec",
    "OwnershipMark",
    "PoolFacts",
    "PoolSpec",
    "Spec",
    "VolumeFacts",
    "VolumeSpec",
    "dsl_properties",
    "only_copied",
    "parse_spec",
    "place_disks",
    "refuse_functions",
    "template_variables",
]
