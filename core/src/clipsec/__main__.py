"""`python -m clipsec`."""

from clipsec.cli import main

main()
