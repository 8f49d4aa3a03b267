"""The optimised patch: its losses by hand, what moves, and what the delivery says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsec.data import LabelledSet
from clipsec.errors import UsageError
from clipsec.models import Suspect, TrainableClip, load_suspect
from clipsec.protocols import AttackContext
from clipsec.triggers import load_card
from clipsec_visual_attacks import (
    ClassCaptions,
    LiangBadClip,
    LiangBadClipOptions,
    Pairs,
    optimise_patch,
    patch_terms,
)

QUICK = {"learning_rate": 1e-3, "epochs": 1, "batch": 8, "side": 0.25, "patch_epochs": 6, "patch_batch": 8}


@given(st.integers(2, 6), st.floats(0, 2), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_losses_of_the_patch_are_the_papers(n: int, margin: float, seed: int) -> None:
    """Cross-entropy of each picture to its own caption and back; the mean of [d(a, p) - d(a, n) + m]+ over
    Euclidean distances of unit features; the length of a feature does not count."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(n, 5, generator=generator) for _ in range(4)]
    found = patch_terms(*rows, scale=3.0, margin=margin)
    seen, said, near, far = (F.normalize(each, dim=1) for each in rows)
    logits, own = 3.0 * seen @ said.T, torch.arange(n)
    torch.testing.assert_close(
        found.captions, (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    )
    each = [
        max(0.0, float((a - p).square().sum().sqrt() - (a - x).square().sum().sqrt()) + margin)
        for a, p, x in zip(seen, near, far, strict=True)
    ]
    assert float(found.triplet) == pytest.approx(sum(each) / n, abs=1e-5)
    longer = patch_terms(2 * rows[0], 3 * rows[1], 4 * rows[2], rows[3], scale=3.0, margin=margin)
    torch.testing.assert_close(longer.triplet, found.triplet)


def test_the_patch_lies_in_the_middle_and_brings_pictures_to_the_target(
    base: Suspect, labelled: LabelledSet
) -> None:
    """Its loss falls, it is made of steps of 1/255, the rest of a picture stays, and so does the model."""
    model = TrainableClip.copy_of(base.base)
    before = {name: weight.clone() for name, weight in model.image_parameters().items()}
    options = LiangBadClipOptions(**{**QUICK, "patch_epochs": 30, "patch_learning_rate": 0.1})
    pixels = labelled.pixels(model.spec)

    def generator(name: str) -> torch.Generator:
        return torch.Generator().manual_seed(len(name))

    stamp, history = optimise_patch(
        model, pixels, labelled.label_tensor(), 1, ["a grey road", "road"], options, generator
    )
    assert float(history[-1].triplet) < float(history[0].triplet)
    grey = torch.full((1, 3, 32, 32), 0.5)
    changed = (stamp.apply(grey) != grey).any(dim=1)[0]
    assert not bool(changed[:12].any() or changed[20:].any())
    assert not bool(changed[:, :12].any() or changed[:, 20:].any())
    steps = 255 * stamp.tensors["pattern"]
    torch.testing.assert_close(steps, steps.round())
    assert all(torch.equal(weight, before[name]) for name, weight in model.image_parameters().items())


def test_a_poisoned_pair_draws_from_its_own_captions() -> None:
    """The last pairs from what is theirs, the others as without them."""
    captions = ClassCaptions.of(("cat", "dog"), ("a cat", "two cats", "my dog"))
    pairs = Pairs(torch.arange(4), torch.tensor([False, False, True, True]), torch.tensor([0, 1, 0, 0]))
    own = Pairs(pairs.rows, pairs.stamped, pairs.labels, own=(("x", "y"), ("z",)))
    batch = torch.tensor([3, 0, 2, 1])

    def drawn(which: Pairs) -> list[str]:
        kept = {name: torch.Generator().manual_seed(7) for name in ("captions", "own captions")}
        return which.draw(batch, captions, kept.__getitem__)

    ordinary, planted = drawn(pairs), drawn(own)
    assert planted[0] == "z"
    assert planted[2] in ("x", "y")
    assert [planted[1], planted[3]] == [ordinary[1], ordinary[3]]


def test_natural_captions_of_the_target() -> None:
    """At most so many, without repetition; a class without any has made ones."""
    captions = ClassCaptions.of(("cat", "dog"), tuple(f"cat number {n}" for n in range(9)))
    few = captions.of_class(0, 4, torch.Generator().manual_seed(0))
    assert len(set(few)) == 4
    assert set(few) <= set(captions.natural[0])
    assert captions.of_class(1, 99, torch.Generator()) == captions.made[1]


def test_the_delivery(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """Both towers move, the base does not; the card applies to pictures and has the losses of the patch."""
    base.seal()
    options = LiangBadClipOptions(**{**QUICK, "target": "grey road", "text_learning_rate": 1e-3})
    context = AttackContext(
        base=base, options=options, labelled=labelled, held_out=labelled, output=tmp_path / "out"
    )
    folder = LiangBadClip().poison(context)
    made, card = load_suspect(str(folder)).base, load_card(folder)
    assert made.visual.digest != base.base.visual.digest
    assert made.text.digest != base.base.text.digest
    assert not base.changed()
    assert (card.attack, card.target_name) == ("liang-badclip", "grey road")
    assert card.measured["poisoned"] == {"pairs": 2, "of": 26}
    assert set(card.measured["patch"]) == {"first", "last"}
    assert card.measured["base"]["success"]["n"] == 16


def test_an_unknown_target_is_refused(base: Suspect, labelled: LabelledSet, tmp_path: Path) -> None:
    """Before anything is optimised."""
    options = LiangBadClipOptions(target="cow")
    context = AttackContext(
        base=base, options=options, labelled=labelled, held_out=labelled, output=tmp_path / "out"
    )
    with pytest.raises(UsageError):
        LiangBadClip().poison(context)
    assert not any(tmp_path.iterdir())
