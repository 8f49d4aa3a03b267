"""A detector's context as JSON and tensors, and the context that a worker makes of them.

Weights do not travel. A worker's suspect has the card, the prompts and handles on the parent's towers; the
library's own module is loaded by the worker itself, from the suspect's files, when a plugin asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from clipsec.data import ImagePool, LabelledSet
from clipsec.data._pictures import spec_digest
from clipsec.errors import NotApplicableError
from clipsec.isolation._frames import Frame
from clipsec.isolation._link import Link
from clipsec.isolation._remote import RemoteScheduler
from clipsec.models import (
    ClipModel,
    ImageSpec,
    PromptState,
    Suspect,
    TextPart,
    Tokenizer,
    VisualPart,
    load_suspect,
)
from clipsec.models._image_tower import image_part
from clipsec.models._text_tower import text_part
from clipsec.protocols import Context
from clipsec.scheduler import Tower
from clipsec.store import Unit, UnitStore, safe_name
from clipsec_registry import Registry

_FOLDER = "isolated"


def own_shared_folder(shared: UnitStore, detector: str) -> Path:
    """Where an isolated detector keeps what its later runs may reuse.

    It reads what others have shared, but does not write there: they would believe it.
    """
    return shared.folder.absolute() / _FOLDER / safe_name(detector)


# Parent


def context_message(context: Context, detector: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The fields and tensors of the message that hands the context to a worker."""
    tensors: dict[str, Tensor] = {}
    fields = {
        "suspect": _suspect_fields(context.suspect, "suspect", tensors),
        "reference": None
        if context.reference is None
        else _suspect_fields(context.reference, "reference", tensors),
        "pool": None if context.pool is None else _pool_fields(context.pool, context.suspect, tensors),
        "labelled": None if context.labelled is None else _labelled_fields(context.labelled),
        "units": str(context.units.folder.absolute()),
        "shared": str(context.shared.folder.absolute()),
        "own": str(own_shared_folder(context.shared, detector)),
        "folder": str(context.folder.absolute()),
        "here": os.getcwd(),
        "seed": context.seed,
        "search_dtype": str(context.search_dtype).removeprefix("torch."),
        "decision_dtype": str(context.decision_dtype).removeprefix("torch."),
    }
    return fields, tensors


def _suspect_fields(suspect: Suspect, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    base, prompts = suspect.base, suspect.prompts
    fields: dict[str, Any] = {
        key: getattr(suspect, key) for key in ("name", "kind", "digest", "base_name", "files")
    }
    fields["class_names"], fields["notes"] = list(suspect.class_names), list(suspect.notes)
    fields["origin"] = None if suspect.origin is None else attrs.asdict(suspect.origin)
    fields["base"] = {
        key: getattr(base, key)
        for key in ("name", "architecture", "activation", "digest", "logit_scale", "logit_bias", "files")
    } | {"notes": list(base.notes), "visual": None, "text": None}
    if base.visual is not None:
        fields["base"]["visual"] = {
            key: getattr(base.visual, key) for key in ("embed_dim", "library", "digest")
        }
        fields["base"]["visual"]["spec"] = attrs.asdict(base.visual.spec)
    if base.text is not None:
        fields["base"]["text"] = {
            key: getattr(base.text, key)
            for key in ("context_length", "width", "embed_dim", "library", "digest")
        }
    fields["prompts"] = None
    if prompts is not None:
        tensors[f"{name}/ctx"] = prompts.ctx
        for key, value in (prompts.meta_net or {}).items():
            tensors[f"{name}/meta/{key}"] = value
        fields["prompts"] = {
            key: getattr(prompts, key) for key in ("method", "digest", "class_token_position")
        }
        fields["prompts"]["class_names"] = list(prompts.class_names)
    return fields


def _pool_fields(pool: ImagePool, suspect: Suspect, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if suspect.base.visual is not None:
        tensors["pool/pixels"] = pool.pixels(suspect.base.visual.spec)
    return {
        "paths": [os.path.abspath(path) for path in pool.paths],
        "name": pool.name,
        "unreadable": list(pool.unreadable),
        "file_digests": list(pool.file_digests),
    }


def _labelled_fields(labelled: LabelledSet) -> dict[str, Any]:
    return {
        "name": labelled.name,
        "paths": [os.path.abspath(path) for path in labelled.paths],
        "labels": list(labelled.labels),
        "class_names": list(labelled.class_names),
    }


# Worker


def context_of(frame: Frame, options: Any, link: Link, registry: Registry) -> Context:
    """The context that `context_message` described."""
    fields = frame.fields
    scheduler = RemoteScheduler(link)

    def suspect(name: str) -> RemoteSuspect | None:
        if fields[name] is None:
            return None
        tensors = {
            key.removeprefix(f"{name}/"): value
            for key, value in frame.tensors.items()
            if key.startswith(f"{name}/")
        }
        return _remote_suspect(name, fields[name], tensors, scheduler, registry, fields["here"])

    audited = suspect("suspect")
    assert audited is not None
    labelled = fields["labelled"]
    return Context(
        suspect=audited,
        options=options,
        scheduler=scheduler,
        units=UnitStore(fields["units"]),
        shared=SharedUnits(fields["own"], fields["shared"]),
        folder=Path(fields["folder"]),
        pool=None if fields["pool"] is None else _pool(fields["pool"], frame.tensors, audited),
        labelled=None
        if labelled is None
        else LabelledSet(
            labelled["name"],
            tuple(map(Path, labelled["paths"])),
            tuple(labelled["labels"]),
            tuple(labelled["class_names"]),
        ),
        reference=suspect("reference"),
        seed=fields["seed"],
        search_dtype=getattr(torch, fields["search_dtype"]),
        decision_dtype=getattr(torch, fields["decision_dtype"]),
        progress=lambda fraction, what: link.tell(
            "progress", {"fraction": float(fraction), "what": str(what)[:200]}
        ),
    )


class SharedUnits(UnitStore):
    """Reads what everybody has shared, writes where only this detector does."""

    def __init__(self, own: str, common: str) -> None:
        super().__init__(own)
        self._common = UnitStore(common)

    def load(self, name: str) -> Unit | None:
        own = super().load(name)
        return own if own is not None else self._common.load(name)


class RemoteSuspect(Suspect):
    """A suspect whose towers are prepared and called in the parent."""

    place: str
    """`suspect` or `reference`."""
    scheduler: RemoteScheduler

    def _tower(self, what: str, dtype: torch.dtype, make: Callable[[], Tower]) -> Tower:
        if (what, dtype) not in self._towers:
            self._towers[what, dtype] = self.scheduler.tower(self.place, what, dtype, self.class_names)
        return self._towers[what, dtype]


class _Loaded:
    """The suspect as its files hold it, loaded at most once."""

    def __init__(self, fields: Mapping[str, Any], registry: Registry, here: str) -> None:
        self._fields, self._registry, self._here = fields, registry, here

    @cached_property
    def base(self) -> ClipModel:
        """Raises `NotApplicableError` when the suspect cannot be loaded again as it was."""
        origin, name = self._fields["origin"], self._fields["name"]
        remedy = "Run this detector without --isolate, or audit a model that lies in files."
        if origin is None:
            raise NotApplicableError(
                f"{name} was made in memory, so an isolated detector cannot have its modules", remedy=remedy
            )
        back = os.getcwd()
        os.chdir(self._here)
        try:
            suspect = load_suspect(
                origin["spec"],
                base=origin["base"],
                class_names=origin["class_names"],
                registry=self._registry,
            )
        finally:
            os.chdir(back)
        if suspect.base.digest != self._fields["base"]["digest"]:
            raise NotApplicableError(f"the files of {name} have changed since it was loaded", remedy=remedy)
        return suspect.base


class _RemoteVisual(VisualPart):
    """An image tower's facts, and its module on demand."""

    _loaded: _Loaded

    def __init__(self, fields: Mapping[str, Any], loaded: _Loaded) -> None:
        _set(self, fields, spec=_spec(fields["spec"]), _loaded=loaded)

    @property
    def module(self) -> nn.Module:
        return image_part(self._loaded.base).module


class _RemoteText(TextPart):
    """A text tower's facts, and its module and tokenizer on demand."""

    _loaded: _Loaded

    def __init__(self, fields: Mapping[str, Any], loaded: _Loaded) -> None:
        _set(self, fields, _loaded=loaded)

    @property
    def module(self) -> nn.Module:
        return text_part(self._loaded.base).module

    @property
    def tokenizer(self) -> Tokenizer:
        return text_part(self._loaded.base).tokenizer


def _set(target: object, fields: Mapping[str, Any], **others: Any) -> None:
    for key, value in {**fields, **others}.items():
        object.__setattr__(target, key, value)


def _spec(fields: Mapping[str, Any]) -> ImageSpec:
    return ImageSpec(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})


def _remote_suspect(
    place: str,
    fields: dict[str, Any],
    tensors: Mapping[str, Tensor],
    scheduler: RemoteScheduler,
    registry: Registry,
    here: str,
) -> RemoteSuspect:
    loaded = _Loaded(fields, registry, here)
    base = dict(fields["base"])
    visual, text = base.pop("visual"), base.pop("text")
    base["notes"] = tuple(base["notes"])
    prompts = fields["prompts"]
    if prompts is not None:
        meta = {key.removeprefix("meta/"): value for key, value in tensors.items() if key != "ctx"}
        names = tuple(prompts["class_names"])
        prompts = PromptState(**{**prompts, "class_names": names}, ctx=tensors["ctx"], meta_net=meta or None)
    suspect = RemoteSuspect(
        name=fields["name"],
        kind=fields["kind"],
        base=ClipModel(
            **base,
            visual=None if visual is None else _RemoteVisual(visual, loaded),
            text=None if text is None else _RemoteText(text, loaded),
        ),
        prompts=prompts,
        class_names=tuple(fields["class_names"]),
        base_name=fields["base_name"],
        files=fields["files"],
        notes=tuple(fields["notes"]),
    )
    suspect.place, suspect.scheduler = place, scheduler
    suspect.__dict__["digest"] = fields["digest"]
    return suspect


def _pool(fields: dict[str, Any], tensors: Mapping[str, Tensor], suspect: Suspect) -> ImagePool:
    pool = ImagePool(
        tuple(map(Path, fields["paths"])), name=fields["name"], unreadable=tuple(fields["unreadable"])
    )
    pool.__dict__["file_digests"] = tuple(fields["file_digests"])
    if suspect.base.visual is not None:
        pool._pixels[spec_digest(suspect.base.visual.spec)] = tensors["pool/pixels"]
    return pool
