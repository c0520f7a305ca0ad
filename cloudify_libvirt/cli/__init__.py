"""Command lines on the core and on the files that the package ships; never on the engine."""
