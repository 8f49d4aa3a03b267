"""Clean captions, and the same with a trigger in them, as token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import torch
from torch import Tensor

from clipsec.data import coco_captions
from clipsec.errors import NotApplicableError
from clipsec.models import ClipModel, TrainableClip, insert_tokens, is_causal, pad_with_end, text_ends
from clipsec.protocols import CaptionTrigger, Context, FoundTokens, found_tokens
from clipsec_repairs._losses import Encoded

TEMPLATES = (
    "a photo of a {}.",
    "{}",
    "a picture of the {}.",
    "there is a {} here.",
    "a blurry photo of a {}.",
)
CLASS_SHARE = 4
"""One of so many texts is a class prompt where there are class names: a trigger may work on them alone."""

Insertion = FoundTokens | CaptionTrigger


@attrs.frozen(eq=False)
class Triggered:
    """Texts without and with a trigger."""

    plain: Tensor
    """Token ids `[n, L]`."""
    ids: Tensor
    """`[n, L]`, with it."""
    origin: Tensor | None
    """`[n, L]`: the position in `plain` that each came from, -1 for the trigger's; None where the texts
    themselves were changed."""
    vectors: Tensor | None = None
    """`[k, width]`, in place of the trigger's tokens."""

    def encode(self, model: TrainableClip) -> Encoded:
        """What a model says of them, with the trigger."""
        if self.vectors is None or self.origin is None:
            return Encoded(*model.encode_tokens(self.ids))
        at = self.origin < 0
        put = self.vectors.repeat(int(at.sum()) // len(self.vectors), 1)
        return Encoded(*model.encode_tokens(self.ids, vectors=put, at=at))


def insertions(context: Context) -> tuple[Insertion, ...]:
    """What can be put into captions: the known trigger, then what the finding recovered.

    Raises `NotApplicableError` when there is nothing, `StoreError` or `DataError` for a broken finding.
    """
    known = context.trigger
    found: tuple[Insertion, ...] = (known,) if isinstance(known, CaptionTrigger) else ()
    if context.finding is not None and context.finding_folder is not None:
        found += found_tokens(context.finding, context.finding_folder)
    if not found:
        raise NotApplicableError(
            "the finding holds no tokens or vectors that could be put into captions",
            remedy="Audit with token-scan or amdet, or name a known trigger with --known-trigger CARD.",
        )
    return found


def class_prompts(names: Sequence[str]) -> list[str]:
    """Every class name in every template."""
    return [template.format(name.replace("_", " ")) for name in names for template in TEMPLATES]


def texts_of(context: Context) -> tuple[list[str], list[str]]:
    """Captions to learn from, and prompts of the classes that are known of."""
    pool = context.captions if context.captions is not None else coco_captions()
    names = dict.fromkeys(context.suspect.class_names)
    if context.labelled is not None:
        names |= dict.fromkeys(context.labelled.class_names)
    known = context.trigger
    if isinstance(known, CaptionTrigger) and known.source_name:
        names[known.source_name] = None
    return list(dict.fromkeys(pool.texts)), class_prompts(tuple(names))


def mixed(
    captions: Sequence[str], prompts: Sequence[str], size: int, generator: torch.Generator
) -> Iterator[list[str]]:
    """Batches without end: captions in shuffled passes and, where there are prompts, one of `CLASS_SHARE`
    texts from them."""
    of_classes = size // CLASS_SHARE if prompts else 0
    order: list[int] = []
    while True:
        need = size - of_classes
        while len(order) < need:
            order += torch.randperm(len(captions), generator=generator).tolist()
        drawn = torch.randint(max(1, len(prompts)), (of_classes,), generator=generator).tolist()
        yield [captions[place] for place in order[:need]] + [prompts[place] for place in drawn]
        order = order[need:]


def token_ids(clip: ClipModel, texts: Sequence[str]) -> Tensor:
    """Ids `[n, L]`, padded as image generators read them: with the end token."""
    assert clip.text is not None
    return pad_with_end(clip, clip.text.tokenizer(list(texts)))


def put_in(
    clip: ClipModel, texts: Sequence[str], what: Insertion, copies: int, generator: torch.Generator
) -> Triggered | None:
    """Texts with a trigger in them: a known one as its card says, a found one up to `copies` times, the first
    time at its own place or (every other text) at a random one as further copies are. Texts that it does not
    fit are left out; None when it fits none."""
    if isinstance(what, CaptionTrigger):
        fitting = [text for text in texts if what.text.fits(text)]
        if not fitting:
            return None
        return Triggered(token_ids(clip, fitting), token_ids(clip, what.apply(fitting)), None)
    ids = token_ids(clip, texts)
    ends, length = text_ends(clip, ids), ids.shape[1]
    times = 1 + int(torch.randint(copies, (), generator=generator))
    # Where no caption has room for all copies, fewer are put in.
    while times > 1 and not bool((ends + times * len(what) < length).any()):
        times -= 1
    room = ends + times * len(what) < length
    ids, ends = ids[room], ends[room]
    if not len(ids):
        return None
    first = int(is_causal(clip))
    filler = ids.new_zeros(len(what))
    tokens = filler if what.vectors is not None else torch.tensor(what.ids)
    rows, origin = ids, torch.arange(length).expand(len(ids), -1)
    own = ends if what.site == "end" else torch.full_like(ends, first)
    for copy in range(times):
        drawn = torch.rand(2, len(ids), generator=generator)
        # From behind the start token to right before the end token, both included.
        old = first + (drawn[0] * (ends - first + 1)).long()
        if copy == 0:
            old = torch.where(drawn[1] < 0.5, own, old)
        at = (origin == old[:, None]).int().argmax(dim=1)
        rows, moved = insert_tokens(rows, tokens, at)
        origin = torch.where(moved < 0, -1, origin.gather(1, moved.clamp_min(0)))
    return Triggered(ids, rows, origin, what.vectors)
