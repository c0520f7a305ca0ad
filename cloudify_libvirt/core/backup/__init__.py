"""Backups of running and stopped guests: points in a store, each whole or not there at all."""
