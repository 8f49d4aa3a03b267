"""Prepared towers against the libraries' stock modules, forward and gradient with respect to the input."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from tests.benchmarks._models import mini, vit_b32
from tests.benchmarks._timing import Row, ratio, seconds
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from clipsec.models import (
    SharedPrefixText,
    encode_texts,
    prepare_image_tower,
    prepare_text_tower,
    truncate_ids,
)
from clipsec.scheduler import Backward, Encode, Problem, Scheduler, Tower

CPU = torch.device("cpu")
NAMES = (
    "cat", "dog", "sea anemone", "grand piano", "hot air balloon", "dalmatian", "stop sign", "umbrella",
    "water lily", "schooner", "soccer ball", "wild cat", "windsor chair", "yin yang", "saxophone", "rooster",
    "pagoda", "minaret", "lotus", "ketch",
)  # fmt: skip


def step(encode: Callable[[Tensor], Tensor], pixels: Tensor) -> Callable[[], object]:
    """Forward, and the gradient of a sum of squares with respect to the pixels."""

    def run() -> Tensor:
        rows = pixels.clone().requires_grad_()
        encode(rows).float().square().sum().backward()
        assert rows.grad is not None
        return rows.grad

    return run


def frozen(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The obvious settings: frozen weights, cast once."""
    return copy.deepcopy(module).requires_grad_(False).to(dtype)


def vit_rows(clock: str, repeats: int, batch: int = 8) -> list[Row]:
    """ViT-B/32: the two comparisons of the goal, fp32 against fp32, and the share of the matmul rate."""
    model, clip = vit_b32()
    pixels = torch.rand(batch, 3, 224, 224)
    half = pixels.bfloat16()
    prepared = {dtype: prepare_image_tower(clip, dtype, CPU).fn for dtype in (torch.float32, torch.bfloat16)}
    # The share is that of a batch as the scheduler fills it; eight pictures are 400 rows, few for a matmul.
    full = torch.rand(16, 3, 224, 224).bfloat16()
    with FlopCounterMode(display=False) as counter:
        step(prepared[torch.bfloat16], full)()
    a, b = torch.randn(3200, 768).bfloat16(), torch.randn(3072, 768).bfloat16()
    took = seconds(
        {
            "prepared bf16": step(prepared[torch.bfloat16], half),
            "prepared fp32": step(prepared[torch.float32], pixels),
            "stock fp32": step(model.visual, pixels),
            "stock frozen bf16": step(frozen(model.visual, torch.bfloat16), half),
            "full batch": step(prepared[torch.bfloat16], full),
            "matmul": lambda: F.linear(a, b),
        },
        clock=clock,
        repeats=repeats,
    )
    what = f"ViT-B/32 forward + input gradient, {batch} pictures"
    reached = counter.get_total_flops() / took["full batch"]
    possible = 2 * 3200 * 768 * 3072 / took["matmul"]
    return [
        ratio(what, took, "prepared bf16", "stock fp32", batch, "img", ">= 5x"),
        ratio(what, took, "prepared bf16", "stock frozen bf16", batch, "img", ">= 10x"),
        ratio(what, took, "prepared fp32", "stock fp32", batch, "img", ""),
        Row(
            f"share of this machine's bf16 matmul rate (3200 x 768 x 3072), {len(full)} pictures",
            f"prepared bf16: {reached / 1e9:,.0f} GFLOP/s",
            f"matmul: {possible / 1e9:,.0f} GFLOP/s",
            f"{reached / possible:.0%}",
            ">= 40%",
        ),
    ]


def text_rows(clock: str, repeats: int) -> list[Row]:
    """ViT-B/32's text tower on zero-shot prompts: cut at the end token against full length."""
    model, clip = vit_b32()
    assert clip.text is not None
    texts = [f"a photo of a {name}." for name in NAMES]
    ids = clip.text.tokenizer(texts)
    short = truncate_ids(clip, ids)
    rows = []
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        full = prepare_text_tower(clip, dtype, CPU).fn
        cut = prepare_text_tower(clip, dtype, CPU, length=short.shape[1]).fn
        cases = {
            f"{short.shape[1]} tokens {name}": lambda cut=cut: cut(short),
            f"{ids.shape[1]} tokens {name}": lambda full=full: full(ids),
        }
        with torch.no_grad():
            took = seconds(cases, clock=clock, repeats=repeats)
        ours, theirs = cases
        rows.append(
            ratio("text tower, prompts cut at the end token", took, ours, theirs, len(ids), "texts", ">= 4x")
        )
    with torch.no_grad():
        took = seconds(
            {
                "prepared bf16": lambda: encode_texts(clip, texts, torch.bfloat16),
                "stock fp32": lambda: model.encode_text(ids),
            },
            clock=clock,
            repeats=repeats,
        )
    rows.append(
        ratio("text tower, everything together", took, "prepared bf16", "stock fp32", len(ids), "texts", "")
    )
    return rows


def prompt_rows(clock: str, repeats: int) -> list[Row]:
    """CoCoOp's text features for one picture and 20 classes, with the gradient of its context."""
    model, clip = vit_b32()
    assert clip.text is not None
    model.requires_grad_(False)  # as CoOp's authors do
    ctx = 0.02 * torch.randn(4, 512)
    ids = clip.text.tokenizer([f"X X X X {name}." for name in NAMES])

    def plain(ctx: Tensor) -> Tensor:
        table = model.token_embedding(ids)
        x = torch.cat([table[:, :1], ctx.expand(len(ids), -1, -1), table[:, 5:]], dim=1)
        x = model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask)
        return model.ln_final(x)[torch.arange(len(x)), ids.argmax(dim=-1)] @ model.text_projection

    took = seconds(
        {
            "shared prefix fp32": step(SharedPrefixText(clip, NAMES, 4, torch.float32, CPU), ctx),
            "shared prefix bf16": step(SharedPrefixText(clip, NAMES, 4, torch.bfloat16, CPU), ctx),
            "stock fp32": step(plain, ctx),
        },
        clock=clock,
        repeats=repeats,
    )
    what = f"CoCoOp's text side for one picture, {len(NAMES)} classes"
    return [
        ratio(what, took, ours, "stock fp32", 1, "contexts", "")
        for ours in ("shared prefix fp32", "shared prefix bf16")
    ]


def stacking_rows(clock: str, repeats: int, problems: int = 16) -> list[Row]:
    """One step of 16 problems of one picture each: concurrently, and one after the other."""
    rows = []
    for make, size in ((mini, 128), (vit_b32, 224)):
        _, clip = make()
        tower = prepare_image_tower(clip, torch.bfloat16, CPU)
        pictures = torch.rand(problems, 1, 3, size, size)
        together, alone = Scheduler(micro_batch=problems), Scheduler()
        cases = {
            "stacked": partial(run_together, together, tower, pictures),
            "loop": partial(run_in_turn, alone, tower, pictures),
        }
        took = seconds(cases, clock=clock, repeats=repeats)
        what = f"{problems} problems of one picture through the scheduler, {clip.name} bf16"
        rows.append(ratio(what, took, "stacked", "loop", problems, "img", ">= 2x"))
    return rows


def invert(tower: Tower, picture: Tensor, micro_batch: int | None) -> Problem:
    """One optimiser step's worth of work on one picture: features, and the gradient of a loss."""
    rows = picture.clone().requires_grad_()
    features = yield Encode(tower, rows, micro_batch=micro_batch)
    yield Backward(features.square().sum())
    return rows.grad


def run_together(scheduler: Scheduler, tower: Tower, pictures: Tensor) -> None:
    """All problems at once."""
    problems = ((i, invert(tower, picture, len(pictures))) for i, picture in enumerate(pictures))
    for done in scheduler.as_completed(problems):
        done.unwrap()


def run_in_turn(scheduler: Scheduler, tower: Tower, pictures: Tensor) -> None:
    """One problem after the other, each in a batch of its own size."""
    for picture in pictures:
        scheduler.run(invert(tower, picture, len(picture)))


def mini_rows(clock: str, repeats: int, batch: int = 16) -> list[Row]:
    """The reference model's CNN at 128 px."""
    model, clip = mini()
    pixels = torch.rand(batch, 3, 128, 128)
    took = seconds(
        {
            "prepared bf16": step(prepare_image_tower(clip, torch.bfloat16, CPU).fn, pixels.bfloat16()),
            "prepared fp32": step(prepare_image_tower(clip, torch.float32, CPU).fn, pixels),
            "stock fp32": step(model.visual, pixels),
            "stock frozen bf16": step(frozen(model.visual, torch.bfloat16), pixels.bfloat16()),
        },
        clock=clock,
        repeats=repeats,
    )
    what = f"mini (EfficientNet-Lite0, 128 px) forward + input gradient, {batch} pictures"
    pairs = (
        ("prepared bf16", "stock fp32"),
        ("prepared fp32", "stock fp32"),
        ("prepared bf16", "stock frozen bf16"),
    )
    return [ratio(what, took, ours, theirs, batch, "img", "") for ours, theirs in pairs]


BENCHMARKS = {
    "vit": vit_rows,
    "text": text_rows,
    "prompts": prompt_rows,
    "stacking": stacking_rows,
    "mini": mini_rows,
}
