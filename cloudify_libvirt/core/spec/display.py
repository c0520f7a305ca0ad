"""What a user may ask for of a domain's screens, keyboards, sound, serial lines and channels."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cloudify_libvirt.core.spec.base import AbsolutePath, Flag, Line, Part, Positive, Size, line, missing
from cloudify_libvirt.core.spec.fields import PortNumber, option, shorthand

# Source: RFC 6143, 7.2.2: the challenge is encrypted with eight bytes of the password
_VNC_PASSWORD = 8


class Video(Part):
    """A graphics card."""

    model: Literal["vga", "cirrus", "vmvga", "qxl", "virtio", "none", "bochs", "ramfb"] = Field(
        default="virtio", description="Model; none: no card at all."
    )
    heads: Positive | None = option("Screens.")
    vram: Size | None = option("Memory of the card, with its unit.")
    accel3d: Flag | None = option("3D by the host's graphics, with virtio.")
    width: Positive | None = option("Width that the guest is offered.")
    height: Positive | None = option("Height that the guest is offered.")

    @model_validator(mode="after")
    def _whole(self) -> Video:
        if (self.width is None) != (self.height is None):
            raise missing("height", "width and height belong together")
        return self


class Graphics(Part):
    """A way to see the guest's screen."""

    type: Literal["vnc", "spice", "egl-headless", "dbus"] = Field(description="vnc, spice, egl-headless or dbus.")
    listen: Line | None = option("Address to listen at; 127.0.0.1 when absent. Others need a password.")
    socket: AbsolutePath | None = option("UNIX socket, instead of listen.")
    port: PortNumber | None = option("Port; a free one when absent.")
    tls_port: PortNumber | None = option("Port with TLS, of spice.")
    websocket: PortNumber | None = option("Port for web sockets, of vnc.")
    password: Annotated[str, BeforeValidator(line)] | None = Field(
        default=None, repr=False, description="Password; 8 characters at most with vnc. Never shown again."
    )
    keymap: Line | None = option("Layout of the keyboard, as in de.")
    share: Literal["allow-exclusive", "force-shared", "ignore"] | None = option("Several viewers, of vnc.")
    gl: Flag | None = option("Draw with the host's graphics, of spice.")
    render_node: AbsolutePath | None = option("The host's graphics, as in /dev/dri/renderD128.")

    @model_validator(mode="after")
    def _reachable(self) -> Graphics:
        network = self.listen or self.port or self.tls_port or self.websocket
        if self.type not in ("vnc", "spice") and (network or self.socket or self.password):
            raise missing("type", f"{self.type} has no socket, address, port or password")
        if self.socket and network:
            raise missing("socket", "a UNIX socket has no address and no port")
        if self.type == "vnc" and self.password and len(self.password.encode()) > _VNC_PASSWORD:
            raise missing("password", f"VNC uses {_VNC_PASSWORD} bytes of a password at most")
        if self.listen and not self.password and not _loopback(self.listen):
            raise missing("listen", "others can reach it: set a password, or listen at 127.0.0.1 and use an ssh tunnel")
        return self


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


class Input(Part):
    """A keyboard, mouse or tablet; a tablet's pointer follows that of a viewer."""

    type: Literal["tablet", "mouse", "keyboard"] = Field(description="tablet, mouse or keyboard.")
    bus: Literal["usb", "virtio", "ps2"] = Field(default="virtio", description="Bus.")


class Sound(Part):
    """A sound card; nothing of it is heard on the host."""

    model: Literal["ac97", "ich6", "ich9", "sb16", "es1370", "pcspk", "usb"] = Field(
        default="ich9", description="Model."
    )


class Serial(Part):
    """A further serial line; port 0 is the console."""

    type: Literal["pty", "file", "unix", "tcp", "null"] = Field(default="pty", description="The host's end.")
    path: AbsolutePath | None = option("File or UNIX socket; below libvirt's logs when absent.")
    host: Line | None = option("Address, of tcp.")
    port: PortNumber | None = option("Port, of tcp.")
    mode: Literal["bind", "connect"] = Field(default="bind", description="Who calls, of unix and tcp.")
    protocol: Literal["raw", "telnet"] | None = option("Protocol, of tcp.")
    log: Flag = Field(default=False, description="Keep what the guest writes, in a file that goes with it.")

    @model_validator(mode="after")
    def _ends(self) -> Serial:
        if self.type == "tcp" and not (self.host and self.port):
            raise missing("port", "tcp needs host and port")
        if self.type == "unix" and not self.path:
            raise missing("path", "unix needs the path of its socket")
        if self.path and self.type not in ("file", "unix"):
            raise missing("path", f"{self.type} has no path")
        return self


class Channel(Part):
    """A named line between host and guest: /dev/virtio-ports/NAME there."""

    name: Line = Field(description="Name, as in org.example.0.")
    path: AbsolutePath | None = option("UNIX socket on the host; libvirt's choice when absent.")
    type: Literal["unix", "spicevmc"] = Field(default="unix", description="The host's end.")


class Redirection(Part):
    """USB devices of viewers."""

    bus: Literal["usb"] = Field(default="usb", description="usb.")
    type: Literal["spicevmc"] = Field(default="spicevmc", description="Where they come from.")


VideoField = Annotated[Video, shorthand("model")]
SoundField = Annotated[Sound, shorthand("model")]
GraphicsField = Annotated[Graphics, shorthand("type")]
InputField = Annotated[Input, shorthand("type")]
