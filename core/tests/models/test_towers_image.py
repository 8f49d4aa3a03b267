"""Prepared image towers compute what the libraries' own modules compute."""

from __future__ import annotations

import copy
from collections.abc import Callable

import attrs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from clipsec.errors import NotApplicableError
from clipsec.models import ClipModel, ImageSpec, PreparationWarning, prepare_image_tower
from clipsec.models._image_tower import stock_features
from clipsec.models._prepare_conv import FrozenConv

CPU = torch.device("cpu")
VITS = ("open_clip", "open_clip quickgelu", "transformers")


def closeness(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value."""
    return float((found.detach() - expected.detach()).abs().max() / expected.detach().abs().max())


def cosine(found: Tensor, expected: Tensor) -> float:
    """The smallest cosine between rows."""
    return float(F.cosine_similarity(found.detach().float().flatten(1), expected.flatten(1)).min())


def pictures(clip: ClipModel, n: int = 3, seed: int = 0) -> Tensor:
    """Seeded noise in [0, 1]."""
    assert clip.visual is not None
    size = clip.visual.spec.size
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def stock(clip: ClipModel, pixels: Tensor) -> Tensor:
    """Normalise with the spec's mean and std, then the library's own module."""
    assert clip.visual is not None
    spec = clip.visual.spec
    mean, std = (
        torch.tensor(values, dtype=pixels.dtype).view(1, 3, 1, 1) for values in (spec.mean, spec.std)
    )
    return stock_features(clip.visual.module, (pixels - mean) / std)


def gradients(clip: ClipModel, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and input gradients: prepared in `dtype`, and stock in fp32."""
    tower = prepare_image_tower(clip, dtype, CPU)
    ours, theirs = pictures(clip).to(dtype).requires_grad_(), pictures(clip).requires_grad_()
    found, expected = tower.fn(ours), stock(clip, theirs)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3))
    (found * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    return found, expected, ours.grad, theirs.grad


def test_features_and_gradients_equal_the_stock_module(image_clip: ClipModel) -> None:
    """Every family in fp32: features to 1e-5; gradients to 1e-5 for transformers.

    A CNN's gradient jumps where rounding moves an activation across a kink, so there it is compared by
    direction.
    """
    found, expected, ours, theirs = gradients(image_clip, torch.float32)
    assert closeness(found, expected) < 1e-5
    if "cnn" in image_clip.name or "resnet" in image_clip.name:
        assert cosine(ours, theirs) > 0.9999
    else:
        assert closeness(ours, theirs) < 1e-5


def test_bfloat16_is_close(image_clip: ClipModel) -> None:
    """bf16 keeps features within a few per cent, and its gradient is no further off than the stock module's
    own in bf16 (which for a deep CNN with random weights is far)."""
    found, expected, ours, theirs = gradients(image_clip, torch.bfloat16)
    assert found.dtype == torch.float32
    assert closeness(found, expected) < 0.04
    assert image_clip.visual is not None
    module = copy.deepcopy(image_clip.visual.module).bfloat16()
    rough = attrs.evolve(image_clip, visual=attrs.evolve(image_clip.visual, module=module))
    rows = pictures(image_clip).bfloat16().requires_grad_()
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3))
    (stock(rough, rows).float() * cotangent).sum().backward()
    assert rows.grad is not None
    assert cosine(ours, theirs) > min(0.995, cosine(rows.grad, theirs) - 0.03)


def test_without_gradient_the_features_are_the_same(image_clip: ClipModel) -> None:
    """The recorded and the plain forward are one function."""
    tower = prepare_image_tower(image_clip, torch.float32, CPU)
    pixels = pictures(image_clip)
    with torch.inference_mode():
        plain = tower.fn(pixels)
    assert closeness(tower.fn(pixels.requires_grad_()), plain) < 1e-6


@pytest.mark.parametrize("family", ["open_clip", "open_clip timm cnn", "transformers siglip"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_do_not_depend_on_their_neighbours(
    family: str, dtype: torch.dtype, clip_of: Callable[[str], ClipModel]
) -> None:
    """At one batch size features and gradients of a row are bit-equal whatever else is in the batch,
    anywhere."""
    clip = clip_of(family)
    tower = prepare_image_tower(clip, dtype, CPU)

    def run(pixels: Tensor) -> tuple[Tensor, Tensor]:
        rows = pixels.to(dtype).requires_grad_()
        features = tower.fn(rows)
        features.square().sum().backward()
        assert rows.grad is not None
        return features.detach(), rows.grad

    pixels, others = pictures(clip, 8), pictures(clip, 8, seed=1)
    others[5] = pixels[2]
    for a, b in zip(run(pixels), run(others)):
        assert torch.equal(a[2], b[5])


def test_the_given_model_is_not_changed(image_clip: ClipModel) -> None:
    """Preparing and running towers leaves the source module's bytes, dtype, layout and answers alone."""
    assert image_clip.visual is not None
    module = image_clip.visual.module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    structure = [(name, type(part), part.forward) for name, part in module.named_modules()]
    answer = stock(image_clip, pictures(image_clip))
    tower = prepare_image_tower(image_clip, torch.bfloat16, CPU)
    tower.fn(pictures(image_clip).bfloat16().requires_grad_()).sum().backward()
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [(name, type(part), part.forward) for name, part in module.named_modules()] == structure
    assert torch.equal(stock(image_clip, pictures(image_clip)), answer)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_prepared_copy_is_independent_of_later_changes(image_clip: ClipModel) -> None:
    """Weights changed in the source afterwards do not reach a bf16 tower (no method is bound to the old
    module)."""
    assert image_clip.visual is not None
    module = copy.deepcopy(image_clip.visual.module)
    clip = attrs.evolve(image_clip, visual=attrs.evolve(image_clip.visual, module=module))
    tower = prepare_image_tower(clip, torch.bfloat16, CPU)
    pixels = pictures(clip).bfloat16()
    before = tower.fn(pixels)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert torch.equal(tower.fn(pixels), before)


class Tilted(nn.Module):
    """An image tower whose forward does something that its weights do not show."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixels: Tensor) -> Tensor:
        return stock_features(self.inner, pixels).roll(1, dims=-1)


class Straight(torch.autograd.Function):
    """The identity with a gradient of the wrong sign."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # type: ignore[override]
        return -grad


class WrongWay(Tilted):
    """The same features, the opposite gradient."""

    def forward(self, pixels: Tensor) -> Tensor:
        return stock_features(self.inner, Straight.apply(pixels))


@pytest.mark.parametrize("wrap", [Tilted, WrongWay])
def test_a_tower_that_disagrees_falls_back_to_the_stock_module(
    wrap: Callable[[nn.Module], nn.Module], clip_of: Callable[[str], ClipModel]
) -> None:
    """Other features or other gradients: the stock module is used as it is, in fp32, with a warning."""
    plain = clip_of("open_clip")
    assert plain.visual is not None
    clip = attrs.evolve(plain, visual=attrs.evolve(plain.visual, module=wrap(plain.visual.module)))
    with pytest.warns(PreparationWarning, match="disagrees"):
        tower = prepare_image_tower(clip, torch.bfloat16, CPU)
    assert tower.dtype == torch.float32
    assert closeness(tower.fn(pictures(clip)), stock(clip, pictures(clip))) < 1e-6
    assert tower.key != prepare_image_tower(plain, torch.bfloat16, CPU).key


def test_keys_say_what_a_tower_is(clip_of: Callable[[str], ClipModel]) -> None:
    """Weights, normalisation and dtype are part of the key; nothing else is."""
    clip = clip_of("open_clip")
    assert clip.visual is not None
    other_spec = ImageSpec(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    renamed = attrs.evolve(clip, name="other")
    renormalised = attrs.evolve(clip, visual=attrs.evolve(clip.visual, spec=other_spec))
    key = prepare_image_tower(clip, torch.float32, CPU).key
    assert prepare_image_tower(renamed, torch.float32, CPU).key == key
    others = {
        prepare_image_tower(clip, torch.bfloat16, CPU).key,
        prepare_image_tower(renormalised, torch.float32, CPU).key,
        prepare_image_tower(clip_of("transformers"), torch.float32, CPU).key,
    }
    assert len(others | {key}) == 4


def test_a_model_without_image_tower_is_not_applicable(clip_of: Callable[[str], ClipModel]) -> None:
    """Asking a text tower for pictures is a clear error with a remedy."""
    with pytest.raises(NotApplicableError, match="no image tower"):
        prepare_image_tower(clip_of("transformers text"), torch.float32, CPU)


@pytest.mark.parametrize("family", VITS)
def test_vits_are_plain_functions(family: str, clip_of: Callable[[str], ClipModel]) -> None:
    """CLIP's own ViTs keep no module at all, so the frozen nn.MultiheadAttention trap cannot return."""
    tower = prepare_image_tower(clip_of(family), torch.bfloat16, CPU)
    held = [cell.cell_contents for cell in tower.fn.__closure__ or ()]
    assert held
    assert not any(isinstance(value, nn.Module) for value in held)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kernel=st.integers(1, 6),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    size=st.tuples(st.integers(7, 13), st.integers(7, 13)),
    kind=st.sampled_from(["dense", "depthwise", "grouped"]),
    same=st.booleans(),
    clip=st.sampled_from([None, (0.0, 6.0), (0.0, float("inf"))]),
    bias=st.booleans(),
)
def test_frozen_convolutions_equal_torch(
    kernel: int,
    stride: int,
    padding: int,
    size: tuple[int, int],
    kind: str,
    same: bool,
    clip: tuple[float, float] | None,
    bias: bool,
) -> None:
    """Any kernel, stride, padding (TensorFlow's "same" too), grouping and clipping: outputs and gradients
    in fp64."""
    from timm.layers import Conv2dSame

    groups = {"dense": 1, "depthwise": 4, "grouped": 2}[kind]
    torch.manual_seed(kernel + 10 * stride + 100 * padding)
    padding = min(padding, kernel - 1)
    made = Conv2dSame if same else nn.Conv2d
    conv = made(4, 4, kernel, stride, 0 if same else padding, groups=groups, bias=bias).double()
    conv.requires_grad_(False)
    assert FrozenConv.accepts(conv)
    frozen = FrozenConv(conv, clip)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = conv(theirs) if clip is None else conv(theirs).clamp(*clip)
    found = frozen(ours)
    cotangent = torch.randn_like(expected)
    (found * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, (1, 3)),
        nn.Conv2d(3, 4, 3, dilation=2),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Linear(3, 4),
    ],
)
def test_other_convolutions_are_left_alone(conv: nn.Module) -> None:
    """What the fast convolution does not cover stays with torch."""
    assert not FrozenConv.accepts(conv)
