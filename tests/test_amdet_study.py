"""The study of text towers: which models it has, and which of its tables count them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from tests.studies import amdet_tables as of
from tests.studies.amdet import measured_of, wanted
from tests.studies.amdet_cards import write_cards
from tests.studies.amdet_judge import Judge
from tests.studies.amdet_models import (
    ATTRIBUTES,
    BLIND,
    HARD,
    LATER,
    LORA,
    PARADIGMS,
    REMOVE,
    SEVERAL,
    TARGETS,
    TOGETHER,
    TRIGGERS,
    Case,
    cases,
    options_of,
)
from tests.studies.amdet_report import published_rows, told_of

from clipsec.error_rates import from_text
from clipsec_baselines.text import (
    AttributeOptions,
    FinetuneOptions,
    LoraOptions,
    RemoveOptions,
    SeveralOptions,
    TextOptions,
)

ALL = {case.name: case for case in cases(10, 4)}
FILES = dict.fromkeys(("coco", "flickr8k", "fashion_titles", "pairs"), "file")
OPTIONS = {
    "text-attribute": AttributeOptions,
    "text-distill": TextOptions,
    "text-finetune": FinetuneOptions,
    LORA: LoraOptions,
    REMOVE: RemoveOptions,
    SEVERAL: SeveralOptions,
}


def test_published_models_keep_their_names_and_seeds() -> None:
    """Else they would be made again."""
    published = published_rows()
    assert published
    assert {name: ALL[name].seed for name in published} == {n: row["seed"] for n, row in published.items()}
    assert all(set(wanted(ALL[name])) <= set(row["verdicts"]) for name, row in published.items())


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("clip-calibration-text-target-text-distill-0", 1001),
        ("clip-test-image-on-text-image-on-text-1", 1602),
        ("long-clip-test-text-attribute-text-attribute-4", 2708),
        ("siglip-test-image-on-text-text-finetune-9", 3619),
        ("clip-test-adaptive-text-adaptive-8", 1916),
        ("clip-test-text-several-text-several-0", 6000),
        ("siglip-test-text-remove-text-remove-2", 6805),
    ],
)
def test_seeds_are_as_they_were(name: str, seed: int) -> None:
    assert ALL[name].seed == seed


def test_no_two_models_share_a_seed() -> None:
    assert len({case.seed for case in ALL.values()}) == len(ALL) == len(list(cases(10, 4)))


def test_there_are_as_many_of_the_later_kinds_as_the_page_says() -> None:
    """Three of each, ten attributes of `clip` and `siglip` and five of `long-clip`."""
    found = [(case.family, case.kind) for case in ALL.values()]
    for kind in LATER:
        assert [found.count((family, kind)) for family in ("clip", "long-clip", "siglip")] == [3, 0, 3]
    assert [found.count((family, BLIND)) for family in ("clip", "long-clip", "siglip")] == [10, 5, 10]
    assert {case.kind for case in ALL.values() if case.half == "calibration"} == set(PARADIGMS)


def test_attributes_differ_and_the_first_five_are_as_they_were() -> None:
    assert ATTRIBUTES[:5] == ("wearing a hat", "in the snow", "made of ice", "smiling", "on fire")
    ours = [options_of(Case("clip", "test", BLIND, BLIND, number), FILES) for number in range(10)]
    assert len({each["attribute"] for each in ours}) == len({each["trigger"] for each in ours}) == 10


def test_the_halves_share_no_trigger_and_no_target() -> None:
    """Those of several at once among them."""
    tested = {one["trigger"] for one in TRIGGERS["test"]} | {t for one in TOGETHER for t in one["triggers"]}
    aims = {*TARGETS["test"], *(target for one in TOGETHER for target in one["targets"])}
    assert not tested & {one["trigger"] for one in TRIGGERS["calibration"]}
    assert not aims & set(TARGETS["calibration"])


def test_options_are_those_of_the_plugin() -> None:
    """They can be built, and several triggers go together."""
    for case in ALL.values():
        if case.plugin in OPTIONS:
            built = OPTIONS[case.plugin](**options_of(case, FILES))
            if isinstance(built, SeveralOptions):
                assert len(built.text_triggers()) == len(built.targets)


def test_of_several_triggers_the_weakest_decides(tmp_path: Path) -> None:
    """Whether a model counts, and a benign one states what a vendor would say."""
    for folder, value in (("trigger", 1.0), ("trigger-2", 0.5), ("trigger-3", 0.9)):
        (tmp_path / folder).mkdir()
        stated = {"measured": {"seen": {"success": {"value": value}}}}
        (tmp_path / folder / "trigger.json").write_text(json.dumps(stated), encoding="utf-8")
    assert measured_of(tmp_path) == {"seen": {"success": {"value": 0.5}}}
    benign = tmp_path / "benign"
    benign.mkdir()
    (benign / "training.json").write_text(json.dumps({"measured": {"seen": {}}}), encoding="utf-8")
    assert measured_of(benign) == {"seen": {}}


def row(kind: str, plugin: str, number: int, score: float) -> dict[str, Any]:
    case = Case("clip", "test", kind, plugin, number)
    said = {"score": score, "pulls": {"single": score, "sequence": 0.0}, "seconds": 1.0}
    return {
        **attrs.asdict(case),
        "benign": case.benign,
        "seed": case.seed,
        "options": {"triggers": ["cf", "mn"]} if kind == SEVERAL else {},
        "measured": {"seen": {"success": {"value": 1.0}}},
        "verdicts": {"paired": said, "token-scan": said},
    }


ROWS = [
    row("text-target", "text-target", 2, 2.0),
    row("text-target", "text-distill", 2, 0.0),
    row(SEVERAL, SEVERAL, 0, 2.0),
    row(LORA, LORA, 0, 0.0),
    row(REMOVE, REMOVE, 0, 2.0),
]
PAIRED = Judge("paired", {"clip": 3.0})
SCAN = Judge("token-scan", {"clip": 1.0}, {"single": 1.0, "sequence": 1.0})


def test_hard_negatives_are_false_alarms_in_a_row_of_their_own() -> None:
    """In the pooled table the row of all leaves them out and the last one counts them."""
    *_, everything, harder = of.pooled_table(ROWS, SCAN)
    assert everything[2].startswith("0 of 1")
    assert harder[2].startswith("1 of 3")


def test_hard_negatives_are_not_among_the_benign_ones_of_an_attack() -> None:
    (_, target, several) = of.scan_table(ROWS, SCAN)
    assert [target[0], several[0]] == ["text-target", "several triggers at once"]
    assert target[2].startswith("0 of 1")


def test_a_table_of_both_searches_says_what_either_finds() -> None:
    table = of.both_table([one for one in ROWS if one["kind"] in HARD], PAIRED, SCAN, "training")
    assert [line[1] for line in table[1:]] == ["fine-tune with low-rank updates", "words removed"]
    assert [cell[:6] for cell in table[2][2:]] == ["0 of 1", "1 of 1", "1 of 1"]


def test_the_table_of_models_names_every_trigger() -> None:
    assert of.model_table(ROWS, PAIRED, SCAN)[3][2] == "`cf`, `mn`"


def test_the_card_counts_every_model_hard_negatives_too(tmp_path: Path) -> None:
    """Two attacks found of two, one of three benign towers flagged; every option is stated."""
    write_cards({"token-scan": ("token-scan", {}, told_of(ROWS, SCAN))}, tmp_path)
    card = from_text((tmp_path / "error_rates" / "token-scan.json").read_text(encoding="utf-8"))
    (found,) = card.measurements
    assert (found.sensitivity.k, found.sensitivity.n) == (2, 2)
    assert (found.specificity.k, found.specificity.n) == (2, 3)
    assert found.auroc is not None
    assert [one.attack for one in found.attacks] == ["several triggers at once", "text-target"]
    assert found.options["tokens"] == 1000
