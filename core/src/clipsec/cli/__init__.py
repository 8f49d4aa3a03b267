"""The command line. One file a verb; a verb's module is imported only when it is used."""

from clipsec.cli._main import main

__all__ = ["main"]
