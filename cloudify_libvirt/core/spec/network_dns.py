"""What a network's DNS server answers."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cloudify_libvirt.core.spec.base import Count, Flag, Ip, Line, Part, Positive, line, missing

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9\-]{0,61}[A-Za-z0-9])?", re.ASCII)

_DNSMASQ_SPECIAL = re.compile(r'[,"#\\]|^\s|\s$')


def dns_name(value: object) -> str:
    """Return a name of the DNS without '_', which libvirt's schema has no room for."""
    labels = line(value).split(".")
    if len(line(value)) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("must be a DNS name of letters, digits, '-' and '.', as in www.example.org")
    return line(value)


DnsName = Annotated[str, BeforeValidator(dns_name)]
Port = Annotated[Positive, Field(le=65535)]
Short = Annotated[Count, Field(le=65535)]


class Forwarder(Part):
    """Where questions that the network cannot answer go."""

    addr: Ip | None = Field(default=None, description="Server; with domain alone, the host's own servers.")
    domain: DnsName | None = Field(default=None, description="Only for names below this domain.")

    @model_validator(mode="after")
    def _something(self) -> Forwarder:
        if not (self.addr or self.domain):
            raise missing("addr", "a forwarder needs addr, or domain, or both")
        return self


class DnsHost(Part):
    """An address with names."""

    ip: Ip = Field(description="Address.")
    names: tuple[DnsName, ...] = Field(min_length=1, description="Its names.")


class Srv(Part):
    """A service of a domain."""

    service: DnsName = Field(description="Service, as in ldap.")
    protocol: Literal["tcp", "udp"] = Field(description="Protocol.")
    domain: DnsName | None = Field(default=None, description="Domain; that of the network when absent.")
    target: DnsName | None = Field(default=None, description="Host of the service; none means: there is none.")
    port: Port | None = Field(default=None, description="Port.")
    priority: Short | None = Field(default=None, description="Lower comes first.")
    weight: Short | None = Field(default=None, description="Share among those of one priority.")

    @model_validator(mode="after")
    def _target_first(self) -> Srv:
        given = [key for key in ("port", "priority", "weight") if getattr(self, key) is not None]
        if given and not self.target:
            raise missing("target", f"{given[0]} needs the host that it is of")
        return self


class Txt(Part):
    """A text of the DNS."""

    name: DnsName = Field(description="Name.")
    value: Line = Field(description="Text.")

    @property
    def quoted(self) -> str:
        """The text as dnsmasq reads it: libvirt copies it, and a comma would part it, a number sign end it.

        Source: dnsmasq's option.c, read_file.
        """
        if not _DNSMASQ_SPECIAL.search(self.value):
            return self.value
        escaped = re.sub(r'([\\"])', r"\\\1", self.value)
        return f'"{escaped}"'


class Dns(Part):
    """What the network's DNS server answers."""

    enable: Flag = Field(default=True, description="Run a DNS server for the guests.")
    forward_plain_names: Flag | None = Field(default=None, description="Ask others for names without a dot; yes.")
    forwarders: tuple[Forwarder, ...] = Field(default=(), description="[{addr, domain}]; the host's when absent.")
    hosts: tuple[DnsHost, ...] = Field(default=(), description="Names: [{ip, names}].")
    srv: tuple[Srv, ...] = Field(
        default=(), description="Services: [{service, protocol, domain, target, port, priority, weight}]."
    )
    txt: tuple[Txt, ...] = Field(default=(), description="Texts: [{name, value}].")

    @model_validator(mode="after")
    def _not_off(self) -> Dns:
        given = [key for key in ("forwarders", "hosts", "srv", "txt") if getattr(self, key)]
        if not self.enable and given:
            raise missing(given[0], "enable: false leaves nobody to answer it")
        return self
