"""What was declared against what is there, pure."""
