"""clipsec_clip_inspector."""
