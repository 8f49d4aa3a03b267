"""clipsec_baselines."""
