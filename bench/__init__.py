"""Measurements, with what they are compared to taken in the same run."""
