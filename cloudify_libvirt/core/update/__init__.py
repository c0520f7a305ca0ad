"""Changes of a domain that exists, running or not."""
