"""The transformer block that CLIP's ViTs and text towers share, as plain weights and functions.

Pre-norm residual blocks (Radford et al. 2021, section 2.4): `x += out(attention(ln1(x)))`,
`x += fc2(act(fc1(ln2(x))))`. The libraries' modules are read into `Block`s once; after that there is no
module, so nothing can be re-enabled, re-cast or mutated behind the tower's back, and the frozen-weight trap
of `nn.MultiheadAttention` (pytorch#159346) cannot return.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsec.errors import UnsupportedModelError
from clipsec.models._attention import attend
from clipsec.models._prepare import freeze
from clipsec.models._prepare_linear import linear

QUICK_GELU_SLOPE = 1.702


@attrs.frozen(eq=False)
class Affine:
    """`x @ weight.T + bias`."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def prepared(self, dtype: torch.dtype, device: torch.device) -> Affine:
        """Frozen, cast once."""
        bias = None if self.bias is None else freeze(self.bias, dtype, device)
        return Affine(freeze(self.weight, dtype, device), bias)

    def scaled(self, gain: Tensor | float) -> Affine:
        """`gain * (x @ weight.T + bias)`; `gain` is a number or one value per output."""
        column = gain[:, None] if isinstance(gain, Tensor) else gain
        return Affine(self.weight * column, None if self.bias is None else self.bias * gain)


@attrs.frozen(eq=False)
class Norm:
    """Layer normalisation over the last axis."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)

    def prepared(self, dtype: torch.dtype, device: torch.device) -> Norm:
        """Frozen, cast once."""
        cast = [None if t is None else freeze(t, dtype, device) for t in (self.weight, self.bias)]
        return Norm(cast[0], cast[1], self.eps)


@attrs.frozen(eq=False)
class Block:
    """One residual block. `qkv.weight` is `[3 D, D]`: queries, keys, values in this order."""

    ln1: Norm
    qkv: Affine
    out: Affine
    ln2: Norm
    fc1: Affine
    fc2: Affine

    def prepared(self, dtype: torch.dtype, device: torch.device, *, quick_gelu: bool) -> Block:
        """Frozen, cast once.

        `quick_gelu`: x * sigmoid(1.702 x) = silu(1.702 x) / 1.702, so the slope moves into the two linear
        layers and one fused kernel is left, which also saves one activation instead of three for the
        backward.
        """
        fc1, fc2 = self.fc1, self.fc2
        if quick_gelu:
            fc1 = fc1.scaled(QUICK_GELU_SLOPE)
            fc2 = Affine(fc2.weight / QUICK_GELU_SLOPE, fc2.bias)
        return Block(
            self.ln1.prepared(dtype, device),
            self.qkv.prepared(dtype, device),
            self.out.prepared(dtype, device),
            self.ln2.prepared(dtype, device),
            fc1.prepared(dtype, device),
            fc2.prepared(dtype, device),
        )

    def mlp(self, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """The second half of the block, residual included."""
        return x + self.fc2(activation(self.fc1(self.ln2(x))))

    def split_query(self) -> tuple[Affine, Affine]:
        """The query projection and the joint key-value projection (views, no copies)."""
        width = self.qkv.weight.shape[1]
        bias = self.qkv.bias
        query = Affine(self.qkv.weight[:width], None if bias is None else bias[:width])
        return query, Affine(self.qkv.weight[width:], None if bias is None else bias[width:])


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": F.silu,  # with the slope folded into the neighbours by `Block.prepared`
    "relu": F.relu,
    "silu": F.silu,
}
_CONFIG_NAMES = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def run_block(block: Block, x: Tensor, heads: int, activation: str, *, causal: bool) -> Tensor:
    """`x [n, L, D] -> [n, L, D]`."""
    n, length, width = x.shape
    qkv = block.qkv(block.ln1(x)).view(n, length, 3, heads, width // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    mixed = attend(q, k, v, causal=causal)
    x = x + block.out(mixed.transpose(1, 2).reshape(n, length, width))
    return block.mlp(x, ACTIVATIONS[activation])


def run_last_block(
    block: Block, x: Tensor, at: Tensor | int, heads: int, activation: str, *, causal: bool
) -> Tensor:
    """The last block for one token a row: `x [n, L, D]`, its position `at` (`[n]` or one for all) -> `[n,
    D]`.

    Every token is still needed as key and value, but only one as query, and only one passes through the
    output projection and the MLP: about 5/6 of the block's work is not done.
    """
    n, length, width = x.shape
    query, key_value = block.split_query()
    normed = block.ln1(x)
    if isinstance(at, int):
        here, normed_here = x[:, at], normed[:, at]
    else:
        rows = torch.arange(n, device=x.device)
        here, normed_here = x[rows, at], normed[rows, at]
    q = query(normed_here).view(n, 1, heads, width // heads).transpose(1, 2)
    k, v = key_value(normed).view(n, length, 2, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
    mask = None
    if causal:
        positions = torch.as_tensor(at, device=x.device).reshape(-1, 1)
        mask = (torch.arange(length, device=x.device) <= positions)[:, None, None, :]
    mixed = attend(q, k, v, mask=mask)
    return block.mlp(here + block.out(mixed.reshape(n, width)), ACTIVATIONS[activation])


def read_norm(module: nn.Module) -> Norm:
    """An `nn.LayerNorm` (or a subclass that only changes dtypes) as `Norm`."""
    if not isinstance(module, nn.LayerNorm):
        raise _unknown(f"the normalisation {type(module).__name__}")
    return Norm(module.weight, module.bias, module.eps)


def read_linear(module: nn.Module) -> Affine:
    """An `nn.Linear` as `Affine`."""
    if not isinstance(module, nn.Linear):
        raise _unknown(f"the projection {type(module).__name__}")
    return Affine(module.weight, module.bias)


def read_activation(module: nn.Module | str) -> str:
    """Our name for an activation, given a module or the name in a transformers configuration."""
    name = None
    if isinstance(module, str):
        name = _CONFIG_NAMES.get(module)
    elif type(module) is nn.GELU:
        name = "gelu_tanh" if module.approximate == "tanh" else "gelu"
    elif type(module) in (nn.SiLU, nn.ReLU):
        name = "silu" if isinstance(module, nn.SiLU) else "relu"
    elif type(module).__name__ in ("QuickGELU", "QuickGELUActivation"):
        name = "quick_gelu"
    if name is None:
        raise _unknown(f"the activation {module}")
    return name


def read_open_clip_block(block: nn.Module) -> Block:
    """open_clip's plain `ResidualAttentionBlock`; a layer scale is folded into the projection before it."""
    if type(block).__name__ != "ResidualAttentionBlock" or hasattr(block, "ln_1_kv"):
        raise _unknown(f"the block {type(block).__name__}")
    attention: nn.MultiheadAttention = block.get_submodule("attn")  # type: ignore[assignment]
    mlp = block.get_submodule("mlp")
    out, fc2 = read_linear(attention.out_proj), read_linear(mlp.get_submodule("c_proj"))
    return Block(
        read_norm(block.get_submodule("ln_1")),
        Affine(attention.in_proj_weight, attention.in_proj_bias),
        _layer_scaled(out, block.get_submodule("ls_1")),
        read_norm(block.get_submodule("ln_2")),
        read_linear(mlp.get_submodule("c_fc")),
        _layer_scaled(fc2, block.get_submodule("ls_2")),
    )


def read_transformers_block(layer: nn.Module) -> Block:
    """The encoder layer of transformers' CLIP and SigLIP."""
    attention, mlp = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
    parts = [read_linear(attention.get_submodule(f"{name}_proj")) for name in "qkv"]
    biases = [part.bias for part in parts if part.bias is not None]
    qkv = Affine(torch.cat([part.weight.detach() for part in parts]))
    if len(biases) == 3:
        qkv = Affine(qkv.weight, torch.cat([bias.detach() for bias in biases]))
    elif biases:
        raise _unknown("an attention layer with a bias on some projections only")
    return Block(
        read_norm(layer.get_submodule("layer_norm1")),
        qkv,
        read_linear(attention.get_submodule("out_proj")),
        read_norm(layer.get_submodule("layer_norm2")),
        read_linear(mlp.get_submodule("fc1")),
        read_linear(mlp.get_submodule("fc2")),
    )


def _layer_scaled(linear: Affine, scale: nn.Module) -> Affine:
    gamma = getattr(scale, "gamma", None)
    return linear if gamma is None else linear.scaled(gamma.detach())


def _unknown(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{what} is not known here",
        remedy="Use a CLIP or SigLIP architecture of open_clip or transformers without custom blocks.",
    )
