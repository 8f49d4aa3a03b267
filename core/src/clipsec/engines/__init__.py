"""Where audits of several suspects run."""

from clipsec.engines._local import Answer, LocalEngine

__all__ = ["Answer", "LocalEngine"]
