"""The detectors on a tiny CLIP: when there is a finding, what is left, what is refused; never `clean`."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

from clipsec.data import ImagePool, LabelledSet
from clipsec.errors import DataError, NotApplicableError
from clipsec.models import Suspect
from clipsec.protocols import Context
from clipsec.results import Outcome, Verdict
from clipsec.runner import make_options
from clipsec.scheduler import FeatureCache, Scheduler
from clipsec.store import UnitStore
from clipsec_sample_detectors import (
    BDetClip,
    BDetClipOptions,
    LocalDensity,
    LocalDensityOptions,
    benign_texts,
    malignant_texts,
    mean_direction,
    omega,
)

NAMES = ("blue sea", "grey road", "red roof")
COLOURS = ((40, 60, 200), (120, 120, 120), (200, 50, 40))


def picture(rng: np.random.Generator, kind: int, *, odd: bool = False) -> Image.Image:
    colour = rng.integers(0, 256, 3) if odd else np.array(COLOURS[kind])
    noisy = colour + rng.normal(0, 60 if odd else 2, (32, 32, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def write_pairs(folder: Path, n: int, odd: int = 0, seed: int = 0) -> Path:
    """Pairs of plain pictures; the first `odd` have a colour of their own and a caption of the sea."""
    rng, rows = np.random.default_rng(seed), [("image", "caption")]
    folder.mkdir()
    for number in range(n):
        kind = int(rng.integers(3))
        picture(rng, kind, odd=number < odd).save(folder / f"{number:03d}.png")
        named = 0 if number < odd else kind
        rows.append((f"{number:03d}.png", f"the {NAMES[named]} number {rng.integers(99)}"))
    with (folder / "pairs.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder / "pairs.csv"


Detect = Callable[..., Verdict]


@pytest.fixture
def detect(tmp_path: Path, base: Suspect) -> Detect:
    def run(detector: Any, options: Any, **given: Any) -> Verdict:
        context = Context(
            suspect=base,
            options=options,
            scheduler=Scheduler(cache=FeatureCache()),
            units=UnitStore(tmp_path / "units"),
            shared=UnitStore(tmp_path / "shared"),
            folder=tmp_path / "verdict",
            **given,
        )
        return context.scheduler.run(detector().detect(context))

    return run


def rows_of(verdict: Verdict, folder: Path) -> list[dict[str, str]]:
    (table,) = (each for each in verdict.artifacts if each.kind == "table")
    with (folder / table.path).open(newline="") as stream:
        return list(csv.DictReader(stream))


def density(**values: Any) -> LocalDensityOptions:
    return LocalDensityOptions(**{"k": 4, "lid_k": 8, "share": 0.05, **values})


def test_pairs_that_stand_out_are_a_finding(tmp_path: Path, detect: Detect) -> None:
    """Beside clean pairs; the table ranks them first and flags them, the report shows them."""
    pairs, clean = write_pairs(tmp_path / "a", 60, odd=8), write_pairs(tmp_path / "b", 60, seed=1)
    verdict = detect(
        LocalDensity, density(pairs=str(pairs), clean=str(clean), statistic="k-dist", share=0.02)
    )
    rows = rows_of(verdict, tmp_path / "verdict")
    assert verdict.outcome is Outcome.FINDING
    assert {row["image"] for row in rows[:8]} == {f"{number:03d}.png" for number in range(8)}
    assert all(row["flagged"] == "1" for row in rows[:8])
    assert len(rows) == 60
    assert [each.kind for each in verdict.artifacts] == ["table", "picture"]


def test_no_pair_that_stands_out_is_not_clean(tmp_path: Path, detect: Detect) -> None:
    """Nothing is known then about the model: inconclusive, and the notes say what was not tested."""
    pairs, clean = write_pairs(tmp_path / "a", 60), write_pairs(tmp_path / "b", 60, seed=1)
    verdict = detect(LocalDensity, density(pairs=str(pairs), clean=str(clean)))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "says nothing about the model" in verdict.notes[-1]


def test_without_clean_pairs_there_is_a_ranking_alone(tmp_path: Path, detect: Detect) -> None:
    """However far a pair stands out."""
    verdict = detect(LocalDensity, density(pairs=str(write_pairs(tmp_path / "a", 60, odd=8))))
    assert (verdict.outcome, verdict.score) == (Outcome.INCONCLUSIVE, None)
    assert "flagged" not in rows_of(verdict, tmp_path / "verdict")[0]


def test_an_unreadable_picture_is_left_out_and_said(tmp_path: Path, detect: Detect) -> None:
    """The other captions keep their pictures; stored features keep them too."""
    pairs = write_pairs(tmp_path / "a", 60, odd=8)
    (tmp_path / "a" / "030.png").write_bytes(b"no picture")
    options = density(pairs=str(pairs), statistic="k-dist")
    first, again = detect(LocalDensity, options), detect(LocalDensity, options)
    rows = rows_of(first, tmp_path / "verdict")
    assert (len(rows), first.measures) == (59, again.measures)
    assert {row["image"] for row in rows[:8]} == {f"{number:03d}.png" for number in range(8)}
    assert any("1 pairs were left out" in note for note in first.notes)


def test_labelled_pictures_are_pairs_too(detect: Detect, labelled: LabelledSet) -> None:
    """With prompts of their classes; without any pairs the detector does not apply."""
    assert detect(LocalDensity, density(), labelled=labelled).n == len(labelled)
    with pytest.raises(NotApplicableError, match="no training pairs"):
        detect(LocalDensity, density())


def test_options_know_their_files_by_content(tmp_path: Path) -> None:
    """Another caption or picture at the same path is another option, or a stored verdict would be reused."""
    pairs = write_pairs(tmp_path / "a", 6)
    digests = {density(pairs=str(pairs)).digest}
    pairs.write_text(pairs.read_text().replace("number", "no."))
    digests.add(density(pairs=str(pairs)).digest)
    Image.new("RGB", (32, 32)).save(tmp_path / "a" / "000.png")
    digests.add(density(pairs=str(pairs)).digest)
    assert len(digests) == 3
    assert "digest" in attrs.asdict(density())


def test_files_that_are_not_there_are_refused_at_once(tmp_path: Path) -> None:
    """As options, before a model is asked: pairs, their pictures, descriptions."""
    pairs = write_pairs(tmp_path / "a", 6)
    (tmp_path / "a" / "003.png").unlink()
    for kind, name, value in (
        (LocalDensityOptions, "pairs", str(tmp_path / "none.csv")),
        (LocalDensityOptions, "clean", str(pairs)),
        (BDetClipOptions, "descriptions", str(pairs)),
    ):
        with pytest.raises(DataError, match=r"cannot be read"):
            kind(**{name: value})
        with pytest.raises(Exception, match=r"does not accept"):
            make_options(kind, {name: value}, "it")


def write_set(folder: Path, n: int, seed: int, odd: Sequence[int] = ()) -> Path:
    rng = np.random.default_rng(seed)
    for number in range(n):
        place = folder / NAMES[number % 3].replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        picture(rng, number % 3, odd=number in odd).save(place / f"{number:03d}.png")
    return folder


def test_bdetclip_flags_by_its_score(tmp_path: Path, detect: Detect, base: Suspect) -> None:
    """Pictures of the clean kind are inconclusive, others alarm in one of the two roles; too few clean
    pictures are refused, and classes without descriptions are named."""
    clean = LabelledSet.from_folder(write_set(tmp_path / "clean", 60, 1))
    same = ImagePool.from_folder(write_set(tmp_path / "same", 40, 2))
    verdict = detect(BDetClip, BDetClipOptions(templates=4), labelled=clean, pool=same)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("3 of 3 classes have no descriptions" in note for note in verdict.notes)
    assert verdict.measures["expected"] == pytest.approx(40 * 3 / 61)
    other = LabelledSet.from_folder(write_set(tmp_path / "odd", 60, 3, odd=range(60)))
    roles = [
        detect(BDetClip, BDetClipOptions(templates=4), labelled=clean, pool=ImagePool(other.paths)),
        detect(BDetClip, BDetClipOptions(templates=4), labelled=other, pool=ImagePool(clean.paths)),
    ]
    assert Outcome.FINDING in {each.outcome for each in roles}
    with pytest.raises(DataError, match="too few"):
        detect(BDetClip, BDetClipOptions(share=0.001), labelled=clean, pool=same)


def test_omega_is_its_formula() -> None:
    """`sum_c f (b_c - m_c)` over mean directions of unit length."""
    generator = torch.Generator().manual_seed(0)
    f, texts = torch.randn(4, 8, generator=generator), torch.randn(2, 3, 5, 8, generator=generator)
    b, m = (torch.stack([mean_direction(each) for each in side]) for side in texts)
    for row in range(4):
        unit = f[row] / f[row].norm()
        wanted = sum(float(unit @ b[c]) - float(unit @ m[c]) for c in range(3))
        assert float(omega(f, b, m)[row]) == pytest.approx(wanted, abs=1e-5)
    assert torch.allclose(b.norm(dim=1), torch.ones(3))


def test_texts_follow_the_classes() -> None:
    """Shipped descriptions do not name another class; noise names the class and ends in a short sentence that
    names none."""
    names = ("airplane", "horse", "unheard_of")
    benign, undescribed = benign_texts(names)
    assert (len(benign[0]), len(benign[1]), undescribed) == (7, 7, ["unheard_of"])
    assert all("unheard of" in text for text in benign[2])
    malignant = malignant_texts(names, 80, 8, torch.Generator().manual_seed(0))
    assert [len(each) for each in malignant] == [80, 80, 80]
    assert all("horse" in text and "airplane" not in text for text in malignant[1])
