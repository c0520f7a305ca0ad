"""Guests to test on, built from Debian packages without root, loop devices or mounts."""
