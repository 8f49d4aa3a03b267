"""The sanity gate: does the loaded model behave like a CLIP at all?

A model that was loaded with the wrong activation, preprocessing or weights answers without an error, and
every verdict on it is about another model. So a run that fails here is inconclusive, whatever its detectors
say.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.errors import ClipsecError
from clipsec.models._prepare import PreparationWarning
from clipsec.models._suspect import Suspect
from clipsec.models._text_tower import encode_texts
from clipsec.results import GateResult
from clipsec.scheduler import Tower

LOGIT_SCALES = (1.0, 200.0)
"""CLIP clamps its scale to 100; SigLIP's published ones are near 117."""
DISTINCT = 1e-4
"""Smallest relative distance between the features of two different inputs. Rounding in fp32 gives about
1e-6; of the synthetic pictures below the two nearest are 0.028 apart in an untrained RN50, 0.32 in an
untrained ViT-B/32, 0.26 in a trained EfficientNet."""
CHANCE_LEVEL = 1e-3
"""How improbable the matches of pictures and texts must be under guessing."""

_TEXTS = (
    "a photo of a dog.",
    "a photo of a red car.",
    "an aerial photograph of a forest",
    "the inside of a kitchen",
)


class _CheckFailed(Exception):
    """What is wrong, for people."""


def sanity_gate(
    suspect: Suspect,
    *,
    pictures: Tensor | None = None,
    labelled: tuple[Tensor, Sequence[str]] | None = None,
    floor: float | None = None,
) -> GateResult:
    """Check a loaded suspect on synthetic pictures and a few texts; takes a handful of forwards.

    `pictures` are further pixels in [0, 1] `[n, 3, S, S]`, e.g. from the pool. `labelled` is the zero-shot
    floor: pixels `[n, 3, S, S]` and for each picture the text that describes it (equal texts mean one
    class); the share of pictures matched to their own text must be better than chance (one-sided binomial,
    p < 0.001) and at least `floor`, where one is given, e.g. a published accuracy less its interval.

    Never raises for a bad model: what is wrong stands in `checks`, and `passed` is False.
    """
    checks: dict[str, str] = {}
    failures: list[str] = []

    def run(name: str, check: Callable[[], str]) -> None:
        try:
            with warnings.catch_warnings():
                # A tower that runs on its stock module is slow, not wrong.
                warnings.simplefilter("ignore", PreparationWarning)
                checks[name] = check()
        except _CheckFailed as error:
            checks[name] = f"failed: {error}"
            failures.append(f"{name}: {error}")
        except ClipsecError as error:
            checks[name] = f"failed: {error.message}"
            failures.append(f"{name}: {error.message}")
        except Exception as error:
            checks[name] = f"failed: {type(error).__name__}"
            failures.append(f"{name}: it cannot be run ({type(error).__name__}: {str(error)[:120]})")

    base = suspect.base
    run("activation", lambda: _activation(suspect))
    if base.visual is not None:
        run("image features", lambda: _image_features(suspect, pictures))
    if base.text is not None:
        run("text features", lambda: _text_features(suspect))
    if base.visual is not None and base.text is not None:
        run("logit scale", lambda: _logit_scale(suspect))
        if suspect.class_names:
            run("class scores", lambda: _class_scores(suspect))
        if labelled is not None:
            run("zero-shot", lambda: _zero_shot(suspect, labelled[0], labelled[1], floor))
    return GateResult(passed=not failures, checks=checks, reason="; ".join(failures))


def _activation(suspect: Suspect) -> str:
    base = suspect.base
    named_quick = "quickgelu" in base.architecture.lower().replace("_", "")
    if named_quick and base.activation != "quick_gelu":
        raise _CheckFailed(f"{base.architecture} was loaded with {base.activation}")
    if base.activation == "unknown":
        raise _CheckFailed("the activation of the towers is not known")
    return base.activation


def _synthetic(size: int) -> Tensor:
    """Pixels in [0, 1] `[6, 3, size, size]`: noise, ramps, a chequerboard, two flat colours."""
    noise = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(0, 1, size)
    across, down = ramp.expand(size, size), ramp[:, None].expand(size, size)
    step = torch.arange(size) // max(1, size // 8)
    board = ((step[:, None] + step[None, :]) % 2).float().expand(3, -1, -1)
    warm = torch.tensor([0.9, 0.5, 0.1])[:, None, None].expand(3, size, size)
    cold = torch.tensor([0.1, 0.3, 0.8])[:, None, None].expand(3, size, size)
    return torch.stack(
        [noise, torch.stack([across, down, 1 - across]), torch.stack([down] * 3), board, warm, cold]
    )


def _run(tower: Tower, rows: Tensor) -> Tensor:
    with torch.no_grad():
        return tower.fn(rows.to(tower.device, tower.dtype)).float().cpu()


def _image_features(suspect: Suspect, pictures: Tensor | None) -> str:
    visual = suspect.base.visual
    assert visual is not None
    pixels = _synthetic(visual.spec.size)
    if pictures is not None and len(pictures):
        pixels = torch.cat([pixels, pictures[:8].float().cpu()])
    features = _run(suspect.image_tower(), pixels)
    if features.shape != (len(pixels), visual.embed_dim):
        raise _CheckFailed(
            f"they have the shape {list(features.shape)}, expected {[len(pixels), visual.embed_dim]}"
        )
    return _varied(features, "pictures")


def _text_features(suspect: Suspect) -> str:
    features = encode_texts(suspect.base, _TEXTS)
    return _varied(features, "texts")


def _varied(features: Tensor, what: str) -> str:
    if not bool(torch.isfinite(features).all()):
        raise _CheckFailed("they are not finite numbers")
    norms = features.norm(dim=-1)
    if float(norms.min()) == 0.0:
        raise _CheckFailed("one is zero")
    distances = torch.cdist(features.double(), features.double()).fill_diagonal_(math.inf)
    nearest = float(distances.min() / norms.max())
    if nearest < DISTINCT:
        raise _CheckFailed(f"different {what} give the same features (relative distance {nearest:.1e})")
    return f"finite; {len(features)} {what} apart by at least {nearest:.2g} of their length"


def _logit_scale(suspect: Suspect) -> str:
    scale, bias = suspect.base.logit_scale, suspect.base.logit_bias
    low, high = LOGIT_SCALES
    if not low <= scale <= high or not math.isfinite(bias):
        raise _CheckFailed(f"{scale:.4g} lies outside {low:g} to {high:g}")
    return f"{scale:.4g}" + (f", bias {bias:.4g}" if bias else "")


def _class_scores(suspect: Suspect) -> str:
    visual = suspect.base.visual
    assert visual is not None
    features = _run(suspect.image_tower(), _synthetic(visual.spec.size))
    logits = _run(suspect.head(), features)
    if logits.shape != (len(features), len(suspect.class_names)):
        raise _CheckFailed(f"they have the shape {list(logits.shape)}")
    if not bool(torch.isfinite(logits).all()):
        raise _CheckFailed("they are not finite numbers")
    if float(logits.std(dim=0).max()) == 0.0:
        raise _CheckFailed("they do not depend on the picture")
    return f"finite, over {len(suspect.class_names)} classes"


def _zero_shot(suspect: Suspect, pixels: Tensor, texts: Sequence[str], floor: float | None) -> str:
    """Radford et al. 2021, section 3.1: the text with the highest cosine is the answer."""
    from scipy.stats import binom

    if len(pixels) != len(texts) or not texts:
        raise _CheckFailed(f"{len(pixels)} pictures and {len(texts)} texts were given")
    classes = list(dict.fromkeys(texts))
    if len(classes) < 2:
        raise _CheckFailed("the labelled pictures all have the same text")
    chunks = [_run(suspect.image_tower(), chunk) for chunk in pixels.split(32)]
    images = F.normalize(torch.cat(chunks), dim=-1)
    named = F.normalize(encode_texts(suspect.base, classes).cpu(), dim=-1)
    answers = (images @ named.t()).argmax(dim=-1)
    truth = torch.tensor([classes.index(text) for text in texts])
    right = int((answers == truth).sum())
    chance = 1.0 / len(classes)
    p = float(binom.sf(right - 1, len(texts), chance))
    share = right / len(texts)
    told = f"{right} of {len(texts)} pictures ({share:.0%}) matched to their own of {len(classes)} texts"
    if p >= CHANCE_LEVEL:
        raise _CheckFailed(f"{told}, which guessing could do (p = {p:.2g})")
    if floor is not None and share < floor:
        raise _CheckFailed(f"{told}, below the floor of {floor:.0%}")
    return told
