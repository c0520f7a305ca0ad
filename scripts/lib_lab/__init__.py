"""The parts of `scripts/lab`: model (what a lab is), cgroups, inside (its PID 1), outside (who drives it),
link (a cable between two)."""
