"""Every error about plugins.

    PluginError
      x PluginNotFoundError       no installed plugin has this name                     exit 4
      x PluginConflictError       a name means several plugins                          exit 4
      x PluginTrustError          the lock, or its origin, forbids importing it         exit 2
      x PluginIncompatibleError   written for another plugin API                        exit 2
      x PluginLoadError           importing it failed                                   exit 2
      x LockError                 the lock file cannot be read or written               exit 2
      x SignatureError            who made a distribution cannot be verified            exit 2

The shape is that of `clipsec.errors.ClipsecError`: a message, and a remedy sentence.
"""

from __future__ import annotations


class PluginError(Exception):
    """The root. `remedy` says what to do about it; `plugin` is the canonical name, where there is one."""

    exit_code = 2

    def __init__(self, message: str, *, remedy: str, plugin: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.plugin = plugin


class PluginNotFoundError(PluginError):
    """No installed plugin has this name."""

    exit_code = 4


class PluginConflictError(PluginError):
    """A name means several plugins, or one that may not have it."""

    exit_code = 4


class PluginTrustError(PluginError):
    """The lock, or the place its code would come from, forbids importing the plugin."""


class PluginIncompatibleError(PluginError):
    """The plugin was written for another plugin API."""


class PluginLoadError(PluginError):
    """Importing the plugin failed."""


class LockError(PluginError):
    """The lock file cannot be read, understood or written."""


class SignatureError(PluginError):
    """A signature or an attestation cannot be made, or does not prove what it should."""
