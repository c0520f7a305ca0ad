"""What a host needs for guests, looked at and said with the command that mends it; nothing is ever changed."""
