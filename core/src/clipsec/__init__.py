"""clipsec."""
