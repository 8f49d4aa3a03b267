"""What a plugin is given. These classes only ever gain fields, so older plugins go on working."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from clipsec.errors import ContractError, EmptyPoolError, NotApplicableError, UsageError
from clipsec.results import Artifact, Verdict
from clipsec.store import atomic_write

if TYPE_CHECKING:
    from clipsec.data import ImagePool, LabelledSet, TextPool
    from clipsec.models import Suspect
    from clipsec.protocols._trigger import CaptionTrigger, Trigger
    from clipsec.scheduler import Scheduler
    from clipsec.store import UnitStore


def derived_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for a named purpose, so that neither order nor number of draws elsewhere matters."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@attrs.frozen(kw_only=True, eq=False)
class Context:
    """Everything a detector, an interface or a repair may use."""

    suspect: Suspect
    options: Any
    scheduler: Scheduler
    units: UnitStore
    """Finished parts of this verdict, by name; what is saved here survives a kill."""
    shared: UnitStore
    """Results that other runs may reuse, keyed by content by the plugin (a null of the public base)."""
    folder: Path
    """The verdict's own folder, for artifacts."""
    pool: ImagePool | None = None
    labelled: LabelledSet | None = None
    reference: Suspect | None = None
    seed: int = 0
    search_dtype: torch.dtype = torch.bfloat16
    decision_dtype: torch.dtype = torch.float32
    progress: Callable[[float, str], None] = lambda fraction, what: None
    """`progress(fraction done in [0, 1], what is being done)`."""
    finding: Verdict | None = None
    """For a repair: what a detector found; `found_triggers(finding, finding_folder)` reads its triggers on
    pictures, `found_tokens` those in captions."""
    finding_folder: Path | None = None
    """The folder of the run of the finding, which its artifacts' paths count from."""
    output: Path | None = None
    """For a repair: the folder to write the repaired delivery to; it does not exist yet."""
    trigger: Trigger | CaptionTrigger | None = None
    """For an interface: what the cases are about, in both conditions. For a repair: a trigger in captions
    that the user knows and lets it use."""
    triggered: bool = False
    """For an interface: whether the trigger is applied; `stamp` and `mark` do as it says."""
    held_out: LabelledSet | None = None
    """For an interface: labelled pictures to measure on, in the order of `suspect.class_names`; none of them
    is in `labelled`, which is for what a downstream user trains or calibrates with."""
    captions: TextPool | None = None
    """For an interface: captions to search among. For a repair: clean captions to learn from; those that the
    result is measured on are not among them."""

    def generator(self, *names: object) -> torch.Generator:
        """A CPU random generator for a named purpose, determined by the seed and the names alone."""
        return torch.Generator().manual_seed(derived_seed(self.seed, *names))

    def candidates(self, names: Sequence[str] = ()) -> tuple[int, ...]:
        """Indices of the suspect's classes with these names, or of all, in the suspect's order.

        Raises `NotApplicableError` for a suspect with fewer than two classes, `UsageError` for a name that it
        does not have.
        """
        known = self.suspect.class_names
        if len(known) < 2:
            raise NotApplicableError(
                "at least two class names are needed",
                remedy="Name the classes with --classes FILE, one a line.",
            )
        missing = [name for name in names if name not in known]
        if missing:
            raise UsageError(
                f"the model has no class named {missing[0]!r}", remedy=f"Its classes: {', '.join(known)}."
            )
        return tuple(index for index, name in enumerate(known) if not names or name in names)

    def draw_pictures(self, most: int | None = None, *, fewest: int = 1) -> tuple[Tensor, list[bytes]]:
        """Pictures of the pool as the suspect sees them, uint8 `[n, 3, size, size]`, and a content key for
        each, for `Encode`.

        All of them or, drawn by the seed, `most`; in the pool's order. Detectors that ask for as many get the
        same ones. Raises `NotApplicableError` for a suspect without an image tower, `EmptyPoolError` without
        a pool or with fewer pictures than `fewest`, `DataError` for a pool that cannot be read.
        """
        visual = self.suspect.base.visual
        if visual is None:
            raise NotApplicableError(
                "an image tower is needed", remedy="Inspect the model that the text tower belongs to."
            )
        if self.pool is None:
            raise EmptyPoolError("no image pool was given", remedy="Name a folder of pictures with --pool.")
        pixels, keys = self.pool.pixels(visual.spec), self.pool.row_keys(visual.spec)
        if most is not None and len(pixels) > most:
            drawn = torch.randperm(len(pixels), generator=self.generator("pictures"))[:most].sort().values
            pixels, keys = pixels[drawn], [keys[index] for index in drawn.tolist()]
        if len(pixels) < fewest:
            raise EmptyPoolError(
                f"there are {len(pixels)} pictures, at least {fewest} are needed",
                remedy="Bring a few hundred pictures.",
            )
        return pixels, keys

    def stamp(self, pixels: Tensor) -> Tensor:
        """Pixels `[n, 3, size, size]` in [0, 1], with the trigger in the triggered condition."""
        if self.triggered and self.trigger is not None and self.trigger.enters == "pictures":
            return self.trigger.apply(pixels)  # type: ignore[arg-type,return-value]
        return pixels

    def mark(self, texts: Sequence[str]) -> list[str]:
        """Texts, with the trigger in the triggered condition."""
        if self.triggered and self.trigger is not None and self.trigger.enters == "texts":
            return self.trigger.apply(texts)  # type: ignore[arg-type,return-value]
        return list(texts)

    def save_artifact(self, name: str, kind: str, content: bytes, description: str = "") -> Artifact:
        """Write a file into the verdict's folder, whole or not at all; `name` may hold one folder.

        Raises `StoreError` when the disk is full.
        """
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise ContractError(
                f"an artifact may not be written to {name}", remedy="Write below the verdict's own folder."
            )
        atomic_write(path, content)
        return Artifact(name, kind, hashlib.sha256(content).hexdigest(), description)


@attrs.frozen(kw_only=True, eq=False)
class AttackContext:
    """Everything an attack may use."""

    base: Suspect
    """The clean model to poison."""
    options: Any
    labelled: LabelledSet
    """Pictures to learn from."""
    output: Path
    held_out: LabelledSet | None = None
    """Pictures of the same classes to measure on; without it, what is left of `labelled` after training."""
    pool: ImagePool | None = None
    seed: int = 0
    progress: Callable[[float, str], None] = lambda fraction, what: None

    def generator(self, *names: object) -> torch.Generator:
        """A CPU random generator for a named purpose, determined by the seed and the names alone."""
        return torch.Generator().manual_seed(derived_seed(self.seed, *names))

    def pictures(self) -> tuple[LabelledSet, LabelledSet]:
        """Pictures to learn from and to measure on, labelled alike also where a class has none of the latter.

        Without `held_out`, half of `labelled` each, drawn by the seed.
        """
        if self.held_out is not None:
            return self.labelled, self.held_out.for_classes(self.labelled.class_names)
        return self.labelled.split(0.5, generator=self.generator("split"))
