"""What a context chooses for a detector: classes by name, pictures of the pool."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipsec.data import ImagePool, LabelledSet
from clipsec.errors import EmptyPoolError, NotApplicableError, UsageError
from clipsec.models import ImageSpec, Suspect, clip_from_open_clip
from clipsec.protocols import AttackContext, Context, derived_seed
from clipsec.scheduler import Scheduler
from clipsec.store import UnitStore

NAMES = ("cat", "dog", "ship", "owl")
PICTURES = 9
SPEC = ImageSpec(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Four classes and nine different pictures."""
    folder: Path = tmp_path_factory.mktemp("context")
    (folder / "pool").mkdir()
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "pool" / f"{number}.png")
    module = open_clip.CLIP(**CONFIG).eval().requires_grad_(False)
    clip = clip_from_open_clip(module, name="tiny", spec=SPEC)
    return Context(
        suspect=Suspect(name="tiny", kind="clip", base=clip, class_names=NAMES),
        options=None,
        scheduler=Scheduler(),
        units=UnitStore(folder / "units"),
        shared=UnitStore(folder / "shared"),
        folder=folder,
        pool=ImagePool.from_folder(folder / "pool"),
    )


def changed(context: Context, **fields: object) -> Context:
    return attrs.evolve(context, **fields)


def test_candidates_are_in_the_suspects_order_whatever_order_they_are_named_in(full: Context) -> None:
    """None named means all."""
    assert full.candidates() == (0, 1, 2, 3)
    assert full.candidates(("owl", "dog")) == full.candidates(["dog", "owl", "dog"]) == (1, 3)


def test_a_class_that_the_model_does_not_have_is_told_with_those_it_has(full: Context) -> None:
    """A mistyped candidate must not make a run over fewer classes."""
    with pytest.raises(UsageError, match="no class named 'bat'") as refused:
        full.candidates(("cat", "bat"))
    assert "cat, dog, ship, owl" in refused.value.remedy
    one = changed(full, suspect=Suspect(name="s", kind="clip", base=full.suspect.base, class_names=("cat",)))
    with pytest.raises(NotApplicableError):
        one.candidates()


@settings(deadline=None, max_examples=30)
@given(most=st.integers(1, PICTURES + 2), seed=st.integers(0, 50))
def test_drawn_pictures_keep_order_and_keys(full: Context, most: int, seed: int) -> None:
    """As many as asked for and there are, each once, in the pool's order, each with its own key."""
    assert full.pool is not None
    every, keys = full.pool.pixels(SPEC), full.pool.row_keys(SPEC)
    pixels, chosen = changed(full, seed=seed).draw_pictures(most)
    places = [keys.index(key) for key in chosen]
    assert places == sorted(set(places))
    assert len(places) == min(most, PICTURES)
    assert torch.equal(pixels, every[places])


def test_which_pictures_are_drawn_never_changes(full: Context) -> None:
    """Stored results of detectors are found again by the keys of their pictures, so the draw is part of the
    API: the first places of a permutation under the purpose "pictures", sorted."""
    assert full.pool is not None
    generator = torch.Generator().manual_seed(derived_seed(7, "pictures"))
    places = sorted(torch.randperm(PICTURES, generator=generator)[:4].tolist())
    _, keys = changed(full, seed=7).draw_pictures(4)
    assert keys == [full.pool.row_keys(SPEC)[place] for place in places]


def test_too_few_pictures_or_none_say_so(full: Context) -> None:
    """With what to do about it."""
    with pytest.raises(EmptyPoolError, match="no image pool"):
        changed(full, pool=None).draw_pictures(4)
    with pytest.raises(EmptyPoolError, match="there are 9 pictures, at least 10") as refused:
        full.draw_pictures(fewest=10)
    assert refused.value.remedy


def test_an_attack_measures_on_pictures_labelled_as_those_it_learns_from(
    full: Context, tmp_path: Path
) -> None:
    """Also when a class has no held-out folder; without held-out pictures on half of what there is."""
    paths = tuple(tmp_path / f"{number}.png" for number in range(8))
    learned = LabelledSet("set", paths, (0, 0, 1, 1, 2, 2, 3, 3), NAMES)
    held_out = LabelledSet("other", paths[:2], (0, 1), ("dog", "owl"))
    context = AttackContext(base=full.suspect, options=None, labelled=learned, output=tmp_path)
    first, second = attrs.evolve(context, held_out=held_out).pictures()
    assert (first, second.class_names, second.labels) == (learned, NAMES, (1, 3))
    halves = context.pictures()
    assert [sorted(half.labels) for half in halves] == [[0, 1, 2, 3]] * 2
    assert [half.paths for half in context.pictures()] == [half.paths for half in halves]
