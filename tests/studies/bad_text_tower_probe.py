"""How far one direction of a base's image features tells the target's pictures from others.

    python -m tests.studies.bad_text_tower_probe zoo:mini --data DATA/cifar10 --target airplane

A triggered prompt of BadTextTower is one such direction, while the image tower is frozen. A logistic
regression for the target against the rest, on the training pictures, is measured on the held-out ones of
neither source nor target: how many it lets through where it finds all, or all but one, of the target's, and
how many of the target's it finds where it lets at most two through.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.models import TrainableClip, load_suspect
from clipsec.runner import read_pictures_to_attack
from clipsec_bad_text_tower import choose_roles

DECAYS = (1e-3, 3e-4, 1e-4, 1e-5)


def direction(features: Tensor, positive: Tensor, decay: float) -> Tensor:
    """Weights `[E]` of a logistic regression with an L2 penalty; features `[n, E]`, positive bool `[n]`."""
    weights = torch.zeros(features.shape[1], requires_grad=True)
    offset = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, offset], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = features @ weights + offset
        value = F.binary_cross_entropy_with_logits(logits, positive.float()) + decay * weights.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return weights.detach()


@click.command()
@click.argument("base")
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--source", default="")
@click.option("--target", default="")
def main(base: str, data: Path, source: str, target: str) -> None:
    train, test = read_pictures_to_attack(data)
    if test is None:
        raise click.UsageError("the folder needs train/ and test/")
    roles = choose_roles(train.class_names, source, target)
    model = TrainableClip.copy_of(load_suspect(base).base)
    learned, seen = (
        F.normalize(model.image_features(part.pixels(model.spec)), dim=-1) for part in (train, test)
    )
    labels = test.label_tensor()
    third = (labels != roles.target) & (labels != roles.source)
    for decay in DECAYS:
        scores = seen @ direction(learned, train.label_tensor() == roles.target, decay)
        own, other = scores[labels == roles.target].sort().values, scores[third].sort().values
        through = [int((other > own[missed]).sum()) for missed in (0, 1)]
        found = int((own > other[-3]).sum())
        click.echo(
            f"decay {decay:g}: of {len(other)} others {through[0]} pass where all {len(own)} are found, "
            f"{through[1]} where one is missed; {found} are found where two pass"
        )


if __name__ == "__main__":
    main()
