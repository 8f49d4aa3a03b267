"""The parts of a build, each against its definition."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import attrs
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipsec_zoo import image_pool_folder
from clipsec_zoo._clip_onnx import dequantised, to_open_clip_visual
from clipsec_zoo._evaluate import retrieval, wilson
from clipsec_zoo._features import evaluation_pixels
from clipsec_zoo._mini import MINI_RECIPE
from clipsec_zoo._pairs import Captioned, Example, captioned_sets, labelled_sets, training_examples
from clipsec_zoo._texts import TEMPLATES, same_text_key, tokenise, vocabulary_of, wording
from clipsec_zoo._training import contrastive_loss
from clipsec_zoo._views import views_of


def test_centre_views_are_open_clips_evaluation_transform() -> None:
    """Features for training and measuring are taken where users' pictures will be."""
    transform = open_clip.image_transform(128, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))
    paths = sorted(image_pool_folder().iterdir())[::300]
    for path, ours in zip(paths, evaluation_pixels(paths, 128)):
        with Image.open(path) as picture:
            theirs = transform(picture.convert("RGB"))
        assert float((ours - theirs).abs().max()) <= 1 / 255 + 1e-6


def test_signs_are_never_mirrored() -> None:
    """Keep left is not keep right: without `mirror`, a one-sided picture stays bright on its side in
    every view."""
    path = sorted(image_pool_folder().iterdir())[0]
    seen = views_of(path, 6, 64, mirror=False, seed=0)
    assert seen.shape == (6, 3, 64, 64)
    assert torch.equal(seen, views_of(path, 6, 64, mirror=False, seed=0))
    mirrored = views_of(path, 6, 64, mirror=True, seed=0)
    assert torch.equal(mirrored[1], mirrored[0].flip(-1))
    assert not torch.equal(seen[1], seen[0].flip(-1))


def test_the_loss_is_the_sum_that_its_docstring_says() -> None:
    """Against a loop over pictures and texts, term by term."""
    torch.manual_seed(0)
    images, texts = F.normalize(torch.randn(5, 4), dim=-1), F.normalize(torch.randn(3, 4), dim=-1)
    owner = torch.tensor([0, 1, 1, 2, 0])
    same_set = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1], [1, 1, 0]]).bool()
    scale = torch.tensor(7.0)
    p = (scale * images @ texts.T).double().exp()
    whole = -sum((p[i, owner[i]] / p[i].sum()).log() for i in range(5)) / 5
    within = -sum((p[i, owner[i]] / p[i][same_set[i]].sum()).log() for i in range(5)) / 5
    back = -sum((p[owner == t, t].sum() / p[:, t].sum()).log() for t in range(3)) / 3
    recipe = attrs.evolve(MINI_RECIPE, within_set=0.7, text_to_image=0.3)
    loss = contrastive_loss(images, texts, owner, scale, same_set, recipe)
    assert float(loss) == pytest.approx(float(whole + 0.7 * within + 0.3 * back), abs=1e-5)


@given(st.lists(st.text(alphabet="abcdefghij", min_size=1, max_size=8), min_size=1, max_size=4))
@settings(deadline=None)
def test_case_and_punctuation_never_make_another_text(words: list[str]) -> None:
    """Only letters and digits count, and the key of a key is itself up to final s."""
    assert same_text_key("-".join(words).upper()) == same_text_key(" ".join(words) + ".")


def test_singular_and_plural_are_the_same_words() -> None:
    """roses are positives of rose; grass is not gra."""
    assert same_text_key("Roses") == same_text_key("rose")
    assert same_text_key("grass") == "grass"
    assert same_text_key("sea or lake") != same_text_key("lake")


def test_the_vocabulary_holds_every_wording_of_every_example() -> None:
    """Training never meets a token that has no row."""
    examples = [
        Example(Path("a"), "s", ("Speed limit (80km/h)",), "class", False),
        Example(Path("b"), "s", ("Wrangler Women's T-Shirt",), "title", True),
        Example(Path("c"), "s", ("A dog's ball , mid-air !",), "caption", True),
    ]
    known = set(vocabulary_of(examples, 32).tolist())
    draw = random.Random(0)
    said = {wording(example, draw) for example in examples for _ in range(300)}
    assert len(said) > 2 * len(TEMPLATES)
    assert set(tokenise(sorted(said), 32).flatten().tolist()) <= known


def test_no_test_picture_is_trained_on(data: Path) -> None:
    """By path and, for the halves of coco_pairs, by file."""
    trained = {example.path for example in training_examples(data)}
    measured = {path for labelled in labelled_sets(data) for path in labelled.paths}
    measured |= {path for captioned in captioned_sets(data) for path in captioned.paths}
    assert len(trained) > 20_000
    assert len(measured) > 4_000
    assert not trained & measured


def test_recall_counts_any_of_a_pictures_captions() -> None:
    """Two pictures, three captions; one caption lies nearer to the wrong picture."""
    captioned = Captioned("tiny", (Path("a"), Path("b")) * 5, (("x", "y"), ("z",)) * 5)
    images = torch.eye(10)
    places = {f"{text}{index}": index for index in range(10) for text in ("x", "y", "z")}
    captions = tuple((f"x{i}", f"y{i}") if i % 2 == 0 else (f"z{i}",) for i in range(10))
    captioned = attrs.evolve(captioned, captions=captions)
    wrong = {"y0": 1, "z1": 0}

    def encode(texts: list[str]) -> torch.Tensor:
        return torch.stack([torch.eye(10)[wrong.get(text, places[text])] for text in texts])

    result = retrieval(images, captioned, encode)  # type: ignore[arg-type]
    assert result["text_to_image_r1"] == pytest.approx(13 / 15)
    # Picture 1 is missed; picture 0 has a right and a wrong caption at the same distance.
    assert 0.79 < result["image_to_text_r1"] < 0.91


def test_wilson_is_the_published_interval() -> None:
    """81 of 263: 0.2553 to 0.3662 (Newcombe 1998, table I)."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_quantised_weights_come_back_under_the_name_of_their_bias() -> None:
    """(q - zero) * scale per output column, transposed; the one without a bias is the projection."""
    torch.manual_seed(0)
    quantised = torch.randint(-128, 128, (6, 4), dtype=torch.int8)
    zero, scale = torch.randint(-5, 5, (4,), dtype=torch.int8), torch.rand(4)
    values = {"vision_model.fc.bias": torch.zeros(4), "other": torch.zeros(1)}
    for stem in ("first", "last"):
        values |= {f"{stem}_quantized": quantised, f"{stem}_zero_point": zero, f"{stem}_scale": scale}

    def node(op: str, inputs: list[str], output: str) -> SimpleNamespace:
        return SimpleNamespace(op_type=op, input=inputs, output=[output])

    nodes = [
        node("MatMulInteger", ["x", "first_quantized", "zx", "first_zero_point"], "a"),
        node("Cast", ["a"], "b"),
        node("Mul", ["b", "s"], "c"),
        node("Add", ["vision_model.fc.bias", "c"], "d"),
        node("MatMulInteger", ["d", "last_quantized", "zd", "last_zero_point"], "e"),
        node("Cast", ["e"], "f"),
        node("Mul", ["f", "s2"], "g"),
    ]
    weights = dequantised(nodes, values)
    expected = torch.stack(
        [(quantised[:, column].float() - zero[column]) * scale[column] for column in range(4)]
    )
    assert set(weights) == {"vision_model.fc.bias", "vision_model.fc.weight", "visual_projection.weight"}
    assert torch.equal(weights["vision_model.fc.weight"], expected)


@torch.no_grad()
def test_a_transformers_tower_gives_the_same_features_in_open_clip() -> None:
    """The renaming, on a random tower of the same twelve layers and small widths."""
    from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=12,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        projection_dim=24,
        hidden_act="quick_gelu",
    )
    theirs = CLIPVisionModelWithProjection(config).eval()
    ours = VisionTransformer(
        32, 16, 32, 12, 2, 4.0, output_dim=24, act_layer=QuickGELU, norm_layer=LayerNorm
    ).eval()
    weights = to_open_clip_visual(theirs.state_dict())
    ours.load_state_dict(
        {name.removeprefix("visual."): tensor for name, tensor in weights.items()}, strict=True
    )
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.allclose(ours(pixels), theirs(pixel_values=pixels).image_embeds, atol=1e-5)
