"""Contents of pools: bases, overlays, clones, streams; who uses a volume."""
