"""Images: named, fetched, verified, cached, pruned."""
