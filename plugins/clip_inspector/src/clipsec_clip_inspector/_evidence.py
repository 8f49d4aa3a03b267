"""Triggers as files: the tensor itself, and a picture at visible contrast."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from clipsec.data import to_unit
from clipsec.protocols import Context
from clipsec.results import Artifact
from clipsec.triggers import stamp_bytes
from clipsec_clip_inspector._plan import Plan
from clipsec_clip_inspector._probes import Probe

PICTURE_SIZE = 256
"""Short side of the trigger picture; smaller triggers are enlarged without smoothing."""


def trigger_picture(delta: Tensor, epsilon: float) -> bytes:
    """A PNG of `delta` `[3, H, W]`: -epsilon is black, 0 is mid grey, +epsilon is white, by channel."""
    values = ((delta / epsilon).clamp(-1, 1) * 127.5 + 127.5).round().byte()
    picture = Image.fromarray(np.ascontiguousarray(values.permute(1, 2, 0).numpy()))
    factor = max(1, PICTURE_SIZE // picture.height)
    enlarged = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    enlarged.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def save_trigger(
    context: Context, plan: Plan, target: int, delta: Tensor, trajectory: list[float]
) -> tuple[Artifact, ...]:
    """Write both files of one class into the verdict's folder."""
    name, stem = plan.class_names[target], f"triggers/{_stem(plan, target)}"
    epsilon = plan.options.epsilon
    metadata = {"class": name, "epsilon": repr(epsilon), "final_batch_loss": repr(trajectory[-1])}
    tensor = save({"delta": delta.contiguous()}, metadata=metadata)
    amplification = f"{127.5 / (255 * epsilon):.0f}"
    return (
        context.save_artifact(f"{stem}.safetensors", "trigger", tensor, "delta [3, H, W] in pixel units"),
        context.save_artifact(
            f"{stem}.png",
            "picture",
            trigger_picture(delta, epsilon),
            f"grey is zero; contrast raised {amplification} times",
        ),
    )


SHOWN = 4
"""Pictures of the pool on a probe's sheet."""


def probe_sheet(pixels: Tensor, stamped: Tensor) -> bytes:
    """A PNG: pictures `[n, 3, H, W]` in [0, 1] above the same pictures stamped."""
    rows = [torch.cat(list(row), dim=2) for row in (pixels, stamped)]
    values = (torch.cat(rows, dim=1).clamp(0, 1) * 255).round().byte()
    picture = Image.fromarray(np.ascontiguousarray(values.permute(1, 2, 0).numpy()))
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def save_probes(context: Context, plan: Plan, target: int, probes: Sequence[Probe]) -> tuple[Artifact, ...]:
    """Write the probes that a class answers to as triggers, and what the first does to some pictures of the
    pool."""
    pixels = to_unit(plan.pixels[:SHOWN])
    sheet = probe_sheet(pixels, probes[0].stamp.apply(pixels))
    stem, name = f"probes/{_stem(plan, target)}", plan.class_names[target]
    return (
        context.save_artifact(f"{stem}.png", "picture", sheet, f"pictures of the pool; {probes[0].name}"),
        *(
            context.save_artifact(
                f"{stem}-{place}.safetensors",
                "trigger",
                stamp_bytes(probe.stamp, **{"class": name, "probe": probe.name}),
                probe.name,
            )
            for place, probe in enumerate(probes)
        ),
    )


def _stem(plan: Plan, target: int) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "-", plan.class_names[target])[:40].strip("-").lower()
    return f"{target:04d}-{name}"
