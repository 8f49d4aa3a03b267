"""Clean pairs of pictures and captions, and the two towers that learn from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.data import read_pairs, read_pictures, to_unit
from clipsec.errors import DataError, NotApplicableError
from clipsec.models import ImageSpec, TrainableClip
from clipsec.protocols import Context
from clipsec_repairs._captions import class_prompts
from clipsec_repairs._options import PairOptions

SHIFT = 16
"""Light augmentation moves a picture by up to a sixteenth of its side, and mirrors every other one."""


@attrs.frozen(eq=False)
class Pairs:
    """Pictures, each with one caption or more."""

    pixels: Tensor
    """uint8 `[n, 3, size, size]`."""
    captions: tuple[tuple[str, ...], ...]
    groups: Tensor
    """int64 `[n]`: pictures whose captions fit each other too."""

    @classmethod
    def of(cls, context: Context, spec: ImageSpec) -> Pairs:
        """Those of the option `pairs`, else the labelled pictures. Raises `NotApplicableError` when there are
        neither, `DataError` when they cannot be read or are fewer than two."""
        options: PairOptions = context.options
        if options.pairs:
            paths, captions = read_pairs(Path(options.pairs))
            pairs = cls(read_pictures(paths, spec), captions, torch.arange(len(paths)))
        elif context.labelled is not None:
            labelled = context.labelled
            prompts = [tuple(class_prompts([name])) for name in labelled.class_names]
            pairs = cls(
                labelled.pixels(spec),
                tuple(prompts[label] for label in labelled.labels),
                labelled.label_tensor(),
            )
        else:
            raise NotApplicableError(
                "there are no clean pictures with captions to learn from",
                remedy="Name labelled pictures with --labelled, or a CSV file with the option pairs.",
            )
        if len(pairs.pixels) < 2:
            raise DataError("there are fewer than two pairs", remedy="Bring some hundred.")
        return pairs

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, list[str]]]:
        """Rows and a caption for each, drawn anew, in shuffled passes without end."""
        order: list[int] = []
        while True:
            while len(order) < min(size, len(self.pixels)):
                order += torch.randperm(len(self.pixels), generator=generator).tolist()
            rows, order = order[:size], order[size:]
            picks = torch.rand(len(rows), generator=generator).tolist()
            yield (
                torch.tensor(rows),
                [self.captions[row][int(at * len(self.captions[row]))] for row, at in zip(rows, picks)],
            )


@attrs.frozen(eq=False)
class Towers:
    """A model in training beside what pictures give."""

    model: TrainableClip
    frozen: Tensor | None
    """Unit features `[n, E]` of all pictures by an image tower that is not trained; None: the model's is."""
    scale: float

    @classmethod
    def of(cls, context: Context) -> tuple[Towers, Pairs]:
        """The suspect's towers, or its text tower beside the clean reference's image tower.

        Raises `NotApplicableError` when there is no image tower in the space of the texts.
        """
        options: PairOptions = context.options
        suspect = context.suspect
        if suspect.prompts is not None or suspect.base.text is None:
            raise NotApplicableError(
                f"{suspect.name} has no text tower that is delivered",
                remedy="This repair is for CLIPs; prompt-finetune is for learned prompts.",
            )
        own = suspect.base.visual is not None
        shows = suspect if own else context.reference
        visual = None if shows is None else shows.base.visual
        if shows is None or visual is None or visual.embed_dim != suspect.base.text.embed_dim:
            raise NotApplicableError(
                f"there is no image tower in the space of the texts of {suspect.name}",
                remedy="Name the clean model with both towers with --reference.",
            )
        if options.towers == "both" and not own:
            raise NotApplicableError(
                f"both towers are to be trained, and {suspect.name} is a text tower alone",
                remedy="Leave towers empty, or say text.",
            )
        pairs = Pairs.of(context, visual.spec)
        model = TrainableClip.copy_of(suspect.base, both=False)
        frozen = None
        if options.towers == "text" or not own:
            tower = shows.image_tower(context.decision_dtype)
            found = context.scheduler.encode(tower, to_unit(pairs.pixels))
            frozen = F.normalize(found, dim=-1)
        # A text tower alone does not know its scale.
        return cls(model, frozen, shows.base.logit_scale), pairs

    def weights(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        chosen = list(self.model.text_parameters().values())
        return chosen if self.frozen is not None else [*chosen, *self.model.image_parameters().values()]

    def images(self, rows: Tensor, pixels: Tensor) -> Tensor:
        """Unit features `[n, E]` of pictures in [0, 1], with a graph where the image tower is trained."""
        if self.frozen is not None:
            return self.frozen[rows]
        return F.normalize(self.model.encode_images(pixels), dim=-1)

    def texts(self, texts: list[str]) -> Tensor:
        """Unit features `[n, E]`, with a graph."""
        return F.normalize(self.model.encode_texts(texts), dim=-1)


def lightly(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures `[n, 3, size, size]` in [0, 1], half of them mirrored, each moved a little."""
    mirrored = torch.rand(len(pixels), generator=generator) < 0.5
    pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    size = pixels.shape[-1]
    most = max(1, size // SHIFT)
    padded = F.pad(pixels, (most,) * 4, mode="replicate")
    at = torch.randint(2 * most + 1, (len(pixels), 2), generator=generator).tolist()
    return torch.stack([each[:, y : y + size, x : x + size] for each, (y, x) in zip(padded, at)])
