"""Entry of `python -m clipsec_baselines`."""

from clipsec_baselines._command import main

main(prog_name="python -m clipsec_baselines")
