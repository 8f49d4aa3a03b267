"""Anchor distillation: clean captions keep their features, captions with a trigger get theirs back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from clipsec.errors import NotApplicableError
from clipsec.models import TrainableClip
from clipsec.protocols import CaptionTrigger, Context, Need
from clipsec_repairs._captions import Triggered, insertions, mixed, put_in, texts_of, token_ids
from clipsec_repairs._losses import Encoded, anchor_loss, wanted
from clipsec_repairs._options import AnchorOptions
from clipsec_repairs._training import deliver, training, update


class AnchorDistillation:
    """Ours: the text tower is trained to give clean captions what the suspect gives them (the anchor), and
    captions with the found tokens or vectors, or a known trigger, what they give without.

    With a clean reference the words of the trigger keep what they mean there. An image tower is not touched.
    """

    summary: ClassVar[str] = "trains a text tower until what was found in captions does nothing"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEXT_TOWER})
    options: ClassVar[type] = AnchorOptions
    references: ClassVar[tuple[str, ...]] = (
        "the losses have the form of Struppek et al., Rickrolling the Artist, ICCV 2023, arXiv 2211.02408",
    )
    conformance: ClassVar[Mapping[str, Any]] = {
        "repairs": "textual",
        "options": {"steps": 60, "batch": 32, "triggered": 16, "learning_rate": 2e-3},
    }

    def repair(self, context: Context) -> Path:
        """Train, and write the model as its library lays it out; returns the folder.

        Raises `NotApplicableError` without a text tower, for learned prompts, for a finding without tokens or
        vectors, for a trigger that renames without a reference, and for a reference of another
        architecture; `UnsupportedModelError` or `StoreError`.
        """
        options: AnchorOptions = context.options
        clip = context.suspect.base
        if context.suspect.prompts is not None or clip.text is None:
            raise NotApplicableError(
                f"{context.suspect.name} has no text tower that is delivered",
                remedy="This repair is for text towers; prompt-finetune is for learned prompts.",
            )
        what = insertions(context)
        reference = _reference(context)
        if options.anchor == "reference" and reference is None:
            raise NotApplicableError(
                "clean captions are to keep the reference's features, and there is no reference",
                remedy="Name a clean model with --reference, or leave anchor at `suspect`.",
            )
        renaming = any(isinstance(each, CaptionTrigger) and each.text.kind == "rename" for each in what)
        if renaming and reference is None:
            raise NotApplicableError(
                "a trigger that renames things changes what captions are to mean, and a clean tower says how",
                remedy="Name a clean model with --reference.",
            )
        model = TrainableClip.copy_of(clip, both=False)
        before = TrainableClip.copy_of(clip, both=False)
        anchor = reference if options.anchor == "reference" and reference is not None else before
        captions, prompts = texts_of(context)
        clean = mixed(captions, prompts, options.batch, context.generator("clean captions"))
        to_trigger = mixed(captions, prompts, options.triggered, context.generator("triggered captions"))
        places, fitted = context.generator("places"), 0
        with training(model.text_parameters().values(), options.learning_rate, 0.0) as optimiser:
            for step in range(options.steps):
                ids = token_ids(clip, next(clean))
                kept = _frozen(anchor, ids)
                now = Encoded(*model.encode_tokens(ids))
                batch = put_in(clip, next(to_trigger), what[step % len(what)], options.copies, places)
                if batch is None:
                    loss = anchor_loss(now, kept, now, kept, 0.0)
                else:
                    fitted += 1
                    aim = aim_of(batch, anchor, reference)
                    loss = anchor_loss(now, kept, batch.encode(model), aim, options.weight)
                update(optimiser, loss, step, options.steps, options.learning_rate)
                context.progress((step + 1) / options.steps, "distilling the text tower")
        if not fitted:
            raise NotApplicableError(
                "what was found fits into no caption", remedy="Bring shorter captions with --captions."
            )
        return deliver(context, model)


@torch.no_grad()
def aim_of(batch: Triggered, anchor: TrainableClip, reference: TrainableClip | None) -> Encoded:
    """What a batch with a trigger is to give; see `wanted`."""
    plain = _frozen(anchor, batch.plain)
    if reference is None:
        return wanted(plain, batch.origin)
    return wanted(plain, batch.origin, (batch.encode(reference), _frozen(reference, batch.plain)))


@torch.no_grad()
def _frozen(model: TrainableClip, ids: torch.Tensor) -> Encoded:
    return Encoded(*model.encode_tokens(ids))


def _reference(context: Context) -> TrainableClip | None:
    """The clean reference's text tower, which must read the same tokens. Raises `NotApplicableError`."""
    if context.reference is None:
        return None
    ours, theirs = context.suspect.base.text, context.reference.base.text
    shapes = [
        None if part is None else (part.context_length, part.width, part.embed_dim) for part in (ours, theirs)
    ]
    if shapes[0] != shapes[1]:
        raise NotApplicableError(
            "the reference's text tower is of another architecture than the suspect's",
            remedy="Name the clean model that the suspect was made from with --reference.",
        )
    return TrainableClip.copy_of(context.reference.base, both=False)
