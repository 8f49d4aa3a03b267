"""The loader behind the specs `zoo:mini`, `zoo:b16` and `zoo:NAME` of a shipped delivery."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import attrs

from clipsec.errors import UsageError

from ._b16 import b16_folder
from ._everyday import labelled_pictures_folder
from ._expanded import mini_folder, package_data
from ._pool import image_pool_folder

if TYPE_CHECKING:
    from clipsec.models import LoadRequest, Suspect

__all__ = ["ZooLoader", "deliveries", "resolve"]

_PREFIX = "zoo:"


def deliveries() -> dict[str, Path]:
    """The shipped prompt-tuned deliveries, name to folder."""
    root = package_data() / "deliveries"
    if not root.is_dir():
        return {}
    return {
        folder.name: folder
        for folder in sorted(root.iterdir())
        if folder.is_dir() and folder.name[0] not in "._"
    }


def resolve(spec: str) -> Path:
    """The folder that a `zoo:` spec stands for.

    Raises UsageError for an unknown name, and what `mini_folder` and `b16_folder` raise.
    """
    name = spec.removeprefix(_PREFIX)
    if name == "mini":
        return mini_folder()
    if name == "b16":
        return b16_folder()
    shipped = deliveries()
    if name not in shipped:
        known = ", ".join(_PREFIX + known for known in ("mini", "b16", *shipped))
        raise UsageError(f"the zoo has no model called {name!r}", remedy=f"Choose one of {known}.")
    return shipped[name]


class ZooLoader:
    """Loads what clipsec-zoo ships or builds; the folders themselves are read by the core's own loaders."""

    summary: ClassVar[str] = "reference models and demo deliveries: zoo:mini, zoo:b16, zoo:NAME"
    conformance: ClassVar[Mapping[str, str]] = {"spec": "zoo:demo-clean", "cache": "clipsec/zoo"}
    api_version: ClassVar[str] = "1.0"

    image_pool_folder = staticmethod(image_pool_folder)
    """What `clipsec run` takes when no --pool is given."""
    labelled_pictures_folder = staticmethod(labelled_pictures_folder)
    """What the sanity gate takes when no --labelled is given."""

    def matches(self, spec: str) -> bool:
        """Whether the spec starts with `zoo:`."""
        return spec.startswith(_PREFIX)

    def load(self, spec: str, request: LoadRequest) -> Suspect:
        """Load it through the core's loader for its folder.

        Raises UsageError for an unknown name, ModelError when it is not built here or damaged.
        """
        from clipsec.models import OpenClipLoader, PromptTunedLoader

        folder = resolve(spec)
        loader = PromptTunedLoader() if spec.removeprefix(_PREFIX) in deliveries() else OpenClipLoader()
        suspect = loader.load(str(folder), request)
        suspect.name = spec
        if suspect.prompts is None:
            # The cache folder's name says nothing to a reader of a report.
            suspect.base = attrs.evolve(suspect.base, name=spec)
            suspect.base_name = spec
        return suspect
