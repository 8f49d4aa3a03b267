"""Where the tokens of a caption look once the recovered vectors are in, suspect beside reference, as a PNG.

AMDET's explanation of a planted target is that nearly all attention goes to the trigger.
"""

from __future__ import annotations

import io

import attrs
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clipsec.models import ClipModel, decode_ids, last_attention
from clipsec_amdet._objective import insert
from clipsec_amdet._plan import Plan

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
MOST_TOKENS = 40
CELL, GAP, SIZE = 24, 10, 14
"""Pixels: a cell, a margin, the height of letters."""
WHITE, FULL, INK, MARK = (255, 255, 255), (36, 86, 184), (23, 32, 44), (179, 35, 28)


@attrs.frozen(eq=False)
class AttentionPicture:
    """The picture and what it says in words."""

    content: bytes
    """PNG."""
    description: str


def attention_picture(
    plan: Plan, suspect: ClipModel, reference: ClipModel, vectors: Tensor
) -> AttentionPicture:
    """Attention of both last blocks over the shortest held-out caption with `vectors` `[k, D]` in it.

    Both towers are fed the suspect's embeddings, as in the search.
    """
    prompts, k = plan.prompts, len(vectors)
    lengths = torch.tensor([len(_text(row)) for row in prompts.ids[plan.held_out]])
    index = plan.held_out[lengths.argmin()].reshape(1)
    rows = insert(prompts.rows(index), vectors, prompts.at)
    labels = [_ascii(decode_ids(suspect, [token])) for token in _text(prompts.ids[int(index)])]
    labels[prompts.at : prompts.at] = ["VECTOR"] * k
    labels = labels[: min(MOST_TOKENS, rows.shape[1])]
    shown = len(labels)
    maps = [last_attention(clip, rows)[0, :shown, :shown] for clip in (suspect, reference)]
    shares = [vector_share(each, prompts.at, k) for each in maps]
    titles = [f"{name}: {share:.0%} to VECTOR" for name, share in zip(("suspect", "reference"), shares)]
    return AttentionPicture(
        draw_maps(maps, titles, labels, range(prompts.at, prompts.at + k)),
        f"where each token (row) of {plan.captions[int(index)]!r} looks in the last block, mean over "
        f"heads, white 0, blue 1: behind the inserted vector, {shares[0]:.0%} goes to it in the suspect and "
        f"{shares[1]:.0%} in the reference",
    )


def vector_share(attention: Tensor, at: int, k: int) -> float:
    """The mean share of attention `[L, L]` that tokens behind the `k` vectors at `at` give to them."""
    return float(attention[at + k :, at : at + k].sum(dim=1).mean())


def draw_maps(maps: list[Tensor], titles: list[str], labels: list[str], marked: range) -> bytes:
    """Maps `[L, L]` in [0, 1] side by side as a PNG, the columns `marked` framed."""
    font = ImageFont.load_default(SIZE)
    names = int(max(font.getlength(label) for label in labels)) + GAP
    side, top = CELL * len(labels), names + 2 * SIZE + GAP
    picture = Image.new("RGB", (names + len(maps) * (side + GAP) + GAP, top + side + GAP), WHITE)
    draw = ImageDraw.Draw(picture)
    for row, label in enumerate(labels):
        place = (names - GAP // 2, top + row * CELL + CELL // 2)
        draw.text(place, label, fill=_ink(row, marked), font=font, anchor="rm")
    for number, (attention, title) in enumerate(zip(maps, titles, strict=True)):
        left = names + number * (side + GAP)
        draw.text((left, GAP), title, fill=INK, font=font)
        for column, label in enumerate(labels):
            upright = _upright(label, names, font, _ink(column, marked))
            picture.paste(upright, (left + column * CELL, top - names))
        for row, values in enumerate(attention.clamp(0, 1).tolist()):
            for column, value in enumerate(values):
                corner = (left + column * CELL, top + row * CELL)
                box = (*corner, corner[0] + CELL - 1, corner[1] + CELL - 1)
                draw.rectangle(box, fill=_colour(value), outline=(232, 235, 240))
        frame = (left + marked.start * CELL, top, left + marked.stop * CELL - 1, top + side - 1)
        draw.rectangle(frame, outline=MARK, width=2)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _upright(label: str, height: int, font: Font, ink: tuple[int, int, int]) -> Image.Image:
    """A label that reads from bottom to top, `CELL` wide."""
    strip = Image.new("RGB", (height, CELL), WHITE)
    ImageDraw.Draw(strip).text((GAP // 2, CELL // 2), label, fill=ink, font=font, anchor="lm")
    return strip.rotate(90, expand=True)


def _text(ids: Tensor) -> list[int]:
    """A row of ids without its padding, which repeats the last token."""
    tokens: list[int] = ids.tolist()
    while len(tokens) > 1 and tokens[-1] == tokens[-2]:
        tokens.pop()
    return tokens


def _colour(value: float) -> tuple[int, ...]:
    return tuple(round(white + (full - white) * value) for white, full in zip(WHITE, FULL))


def _ink(place: int, marked: range) -> tuple[int, int, int]:
    return MARK if place in marked else INK


def _ascii(label: str) -> str:
    """What the built-in font can show."""
    return label.encode("ascii", "replace").decode()
