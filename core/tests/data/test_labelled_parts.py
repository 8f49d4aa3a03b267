"""Parts of a labelled set: nothing is lost, nothing is in both."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from clipsec.data import LabelledSet


def labelled(counts: list[int]) -> LabelledSet:
    """A set with so many pictures of each class; nothing is read."""
    labels = tuple(label for label, count in enumerate(counts) for _ in range(count))
    paths = tuple(Path(f"{i}.png") for i in range(len(labels)))
    return LabelledSet("set", paths, labels, tuple(f"class_{i}" for i in range(len(counts))))


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.floats(0.05, 0.95), st.integers(0, 2**31))
def test_a_split_is_a_partition_with_every_class_on_both_sides(
    counts: list[int], share: float, seed: int
) -> None:
    """Each picture is in one part; two pictures of a class are enough for one in each."""
    whole = labelled(counts)
    first, second = whole.split(share, generator=torch.Generator().manual_seed(seed))
    assert sorted(first.paths + second.paths) == sorted(whole.paths)
    assert not set(first.paths) & set(second.paths)
    for part in (first, second):
        assert part.class_names == whole.class_names
        assert {label for label, n in enumerate(counts) if n >= 2} <= set(part.labels)
    place = dict(zip(whole.paths, whole.labels))
    assert all(
        place[path] == label for part in (first, second) for path, label in zip(part.paths, part.labels)
    )


def test_a_split_is_fixed_by_its_generator() -> None:
    """Same seed, same parts."""
    parts = [
        labelled([9, 5]).split(0.4, generator=torch.Generator().manual_seed(3))[1].paths for _ in range(2)
    ]
    assert parts[0] == parts[1]
    assert len(parts[0]) == 4 + 2


def test_classes_are_put_into_the_order_of_a_model() -> None:
    """Names are compared as prompts are; what the model does not know is left out."""
    whole = LabelledSet("set", tuple(map(Path, "abc")), (0, 1, 2), ("red_roof", "Blue sea", "road"))
    ours = whole.for_classes(("blue sea", "grey road", "red roof"))
    assert (ours.paths, ours.labels) == ((Path("a"), Path("b")), (2, 0))
    assert ours.class_names == ("blue sea", "grey road", "red roof")
