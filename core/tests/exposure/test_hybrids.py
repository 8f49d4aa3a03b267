"""Hybrids: exactly the weights that were meant, and drift of what differs."""

from __future__ import annotations

import copy

import attrs
import open_clip
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipsec.exposure import (
    hybrid,
    identical_branches,
    interpolated,
    linear_cka,
    misfit,
    parts_of,
    relative_change,
    swap_parts,
    unlike_branches,
    worst_cosine,
)
from clipsec.exposure._encodes import _image_tower
from clipsec.exposure._hybrids import branch_state
from clipsec.models import TextPart, VisualPart, encode_texts


@pytest.fixture(scope="module")
def vit_b_32():
    """ViT-B/32 without memory: its names and shapes."""
    with torch.device("meta"):
        model = open_clip.model.CLIP(**open_clip.get_model_config("ViT-B-32-quickgelu"))
    visual = VisualPart(module=model.visual, spec=None, embed_dim=512, library="open_clip", digest="")
    text = TextPart(
        module=model,
        tokenizer=None,
        context_length=77,
        width=512,
        embed_dim=512,
        library="open_clip",
        digest="",
    )
    return model, branch_state(visual), branch_state(text)


def test_the_towers_of_vit_b_32(vit_b_32) -> None:
    """302 tensors: 152 visual, 149 textual and the logit scale (the paper's scopes)."""
    model, visual, text = vit_b_32
    buffers = {name for name, _ in model.named_buffers()}
    assert len(visual) == 152
    assert len([name for name in text if name not in buffers]) == 149
    assert len(dict(model.named_parameters())) == 302


def test_the_parts_of_vit_b_32(vit_b_32) -> None:
    """Each tower: embeddings, twelve blocks by three, a final norm, a projection; every weight once."""
    for state in vit_b_32[1:]:
        parts = parts_of(state)
        assert list(parts) == [
            *(f"blocks {i}/4" for i in range(1, 5)),
            "embeddings",
            "final norm",
            "projection",
        ]
        assert {len(parts[f"blocks {i}/4"]) for i in range(1, 5)} == {36}
        assert sorted(name for names in parts.values() for name in names) == sorted(state)
    assert parts_of(vit_b_32[2])["embeddings"] == ("positional_embedding", "token_embedding.weight")


@torch.no_grad()
def _pictures(suspect):
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return suspect.image_tower().fn(pixels)


def test_a_hybrid_of_a_model_with_itself_is_that_model(modules, suspect_of) -> None:
    """Bit for bit, in both towers."""
    one = suspect_of(modules[0])
    made = hybrid(one, one, visual=True, textual=True)
    assert torch.equal(_pictures(made), _pictures(one))
    assert torch.equal(encode_texts(made.base, ["a cat"]), encode_texts(one.base, ["a cat"]))


def test_a_hybrid_has_each_branch_from_whom_it_is_said(modules, suspect_of) -> None:
    """Suspect's pictures, reference's texts and logit scale; and towers that share their keys."""
    suspect, reference = suspect_of(modules[0]), suspect_of(modules[1])
    made = hybrid(suspect, reference, visual=True, textual=False)
    assert torch.equal(_pictures(made), _pictures(suspect))
    assert torch.equal(encode_texts(made.base, ["a cat"]), encode_texts(reference.base, ["a cat"]))
    assert made.base.logit_scale == reference.base.logit_scale
    assert made.image_tower().key == suspect.image_tower().key
    assert made.digest not in (suspect.digest, reference.digest)


def test_swapping_all_parts_swaps_the_branch(modules, suspect_of) -> None:
    """All parts of the text branch give the suspect's texts; the reference itself is not changed."""
    suspect, reference = suspect_of(modules[0]), suspect_of(modules[1])
    before = encode_texts(reference.base, ["a cat"])
    names = list(branch_state(suspect.base.text))
    made = swap_parts(suspect, reference, {"textual": names})
    assert torch.equal(encode_texts(made.base, ["a cat"]), encode_texts(suspect.base, ["a cat"]))
    assert torch.equal(_pictures(made), _pictures(reference))
    assert torch.equal(encode_texts(reference.base, ["a cat"]), before)


def test_one_part_changes_the_model_and_its_tower_s_key(modules, suspect_of) -> None:
    suspect, reference = suspect_of(modules[0]), suspect_of(modules[1])
    parts = parts_of(branch_state(suspect.base.visual))
    made = swap_parts(suspect, reference, {"visual": parts["blocks 2/4"]})
    assert made.image_tower().key not in (suspect.image_tower().key, reference.image_tower().key)
    assert not torch.equal(_pictures(made), _pictures(reference))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1), st.floats(0, 1))
def test_an_interpolated_branch_lies_on_the_way(modules, suspect_of, visual: float, textual: float) -> None:
    """Every weight is (1 - alpha) of the one's and alpha of the other's, each branch by its own alpha; at the
    ends it is their own branch."""
    suspect, reference = suspect_of(modules[0]), suspect_of(modules[1])
    made = interpolated(suspect, reference, visual=visual, textual=textual)
    for alpha, ours, theirs, mixed in (
        (visual, suspect.base.visual, reference.base.visual, made.base.visual),
        (textual, suspect.base.text, reference.base.text, made.base.text),
    ):
        one, other, state = branch_state(ours), branch_state(theirs), branch_state(mixed)
        assert state.keys() == one.keys()
        for name, tensor in state.items():
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor, (1 - alpha) * other[name] + alpha * one[name])
        assert (mixed is theirs) == (alpha == 0)
        assert (mixed is ours) == (alpha == 1)
    assert made.base.logit_scale == reference.base.logit_scale


def test_what_lies_between_has_keys_of_its_own_and_changes_nobody(modules, suspect_of) -> None:
    """Towers at two alphas are never taken for each other's or an end's; the reference stays as it was."""
    suspect, reference = suspect_of(modules[0]), suspect_of(modules[1])
    texts, pictures = encode_texts(reference.base, ["a cat"]), _pictures(reference)
    made = [interpolated(suspect, reference, visual=alpha, textual=alpha) for alpha in (0.25, 0.5)]
    every = [suspect, reference, *made]
    assert len({each.base.visual.digest for each in every}) == len(every)
    assert len({each.base.text.digest for each in every}) == len(every)
    assert not torch.equal(encode_texts(made[1].base, ["a cat"]), texts)
    assert torch.equal(encode_texts(reference.base, ["a cat"]), texts)
    assert torch.equal(_pictures(reference), pictures)


def test_branches_that_are_not_built_alike_have_nothing_between_them(modules, suspect_of) -> None:
    """Told beforehand, and refused."""
    wider = copy.deepcopy(modules[0])
    wider.text_projection = torch.nn.Parameter(torch.zeros(16, 24), requires_grad=False)
    suspect, reference = suspect_of(modules[0]), suspect_of(modules[1])
    suspect.base = attrs.evolve(suspect.base, text=attrs.evolve(suspect.base.text, module=wider))
    assert unlike_branches(suspect, reference) == ("textual",)
    assert interpolated(suspect, reference, visual=0.5, textual=0).base.text is reference.base.text
    with pytest.raises(ValueError, match="alike"):
        interpolated(suspect, reference, visual=0, textual=0.5)


def test_hybrids_share_the_prepared_image_tower(modules, suspect_of) -> None:
    """It is prepared once for a branch, whoever has it."""
    suspect, reference = suspect_of(modules[0]), suspect_of(modules[1])
    towers = {
        id(_image_tower(made, made.base.visual, torch.float32))
        for made in (hybrid(suspect, reference, visual=True, textual=textual) for textual in (False, True))
    }
    assert len(towers) == 1


def test_identical_branches_are_told(modules, suspect_of) -> None:
    """A model with one tower changed shares the other."""
    changed = copy.deepcopy(modules[0])
    with torch.no_grad():
        changed.visual.proj.add_(0.1)
    assert identical_branches(suspect_of(changed), suspect_of(modules[0])) == ("textual",)
    assert misfit(suspect_of(changed), suspect_of(modules[0])) == ""


def test_relative_change() -> None:
    """A vector that grows by a tenth moved by a tenth; other shapes cannot be compared."""
    base = {"a": torch.ones(3), "b": torch.ones(2, 2)}
    assert relative_change({n: 1.1 * t for n, t in base.items()}, base) == pytest.approx(0.1)
    assert relative_change({"a": torch.ones(3), "b": torch.ones(4)}, base) is None


@given(st.integers(0, 1000))
def test_cka_does_not_see_rotation_scale_and_shift(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))
    assert linear_cka(x, 3 * x @ turn + 1) == pytest.approx(1.0)
    assert linear_cka(x, torch.randn(20, 4, generator=generator, dtype=torch.float64)) < 0.9


def test_the_worst_cosine_finds_one_changed_input() -> None:
    x = torch.nn.functional.normalize(torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    y = x.clone()
    y[3] = -y[3]
    assert worst_cosine(x, x) == pytest.approx(1.0)
    assert worst_cosine(x, y) == pytest.approx(-1.0)
