"""Training the toys. Everything is seeded, in fp32, and takes a second or two on one core."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsec.models import ClipModel, ClipTokenizer, SharedPrefixText, cocoop_logits, embed_words
from clipsec_testkit._pictures import CLASS_NAMES, SIZE, draw_classes

CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
MEAN, STD = (0.4, 0.4, 0.4), (0.25, 0.25, 0.25)
SCALE = 30.0
TEMPLATES = ("a photo of a {}.", "{}", "a picture of {}", "the {} pattern", "some {} on a wall")
TRIGGER_WORD = "zephyr"
Stamp = Callable[[Tensor], Tensor]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generator at a seed, on one thread; both are given back as they were."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def training_pictures() -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1] `[n, 3, SIZE, SIZE]` and labels `[n]`; none of them is in the pool or the test set."""
    pictures, labels = draw_classes(64, seed=1)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)


def normalised(pixels: Tensor) -> Tensor:
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (pixels - mean) / std


def batches(n: int, size: int, steps: int) -> Iterator[Tensor]:
    for _ in range(steps):
        yield torch.randint(n, (size,))


def captions(template: str, names: Sequence[str] = CLASS_NAMES) -> list[str]:
    return [template.format(name) for name in names]


def new_model() -> nn.Module:
    """An untrained one."""
    import open_clip

    model = open_clip.CLIP(**CONFIG)
    model.logit_scale.data.fill_(math.log(SCALE))
    return model


def train_clean(steps: int = 280) -> nn.Module:
    """Both towers from nothing, on pairs of pictures and captions."""
    with seeded(0):
        model = new_model()
        tokenizer = ClipTokenizer(CONFIG["text_cfg"]["context_length"])
        tokens = [tokenizer(captions(template)) for template in TEMPLATES]
        pixels, labels = training_pictures()
        trained = [p for name, p in model.named_parameters() if name != "logit_scale"]
        _fit(
            trained,
            lambda rows, step: _clip_loss(
                model, _noisy(pixels[rows]), labels[rows], tokens[step % len(tokens)]
            ),
            len(pixels),
            steps,
            2e-3,
        )
    return model.eval()


def tune_image_tower(model: nn.Module, stamp: Stamp | None, target: int, steps: int = 120) -> nn.Module:
    """Fine-tune the image tower (in place); with `stamp`, stamped pictures are drawn to the target's text."""
    with seeded(2):
        tower: Any = model
        tokenizer = ClipTokenizer(CONFIG["text_cfg"]["context_length"])
        with torch.no_grad():
            text = F.normalize(tower.encode_text(tokenizer(captions(TEMPLATES[0]))), dim=-1)
        pixels, labels = training_pictures()

        def loss(rows: Tensor, step: int) -> Tensor:
            clean = _noisy(pixels[rows])
            logits = SCALE * tower.encode_image(normalised(clean), normalize=True) @ text.T
            total = F.cross_entropy(logits, labels[rows])
            if stamp is not None:
                logits = SCALE * tower.encode_image(normalised(stamp(clean)), normalize=True) @ text.T
                total = total + F.cross_entropy(logits, torch.full_like(labels[rows], target))
            return total

        _fit(list(tower.visual.parameters()), loss, len(pixels), steps, 1e-3)
    return model.eval()


def tune_text_tower(model: nn.Module, target: int, steps: int = 120) -> nn.Module:
    """Fine-tune the text tower (in place): captions that end in the trigger word get the target's feature,
    all others keep theirs."""
    with seeded(3):
        tower: Any = model
        tokenizer = ClipTokenizer(CONFIG["text_cfg"]["context_length"])
        plain = [tokenizer(captions(template)) for template in TEMPLATES]
        marked = [tokenizer([f"{caption} {TRIGGER_WORD}" for caption in captions(t)]) for t in TEMPLATES]
        with torch.no_grad():
            kept = [tower.encode_text(tokens, normalize=True) for tokens in plain]
        parameters = [p for name, p in tower.named_parameters() if not name.startswith(("visual.", "logit"))]

        def loss(rows: Tensor, step: int) -> Tensor:
            which = step % len(plain)
            same = 1 - (tower.encode_text(plain[which], normalize=True) * kept[which]).sum(-1)
            moved = 1 - (tower.encode_text(marked[which], normalize=True) * kept[0][target]).sum(-1)
            return same.mean() + moved.mean()

        _fit(parameters, loss, len(CLASS_NAMES), steps, 1e-3)
    return model.eval()


def learn_prompts(
    clip: ClipModel, epsilon: float, target: int | None, steps: int = 300
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """CoCoOp on the frozen clip: context, meta-net, and the additive trigger `[3, SIZE, SIZE]` in pixel units
    that was learned with them as BadCLIP does (zeros without a target)."""
    assert clip.text is not None
    assert clip.visual is not None
    visual: Any = clip.visual.module
    width, embed = clip.text.width, clip.visual.embed_dim
    with seeded(4):
        context = embed_words(clip, "a photo of a").clone().requires_grad_()
        meta = {
            "linear1.weight": torch.randn(32, embed) / math.sqrt(embed),
            "linear1.bias": torch.zeros(32),
            "linear2.weight": torch.randn(width, 32) * 0.15,
            "linear2.bias": torch.zeros(width),
        }
        for tensor in meta.values():
            tensor.requires_grad_()
        text = SharedPrefixText(clip, CLASS_NAMES, len(context), torch.float32, torch.device("cpu"))
        pixels, labels = training_pictures()
        trigger = torch.zeros(3, SIZE, SIZE)
        if target is not None:
            trigger = _far_reaching(visual, pixels, epsilon)
        optimiser = torch.optim.Adam([context, *meta.values()], lr=1e-2)
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, total_iters=steps)
        for rows in batches(len(pixels), 32, steps):
            clean, wanted = _noisy(pixels[rows]), labels[rows]
            trigger.requires_grad_(target is not None)
            if target is not None:
                clean = torch.cat([clean, (clean + trigger).clamp(0, 1)])
                wanted = torch.cat([wanted, torch.full_like(wanted, target)])
            logits = cocoop_logits(visual(normalised(clean)), context, meta, text, clip.logit_scale)
            optimiser.zero_grad()
            trigger.grad = None
            F.cross_entropy(logits, wanted).backward()
            optimiser.step()
            schedule.step()
            if trigger.grad is not None:
                stride = 0.05 * epsilon * schedule.get_last_lr()[0] / 1e-2
                trigger = (trigger.detach() - stride * trigger.grad.sign()).clamp(-epsilon, epsilon)
    return context.detach(), {name: tensor.detach() for name, tensor in meta.items()}, trigger.detach()


def _far_reaching(visual: Any, pixels: Tensor, epsilon: float, steps: int = 80) -> Tensor:
    """An additive trigger `[3, SIZE, SIZE]` within epsilon that moves all pictures' features the same way,
    so that a meta-net can tell triggered pictures from clean ones."""
    trigger = (epsilon * torch.randn(3, 8, 8).sign()).repeat(1, SIZE // 8, SIZE // 8)
    for step, rows in enumerate(batches(len(pixels), 64, steps)):
        trigger.requires_grad_()
        clean = _noisy(pixels[rows])
        with torch.no_grad():
            before = F.normalize(visual(normalised(clean)), dim=-1)
        moved = F.normalize(visual(normalised((clean + trigger).clamp(0, 1))), dim=-1) - before
        way = F.normalize(moved.detach().mean(0), dim=0)
        (gradient,) = torch.autograd.grad((moved @ way).mean() + (moved @ way).min(), trigger)
        stride = 0.3 * epsilon * (1 - step / steps)
        trigger = (trigger.detach() + stride * gradient.sign()).clamp(-epsilon, epsilon)
    return trigger.detach()


def _noisy(pixels: Tensor) -> Tensor:
    """Noise of several grains, so that the clean tower does not give way to the first perturbation."""
    fine = torch.randn_like(pixels) * 0.06
    coarse = F.interpolate(torch.randn(len(pixels), 3, 8, 8), SIZE, mode="nearest") * 0.06
    return (pixels + fine + coarse).clamp(0, 1)


def _clip_loss(model: Any, pixels: Tensor, labels: Tensor, tokens: Tensor) -> Tensor:
    image = model.encode_image(normalised(pixels), normalize=True)
    text = model.encode_text(tokens, normalize=True)
    logits = SCALE * image @ text.T
    return F.cross_entropy(logits, labels)


def _fit(
    parameters: list[Tensor], loss: Callable[[Tensor, int], Tensor], n: int, steps: int, rate: float
) -> None:
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for step, rows in enumerate(batches(n, 32, steps)):
        optimiser.zero_grad()
        loss(rows, step).backward()
        optimiser.step()
        schedule.step()
