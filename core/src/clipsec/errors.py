"""Every error that clipsec raises on purpose.

    ClipsecError
      x UsageError            the command line or a configuration file is wrong        exit 4
      x ModelError            a model cannot be loaded                                  exit 2
        - MalformedModelError     truncated, wrong shapes, not what it says it is
        - UnsafeModelError        would have to execute code, or is absurdly large
        - UnsupportedModelError   readable, but nothing here knows the architecture
        - MisloadedModelError     loaded, but does not behave like the model it claims to be
      x DataError             a picture, a pool or a label file is unusable             exit 2
        - EmptyPoolError
      x DetectionError        a detector could not do its work                          error verdict
        - NotApplicableError      the suspect lacks what the detector needs             skipped verdict
        - OutOfMemoryError        not even one row fits
        - ContractError           a plugin broke the protocol (NaN, wrong type, ...)
        - IsolationError          a detector's own process was stopped, or ended without an answer
      x StoreError            results cannot be written or read back (disk full, ...)   exit 2
      x ReportError           a report format could not render a run                    exit 2

    clipsec_registry.PluginError (re-exported here) has the same shape, for everything about plugins.

Catch the root to handle all of them:

    try:
        suspect = clipsec.load_suspect("delivery/")
    except ClipsecError as error:
        print(error, error.remedy)
"""

from __future__ import annotations

from clipsec_registry import PluginError

__all__ = [
    "ClipsecError",
    "ContractError",
    "DataError",
    "DetectionError",
    "EmptyPoolError",
    "IsolationError",
    "MalformedModelError",
    "MisloadedModelError",
    "ModelError",
    "NotApplicableError",
    "OutOfMemoryError",
    "PluginError",
    "ReportError",
    "StoreError",
    "UnsafeModelError",
    "UnsupportedModelError",
    "UsageError",
]


class ClipsecError(Exception):
    """The root. `remedy` is one sentence that says what to do about it."""

    exit_code = 2

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UsageError(ClipsecError):
    """The command line or a configuration file asks for something that cannot be."""

    exit_code = 4


class ModelError(ClipsecError):
    """A model cannot be loaded."""


class MalformedModelError(ModelError):
    """The file is truncated, has wrong shapes, or is not what it says it is."""


class UnsafeModelError(ModelError):
    """Loading would execute code from the file, or allocate an absurd amount of memory."""


class UnsupportedModelError(ModelError):
    """The file can be read, but its architecture is not known here."""


class MisloadedModelError(ModelError):
    """The model loaded but does not behave like the model it claims to be."""


class DataError(ClipsecError):
    """A picture, a pool or a label file is unusable."""


class EmptyPoolError(DataError):
    """There is no picture to work with."""


class DetectionError(ClipsecError):
    """A detector could not do its work; its verdict is `error`, never `clean`."""


class NotApplicableError(DetectionError):
    """The suspect lacks what the detector needs; its verdict is `skipped`."""


class OutOfMemoryError(DetectionError):
    """Not even one row fits into the device's memory."""


class ContractError(DetectionError):
    """A plugin broke the protocol: a wrong type, a NaN score, a result of another size."""


class IsolationError(DetectionError):
    """A detector's own process was stopped (time, memory, output, ...) or ended without an answer."""


class StoreError(ClipsecError):
    """Results cannot be written or read back."""


class ReportError(ClipsecError):
    """A report format could not render a run; the run itself is stored."""
