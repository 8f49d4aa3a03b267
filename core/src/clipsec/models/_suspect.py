"""A suspect: a loaded model together with the uses that can be audited."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import attrs
import torch

from clipsec.errors import NotApplicableError
from clipsec.models._embedding_tower import prepare_embedding_tower
from clipsec.models._heads import prepare_prompt_head, prepare_zero_shot_head
from clipsec.models._image_tower import prepare_image_tower
from clipsec.models._seal import Seals
from clipsec.models._types import ClipModel, PromptState
from clipsec.protocols import Need
from clipsec.results import SuspectCard
from clipsec.scheduler import Tower

if TYPE_CHECKING:
    from clipsec.protocols import ModelLoader
    from clipsec_registry import Registry


@attrs.frozen(kw_only=True)
class LoadRequest:
    """What the user said besides the spec."""

    base: str | None = None
    """The base of a prompt-tuned delivery, when the delivery does not name it."""
    class_names: tuple[str, ...] | None = None
    device: str = "cpu"
    max_bytes: int = 16 * 2**30
    """Refuse files that would allocate more than this."""
    loaders: Iterable[ModelLoader] | None = None
    """The loaders that `load_suspect` was given; a loader that needs another model asks the same ones."""
    registry: Registry | None = None
    """Which plugins are trusted."""


@attrs.frozen(kw_only=True)
class Origin:
    """How to load a suspect again: what `load_suspect` was given."""

    spec: str
    base: str | None = None
    class_names: tuple[str, ...] | None = None


@attrs.define(kw_only=True, eq=False, slots=False)
class Suspect:
    """A delivered model, ready to be audited. Towers are prepared on first use and kept."""

    name: str
    kind: str
    """`prompt-tuned`, `clip`, `text tower` or `image tower`."""
    base: ClipModel
    prompts: PromptState | None = None
    class_names: tuple[str, ...] = ()
    base_name: str = ""
    """What the delivery calls its base."""
    base_spec: str = ""
    """What loads the base again from anywhere, as far as the loader knows: a path is absolute."""
    files: dict[str, str] = attrs.field(factory=dict)
    notes: tuple[str, ...] = ()
    device: torch.device = attrs.field(default=torch.device("cpu"), converter=torch.device)
    origin: Origin | None = None
    """None for a suspect that was made in memory."""
    _towers: dict[tuple[str, torch.dtype], Tower] = attrs.field(factory=dict, init=False, repr=False)
    _seals: Seals = attrs.field(factory=Seals, init=False, repr=False)

    @cached_property
    def digest(self) -> str:
        """Digest of everything that decides what the model does: weights, prompts, class names."""
        parts = [self.base.digest, *self.class_names]
        if self.prompts is not None:
            parts.append(self.prompts.digest)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def provides(self) -> frozenset[Need]:
        """What this suspect offers to a plugin's `needs`."""
        needs = set()
        if self.base.visual is not None:
            needs.add(Need.IMAGE_TOWER)
        if self.base.text is not None:
            needs.add(Need.TEXT_TOWER)
        if self.prompts is not None:
            needs.add(Need.PROMPT_HEAD)
        if self.class_names:
            needs.add(Need.CLASS_NAMES)
        return frozenset(needs)

    @property
    def card(self) -> SuspectCard:
        """The plain-data description that goes into results."""
        return SuspectCard(
            name=self.name,
            digest=self.digest,
            kind=self.kind,
            architecture=self.base.architecture,
            activation=self.base.activation,
            class_names=self.class_names,
            base_name=self.base_name or self.base.name,
            base_digest=self.base.digest,
            files=dict(self.files),
            notes=self.notes + self.base.notes,
        )

    def image_tower(self, dtype: torch.dtype = torch.float32) -> Tower:
        """Pixels in [0, 1], `[n, 3, size, size]` -> image features `[n, embed_dim]`, not normalised."""
        return self._tower("image", dtype, lambda: prepare_image_tower(self.base, dtype, self.device))

    def embedding_tower(self, dtype: torch.dtype = torch.float32) -> Tower:
        """Input embeddings of the text tower `[n, L, width]` -> hidden states `[n, L, width]`; see
        `prepare_embedding_tower`."""
        return self._tower(
            "embeddings", dtype, lambda: prepare_embedding_tower(self.base, dtype, self.device)
        )

    def head(self, dtype: torch.dtype = torch.float32) -> Tower:
        """Image features `[n, embed_dim]` -> logits over `class_names` `[n, classes]`, as delivered.

        Prompt-tuned models answer through their learned prompts, plain CLIP models zero-shot.
        """
        prompts = self.prompts
        if prompts is None:
            return self.zero_shot_head(dtype)
        return self._tower("head", dtype, lambda: prepare_prompt_head(self.base, prompts, dtype, self.device))

    def zero_shot_head(self, dtype: torch.dtype = torch.float32) -> Tower:
        """The public base's own answer: "a photo of a NAME." for every class name."""
        if not self.class_names:
            raise NotApplicableError(
                f"{self.name} has no class names", remedy="Name them with --classes FILE, one a line."
            )
        return self._tower(
            "zero-shot",
            dtype,
            lambda: prepare_zero_shot_head(self.base, self.class_names, dtype, self.device),
        )

    def _tower(self, what: str, dtype: torch.dtype, make: Callable[[], Tower]) -> Tower:
        if (what, dtype) not in self._towers:
            tower = self._towers[what, dtype] = make()
            if self._seals:
                self._seals.add(tower.label, tower.fn)
        return self._towers[what, dtype]

    def seal(self) -> None:
        """Remember the weights as they are now, those of towers prepared later as they then are."""
        if self._seals:
            return
        if self.base.visual is not None:
            self._seals.add("image module", self.base.visual.module)
        if self.base.text is not None:
            self._seals.add("text module", self.base.text.module)
        if self.prompts is not None:
            self._seals.add("prompts", self.prompts)
        for tower in self._towers.values():
            self._seals.add(tower.label, tower.fn)

    def changed(self) -> tuple[str, ...]:
        """What of it is no longer as it was when it was sealed: names of modules and labels of towers."""
        return self._seals.broken()
