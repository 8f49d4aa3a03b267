"""Gates against the well-known slow paths: ratios in one process, CPU time, generous bounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor

from clipsec.models import ClipModel, ImageSpec, TextPart, VisualPart, prepare_image_tower, prepare_text_tower
from clipsec.scheduler import Backward, Encode, Problem, Scheduler

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
SPEC = ImageSpec(128, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
needs_bfloat16 = pytest.mark.skipif(
    not any(
        getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ),
    reason="this processor has no bf16 arithmetic",
)


def make(vision: dict[str, Any], spec: ImageSpec = SPEC) -> ClipModel:
    """A ClipModel with random weights: the given image tower, and two layers of ViT-B/32's text tower."""
    torch.manual_seed(0)
    model = CLIP(512, vision, {"width": 512, "heads": 8, "layers": 2}).eval()
    text = TextPart(model, lambda texts: torch.zeros(0), 77, 512, 512, "open_clip", "text")
    visual = VisualPart(model.visual, spec, 512, "open_clip", "visual")
    return ClipModel("speed", "open_clip", "gelu", "digest", visual, text)


def step(encode: Callable[[Tensor], Tensor], pixels: Tensor) -> Callable[[], None]:
    """Forward and input gradient."""

    def run() -> None:
        encode(pixels.clone().requires_grad_()).float().square().sum().backward()

    return run


def times_faster(fast: Callable[[], object], slow: Callable[[], object]) -> float:
    """How many times less CPU time `fast` takes than `slow`; the best of four interleaved runs each."""
    took: dict[int, list[float]] = {0: [], 1: []}
    for repeat in range(5):
        for which, case in enumerate((fast, slow)):
            start = time.process_time()
            case()
            if repeat:
                took[which].append(time.process_time() - start)
    return min(took[1]) / min(took[0])


@needs_bfloat16
def test_a_frozen_vit_is_faster_in_bf16_than_in_fp32() -> None:
    """Measured 2 to 3.5; with the frozen nn.MultiheadAttention trap it was 0.4."""
    spec = ImageSpec(224, SPEC.mean, SPEC.std)
    clip = make({"image_size": 224, "patch_size": 32, "layers": 2, "width": 768}, spec)
    pixels = torch.rand(4, 3, 224, 224)
    fast = step(prepare_image_tower(clip, torch.bfloat16, CPU).fn, pixels.bfloat16())
    slow = step(prepare_image_tower(clip, torch.float32, CPU).fn, pixels)
    assert times_faster(fast, slow) > 1.3


@needs_bfloat16
def test_a_frozen_cnn_in_bf16_is_faster_than_stock_fp32() -> None:
    """Measured 5; with torch's own gradient of strided depthwise convolutions it was 1.3."""
    clip = make({"image_size": 128, "timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg"})
    assert clip.visual is not None
    pixels = torch.rand(16, 3, 128, 128)
    fast = step(prepare_image_tower(clip, torch.bfloat16, CPU).fn, pixels.bfloat16())
    assert times_faster(fast, step(clip.visual.module, pixels)) > 2


def test_truncated_texts_are_faster_than_full_ones() -> None:
    """Measured 5 to 7 at 12 of 77 tokens."""
    clip = make({"image_size": 32, "patch_size": 32, "layers": 1, "width": 64})
    text = attrs.evolve(clip.text, tokenizer=lambda texts: ids[: len(texts)])
    ids = torch.randint(1, 40_000, (32, 77), generator=torch.Generator().manual_seed(0))
    ids[:, 11], ids[:, 12:] = 49407, 0
    clip = attrs.evolve(clip, text=text)
    short = prepare_text_tower(clip, torch.float32, CPU, length=12)
    full = prepare_text_tower(clip, torch.float32, CPU)
    with torch.no_grad():
        assert times_faster(lambda: short.fn(ids[:, :12]), lambda: full.fn(ids)) > 2


def test_stacked_problems_are_faster_than_a_loop() -> None:
    """16 problems of one picture through the scheduler: measured 2 to 3 times one after the other."""
    clip = make({"image_size": 128, "timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg"})
    tower = prepare_image_tower(clip, torch.float32, CPU)
    pictures = torch.rand(16, 1, 3, 128, 128)
    together, alone = Scheduler(), Scheduler()

    def problem(picture: Tensor, micro_batch: int) -> Problem:
        rows = picture.clone().requires_grad_()
        features = yield Encode(tower, rows, micro_batch=micro_batch)
        yield Backward(features.square().sum())

    def stacked() -> None:
        for done in together.as_completed((i, problem(x, 16)) for i, x in enumerate(pictures)):
            done.unwrap()

    def looped() -> None:
        for picture in pictures:
            alone.run(problem(picture, 1))

    assert times_faster(stacked, looped) > 1.3
