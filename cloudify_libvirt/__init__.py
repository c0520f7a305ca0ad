"""Cloudify plugin that drives libvirt: networks, storage, domains and containers from a blueprint."""

__version__ = "1.0.0"
