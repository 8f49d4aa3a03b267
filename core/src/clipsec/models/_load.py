"""From what a user names to a suspect: which loader, and what to say when none fits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import torch

from clipsec.errors import ClipsecError, ModelError, UnsupportedModelError, UsageError
from clipsec.models._open_clip import OpenClipLoader
from clipsec.models._prompt_tuned import PromptTunedLoader
from clipsec.models._suspect import LoadRequest, Origin, Suspect
from clipsec.models._transformers import TransformersLoader
from clipsec.models._types import ClipModel
from clipsec.protocols import ModelLoader
from clipsec_registry import PluginError, printable

if TYPE_CHECKING:
    from clipsec_registry import Registry

BUILT_IN: Mapping[str, type[ModelLoader]] = {
    "prompt-tuned": PromptTunedLoader,
    "open-clip": OpenClipLoader,
    "transformers": TransformersLoader,
}
"""In the order in which they are asked: a delivery may hold more than one thing."""

KIND = "models"
_PREFIXES = {"open_clip": "open-clip", "local-dir": "open-clip"}
_LOOKED_FOR = (
    "clipsec.json or prompt_learner/ (a prompt-tuned delivery), open_clip_config.json (open_clip), "
    "config.json (transformers)"
)


def load_suspect(
    spec: str | os.PathLike[str],
    *,
    base: str | None = None,
    class_names: Sequence[str] | None = None,
    device: str = "cpu",
    loaders: Iterable[ModelLoader] | None = None,
    registry: Registry | None = None,
) -> Suspect:
    """Load what was delivered: a folder, or a spec such as `open_clip:ViT-B-32@weights.safetensors`.

    `base` and `class_names` say what a prompt-tuned delivery leaves open; class names also make a plain
    CLIP a zero-shot classifier. `loaders` replaces those installed; `registry` says which of those are
    trusted.

    Nothing in the files is executed. Raises `UnsupportedModelError` when no loader knows the spec, any other
    `ModelError` when one does and cannot load it, `UsageError` for a spec or a device that cannot be.
    """
    _check_device(device)
    request = LoadRequest(
        base=base,
        class_names=None if class_names is None else tuple(class_names),
        device=device,
        loaders=None if loaders is None else tuple(loaders),
        registry=registry,
    )
    suspect = _load(os.fspath(spec), request, _Loaders(request.loaders, registry))
    suspect.origin = Origin(spec=os.fspath(spec), base=base, class_names=request.class_names)
    return suspect


def _check_device(device: str) -> None:
    """A device that cannot be used would otherwise read as a model that cannot."""
    try:
        torch.device(device)
    except RuntimeError as error:
        raise UsageError(
            f"there is no device {printable(device, 60)}", remedy="Say cpu, cuda or cuda:0."
        ) from error
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"the device {printable(device, 60)} cannot be used here: {printable(reason, 120)}",
            remedy="Say cpu, or see `clipsec doctor` for what this installation has.",
        ) from error


def load_clip(spec: str, request: LoadRequest) -> ClipModel:
    """The CLIP that a spec names, as the base of something else. Raises like `load_suspect`.

    A prompt-tuned delivery is no base: one that named itself would never end.
    """
    plain = attrs.evolve(request, base=None, class_names=None)
    suspect = _load(spec, plain, _Loaders(request.loaders, request.registry, bases_only=True))
    return suspect.base


@attrs.define(eq=False)
class _Loaders:
    """The loaders that are asked, in order: those given, or the built-in ones and then the plugins."""

    given: Iterable[ModelLoader] | None = None
    registry: Registry | None = None
    bases_only: bool = False
    failures: list[str] = attrs.field(factory=list)

    def choose(self, spec: str) -> Iterator[tuple[str, ModelLoader]]:
        """Those that want the spec, the one whose name is the spec's prefix first; plugins are imported
        last."""
        prefix = spec.partition(":")[0] if ":" in spec else ""
        wanted = _PREFIXES.get(prefix, prefix)
        for name, loader in self._all(wanted):
            if self.bases_only and isinstance(loader, PromptTunedLoader):
                continue
            try:
                if not loader.matches(spec):
                    continue
            except ClipsecError:
                pass  # it recognised the thing; loading says what is wrong with it
            except Exception as error:
                self._failed(name, error)
                continue
            yield name, loader

    def _all(self, wanted: str) -> Iterator[tuple[str, ModelLoader]]:
        if self.given is not None:
            yield from ((type(loader).__name__, loader) for loader in self.given)
            return
        for name in sorted(BUILT_IN, key=lambda name: name != wanted):
            yield name, BUILT_IN[name]()
        if wanted in BUILT_IN:
            return
        if self.registry is None:
            from clipsec_registry import Registry

            self.registry = Registry(KIND)
        records = [record for record in self.registry.records(KIND) if record.distribution != "clipsec"]
        for record in sorted(records, key=lambda record: record.name != wanted):
            try:
                yield record.name, self.registry.load(record, strict=True)()
            except PluginError as error:
                self.failures.append(error.message)
            except Exception as error:
                self._failed(record.canonical_name, error)

    def _failed(self, name: str, error: Exception) -> None:
        self.failures.append(f"{printable(name, 60)} failed: {type(error).__name__}: {printable(error, 100)}")


def _load(spec: str, request: LoadRequest, loaders: _Loaders) -> Suspect:
    for name, loader in loaders.choose(spec):
        try:
            suspect = loader.load(spec, request)
        except ClipsecError:
            raise
        except Exception as error:
            raise ModelError(
                f"the loader {printable(name, 60)} failed on {printable(spec, 120)}: {type(error).__name__}: "
                f"{printable(error, 120)}",
                remedy="If the files are sound, report it to the authors of the loader.",
            ) from error
        if not isinstance(suspect, Suspect):
            raise ModelError(
                f"the loader {printable(name, 60)} gave a {type(suspect).__name__} instead of a suspect",
                remedy="Report it to the authors of the loader.",
            )
        return suspect
    raise _unknown(spec, loaders)


def _unknown(spec: str, loaders: _Loaders) -> ClipsecError:
    shown = printable(spec, 120)
    failed = f" These loaders could not be asked: {'; '.join(loaders.failures)}." if loaders.failures else ""
    if loaders.bases_only and PromptTunedLoader().matches(spec):
        return UnsupportedModelError(
            f"{shown} is itself a prompt-tuned delivery, not a base",
            remedy="Name the CLIP it stands on with --base.",
        )
    if os.path.isfile(spec):
        return UnsupportedModelError(
            f"{shown} is a file; weights alone do not say what they are weights of.{failed}",
            remedy=f"Name the architecture too: open_clip:NAME@{shown}, or give the folder with its "
            "configuration.",
        )
    if os.path.isdir(spec):
        return UnsupportedModelError(
            f"nothing in {shown} is known here; looked for {_LOOKED_FOR}.{failed}",
            remedy="Name the folder that holds one of these, or install the plugin that reads it; "
            "transformers:FOLDER says why a config.json is not enough.",
        )
    if ":" in spec and os.sep not in spec.partition(":")[0]:
        return UnsupportedModelError(
            f"no loader knows {shown}.{failed}",
            remedy="Known: open_clip:NAME@FILE, open_clip:NAME@TAG, transformers:FOLDER, "
            "prompt-tuned:FOLDER, and "
            "those of installed plugins (clipsec list).",
        )
    return ModelError(f"there is no {shown}.{failed}", remedy="Check the path.")
