"""What a host has, can do, and is doing with our guests."""
