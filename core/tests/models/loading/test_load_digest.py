"""Digests of weights: equal content, equal digest, and nothing else."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clipsec.models import state_digest

DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8])


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    return (torch.randn(shape, generator=generator) * 10).to(draw(DTYPES))


states = st.dictionaries(st.text(max_size=5), tensors(), min_size=1, max_size=4)


@given(states, st.randoms())
def test_the_order_of_names_does_not_matter(state: dict[str, Tensor], random: object) -> None:
    """A state dict is a set of named tensors."""
    names = list(state)
    random.shuffle(names)  # type: ignore[attr-defined]
    assert state_digest({name: state[name] for name in names}) == state_digest(state)


@given(states)
def test_memory_layout_does_not_matter(state: dict[str, Tensor]) -> None:
    """A view with other strides is the same tensor."""
    views = {
        name: tensor.transpose(0, -1).contiguous().transpose(0, -1) if tensor.dim() > 1 else tensor
        for name, tensor in state.items()
    }
    assert state_digest(views) == state_digest(state)


@settings(max_examples=200)
@given(states, st.data())
def test_any_change_changes_it(state: dict[str, Tensor], data: st.DataObject) -> None:
    """Another name, dtype, shape or number is another digest."""
    name = data.draw(st.sampled_from(sorted(state)))
    tensor = state[name]
    others = [{**state, name + "x": state[name]}, {k: v for k, v in state.items() if k != name}]
    others.append({**state, name: tensor[None]})
    others.append({**state, name: tensor.to(torch.float64)})
    if tensor.numel():
        flipped = tensor.clone().reshape(-1)
        flipped.view(torch.uint8)[0] ^= 1
        others.append({**state, name: flipped.reshape(tensor.shape)})
    assert all(state_digest(other) != state_digest(state) for other in others)


def test_facts_are_part_of_it() -> None:
    """What no weight shows can be told."""
    state = {"a": torch.zeros(2)}
    digests = {state_digest(state), state_digest(state, heads=2), state_digest(state, heads=4)}
    assert len(digests) == 3


def test_large_states_are_hashed_like_small_ones() -> None:
    """The threaded path gives what the plain one gives."""
    from clipsec.models._digest import combine_digests, tensor_digests

    state = {f"t{i}": torch.full((300_000,), float(i)) for i in range(5)}
    one_by_one = {name: tensor_digests({name: tensor})[name] for name, tensor in state.items()}
    assert combine_digests(one_by_one) == state_digest(state)
