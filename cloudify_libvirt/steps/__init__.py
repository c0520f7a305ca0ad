"""What operations do, between the engine's request and the core: one noun a file."""
