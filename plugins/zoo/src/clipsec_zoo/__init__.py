"""clipsec_zoo."""
