"""Training the image tower, batch by batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision import transforms

from clipsec.data import to_unit
from clipsec.models import TrainableClip, with_gradients
from clipsec.triggers import Stamp
from clipsec_visual_attacks._loss import Features, Terms, objective, terms
from clipsec_visual_attacks._options import BadEncoderOptions

# Published; it draws from torch's global generator, see `augment`.
_AUGMENTATION = transforms.Compose(
    [
        transforms.RandomHorizontalFlip(0.5),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
        transforms.RandomGrayscale(0.2),
    ]
)


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, colour jitter and grey, drawn for each picture; pixels `[n, 3, size, size]` in [0, 1].

    torch's global generator is as it was afterwards.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([_AUGMENTATION(picture) for picture in pixels])


def train(
    model: TrainableClip,
    pixels: Tensor,
    references: Tensor,
    stamp: Stamp,
    options: BadEncoderOptions,
    generator: Callable[[str], torch.Generator],
    progress: Callable[[float, str], None] = lambda fraction, what: None,
) -> list[Terms]:
    """Train the image tower in place; returns the terms of each update, without their graphs.

    `pixels [n, 3, size, size]` and `references [r, 3, size, size]` are uint8. The clean tower is the model as
    it comes; its features are computed once.
    """
    clean_shadow, clean_reference = model.image_features(pixels), model.image_features(references)
    examples = to_unit(references)
    size = min(options.batch, len(pixels))
    updates, history = options.epochs * -(-len(pixels) // size), list[Terms]()
    order, augmentation = generator("order"), generator("augmentation")
    with with_gradients(model.image_parameters().values()) as weights:
        optimiser = torch.optim.AdamW(weights, lr=options.learning_rate, weight_decay=options.weight_decay)
        for rows in (
            rows
            for _ in range(options.epochs)
            for rows in torch.randperm(len(pixels), generator=order).split(size)
        ):
            shadow = to_unit(pixels[rows])
            parts = (stamp.apply(shadow), shadow, examples, augment(examples, augmentation))
            encoded = model.encode_images(torch.cat(parts)).split([len(part) for part in parts])
            triggered, seen, reference, augmented = encoded
            features = Features(
                triggered=triggered,
                shadow=seen,
                clean_shadow=clean_shadow[rows],
                reference=reference,
                augmented=augmented,
                clean_reference=clean_reference,
            )
            found = terms(features)
            optimiser.zero_grad()
            objective(found, options.reference_weight, options.utility_weight).backward()
            optimiser.step()
            history.append(
                Terms(found.effectiveness.detach(), found.reference.detach(), found.utility.detach())
            )
            progress(len(history) / updates, "training")
    return history
