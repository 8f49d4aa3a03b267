"""What the package ships: small enough, whole, attributed, and a model that knows what it sees."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipsec_zoo import deliveries, image_pool_folder, mini_folder
from clipsec_zoo._cache import digest_file
from clipsec_zoo._card import render_card
from clipsec_zoo._evaluate import image_features, text_features, zero_shot
from clipsec_zoo._measure import load_folder
from clipsec_zoo._pairs import Labelled, labelled_sets

SHIPPED = Path(__file__).parents[1] / "src" / "clipsec_zoo" / "data"
WORDS = {
    "airplanes": "airplane",
    "Motorbikes": "motorbike",
    "Faces": "face",
    "Leopards": "leopard",
    "dalmatian": "dalmatian",
    "electric_guitar": "electric guitar",
    "grand_piano": "grand piano",
    "laptop": "laptop",
    "pizza": "pizza",
    "revolver": "revolver",
    "scorpion": "scorpion",
    "umbrella": "umbrella",
    "watch": "watch",
    "yin_yang": "yin yang",
}


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, object]:
    from clipsec_zoo._expanded import expand, package_data

    return load_folder(expand(package_data() / "mini", "mini", tmp_path_factory.mktemp("models")))


def encoder(model: object) -> object:
    @torch.no_grad()
    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return model.encode_image((pixels - 0.5) / 0.5)  # type: ignore[attr-defined]

    return encode


def test_everything_shipped_stays_below_thirty_megabytes(shipped: Path) -> None:
    """A package that people install to try a tool is not a download to plan for."""
    sizes = {path: path.stat().st_size for path in shipped.rglob("*") if path.is_file()}
    assert sizes
    assert sum(sizes.values()) < 30_000_000


def test_the_shipped_model_has_the_digest_its_description_gives(shipped: Path) -> None:
    """The weights and the numbers measured on them are committed together."""
    facts = json.loads((shipped / "mini" / "mini.json").read_text(encoding="utf-8"))
    assert digest_file(shipped / "mini" / facts["file"]) == facts["sha256"]


MEASURED = sorted(path.stem for path in SHIPPED.glob("*/*.json") if path.stem == path.parent.name)


@pytest.mark.parametrize("name", MEASURED)
def test_the_card_says_what_was_measured(shipped: Path, name: str) -> None:
    """Cards are rendered from the build's numbers, never edited."""
    assert "mini" in MEASURED
    facts = json.loads((shipped / name / f"{name}.json").read_text(encoding="utf-8"))
    card = (shipped.parents[2] / f"CARD_{name}.md").read_text(encoding="utf-8")
    assert card == render_card(name, facts)


def test_mini_is_loaded_by_open_clip_like_any_other_folder(mini: tuple[object, object]) -> None:
    """CLIP's tokenizer, 32 tokens, 128 pixels, 256 dimensions, a moderate logit scale."""
    model, tokenizer = mini
    tokens = tokenizer(["a photo of a cat."])  # type: ignore[operator]
    assert tokens.shape == (1, 32)
    assert int(tokens[0].max()) == 49407
    assert encoder(model)(torch.rand(2, 3, 128, 128)).shape == (2, 256)  # type: ignore[operator]
    assert 5 < float(model.logit_scale.detach().exp()) <= 30  # type: ignore[attr-defined]


def test_mini_names_pictures_of_the_pool(mini: tuple[object, object]) -> None:
    """A mis-loaded model would guess one in fourteen."""
    model, tokenizer = mini
    paths, labels = [], []
    for label, folder in enumerate(WORDS):
        found = sorted(image_pool_folder().glob(f"caltech101_{folder}_image_*.jpg"))[:4]
        assert found, folder
        paths += found
        labels += [label] * len(found)
    labelled = Labelled("pool", tuple(paths), tuple(labels), tuple(WORDS.values()))
    images = image_features(encoder(model), paths, 128)  # type: ignore[arg-type]
    result = zero_shot(images, labelled, lambda texts: text_features(model, tokenizer, texts))  # type: ignore[arg-type]
    assert result["top1"] > 0.8


def test_mini_keeps_its_card_on_held_out_pictures(
    mini: tuple[object, object], data: Path, shipped: Path
) -> None:
    """On a part of EuroSAT's test split the accuracy is the card's, up to sampling."""
    model, tokenizer = mini
    eurosat = next(labelled for labelled in labelled_sets(data) if labelled.name == "eurosat")
    part = Labelled("eurosat", eurosat.paths[::4], eurosat.labels[::4], eurosat.class_names)
    images = image_features(encoder(model), part.paths, 128)  # type: ignore[arg-type]
    measured = zero_shot(images, part, lambda texts: text_features(model, tokenizer, texts))  # type: ignore[arg-type]
    facts = json.loads((shipped / "mini" / "mini.json").read_text(encoding="utf-8"))
    card = next(row for row in facts["measured"]["zero_shot"] if row["set"] == "eurosat")
    assert measured["interval"][0] <= card["top1"] <= measured["interval"][1]


def test_words_never_trained_on_share_the_mean_row(mini: tuple[object, object], shipped: Path) -> None:
    """The table is CLIP's in full; its unseen rows are all alike, and the number of seen ones is recorded."""
    table = mini[0].token_embedding.weight  # type: ignore[attr-defined]
    rows, counts = torch.unique(table, dim=0, return_counts=True)
    facts = json.loads((shipped / "mini" / "mini.json").read_text(encoding="utf-8"))
    assert table.shape == (49408, 256)
    assert int(counts.max()) == 49408 - facts["vocabulary_rows"]
    assert len(rows) == facts["vocabulary_rows"] + 1


def test_every_pool_picture_is_attributed_and_unchanged(shipped: Path) -> None:
    """Each file has one line with licence and credit, and the digest recorded for it."""
    folder = image_pool_folder()
    with (folder.parent / "provenance.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    digests = json.loads((folder.parent / "digests.json").read_text(encoding="utf-8"))
    names = {path.name for path in folder.iterdir()}
    assert len(rows) == 1000
    assert names == {row["file"] for row in rows} == set(digests)
    assert all(row["licence"] and row["attribution"] and row["change"] for row in rows)
    assert all(digest_file(folder / name) == digest for name, digest in digests.items())
    with Image.open(folder / rows[0]["file"]) as picture:
        assert min(picture.size) == 144


def test_mini_folder_is_made_once_in_the_users_cache(own_cache: Path) -> None:
    """The second call finds the first one's files and rewrites none of them."""
    folder = mini_folder()
    weights = folder / "open_clip_model.safetensors"
    before = weights.stat().st_mtime_ns
    assert own_cache in folder.parents
    assert mini_folder() == folder
    assert weights.stat().st_mtime_ns == before


def test_deliveries_are_folders_of_the_package(shipped: Path) -> None:
    """Their names are what follows `zoo:`."""
    for name, folder in deliveries().items():
        assert folder.parent == shipped / "deliveries"
        assert folder.name == name


def test_opposite_words_are_told_apart(mini: tuple[object, object]) -> None:
    """Text features are no constant: different words are less alike than wordings of the same."""
    model, tokenizer = mini
    texts = ["a photo of a pizza.", "an image of a pizza.", "a photo of a helicopter."]
    features = text_features(model, tokenizer, texts)  # type: ignore[arg-type]
    same, other = (F.cosine_similarity(features[0], features[index], dim=0) for index in (1, 2))
    assert float(same) > float(other) + 0.2
