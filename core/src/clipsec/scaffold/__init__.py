"""Complete plugin packages to start from: one working example of each kind."""

from clipsec.scaffold._package import KINDS, new_plugin

__all__ = ["KINDS", "new_plugin"]
