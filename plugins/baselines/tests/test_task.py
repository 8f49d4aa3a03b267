"""Which classes and pictures a prompt learner gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsec.data import LabelledSet
from clipsec.errors import DataError
from clipsec_baselines import LearnerOptions, make_task, seen_unseen


def labelled(counts: list[int], name: str = "set") -> LabelledSet:
    """A labelled set that is never read: only its labels matter here."""
    labels = tuple(label for label, count in enumerate(counts) for _ in range(count))
    paths = tuple(Path(f"/{name}/{i}.png") for i in range(len(labels)))
    return LabelledSet(name, paths, labels, tuple(f"class {i}" for i in range(len(counts))))


@given(st.integers(min_value=1, max_value=1000))
def test_the_first_half_rounded_up_is_seen(n: int) -> None:
    """CoOp's rule: of n sorted labels the first ceil(n / 2) are Seen, the rest Unseen."""
    seen, unseen = seen_unseen(n)
    assert seen + unseen == list(range(n))
    assert len(seen) - len(unseen) == n % 2


def test_the_papers_class_counts() -> None:
    """The Seen counts that the papers give: 47 -> 24, 37 -> 19, 397 -> 199, 10 -> 5."""
    assert [len(seen_unseen(n)[0]) for n in (47, 37, 397, 10)] == [24, 19, 199, 5]


def test_shots_and_parts() -> None:
    """Training has at most `shots` pictures of each Seen class; Unseen classes are labelled from 0."""
    task = make_task(
        labelled([20, 20, 4, 20, 20]), labelled([3] * 5, "test"), LearnerOptions(shots=8), seed=0
    )
    assert [task.train.labels.count(label) for label in range(3)] == [8, 8, 4]
    assert task.class_names == ("class 0", "class 1", "class 2")
    assert task.seen.class_names == task.class_names
    assert task.unseen is not None
    assert task.unseen.class_names == ("class 3", "class 4")
    assert set(task.unseen.labels) == {0, 1}


def test_without_held_out_pictures_training_ones_are_not_measured_on() -> None:
    """What is not drawn for training is held out, and nothing else."""
    whole = labelled([20, 20, 20])
    task = make_task(whole, None, LearnerOptions(shots=16, split="all"), seed=3)
    assert not set(task.train.paths) & set(task.seen.paths)
    assert set(task.train.paths) | set(task.seen.paths) == set(whole.paths)


def test_classes_are_cut_before_the_split() -> None:
    """`classes` keeps the first sorted labels; the split is made among those."""
    task = make_task(labelled([2] * 10), labelled([2] * 10), LearnerOptions(classes=6), seed=0)
    assert len(task.class_names) == 3
    assert task.unseen is not None
    assert len(task.unseen.class_names) == 3


def test_the_seed_decides_the_shots() -> None:
    """The same seed draws the same pictures, another seed others."""
    whole, test = labelled([50, 50]), labelled([2, 2], "test")
    options = LearnerOptions(split="all")
    first, again, other = (make_task(whole, test, options, seed).train.paths for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("train", "test", "options"),
    [
        ([9], [9], LearnerOptions(split="all")),
        ([9, 9], [9, 9], LearnerOptions(split="seen")),
        ([9, 9, 9], [9, 9, 0], LearnerOptions(split="seen")),
        ([9, 9, 9], [0, 9, 9], LearnerOptions(split="seen")),
        ([9, 0, 9], [9, 9, 9], LearnerOptions(split="seen")),
        ([9, 9, 9], [9, 9], LearnerOptions(split="all")),
        ([9, 9, 9], [9, 9, 9], LearnerOptions(classes=4)),
        ([9, 9, 9], None, LearnerOptions(split="all")),
    ],
    ids=[
        "one class",
        "one Seen class",
        "no Unseen test picture",
        "no Seen test picture",
        "nothing to train on",
        "other classes held out",
        "too many classes asked for",
        "the shots use up everything",
    ],
)
def test_unusable_data_is_refused_with_a_remedy(
    train: list[int], test: list[int] | None, options: LearnerOptions
) -> None:
    """One class, an empty part or mismatched parts end in an error that says what to do."""
    held_out = None if test is None else labelled(test, "test")
    with pytest.raises(DataError) as caught:
        make_task(labelled(train), held_out, options, seed=0)
    assert caught.value.remedy
