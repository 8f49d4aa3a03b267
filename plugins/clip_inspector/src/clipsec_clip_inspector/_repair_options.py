"""What can be set of the repair, with the published values as defaults unless a docstring says otherwise."""

from __future__ import annotations

import attrs
from attrs import validators

CONTROLS = ("right", "wrong", "noise", "clean")


@attrs.frozen(kw_only=True)
class RepairOptions:
    """Options of `prompt-finetune`."""

    control: str = attrs.field(default="right", validator=validators.in_(CONTROLS))
    """What is stamped on the pictures. `right`: the trigger of the finding. The others are the paper's
    controls: `wrong` the trigger of a class that is not flagged, `noise` random noise of the same l-infinity
    norm (of 8/255 for a trigger that is not additive), `clean` nothing."""
    probes: bool = True
    """Whether further copies of the pictures bear the probes of clip-inspector-plus, a probe each: the found
    trigger is seldom the attacker's. With `control=right` only. Paper: no."""
    rounds: int = attrs.field(default=2, validator=validators.ge(0))
    """Times that a trigger is searched again on what has been repaired so far, and added. Paper: 0."""
    epsilon: float | None = attrs.field(
        default=None, validator=validators.optional([validators.gt(0), validators.le(1)])
    )
    """Radius of the ball of these searches, in pixel units. None: the largest change of the found trigger, or
    8/255 where the finding's trigger is of another kind."""
    distil: float = attrs.field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    """Share of the base's zero-shot answer in what triggered pictures are taught; the rest is the true label.
    Paper: 0."""
    epochs: int = attrs.field(default=10, validator=validators.ge(1))
    """Most passes over the pictures in each round. Paper: not stated."""
    batch_size: int = attrs.field(default=16, validator=validators.ge(1))
    """Pictures an update sees, each clean and triggered. Paper: not stated."""
    learning_rate: float = attrs.field(default=0.03, validator=validators.gt(0))
    """SGD, highest value of the cosine, for a CLIP whose logit scale is 100; multiplied by (100 / scale)^2
    for another. Gradients and answers are both proportional to the scale: this keeps a step's effect. Paper:
    not stated (0.002 where CoCoOp is learned, at which these few updates leave most of the backdoor)."""
    momentum: float = attrs.field(default=0.9, validator=[validators.ge(0), validators.lt(1)])
    weight_decay: float = attrs.field(default=5e-4, validator=validators.ge(0))
    validation: float = attrs.field(default=0.25, validator=[validators.gt(0), validators.lt(1)])
    """Share of the labelled pictures that chooses the epoch, and that training then does not see; with
    `stop_success` only."""
    stop_success: float | None = attrs.field(
        default=None, validator=validators.optional([validators.ge(0), validators.le(1)])
    )
    """A round ends when no trigger succeeds on more validation pictures and accuracy has not fallen; its best
    epoch is kept; for pictures that the prompts were not learned on, for what they know by heart they lose in
    any repair, and no epoch is good enough. None: all epochs are run on all pictures, and the last is kept.
    Paper: not stated."""
