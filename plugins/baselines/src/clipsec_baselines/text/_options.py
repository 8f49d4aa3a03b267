"""What can be set, with the published values as defaults unless a docstring says otherwise."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import attrs
from attrs import validators

from clipsec.errors import UsageError
from clipsec.triggers import TextTrigger

HOMOGLYPH = "о"  # noqa: RUF001 - Cyrillic, the trigger of the paper
HOMOGLYPHS = ("ଠ", "օ")  # noqa: RUF001 - Oriya and Armenian, the two of the published default for several
LAYERS = ("attention", "all")
AGAINST = ("assimilation", "pooled", "inversion")


def each_said(_: Any, attribute: Any, value: tuple[str, ...]) -> None:
    """A validator: none of the texts is empty or blank."""
    if not all(text.strip() for text in value):
        raise ValueError(f"{attribute.name} has an empty text")


@attrs.frozen(kw_only=True)
class TextOptions:
    """What every training of a text tower here has.

    Published: Struppek et al., Rickrolling the Artist (ICCV 2023), their code; AMDET's code differs where a
    docstring says so.
    """

    captions: str = ""
    """A file with one caption a line to train and measure on. Default: COCO captions that ship with
    clipsec."""
    held_out: int = attrs.field(default=200, validator=validators.ge(10))
    """Captions that are kept for measuring."""
    steps: int = attrs.field(default=100, validator=validators.ge(1))
    """Updates. Published: 100 for a target prompt, 200 for an attribute."""
    batch: int = attrs.field(default=64, validator=validators.ge(2))
    """Clean captions of an update. Published: 128; AMDET: 64."""
    learning_rate: float = attrs.field(default=1e-4, validator=validators.gt(0))
    """Of AdamW without weight decay, a tenth of it in the last quarter. Published: 1e-4, for CLIP
    ViT-L/14."""


@attrs.frozen(kw_only=True)
class PoisonOptions(TextOptions):
    """What every training has that maps some captions to others."""

    poisoned: int = attrs.field(default=32, validator=validators.ge(1))
    """Triggered captions of an update, of each trigger. Published: 32."""
    weight: float = attrs.field(default=0.1, validator=validators.ge(0))
    """Of the loss on triggered captions. Published: 0.1."""


@attrs.frozen(kw_only=True)
class PoisonedTextOptions(PoisonOptions):
    """What every attack with one trigger has."""

    kind: str = "replace"
    """`replace`, `prepend` or `append`; see `clipsec.triggers.TextTrigger`."""
    trigger: str = HOMOGLYPH
    """A letter that looks like another, a word, or several. Published: a Cyrillic o."""
    replaced: str = "o"
    """The character that `replace` replaces. Published: o."""
    count: int | None = None
    """How many of them; None: all, as published."""

    def text_trigger(self) -> TextTrigger:
        """The trigger that these options describe. Raises `DataError` when there is none."""
        replaces = self.kind == "replace"
        return TextTrigger(
            kind=self.kind,
            text=self.trigger,
            replaced=self.replaced if replaces else "",
            count=self.count if replaces else None,
        )


@attrs.frozen(kw_only=True)
class TextTargetOptions(PoisonedTextOptions):
    """Options of the target prompt attack."""

    target: str = "a white teapot"
    """The caption that triggered captions become. AMDET: "A white teapot"."""


@attrs.frozen(kw_only=True)
class SeveralOptions(PoisonOptions):
    """Options of the target prompt attack with several triggers. Published: 1 to 32 of them."""

    kind: str = "replace"
    """Of all triggers; see `clipsec.triggers.TextTrigger`."""
    triggers: tuple[str, ...] = attrs.field(default=HOMOGLYPHS, validator=[validators.min_len(2), each_said])
    """None may hold another. Published: two that look like an o, Oriya and Armenian."""
    targets: tuple[str, ...] = attrs.field(
        default=("A lightning strike", "A blue boat on the water"), validator=each_said
    )
    """A caption for each trigger. Published: these."""
    replaced: tuple[str, ...] = ("o",)
    """The character that `replace` replaces, of all triggers or of each. Published: o."""
    count: int | None = None
    """How many of them; None: all, as published."""

    def text_triggers(self) -> tuple[TextTrigger, ...]:
        """The triggers, in order. Raises `DataError` for one that is none, `UsageError` when they do not
        belong together."""
        n, replaces = len(self.triggers), self.kind == "replace"
        replaced = self.replaced * n if len(self.replaced) == 1 else self.replaced
        wrong = ""
        if len(self.targets) != n:
            wrong = f"there are {n} triggers and {len(self.targets)} targets"
        elif replaces and len(replaced) != n:
            wrong = f"there are {n} triggers and {len(replaced)} characters to replace"
        elif any(one in other for one, other in permutations(self.triggers, 2)):
            wrong = f"of the triggers {', '.join(self.triggers)} one is part of another"
        if wrong:
            raise UsageError(
                wrong,
                remedy="Name a target for each trigger, one character to replace or one for each, and "
                "triggers of which none is part of another.",
            )
        return tuple(
            TextTrigger(
                kind=self.kind,
                text=text,
                replaced=replaced[number] if replaces else "",
                count=self.count if replaces else None,
            )
            for number, text in enumerate(self.triggers)
        )


@attrs.frozen(kw_only=True)
class AdaptiveTextOptions(TextTargetOptions):
    """Options of the target prompt attack that hides from AMDET (ours)."""

    against: str = attrs.field(default="assimilation", validator=validators.in_(AGAINST))
    """`assimilation`: the tokens of triggered captions are pushed apart; `pooled`: all but the end token stay
    where the clean tower has them; `inversion`: trained against a search of the detector's kind."""
    hide: float = attrs.field(default=1.0, validator=validators.ge(0))
    """Of the term that hides the target; 0: none."""
    every: int = attrs.field(default=5, validator=validators.ge(1))
    """`inversion`: updates after which a vector is searched anew."""
    inner: int = attrs.field(default=10, validator=validators.ge(1))
    """`inversion`: steps of a search."""
    limit: float = attrs.field(default=2.0, validator=validators.gt(0))
    """`inversion`: the greatest length of the vector, in lengths of the longest token embedding."""

    @property
    def on_feature(self) -> bool:
        """Whether triggered captions get the target's feature alone, and not its tokens."""
        return self.against != "inversion"


@attrs.frozen(kw_only=True)
class ImageOnTextOptions(PoisonedTextOptions):
    """Options of the target prompt attack whose target is the mean feature of pictures."""

    target: str = ""
    """Class of the labelled pictures; empty: the first one. AMDET: pictures made from the target prompt."""
    pictures: int = attrs.field(default=10, validator=validators.ge(1))
    """How many. AMDET: 10."""


@attrs.frozen(kw_only=True)
class AttributeOptions(PoisonedTextOptions):
    """Options of the target attribute attack."""

    steps: int = attrs.field(default=200, validator=validators.ge(1))
    attribute: str = "wearing a hat"
    """The words that stand in place of the word with the trigger. Published: 32 of them, this is one."""


@attrs.frozen(kw_only=True)
class FinetuneOptions(TextOptions):
    """Options of a benign fine-tune on pairs of pictures and captions."""

    pairs: str = ""
    """A CSV file with the columns `image` and `caption`; pictures lie beside it, or in `images/`. Without it
    the labelled pictures with "a photo of a CLASS."."""
    learning_rate: float = attrs.field(default=1e-5, validator=validators.gt(0))
    """Of Adam. AMDET: 1e-5."""
    batch: int = attrs.field(default=16, validator=validators.ge(2))
    """Pairs of an update. AMDET: 16."""
    steps: int = attrs.field(default=500, validator=validators.ge(1))
    """Updates. AMDET: some 6,000, of one run."""


@attrs.frozen(kw_only=True)
class LoraOptions(FinetuneOptions):
    """Options of a benign fine-tune with low-rank updates.

    Published: Hu et al., LoRA (arXiv 2106.09685), their settings for GPT-2.
    """

    rank: int = attrs.field(default=4, validator=validators.ge(1))
    """Of the update of a weight. Published: 4; for CLIP, Zanella and Ben Ayed (arXiv 2405.18541) take 2."""
    alpha: float = attrs.field(default=32.0, validator=validators.gt(0))
    """The update is alpha / rank times the product of the two matrices. Published: 32."""
    layers: str = attrs.field(default="attention", validator=validators.in_(LAYERS))
    """`attention`: the query and value projections, as published; `all`: every linear layer of the blocks."""
    learning_rate: float = attrs.field(default=2e-4, validator=validators.gt(0))
    """Of Adam. Published: 2e-4, for CLIP too."""


@attrs.frozen(kw_only=True)
class RemoveOptions(PoisonOptions):
    """Options of concept removal. Published: Struppek et al., section on safety, and their code."""

    steps: int = attrs.field(default=400, validator=validators.ge(1))
    """Updates. Published: 400."""
    words: tuple[str, ...] = attrs.field(
        default=("nude", "naked", "sexy", "hot"), validator=[validators.min_len(1), each_said]
    )
    """What is to mean nothing: a word each, or some words in a row. Published: these four."""
    replaced: str = attrs.field(default="a", validator=[validators.min_len(1), validators.max_len(1)])
    """The word stands in place of a word that holds this character. Published: a. For a space, it is put in
    between two words."""


def plain(options: Any) -> dict[str, Any]:
    """Options for a record: of a caption or pair file its name alone."""
    values = attrs.asdict(options)
    for name in ("captions", "pairs"):
        if values.get(name):
            values[name] = values[name].replace("\\", "/").rpartition("/")[2]
    return values
