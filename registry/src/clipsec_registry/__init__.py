"""clipsec_registry."""
