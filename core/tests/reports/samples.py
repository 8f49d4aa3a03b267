"""Runs to render: what auditors meet, and what an attacker might deliver."""

from __future__ import annotations

import hashlib
import io
import math
from functools import cache
from pathlib import Path

import attrs
import numpy as np
from PIL import Image

from clipsec.results import (
    Artifact,
    ClassEvidence,
    Cost,
    ErrorRecord,
    GateResult,
    Interval,
    Outcome,
    Provenance,
    RunResult,
    SuspectCard,
    Verdict,
)
from clipsec.stats import wilson

NAMES = (
    *("accordion", "airplane", "anchor", "ant", "barrel", "bass", "beaver", "binocular", "bonsai", "brain"),
    *("brontosaurus", "buddha", "butterfly", "camera", "cannon", "car_side", "ceiling_fan", "cellphone"),
    *("chair", "chandelier", "cougar_body", "crab", "crayfish", "crocodile", "dalmatian"),
)
DETECTOR = "clipsec-clip-inspector/clip-inspector"
HOSTILE = (
    "<script>document.title='owned';fetch('http://example.invalid/x')</script>",
    "<img src=x onerror=\"document.body.dataset.owned='yes'\">",
    '"><svg onload=alert(1)>',
    "[bold red]clean[/bold red] [link=http://example.invalid]x[/link]",
    "\x1b[2J\x1b[32mclean\x1b[0m\x07",
    "\u202ekcab ot tnorf\u202c \u2066x\u2069",
    "{{ 7 * 7 }} {% raw %} ${7*7} %s {0}",
    "</style></title></textarea><!-- --><script>1</script>",
    "line one\nline two\ttab\r\0nul",
    "x" * 5000,
    "\ud800 lone surrogate",
    "a\u0301\u0301\u0301 مرحبا \u06a9\u062a\u0627\u0628\u200c\u0647\u0627 猫 🐈",
)


@cache
def png(seed: int, size: int = 256) -> bytes:
    """Noise as a reconstructed trigger shows it."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 2, (size // 2, size // 2, 3), dtype=np.uint8) * 255
    stream = io.BytesIO()
    Image.fromarray(small).resize((size, size), Image.Resampling.NEAREST).save(stream, format="PNG")
    return stream.getvalue()


def picture(folder: Path, name: str, seed: int, size: int = 128) -> Artifact:
    content = png(seed, size)
    path = folder / "verdicts" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Artifact(
        f"verdicts/{name}.png",
        "picture",
        hashlib.sha256(content).hexdigest(),
        "grey is zero; contrast raised 32 times",
    )


def classes(names, target, folder=None, n=300, seed=0, pictures=True):
    """Evidence by class: scores around 0, the target far out."""
    rng = np.random.default_rng(seed)
    rows = []
    for index, name in enumerate(names):
        is_target = index == target
        score = 5.306 if is_target else float(rng.normal(0, 0.9))
        rate = rng.uniform(0.9, 0.97) if is_target else max(0.0, rng.normal(0.13 + 0.06 * score, 0.05))
        hits = round(n * rate)
        artifacts = (picture(folder, f"trigger-{index}", index),) if folder is not None and pictures else ()
        rows.append(
            ClassEvidence(
                index=index,
                name=name,
                flagged=is_target,
                measures={
                    "score": score,
                    "success_rate": hits / n,
                    "loss": float(2.0 - score + rng.normal(0, 0.1)),
                    "null_loss": float(2.0 + rng.normal(0, 0.3)),
                },
                n=n,
                success_interval=wilson(hits, n),
                artifacts=artifacts,
            )
        )
    return tuple(rows)


def provenance(detector=DETECTOR):
    return Provenance(
        detector=detector,
        distribution=detector.split("/")[0],
        version="0.1.0",
        key="5f" * 32,
        options={
            "epsilon": 4 / 255,
            "learning_rate": 0.1,
            "decision": "paired",
            "candidates": [],
            "threshold": None,
        },
        seed=0,
        search_dtype="bfloat16",
        decision_dtype="float32",
        suspect_digest="1b" * 32,
        data_digest="9c" * 32,
    )


def suspect(names=NAMES, name="caltech-badclip"):
    return SuspectCard(
        name=name,
        digest="1b" * 32,
        kind="prompt-tuned",
        architecture="open_clip mini (CoCoOp, 4 context vectors)",
        activation="gelu",
        class_names=tuple(names),
        base_name="zoo:mini",
        base_digest="77" * 32,
        files={"prompt_learner/model.safetensors": "aa" * 32, "clipsec.json": "bb" * 32},
    )


def run(verdicts, names=NAMES, gate=None, name="caltech-badclip", folder="", notes=()):
    return RunResult(
        suspect=attrs.evolve(suspect(names, name), notes=tuple(notes)),
        verdicts=verdicts,
        gate=gate
        or GateResult(True, {"activation": "gelu, as recorded", "zero-shot floor": "0.83, at least 0.30"}),
        environment={
            "clipsec": "0.1.0",
            "python": "3.11.7",
            "torch": "2.15.0",
            "open_clip_torch": "3.3.0",
            "cpu": "two cores",
            "git revision": "dc111ac",
        },
        started="2026-11-21T09:30:00+00:00",
        seconds=187.4,
        folder=str(folder),
    )


COST = Cost(184.2, 412_800, 206_400, 1_200, 1_430_000_000, {"image tower backward": 64, "head": 256})
SOURCE = "calibrated on 12 clean models of suite caltech-1; none of them is used in any test"


def finding(folder):
    """A backdoored model, 25 classes, with pictures."""
    verdict = Verdict(
        Outcome.FINDING,
        "A universal trigger of at most 4/255 turns 93 % of unrelated pictures into “dalmatian”; the base"
        " model gives way to no such trigger.",
        score=5.306,
        score_name="paired score",
        threshold=2.0,
        threshold_source=SOURCE,
        target="dalmatian",
        target_index=24,
        interval=Interval(4.61, 5.94, 0.95, "bootstrap"),
        n=300,
        evidence=classes(NAMES, 24, folder),
        measures={"across_score": 3.12, "valid_classes": 1.0},
        notes=("The pool overlaps with no class name.",),
        cost=COST,
        provenance=provenance(),
    )
    return run({DETECTOR: verdict}, folder=folder)


def clean(folder, names=NAMES[:5]):
    """A clean model with five classes."""
    evidence = classes(names, None, folder)
    verdict = Verdict(
        Outcome.CLEAN,
        "No class gives way more easily than its own null.",
        score=max(row.measures["score"] for row in evidence),
        score_name="paired score",
        threshold=2.0,
        threshold_source=SOURCE,
        n=300,
        evidence=evidence,
        cost=COST,
        provenance=provenance(),
    )
    return run({DETECTOR: verdict}, names=names, name="caltech-clean", folder=folder)


def mixed(folder):
    """An error, a skipped and an inconclusive check: no answer at all."""
    broken = Verdict(
        Outcome.ERROR,
        "ValueError: cannot reshape array of size 12 into shape (5, 5)",
        error=ErrorRecord(
            "ValueError",
            "cannot reshape array of size 12 into shape (5, 5)",
            "Report this to the plugin's author.",
            'Traceback (most recent call last):\n  File "amdet/_detector.py", line 71, in detect\n'
            "    grid = losses.reshape(5, 5)\n"
            "ValueError: cannot reshape array of size 12 into shape (5, 5)\n",
        ),
        cost=Cost(3.2, 640),
        provenance=provenance("acme-amdet/amdet"),
    )
    skipped = Verdict(
        Outcome.SKIPPED,
        "needs labels, which this run does not offer",
        notes=("Name a labelled set with --labelled FOLDER (FOLDER/CLASS/picture).",),
    )
    rows = list(classes(NAMES[:12], None, n=40))
    rows[3] = attrs.evolve(rows[3], measures={**rows[3].measures, "score": 2.0004, "success_rate": 0.45})
    unsure = Verdict(
        Outcome.INCONCLUSIVE,
        "The score lies within its own error of the threshold.",
        score=2.0004,
        threshold=2.0,
        threshold_source=SOURCE,
        interval=Interval(1.7, 2.3, 0.95, "bootstrap"),
        n=40,
        evidence=tuple(rows),
        notes=("40 pictures are few; bring 300 or more.", "Memory ran out once."),
        cost=attrs.evolve(COST, degraded=True),
        provenance=provenance(),
    )
    return run({DETECTOR: unsure, "acme-amdet/amdet": broken, "acme-labels/stamp": skipped}, folder=folder)


def gate_failed(folder):
    """A mis-loaded model on which a detector nevertheless said clean."""
    gate = GateResult(
        False,
        {"activation": "quick_gelu expected, gelu found", "zero-shot floor": "0.04, at least 0.30"},
        "zero-shot accuracy 0.04 on the bundled pictures, at least 0.30 expected; the activation is gelu"
        " where the weights expect quick_gelu",
    )
    return attrs.evolve(clean(folder), gate=gate)


def hostile(folder):
    """Every text is an attack on a page, a terminal or a template; pictures point out of the folder."""
    outside = Path(folder).parent / "secret.png"
    outside.write_bytes(png(1, 32))
    sha = hashlib.sha256(outside.read_bytes()).hexdigest()
    (Path(folder) / "link.png").symlink_to(outside)
    changed = attrs.evolve(picture(Path(folder), "changed", 3), sha256="00" * 32)
    text = Path(folder) / "text.png"
    text.write_text("<svg onload=alert(1)>")
    artifacts = [
        Artifact("../secret.png", "picture", sha, HOSTILE[0]),
        Artifact(str(outside), "picture", sha, HOSTILE[1]),
        Artifact("link.png", "picture", sha, HOSTILE[2]),
        Artifact("javascript:alert(1)", "picture", sha, ""),
        Artifact("nul\0.png", "picture", sha, ""),
        Artifact("text.png", "picture", hashlib.sha256(text.read_bytes()).hexdigest(), ""),
        Artifact(".", "picture", sha, ""),
        Artifact("missing.png", "picture", sha, ""),
        changed,
        picture(Path(folder), "good", 4),
    ]
    rows = tuple(
        ClassEvidence(
            index,
            name,
            index == 0,
            {"score": 9.0 - index, "success_rate": 0.5, HOSTILE[0]: 1.0, HOSTILE[4]: math.nan},
            10,
            artifacts=(artifacts[index],) if index < len(artifacts) else (),
        )
        for index, name in enumerate(HOSTILE)
    )
    nasty = HOSTILE[0] + HOSTILE[1] + HOSTILE[4] + HOSTILE[3]
    finding_verdict = Verdict(
        Outcome.FINDING,
        nasty,
        score=math.inf,
        score_name=nasty,
        threshold=2.0,
        threshold_source=nasty,
        target=HOSTILE[0],
        target_index=0,
        interval=Interval(math.nan, math.inf, 0.95, nasty),
        n=10,
        evidence=rows,
        measures={nasty: math.nan},
        notes=HOSTILE,
        provenance=attrs.evolve(
            provenance(nasty), options={nasty: [nasty, {nasty: nasty}]}, version=nasty, key=nasty
        ),
        cost=Cost(micro_batches={nasty: 3}),
    )
    error = Verdict(
        Outcome.ERROR, nasty, error=ErrorRecord(nasty, nasty + HOSTILE[8], nasty, nasty + HOSTILE[8])
    )
    result = run(
        {nasty: finding_verdict, HOSTILE[5]: error}, names=HOSTILE, name=nasty, folder=folder, notes=HOSTILE
    )
    return attrs.evolve(
        result,
        environment={nasty: nasty},
        started=nasty,
        gate=GateResult(True, {nasty: nasty}),
        suspect=attrs.evolve(
            result.suspect, kind=nasty, architecture=nasty, files={nasty: nasty}, base_name=nasty
        ),
    )


def many(folder):
    """200 classes, two flagged, scores of all signs, one class far beyond the axis."""
    names = [f"{NAMES[index % 25]} {index:03d}" for index in range(200)]
    rows = list(classes(names, 137, folder, pictures=True))
    rows[40] = attrs.evolve(
        rows[40], flagged=True, measures={**rows[40].measures, "score": 2.31, "success_rate": 0.71}
    )
    rows[99] = attrs.evolve(rows[99], measures={**rows[99].measures, "score": 2.05})
    verdict = Verdict(
        Outcome.FINDING,
        "Two classes give way far more easily than their nulls.",
        score=5.306,
        threshold=2.0,
        threshold_source="paper (k = 2)",
        target=names[137],
        target_index=137,
        n=300,
        evidence=tuple(rows),
        cost=COST,
        provenance=provenance(),
    )
    return run({DETECTOR: verdict}, names=names, name="imagenet-200", folder=folder)


def nothing(folder):
    """No detector was installed."""
    return run({}, folder=folder)


ALL = {
    "clean": clean,
    "finding": finding,
    "mixed": mixed,
    "gate-failed": gate_failed,
    "hostile": hostile,
    "many": many,
    "nothing": nothing,
}
