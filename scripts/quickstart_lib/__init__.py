"""What scripts/quickstart does once Python and its packages are there."""
