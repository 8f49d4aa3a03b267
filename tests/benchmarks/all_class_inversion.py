"""All classes of a prompt-tuned model through the scheduler, against a plain loop class by class.

Same model (the shipped BadCLIP delivery, ten classes), same pictures, same batches, same ball, same published
decision across classes; the two verdicts must agree. Tower preparation counts as ours. Each side runs once:
the plain loop takes minutes.
"""

from __future__ import annotations

import open_clip
import torch
from tests.benchmarks._plain_inversion import PlainCoCoOp, invert_class
from tests.benchmarks._timing import CLOCKS, Row
from torch import Tensor

from clipsec.data import ImagePool, to_unit
from clipsec.models import Suspect, load_suspect
from clipsec.scheduler import Gather, Problem, Scheduler
from clipsec_clip_inspector._decision import Decision, decide_across
from clipsec_clip_inspector._inversion import evaluate, invert
from clipsec_clip_inspector._score import ClassResult, class_result
from clipsec_zoo import image_pool_folder, mini_folder

DELIVERY = "zoo:demo-badclip"
PICTURES = 128
EPSILON = 8 / 255


def rows(clock: str, repeats: int) -> list[Row]:
    """One line: classes a minute of either side, and their ratio. `repeats` is ignored."""
    suspect = load_suspect(DELIVERY)
    visual = suspect.base.visual
    assert visual is not None
    pixels = ImagePool.from_folder(image_pool_folder(), limit=PICTURES).pixels(visual.spec)
    batches = torch.randperm(PICTURES, generator=torch.Generator().manual_seed(0)).split(32)
    now = CLOCKS[clock]
    start = now()
    ours = ours_of(suspect, pixels, batches)
    our_seconds = now() - start
    model = plain_model(suspect)
    start = now()
    theirs = plain_of(model, pixels, batches, len(suspect.class_names))
    their_seconds = now() - start
    first, second = decide_across(ours), decide_across(theirs)
    worst = max(abs(a.loss - b.loss) for a, b in zip(ours, theirs, strict=True))
    if said(first, suspect) != said(second, suspect):
        raise SystemExit(f"the verdicts differ: {said(first, suspect)} and {said(second, suspect)}")
    classes = len(suspect.class_names)
    what = f"all-class inversion and evaluation, {classes} classes x {PICTURES} pictures"
    return [
        Row(
            f"{what}; both say {said(first, suspect)}, losses within {worst:.2f}",
            f"scheduler: {60 * classes / our_seconds:.1f} classes/min",
            f"plain loop: {60 * classes / their_seconds:.1f} classes/min",
            f"{their_seconds / our_seconds:.1f}x",
            ">= 10x at the same verdict",
        )
    ]


def said(decision: Decision, suspect: Suspect) -> str:
    """Outcome and most suspicious class."""
    return f"{decision.outcome}, nearest {suspect.class_names[decision.best]}"


def ours_of(suspect: Suspect, pixels: Tensor, batches: tuple[Tensor, ...]) -> list[ClassResult]:
    """Through prepared towers and the scheduler: search in bf16, decide in fp32."""
    search = suspect.image_tower(torch.bfloat16), suspect.head(torch.bfloat16)
    final = suspect.image_tower(torch.float32), suspect.head(torch.float32)
    scheduler = Scheduler()
    features = scheduler.encode(final[0], to_unit(pixels))
    clean = scheduler.encode(final[1], features).argmax(dim=1)

    def one(target: int) -> Problem:
        found = yield from invert(
            *search, pixels, target, batches=batches, epsilon=EPSILON, learning_rate=0.1
        )
        return (yield from evaluate([final], pixels, found.delta, target))

    def everything() -> Problem:
        answers = yield Gather([(t, one(t)) for t in range(len(suspect.class_names))], max_live=2)
        return [class_result(int(done.tag), done.unwrap()[0], clean) for done in answers]

    results: list[ClassResult] = scheduler.run(everything())
    return results


def plain_model(suspect: Suspect) -> PlainCoCoOp:
    """The same delivery over a stock open_clip model."""
    prompts, visual = suspect.prompts, suspect.base.visual
    assert prompts is not None
    assert prompts.meta_net is not None
    assert visual is not None
    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{mini_folder()}")
    filler = " ".join(["X"] * len(prompts.ctx))
    texts = [f"{filler} {name.replace('_', ' ')}." for name in suspect.class_names]
    tokens = open_clip.get_tokenizer(f"local-dir:{mini_folder()}")(texts)
    mean, std = torch.tensor(visual.spec.mean), torch.tensor(visual.spec.std)
    return PlainCoCoOp(clip.eval(), tokens, prompts.ctx, prompts.meta_net, mean, std)


def plain_of(
    model: PlainCoCoOp, pixels: Tensor, batches: tuple[Tensor, ...], classes: int
) -> list[ClassResult]:
    """Class after class; eligible pictures are those whose clean prediction is another class."""
    results = []
    for target in range(classes):
        _, loss, hits, n = invert_class(model, pixels, target, batches, EPSILON)
        results.append(ClassResult(target, loss, hits, n))
    return results
