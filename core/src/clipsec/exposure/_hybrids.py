"""Hybrids of a suspect and its reference: one's visual branch with the other's textual branch, some parts, or
branches part of the way from one to the other.

The visual branch is everything under the image tower with its projection, the textual branch the rest but the
logit scale, which is the reference's (DIFE, arXiv 2606.17815, section 3.3).
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from clipsec.models import ClipModel, Suspect, TextPart, VisualPart, state_digest

GROUPS = 4
"""Blocks are swapped in this many groups."""
_FINAL = re.compile(r"(^|\.)(ln_final|ln_post|post_layernorm|final_layer_norm|norm|bn2|fc_norm)(\.|$)")
_PROJECTION = re.compile(
    r"(^|\.)(proj|text_projection|visual_projection|head|conv_head|head_proj)(\.|$)|^(text_model\.)?head\."
)


def hybrid(suspect: Suspect, reference: Suspect, *, visual: bool, textual: bool) -> Suspect:
    """A model with the suspect's branches where said and the reference's elsewhere, logit scale included.

    It shares tensors with both, and towers with them by their keys, so features that were computed for them
    serve it too. Prompts are left out.
    """
    theirs, ours = reference.base, suspect.base
    whose = {True: "suspect", False: "reference"}
    clip = attrs.evolve(
        theirs,
        name=f"visual of the {whose[visual]}, textual of the {whose[textual]}",
        visual=ours.visual if visual else theirs.visual,
        text=ours.text if textual else theirs.text,
    )
    return of_clip(clip, suspect)


def of_clip(clip: ClipModel, like: Suspect) -> Suspect:
    """A suspect made of a model in memory, with the class names and device of another."""
    parts = [part.digest for part in (clip.visual, clip.text) if part is not None]
    digest = hashlib.sha256("\0".join([*parts, float(clip.logit_scale).hex()]).encode()).hexdigest()
    return Suspect(
        name=clip.name,
        kind="clip",
        base=attrs.evolve(clip, digest=digest, files={}),
        class_names=like.class_names,
        device=like.device,
    )


def misfit(suspect: Suspect, reference: Suspect) -> str:
    """Why the two cannot be recombined, or nothing."""
    ours, theirs = suspect.base, reference.base
    if ours.visual is None or ours.text is None or theirs.visual is None or theirs.text is None:
        return "a branch swap needs both towers of both models"
    if ours.visual.spec != theirs.visual.spec:
        return "the two models see pictures differently (size, resize, normalisation)"
    if ours.visual.embed_dim != theirs.text.embed_dim or theirs.visual.embed_dim != ours.text.embed_dim:
        return "the two models embed into spaces of different sizes"
    return ""


def branch_pairs(
    suspect: Suspect, reference: Suspect
) -> Iterator[tuple[str, VisualPart | TextPart, VisualPart | TextPart]]:
    """`visual` and `textual` with the suspect's branch and the reference's, where both have one."""
    ours, theirs = suspect.base, reference.base
    if ours.visual is not None and theirs.visual is not None:
        yield "visual", ours.visual, theirs.visual
    if ours.text is not None and theirs.text is not None:
        yield "textual", ours.text, theirs.text


def identical_branches(suspect: Suspect, reference: Suspect) -> tuple[str, ...]:
    """`visual` and `textual`, where the suspect's branch is the reference's bit for bit."""
    pairs = branch_pairs(suspect, reference)
    return tuple(name for name, ours, theirs in pairs if ours.digest == theirs.digest)


def interpolated(suspect: Suspect, reference: Suspect, *, visual: float, textual: float) -> Suspect:
    """The reference with each branch moved by a share in [0, 1] of the way to the suspect's: its weights are
    (1 - alpha) theta_reference + alpha theta_suspect. At 0 and 1, the branch of the one and of the other.

    What is no floating-point number (counters, position numbers) and the logit scale are the reference's.
    Raises `ValueError` when a branch that is moved part of the way is not built alike in both.
    """
    theirs, ours = reference.base, suspect.base
    clip = attrs.evolve(
        theirs,
        name=f"visual branch at {visual:g}, textual branch at {textual:g} of the way to the suspect",
        visual=_between(ours.visual, theirs.visual, visual),
        text=_between(ours.text, theirs.text, textual),
    )
    return of_clip(clip, suspect)


def unlike_branches(suspect: Suspect, reference: Suspect) -> tuple[str, ...]:
    """`visual` and `textual`, where the weights of the two models have other names or shapes."""
    pairs = branch_pairs(suspect, reference)
    return tuple(name for name, ours, theirs in pairs if not _alike(branch_state(ours), branch_state(theirs)))


def branch_state(part: VisualPart | TextPart) -> dict[str, Tensor]:
    """The weights of one branch by name. open_clip's text module is the whole model: only its text is
    returned."""
    state = part.module.state_dict()
    if isinstance(part, VisualPart):
        return dict(state)
    return {n: t for n, t in state.items() if not n.startswith(("visual.", "vision_model.", "logit_"))}


def parts_of(names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The weights of a branch in groups: embeddings, blocks in quarters, final norm, projection.

    The blocks are the longest numbered run of modules; what is neither a block, a final norm nor a projection
    comes before them. Groups without a weight are left out.
    """
    stack = _stack(names)
    depth = 1 + max((int(number) for _, number in stack.values()), default=0)
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        if name in stack:
            quarter = int(stack[name][1]) * GROUPS // depth
            group = f"blocks {quarter + 1}/{GROUPS}"
        elif _PROJECTION.search(name):
            group = "projection"
        elif _FINAL.search(name):
            group = "final norm"
        else:
            group = "embeddings"
        groups.setdefault(group, []).append(name)
    return {group: tuple(members) for group, members in sorted(groups.items())}


def _stack(names: Collection[str]) -> dict[str, tuple[str, str]]:
    """Names in the numbered run that holds most weights: name to (prefix, number)."""
    runs: dict[str, dict[str, tuple[str, str]]] = {}
    for name in names:
        match = re.match(r"(.*?)\.(\d+)\.", name)
        if match:
            runs.setdefault(match[1], {})[name] = (match[1], match[2])
    return max(runs.values(), key=len, default={})


def swap_parts(suspect: Suspect, reference: Suspect, chosen: Mapping[str, Collection[str]]) -> Suspect:
    """The reference with some weights of the suspect: `visual` and `textual` to names in that branch.

    Raises `ValueError` when a weight has another shape in the two models.
    """
    theirs = reference.base
    clip = attrs.evolve(
        theirs,
        name="reference with parts of the suspect",
        visual=_mixed(suspect.base.visual, theirs.visual, chosen.get("visual", ())),
        text=_mixed(suspect.base.text, theirs.text, chosen.get("textual", ())),
    )
    return of_clip(clip, suspect)


def _mixed(ours: Any, theirs: Any, names: Collection[str]) -> Any:
    if not names:
        return theirs
    source, state = branch_state(ours), theirs.module.state_dict()
    for name in names:
        if name not in source or name not in state or source[name].shape != state[name].shape:
            raise ValueError(f"{name} is not of one shape in both models")
    return _with_weights(theirs, {name: source[name] for name in names})


def _between(ours: Any, theirs: Any, share: float) -> Any:
    if share == 0 or ours.digest == theirs.digest:
        return theirs
    if share == 1:
        return ours
    source, start = branch_state(ours), branch_state(theirs)
    if not _alike(source, start):
        raise ValueError("the branches are not built alike")
    moved = {n: torch.lerp(t, source[n].to(t), share) for n, t in start.items() if t.is_floating_point()}
    return _with_weights(theirs, moved)


def _alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].shape == other[name].shape for name in one)


def _with_weights(part: Any, weights: Mapping[str, Tensor]) -> Any:
    """A branch with some of its weights replaced, the others shared, and a digest of its own."""
    kept = {id(t): t for n, t in part.module.state_dict(keep_vars=True).items() if n not in weights}
    with torch.no_grad():
        module: nn.Module = copy.deepcopy(part.module, memo=dict(kept))
        module.load_state_dict(dict(weights), strict=False)
    state = branch_state(attrs.evolve(part, module=module))
    digest = state_digest(state, mixed_from=part.digest)
    return attrs.evolve(part, module=module.eval().requires_grad_(False), digest=digest)
