"""Controls: the toys as what a detector is run on, with everything that it may need beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import torch

from clipsec.data import ImagePool, LabelledSet
from clipsec.models import Suspect, state_digest
from clipsec.protocols import Context, Need
from clipsec.scheduler import FeatureCache, Scheduler, Tower
from clipsec.store import UnitStore
from clipsec_testkit._toys import ToyModel, Toys, build_toys

CLEAN = ("clean", "clean-tuned", "clean-prompt")
BACKDOORS = ("visual", "textual", "prompt")
SURROUNDINGS = frozenset({Need.IMAGE_POOL, Need.LABELS, Need.CLEAN_REFERENCE})


@attrs.define(eq=False)
class Control:
    """One toy and its own copies of what a plugin could change."""

    toys: Toys
    model: ToyModel
    suspect: Suspect
    reference: Suspect
    pool: ImagePool
    labelled: LabelledSet
    seen: dict[str, Any] | None = None
    """The fingerprint after the last run, which is the one before the next."""

    @classmethod
    def of(cls, toys: Toys, name: str) -> Control:
        """Prepare every tower that a plugin usually asks for, so that preparing them is not its doing."""
        pool, labelled = attrs.evolve(toys.pool), attrs.evolve(toys.labelled)
        control = cls(toys, toys[name], toys[name].fresh(), toys["clean"].fresh(), pool, labelled)
        for suspect in (control.suspect, control.reference):
            for dtype in (torch.float32, torch.bfloat16):
                suspect.image_tower(dtype)
                suspect.head(dtype)
                suspect.zero_shot_head(dtype)
        return control

    @property
    def offers(self) -> frozenset[Need]:
        """What a plugin may need here."""
        return self.suspect.provides | SURROUNDINGS

    def context(
        self, options: Any, folder: Path, scheduler: Scheduler | None = None, **changes: Any
    ) -> Context:
        """A context as `clipsec run` makes one, in fp32 throughout."""
        values: dict[str, Any] = {
            "suspect": self.suspect,
            "options": options,
            "scheduler": scheduler or new_scheduler(),
            "units": UnitStore(folder / "units"),
            "shared": UnitStore(folder / "shared"),
            "folder": folder,
            "pool": self.pool,
            "labelled": self.labelled,
            "reference": self.reference,
            "seed": 0,
            "search_dtype": torch.float32,
        }
        return Context(**{**values, **changes})

    def fingerprint(self) -> dict[str, Any]:
        """What no plugin may change, by name: weights, what the towers compute, prompts, pictures."""
        found: dict[str, Any] = {}
        for who, suspect in (("suspect", self.suspect), ("reference", self.reference)):
            visual, text = suspect.base.visual, suspect.base.text
            assert visual is not None
            assert text is not None
            found[f"weights of the {who}'s image tower"] = state_digest(visual.module.state_dict())
            found[f"weights of the {who}'s text tower"] = state_digest(text.module.state_dict())
            training = visual.module.training or text.module.training
            trained = any(p.requires_grad for p in [*visual.module.parameters(), *text.module.parameters()])
            found[f"mode of the {who}'s towers"] = (training, trained)
            for dtype in (torch.float32, torch.bfloat16):
                features = _answers(suspect.image_tower(dtype), _probe())
                found[f"{who}'s image tower"] = found.get(f"{who}'s image tower", b"") + features[1]
                found[f"{who}'s head"] = found.get(f"{who}'s head", b"") + b"".join(
                    _answers(head, features[0])[1]
                    for head in (suspect.head(dtype), suspect.zero_shot_head(dtype))
                )
            found[f"{who}'s class names"] = suspect.class_names
        if self.suspect.prompts is not None:
            tensors = {"ctx": self.suspect.prompts.ctx, **(self.suspect.prompts.meta_net or {})}
            found["learned prompts"] = state_digest(tensors)
        visual = self.suspect.base.visual
        assert visual is not None
        found["pool"] = state_digest({"pixels": self.pool.pixels(visual.spec)})
        found["labelled set"] = state_digest({"pixels": self.labelled.pixels(visual.spec)})
        return found


_prepared: dict[str, Control] = {}


def control(name: str) -> Control:
    """The control of that name, prepared once a program."""
    if name not in _prepared:
        _prepared[name] = Control.of(build_toys(), name)
    return _prepared[name]


def spoiled(name: str) -> None:
    """A plugin changed this control: the next one gets another."""
    _prepared.pop(name, None)


def new_scheduler() -> Scheduler:
    """A scheduler of its own, so that no run profits from another's features."""
    return Scheduler(micro_batch=32, cache=FeatureCache())


def _probe() -> torch.Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(11))


@torch.no_grad()
def _answers(tower: Tower, rows: torch.Tensor) -> tuple[torch.Tensor, bytes]:
    answer = tower.fn(rows.to(tower.dtype)).float()
    return answer, answer.numpy().tobytes()
