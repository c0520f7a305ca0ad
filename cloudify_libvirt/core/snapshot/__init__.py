"""Snapshots of domains, and the files they need."""
