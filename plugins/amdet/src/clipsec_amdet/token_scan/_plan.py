"""What one scan will do, fixed before it starts: tokens, captions, towers."""

from __future__ import annotations

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.data import coco_captions
from clipsec.errors import NotApplicableError
from clipsec.models import (
    ClipModel,
    Suspect,
    is_causal,
    pad_with_end,
    prepare_text_tower,
    text_ends,
    token_table,
)
from clipsec.protocols import Context
from clipsec.scheduler import Tower
from clipsec_amdet._plan import check_reference
from clipsec_amdet.token_scan._options import Options

SHORTEST, LONGEST = 8, 11
"""Tokens before the end token of the captions that are used. In shorter ones the word itself is most of the
meaning, and any fine-tune that changed what it means then looks like a trigger."""
SITES = ("start", "end")


@attrs.frozen(eq=False)
class Captions:
    """Captions as token ids, of one length."""

    texts: tuple[str, ...]
    ids: Tensor
    """`[m, L]`, with room for the longest sequence before the last end token."""
    ends: Tensor
    """`[m]`, where the text ends."""
    first: int
    """Position behind the start token; SigLIP has none, so 0."""

    def __len__(self) -> int:
        return len(self.texts)

    def at(self, site: str) -> Tensor:
        """Where a sequence is put in, `[m]`."""
        return torch.full_like(self.ends, self.first) if site == "start" else self.ends

    def some(self, index: slice) -> Captions:
        """A part of them."""
        return attrs.evolve(self, texts=self.texts[index], ids=self.ids[index], ends=self.ends[index])


@attrs.frozen(eq=False)
class Plan:
    """Everything that decides the numbers of a scan."""

    options: Options
    suspect_search: Tower
    reference_search: Tower
    suspect: Tower
    reference: Tower
    tokens: Tensor
    """Ids of the tokens to scan, one of each group that both towers embed alike."""
    drift: Tensor
    """How far each one's embedding differs between the towers, `[tokens]`."""
    scanned: Captions
    held_out: Captions
    pool: Captions
    """Captions that say what a place is near to."""


def make_plan(context: Context) -> Plan:
    """Raises `NotApplicableError` when the reference's text tower is of another architecture or reads texts
    in another way, or has room for no caption."""
    options: Options = context.options
    suspect, reference = context.suspect, context.reference
    assert reference is not None
    check_reference(suspect.base, reference.base)
    pool = make_captions(suspect.base, options.length, context.generator("captions"))
    if not torch.equal(pool.ids, _ids_of(reference.base, list(pool.texts))[:, : pool.ids.shape[1]]):
        raise NotApplicableError(
            "the suspect's tokenizer reads captions in another way than the reference's",
            remedy="Name the clean model that the suspect was made from with --reference.",
        )
    wanted = options.captions + options.held_out
    if len(pool) < wanted:
        raise NotApplicableError(
            f"{len(pool)} captions fit into the text tower's {pool.ids.shape[1]} tokens, {wanted} are needed",
            remedy="Take fewer captions or shorter sequences.",
        )
    tokens, drift = choose_tokens(suspect.base, reference.base, pool.ids, options.tokens)
    length = pool.ids.shape[1]

    def tower(which: Suspect, dtype: torch.dtype) -> Tower:
        return prepare_text_tower(which.base, dtype, which.device, length=length)

    return Plan(
        options=options,
        suspect_search=tower(suspect, context.search_dtype),
        reference_search=tower(reference, context.search_dtype),
        suspect=tower(suspect, context.decision_dtype),
        reference=tower(reference, context.decision_dtype),
        tokens=tokens,
        drift=drift,
        scanned=pool.some(slice(0, options.captions)),
        held_out=pool.some(slice(options.captions, wanted)),
        pool=pool,
    )


def make_captions(clip: ClipModel, room: int, generator: torch.Generator) -> Captions:
    """COCO's captions of ordinary length in random order, each once, with `room` tokens behind them."""
    texts = list(dict.fromkeys(coco_captions().texts))
    ids = _ids_of(clip, texts)
    causal = is_causal(clip)
    ends = text_ends(clip, ids)
    context = ids.shape[1]
    fits = (ends >= SHORTEST) & (ends <= min(LONGEST, context - 1 - room))
    order = torch.randperm(len(texts), generator=generator)
    kept = order[fits[order]]
    length = int(ends[kept].max()) + 1 + room if causal and len(kept) else context
    return Captions(
        texts=tuple(texts[place] for place in kept.tolist()),
        ids=ids[kept][:, :length],
        ends=ends[kept],
        first=1 if causal else 0,
    )


def choose_tokens(
    suspect: ClipModel, reference: ClipModel, padded: Tensor, most: int
) -> tuple[Tensor, Tensor]:
    """Ids of the tokens to scan and how far their embeddings differ, both `[n]`.

    Tokens that stand at a fixed place of every text (start, end, padding) are left out. Of tokens that both
    towers embed bit for bit alike one is enough: no text can tell them apart. Raises `NotApplicableError`
    when the vocabularies are of different sizes.
    """
    ours, theirs = token_table(suspect), token_table(reference)
    if ours.shape != theirs.shape:
        raise NotApplicableError(
            f"the suspect knows {len(ours)} tokens, the reference {len(theirs)}",
            remedy="Name the clean model that the suspect was made from with --reference.",
        )
    both = torch.cat([ours, theirs], dim=1)
    _, group = torch.unique(both, dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(ours)).scatter_reduce(
        0, group, torch.arange(len(ours)), reduce="amin"
    )
    special = {int(padded[0, -1])} | ({int(padded[0, 0])} if is_causal(suspect) else set())
    tokens = torch.tensor([token for token in sorted(first.tolist()) if token not in special])
    drift = (F.normalize(ours[tokens], dim=1) - F.normalize(theirs[tokens], dim=1)).norm(dim=1)
    if most and most < len(tokens) and bool(drift.any()):
        kept = drift.topk(most).indices.sort().values
        tokens, drift = tokens[kept], drift[kept]
    return tokens, drift


def _ids_of(clip: ClipModel, texts: list[str]) -> Tensor:
    assert clip.text is not None
    return pad_with_end(clip, clip.text.tokenizer(texts))
