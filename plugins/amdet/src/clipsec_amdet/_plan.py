"""What one audit will do, fixed before it starts: prompts, batches, towers, thresholds."""

from __future__ import annotations

import hashlib

import attrs
import torch
from torch import Tensor

from clipsec.data import coco_captions
from clipsec.errors import NotApplicableError
from clipsec.models import ClipModel, Suspect, embed_ids, end_positions, is_causal, pad_with_end, token_table
from clipsec.protocols import Context
from clipsec.scheduler import Tower
from clipsec_amdet._calibration import Thresholds, family_of, thresholds_of, with_set
from clipsec_amdet._options import Options

LONGEST_SHARE = 0.95
"""With `positions=text`, the longest twentieth of the captions is left out: all rows are as long as the
longest."""


@attrs.frozen(eq=False)
class Prompts:
    """Captions as the suspect's own input embeddings."""

    clip: ClipModel
    ids: Tensor
    """`[n, T]`."""
    ends: Tensor
    """`[n]`, where the feature is read without the vectors."""
    vectors: int
    at: int
    """Where vectors are inserted: after the start token; SigLIP has none."""
    positions: str
    """Which tokens count, as in `Options`."""
    key: str

    def rows(self, index: Tensor) -> Tensor:
        """Input embeddings `[len(index), T, D]`."""
        return embed_ids(self.clip, self.ids[index])

    def keys(self, index: Tensor) -> list[bytes]:
        """Content keys of these rows."""
        return [f"{self.key}/{place}".encode() for place in index.tolist()]

    def mask(self, index: Tensor) -> Tensor | None:
        """Which tokens count once the vectors are in, `[len(index), T]`; None: all."""
        if self.positions == "all":
            return None
        places, read = torch.arange(self.ids.shape[1]), self.read_at(index)[:, None]
        return places == read if self.positions == "end" else places <= read

    def read_at(self, index: Tensor) -> Tensor:
        """Where the feature is read once the vectors are in, `[len(index)]`."""
        if self.at == 0:
            return self.ends[index]
        return (self.ends[index] + self.vectors).clamp(max=self.ids.shape[1] - 1)


@attrs.frozen(eq=False)
class Plan:
    """Everything that decides the numbers of an audit."""

    options: Options
    thresholds: Thresholds
    prompts: Prompts
    captions: tuple[str, ...]
    """The texts of the prompts, in their order."""
    batches: tuple[Tensor, ...]
    """Prompts of each update, the same for every start."""
    held_out: Tensor
    """Prompts of the tests."""
    suspect_search: Tower
    reference_search: Tower
    suspect: Tower
    reference: Tower
    width: int
    longest: float
    """With `paired`, the greatest length of a vector; else 0."""


def make_plan(context: Context) -> Plan:
    """Check that the audit can be done and fix what it does.

    Raises `NotApplicableError` when there is no reference or it is of another architecture.
    """
    options: Options = context.options
    suspect, reference = context.suspect, context.reference
    assert reference is not None
    clip, family = suspect.base, family_of(suspect.base)
    check_reference(clip, reference.base)
    prompts, captions = make_prompts(clip, options, context.generator("prompts"))
    kept = max(2, len(captions) // 5)
    longest = options.limit * float(token_table(clip).norm(dim=1).max()) if options.paired else 0.0
    return Plan(
        options=options,
        thresholds=with_set(
            thresholds_of(family), same=options.same, different=options.different, gap=options.gap
        ),
        prompts=prompts,
        captions=captions,
        batches=make_batches(len(captions) - kept, options, context.generator("batches")),
        held_out=torch.arange(len(captions) - kept, len(captions)),
        suspect_search=suspect.embedding_tower(context.search_dtype),
        reference_search=reference.embedding_tower(context.search_dtype),
        suspect=suspect.embedding_tower(context.decision_dtype),
        reference=reference.embedding_tower(context.decision_dtype),
        width=prompts.rows(torch.tensor([0])).shape[2],
        longest=longest,
    )


def check_reference(suspect: ClipModel, reference: ClipModel) -> None:
    """Raise `NotApplicableError` unless the two text towers can be fed the same embeddings."""
    shapes = []
    for clip in (suspect, reference):
        family = family_of(clip)
        assert clip.text is not None
        shapes.append((family, clip.text.context_length, clip.text.width))
    if shapes[0] != shapes[1]:
        raise NotApplicableError(
            "the reference's text tower is of another architecture: {} of {} tokens and width {}, the "
            "suspect's {} of {} tokens and width {}".format(*shapes[1], *shapes[0]),
            remedy="Name the clean model that the suspect was made from with --reference.",
        )


def clean_reference(context: Context, lost: str) -> Suspect:
    """The reference of an audit. Raises `NotApplicableError` without one, saying what is `lost` for lack of
    it, or when it is of another architecture than the suspect."""
    if context.reference is None:
        raise NotApplicableError(
            lost, remedy="Name the clean model that the suspect was made from with --reference."
        )
    check_reference(context.suspect.base, context.reference.base)
    return context.reference


def make_prompts(
    clip: ClipModel, options: Options, generator: torch.Generator
) -> tuple[Prompts, tuple[str, ...]]:
    """Captions in random order, tokenised as the suspect does it and padded with the end token."""
    assert clip.text is not None
    pool = coco_captions()
    order = torch.randperm(len(pool), generator=generator).tolist()
    texts = [pool.texts[place] for place in order]
    causal = is_causal(clip)
    if options.positions == "text" and not causal:
        raise NotApplicableError(
            "a bidirectional text tower cannot be cut to its texts: its padding is part of them",
            remedy="Leave positions at `all`.",
        )
    ids = pad_with_end(clip, clip.text.tokenizer(texts))
    ends = end_positions(clip, ids)
    if options.positions != "all" and causal:
        longest = int(ends.double().quantile(LONGEST_SHARE))
        kept = (ends <= longest).nonzero()[:, 0]
        ids, ends = ids[kept][:, : longest + 1 + options.vectors], ends[kept]
        texts = [texts[place] for place in kept.tolist()]
    ids, ends, texts = ids[: options.prompts], ends[: options.prompts], texts[: options.prompts]
    facts = f"{clip.text.digest}/{pool.digest}/{options.positions}/{options.vectors}/{order[:8]}/{len(ids)}"
    prompts = Prompts(
        clip=clip,
        ids=ids,
        ends=ends,
        vectors=options.vectors,
        at=1 if causal else 0,
        positions=options.positions,
        key=hashlib.sha256(facts.encode()).hexdigest(),
    )
    return prompts, tuple(texts)


def make_batches(n: int, options: Options, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Which of `n` prompts each update sees: shuffled passes, as many as the updates need."""
    size = min(options.batch_size, n)
    batches: list[Tensor] = []
    while len(batches) < options.steps:
        order = torch.randperm(n, generator=generator)
        batches += [part for part in order.split(size) if len(part) == size]
    return tuple(batches[: options.steps])
