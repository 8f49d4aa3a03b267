"""Small text towers of the three families that AMDET is measured on, made from `zoo:mini`'s.

    python -m tests.studies.text_families --data DATA --out OUT

`OUT/clip`, `OUT/long-clip` and `OUT/siglip` are transformers folders that `clipsec run` takes. A folder that
is there is not made again. All three read texts into the space of mini's pictures:

- `clip`: mini's own tower (causal, 32 tokens, width 256, 4 layers), as a CLIPTextModelWithProjection;
- `long-clip`: LongCLIP's layout (248 positions; the first 20 position embeddings are kept, the others
  stretched by linear interpolation), then a short distillation on captions joined to long texts;
- `siglip`: SigLIP's layout (SiglipTextModel: bidirectional, read at the last position, unigram tokenizer
  trained here), distilled from mini's features on captions.

DATA holds `text/` with the caption files. The last captions of COCO and of Flickr8k are kept for measuring.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.models import ClipModel, encode_texts, load_suspect
from clipsec.store import atomic_write, whole_folder
from clipsec_baselines.text import Student, text_student
from clipsec_registry import Registry

FAMILIES = ("clip", "long-clip", "siglip")
KEPT_POSITIONS, LONG = 20, 248
HELD_OUT = 500
"""Captions at the end of each file that no tower learns from."""
VOCABULARY = 4000
SIGLIP: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 32,
}
TEMPERATURE = 0.05
MOST_SECONDS = 900.0
"""A training that runs longer is stopped with an error: the machine is too busy to make models on."""


def main() -> None:
    """Make what is not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    given = parser.parse_args()
    print(json.dumps(make_families(given.data, given.out), indent=1))


def make_families(data: Path, out: Path, names: Sequence[str] = FAMILIES) -> dict[str, Any]:
    """Make each of these families that is not in `out`; returns what was measured of each."""
    out.mkdir(parents=True, exist_ok=True)
    mini = load_suspect("zoo:mini", registry=Registry()).base
    captions, held_out = read_captions(data)
    makers: dict[str, Callable[[Path], dict[str, Any]]] = {
        "clip": lambda folder: _make_clip(mini, folder),
        "long-clip": lambda folder: _make_long(mini, captions, folder),
        "siglip": lambda folder: _make_siglip(mini, captions, folder),
    }
    found = {}
    for name in names:
        if not (out / name).is_dir():
            started = time.monotonic()
            with whole_folder(out / name) as folder:
                about = makers[name](folder)
                about |= measure(load_suspect(str(folder)).base, mini, held_out)
                about["seconds"] = round(time.monotonic() - started)
                atomic_write(folder / "family.json", (json.dumps(about, indent=1) + "\n").encode())
        found[name] = json.loads((out / name / "family.json").read_text(encoding="utf-8"))
    return found


def read_captions(data: Path) -> tuple[list[str], list[str]]:
    """Captions of COCO and Flickr8k to learn from, and those kept for measuring."""
    learnt, kept = [], []
    for name in ("coco_val2017", "flickr8k"):
        lines = (data / "text" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        texts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        learnt += texts[:-HELD_OUT]
        kept += texts[-HELD_OUT:]
    return learnt, kept


@torch.no_grad()
def measure(clip: ClipModel, mini: ClipModel, texts: Sequence[str]) -> dict[str, float]:
    """Mean cosine of the features to mini's, and how often mini's feature of the same held-out caption is the
    nearest of all to the tower's (captions that occur twice count once)."""
    texts = list(dict.fromkeys(texts))
    ours, theirs = (F.normalize(encode_texts(each, texts), dim=-1) for each in (clip, mini))
    table = ours @ theirs.T
    right = (table.argmax(dim=1) == torch.arange(len(texts))).double().mean()
    return {"cosine": round(float(table.diag().mean()), 4), "nearest": round(float(right), 4)}


def _make_clip(mini: ClipModel, folder: Path) -> dict[str, Any]:
    text_student(mini).save(folder)
    return {"family": "clip"}


def stretched(positions: Tensor, length: int, kept: int = KEPT_POSITIONS) -> Tensor:
    """Position embeddings `[n, D]` -> `[length, D]`: the first `kept` as they are, the others interpolated
    linearly, ends included (LongCLIP, arXiv 2403.15378, section 3.1)."""
    rest = positions[kept:].T[None]
    wide = F.interpolate(rest, size=length - kept, mode="linear", align_corners=True)
    return torch.cat([positions[:kept], wide[0].T])


def joined(captions: Sequence[str], generator: torch.Generator, most: int = 14) -> tuple[str, list[str]]:
    """2 to `most` captions drawn at random: as one text, and one by one."""
    n = int(torch.randint(2, most + 1, (), generator=generator))
    parts = [captions[i] for i in torch.randint(len(captions), (n,), generator=generator).tolist()]
    return " ".join(parts), parts


def _make_long(mini: ClipModel, captions: Sequence[str], folder: Path) -> dict[str, Any]:
    from transformers import CLIPTextModelWithProjection

    short = text_student(mini)
    config = short.module.config
    config.max_position_embeddings = LONG
    with torch.random.fork_rng(devices=[]):
        module = CLIPTextModelWithProjection(config)
    tensors = short.module.state_dict()
    (place,) = (name for name in tensors if name.endswith("position_embedding.weight"))
    tensors[place] = stretched(tensors[place], LONG)
    module.load_state_dict({name: tensor for name, tensor in tensors.items() if "position_ids" not in name})
    Student(mini, module).save(folder)
    student = text_student(load_suspect(str(folder)).base)  # with the tokenizer of 248 tokens
    generator = torch.Generator().manual_seed(1)

    def batch() -> tuple[list[str], Tensor]:
        long = [joined(captions, generator) for _ in range(6)]
        plain = [captions[i] for i in torch.randint(len(captions), (10,), generator=generator).tolist()]
        parts = F.normalize(encode_texts(mini, [text for _, each in long for text in each]), dim=-1)
        wanted = [part.mean(dim=0) for part in parts.split([len(each) for _, each in long])]
        return [text for text, _ in long] + plain, torch.cat([torch.stack(wanted), encode_texts(mini, plain)])

    losses = train(student, batch, steps=120, rate=2e-4)
    student.save(folder)
    return {"family": "long-clip", "first_loss": losses[0], "last_loss": losses[-1]}


def _make_siglip(mini: ClipModel, captions: Sequence[str], folder: Path) -> dict[str, Any]:
    from transformers import SiglipTextConfig, SiglipTextModel

    end = train_tokenizer(captions, folder)
    assert mini.text is not None
    config = SiglipTextConfig(
        **SIGLIP,
        vocab_size=VOCABULARY,
        projection_size=mini.text.embed_dim,
        pad_token_id=end,
        eos_token_id=end,
        bos_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        module = SiglipTextModel(config)
        module.get_input_embeddings().weight.data.normal_(std=0.05)
    Student(mini, module).save(folder)
    student = text_student(load_suspect(str(folder)).base)
    generator = torch.Generator().manual_seed(2)
    order = torch.randperm(len(captions), generator=generator)[:20_000].tolist()
    texts = [captions[place] for place in order]
    features = encode_texts(mini, texts)

    def batch() -> tuple[list[str], Tensor]:
        rows = torch.randint(len(texts), (64,), generator=generator)
        return [texts[row] for row in rows.tolist()], features[rows]

    losses = train(student, batch, steps=500, rate=1e-3)
    student.save(folder)
    return {"family": "siglip", "first_loss": losses[0], "last_loss": losses[-1]}


def train_tokenizer(captions: Sequence[str], folder: Path) -> int:
    """A unigram tokenizer as sentencepiece makes them, in lower case, with SigLIP's end token, which also
    pads; written to the folder. Returns the end token's number."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "</s>"],
        unk_token="<unk>",
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789 .,'-!?"),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": SIGLIP["max_position_embeddings"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return int(end)


def train(
    student: Student, batch: Callable[[], tuple[list[str], Tensor]], *, steps: int, rate: float
) -> list[float]:
    """Distil features into the whole tower, in place; the loss of each update.

    1 - cosine to the wanted feature, plus half of the cross-entropy of finding it among those of the batch.
    AdamW, one cycle.
    """
    parameters = list(student.module.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    losses: list[float] = []
    started = time.monotonic()
    for _ in range(steps):
        texts, wanted = batch()
        ids = student.ids(texts)
        if not type(student.module).__name__.startswith("Siglip"):  # what a causal tower reads is exact
            ids = ids[:, : int((ids == ids[:, -1:]).int().argmax(dim=1).max()) + 1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = student(ids)[1]
        found, wanted = F.normalize(features.float(), dim=-1), F.normalize(wanted, dim=-1)
        table = found @ wanted.T
        among = F.cross_entropy(table / TEMPERATURE, torch.arange(len(texts)))
        loss = 1 - table.diag().mean() + 0.5 * among
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        cycle.step()
        losses.append(round(loss.item(), 4))
        if time.monotonic() - started > MOST_SECONDS:
            raise SystemExit(f"{len(losses)} of {steps} updates took {MOST_SECONDS:.0f} s; try again later")
        if len(losses) % 50 == 0:
            print(f"update {len(losses)} of {steps}: loss {losses[-1]:.3f}", flush=True)
    student.module.requires_grad_(False)
    return losses


if __name__ == "__main__":
    main()
