"""Keeps what its inputs were when it ran."""

from cloudify import ctx
from cloudify.state import ctx_parameters

ctx.instance.runtime_properties["given"] = ctx_parameters["given"]
