"""The sanity gate: a model that does not behave like a CLIP is noticed before anyone believes a verdict on
it."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import torch
from torch import Tensor, nn

from clipsec.models import ClipModel, PromptState, Suspect, sanity_gate
from clipsec.models._gate import _synthetic


@pytest.fixture
def clip(clip_of: Callable[[str], ClipModel]) -> ClipModel:
    return clip_of("open_clip vit")


def suspect_of(clip: ClipModel, **kwargs: object) -> Suspect:
    return Suspect(name="tiny", kind="clip", base=clip, **kwargs)  # type: ignore[arg-type]


class Broken(nn.Module):
    """An image tower that answers, wrongly."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer
        self.anchor = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.answer(pixels)


def with_visual(clip: ClipModel, answer: Callable[[Tensor], Tensor]) -> ClipModel:
    assert clip.visual is not None
    visual = attrs.evolve(clip.visual, module=Broken(answer), digest=f"broken {id(answer)}")
    return attrs.evolve(clip, visual=visual)


def test_a_sound_model_passes(clip: ClipModel) -> None:
    """A random but working CLIP passes every check; each is recorded."""
    gate = sanity_gate(suspect_of(clip, class_names=("cat", "dog")))
    assert gate.passed, gate.reason
    assert set(gate.checks) == {
        "activation",
        "image features",
        "text features",
        "logit scale",
        "class scores",
    }
    assert gate.reason == ""


def test_towers_alone_are_checked_alone(clip_of: Callable[[str], ClipModel]) -> None:
    """A text tower has no image features to check."""
    gate = sanity_gate(suspect_of(clip_of("transformers text")))
    assert gate.passed, gate.reason
    assert set(gate.checks) == {"activation", "text features"}


def test_the_synthetic_pictures_are_pictures() -> None:
    """Six different pictures in [0, 1], the same every time."""
    pixels = _synthetic(32)
    assert pixels.shape == (6, 3, 32, 32)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert torch.equal(pixels, _synthetic(32))
    assert len({tuple(picture.flatten().tolist()) for picture in pixels}) == 6


EMBED = 24


def level(pixels: Tensor) -> Tensor:
    """The mean brightness as a feature `[n, EMBED]`."""
    return pixels.mean((1, 2, 3))[:, None].expand(-1, EMBED)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda pixels: level(pixels) * float("nan"), "not finite"),
        (lambda pixels: level(pixels) * 0, "one is zero"),
        (lambda pixels: level(pixels) * 0 + 1, "same features"),
        (lambda pixels: level(pixels) * 1e-6 + 1, "same features"),
        (lambda pixels: pixels.mean((2, 3)), "shape"),
        (lambda pixels: pixels[0, 0, 0, 10**6], "cannot be run"),
    ],
)
def test_broken_image_towers_fail(clip: ClipModel, answer: Callable[[Tensor], Tensor], told: str) -> None:
    """NaN, zero, constant, nearly constant, misshapen and crashing towers are each told apart."""
    assert clip.visual is not None
    assert clip.visual.embed_dim == EMBED
    gate = sanity_gate(suspect_of(with_visual(clip, answer)))
    assert not gate.passed
    assert told in gate.reason
    assert gate.checks["image features"].startswith("failed")


def test_further_pictures_count_too(clip: ClipModel) -> None:
    """Pictures of the pool are checked with the synthetic ones: here the tower breaks on bright ones only."""

    def answer(pixels: Tensor) -> Tensor:
        features = pixels.flatten(1)[:, :EMBED] + torch.arange(EMBED)
        return torch.where(pixels.mean((1, 2, 3), keepdim=False)[:, None] > 1.5, torch.nan, features)

    suspect = suspect_of(with_visual(clip, answer))
    assert sanity_gate(suspect).passed
    size = clip.visual.spec.size  # type: ignore[union-attr]
    gate = sanity_gate(suspect, pictures=torch.ones(2, 3, size, size))
    assert "not finite" in gate.reason


@pytest.mark.parametrize("scale", [0.5, 1000.0, float("nan")])
def test_implausible_scales_fail(clip: ClipModel, scale: float) -> None:
    """A logit scale outside 1 to 200 is that of another model, or was exponentiated twice or never."""
    gate = sanity_gate(suspect_of(attrs.evolve(clip, logit_scale=scale)))
    assert not gate.passed
    assert "logit scale" in gate.reason


def test_a_name_and_its_activation_must_agree(clip: ClipModel) -> None:
    """A model called quickgelu that was built with gelu is mis-loaded."""
    gate = sanity_gate(suspect_of(attrs.evolve(clip, architecture="open_clip ViT-B-32-quickgelu")))
    assert not gate.passed
    assert "gelu" in gate.reason
    right = attrs.evolve(clip, architecture="open_clip ViT-B-32-quickgelu", activation="quick_gelu")
    assert sanity_gate(suspect_of(right)).passed
    assert not sanity_gate(suspect_of(attrs.evolve(clip, activation="unknown"))).passed


def test_prompts_that_drown_everything_fail(clip: ClipModel) -> None:
    """Prompt tensors so large that the class scores stop being numbers are noticed."""
    assert clip.text is not None
    ctx = torch.full((4, clip.text.width), 3e38)
    prompts = PromptState("CoOp", ctx, None, ("cat", "dog"), "digest")
    gate = sanity_gate(suspect_of(clip, prompts=prompts, class_names=("cat", "dog")))
    assert not gate.passed
    assert "class scores" in gate.reason


def labelled_by(clip: ClipModel, texts: list[str]) -> tuple[Tensor, list[str]]:
    """Pictures that a tower which reads its feature off the first pixels matches to these texts."""
    from clipsec.models import encode_texts

    assert clip.visual is not None
    features = encode_texts(clip, texts)
    features = (features - features.amin()) / (features.amax() - features.amin())
    size = clip.visual.spec.size
    pixels = torch.zeros(len(texts), 3, size, size)
    pixels.flatten(1)[:, :EMBED] = features
    return pixels, texts


def test_the_zero_shot_floor(clip: ClipModel) -> None:
    """Pictures matched to their own texts pass; matched as guessing would, or below a given floor, fail."""
    from clipsec.models import encode_texts

    assert clip.visual is not None
    spec = clip.visual.spec
    texts = [
        f"a photo of a {name}." for name in ["cat", "dog", "car", "tree", "house", "boat", "lamp", "chair"]
    ]
    text_features = encode_texts(clip, texts)
    low, high = text_features.amin(), text_features.amax()
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))

    def read_off(pixels: Tensor) -> Tensor:
        raw = (pixels * std + mean).flatten(1)[:, :EMBED]
        return raw * (high - low) + low

    suspect = suspect_of(with_visual(clip, read_off))
    pixels, told = labelled_by(clip, texts)
    gate = sanity_gate(suspect, labelled=(pixels, told), floor=0.9)
    assert gate.passed, gate.reason
    assert gate.checks["zero-shot"].startswith("8 of 8 pictures (100%)")
    most = [*told[:6], *reversed(told[6:])]
    assert sanity_gate(suspect, labelled=(pixels, most)).passed
    assert "below the floor" in sanity_gate(suspect, labelled=(pixels, most), floor=0.9).reason
    turned = told[1:] + told[:1]
    assert "guessing" in sanity_gate(suspect, labelled=(pixels, turned)).reason
    assert "were given" in sanity_gate(suspect, labelled=(pixels, told[:3])).reason
    assert "same text" in sanity_gate(suspect, labelled=(pixels, ["a cat"] * 8)).reason
