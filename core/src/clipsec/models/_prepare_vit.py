"""A library-neutral view of a CLIP ViT's weights, with the normalisation of pixels folded in."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn

from clipsec.errors import UnsupportedModelError
from clipsec.models._prepare import freeze
from clipsec.models._prepare_blocks import (
    Affine,
    Block,
    Norm,
    read_activation,
    read_linear,
    read_norm,
    read_open_clip_block,
    read_transformers_block,
    run_block,
    run_last_block,
)
from clipsec.models._types import ImageSpec

_TRANSFORMERS_PARTS = ("embeddings", "pre_layrnorm", "encoder", "post_layernorm")


@attrs.frozen(eq=False, kw_only=True)
class VisionWeights:
    """A vision transformer read at its class token: pixels -> one feature."""

    patch: Affine
    """`[width, 3 * patch_height * patch_width]`."""
    patch_size: tuple[int, int]
    class_embedding: Tensor
    """`[width]`."""
    positional_embedding: Tensor
    """`[1 + patches, width]`."""
    pre: Norm | None
    blocks: tuple[Block, ...]
    post: Norm
    projection: Affine | None
    activation: str
    heads: int

    def prepared(self, dtype: torch.dtype, device: torch.device) -> VisionWeights:
        """Frozen, cast once, on `device`."""
        quick = self.activation == "quick_gelu"
        return attrs.evolve(
            self,
            patch=self.patch.prepared(dtype, device),
            class_embedding=freeze(self.class_embedding, dtype, device),
            positional_embedding=freeze(self.positional_embedding, dtype, device),
            pre=None if self.pre is None else self.pre.prepared(dtype, device),
            blocks=tuple(block.prepared(dtype, device, quick_gelu=quick) for block in self.blocks),
            post=self.post.prepared(dtype, device),
            projection=None if self.projection is None else self.projection.prepared(dtype, device),
        )

    def normalising(self, spec: ImageSpec) -> VisionWeights:
        """The same for pixels in [0, 1]: `W ((x - mean) / std) = (W / std) x - W (mean / std)`.

        Exact because the patch convolution has no padding, so every weight meets a pixel.
        """
        area = self.patch_size[0] * self.patch_size[1]
        mean = torch.tensor(spec.mean, dtype=torch.float64).repeat_interleave(area)
        std = torch.tensor(spec.std, dtype=torch.float64).repeat_interleave(area)
        weight = self.patch.weight.detach().cpu().double() / std
        bias = -(weight @ mean)
        if self.patch.bias is not None:
            bias = bias + self.patch.bias.detach().cpu().double()
        return attrs.evolve(self, patch=Affine(weight.float(), bias.float()))


def encode_pixels(weights: VisionWeights, pixels: Tensor) -> Tensor:
    """Pixels `[n, 3, S, S]` -> features `[n, E]`, differentiable with respect to the pixels.

    The patch embedding is a reshape and one product rather than a convolution (1.24 times faster forward
    and backward in bf16 on a CPU), and the last block computes the class token alone.
    """
    x = weights.patch(_patches(pixels, weights.patch_size)) + weights.positional_embedding[1:]
    start = (weights.class_embedding + weights.positional_embedding[0]).expand(len(x), 1, -1)
    x = torch.cat([start, x], dim=1)
    if weights.pre is not None:
        x = weights.pre(x)
    for block in weights.blocks[:-1]:
        x = run_block(block, x, weights.heads, weights.activation, causal=False)
    x = run_last_block(weights.blocks[-1], x, 0, weights.heads, weights.activation, causal=False)
    x = weights.post(x)
    return x if weights.projection is None else weights.projection(x)


def _patches(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    n, channels, height, width = pixels.shape
    rows, columns = height // size[0], width // size[1]
    # A convolution drops what does not fill a patch; so does this.
    pixels = pixels[:, :, : rows * size[0], : columns * size[1]]
    grid = pixels.reshape(n, channels, rows, size[0], columns, size[1])
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, -1)


def read_vision_weights(module: nn.Module) -> VisionWeights:
    """The view of open_clip's `VisionTransformer` or transformers' CLIP vision model.

    Raises `UnsupportedModelError` for anything else (average or attention pooling, custom blocks, timm
    trunks); those are prepared as modules.
    """
    for candidate in module.modules():
        if type(candidate).__name__ == "VisionTransformer" and hasattr(candidate, "conv1"):
            return _read_open_clip(candidate)
        if all(hasattr(candidate, name) for name in _TRANSFORMERS_PARTS):
            return _read_transformers(candidate, module)
    raise _not_covered(type(module).__name__)


def _read_open_clip(tower: nn.Module) -> VisionWeights:
    if getattr(tower, "attn_pool", None) is not None or getattr(tower, "pool_type", "tok") != "tok":
        raise _not_covered("pooling other than the class token")
    if getattr(tower, "output_tokens", False):
        raise _not_covered("token outputs")
    blocks = tower.get_submodule("transformer.resblocks")
    first: nn.Module = next(blocks.children())
    pre, projection = tower.get_submodule("ln_pre"), getattr(tower, "proj", None)
    patch, patch_size = _read_patch(tower.get_submodule("conv1"))
    return VisionWeights(
        patch=patch,
        patch_size=patch_size,
        class_embedding=tower.get_parameter("class_embedding"),
        positional_embedding=tower.get_parameter("positional_embedding"),
        pre=None if isinstance(pre, nn.Identity) else read_norm(pre),
        blocks=tuple(read_open_clip_block(block) for block in blocks.children()),
        post=read_norm(tower.get_submodule("ln_post")),
        projection=None if projection is None else Affine(projection.detach().t()),
        activation=read_activation(first.get_submodule("mlp.gelu")),
        heads=first.get_submodule("attn").num_heads,  # type: ignore[arg-type]
    )


def _read_transformers(tower: nn.Module, owner: nn.Module) -> VisionWeights:
    layers = list(tower.get_submodule("encoder.layers").children())
    config = layers[0].get_submodule("self_attn").config
    found = [part for path, part in owner.named_modules() if path.rpartition(".")[2] == "visual_projection"]
    patch, patch_size = _read_patch(tower.get_submodule("embeddings.patch_embedding"))
    return VisionWeights(
        patch=patch,
        patch_size=patch_size,
        class_embedding=tower.get_submodule("embeddings").get_parameter("class_embedding"),
        positional_embedding=tower.get_submodule("embeddings.position_embedding").get_parameter("weight"),
        pre=read_norm(tower.get_submodule("pre_layrnorm")),
        blocks=tuple(read_transformers_block(layer) for layer in layers),
        post=read_norm(tower.get_submodule("post_layernorm")),
        projection=read_linear(found[0]) if found else None,
        activation=read_activation(config.hidden_act),  # type: ignore[union-attr,arg-type]
        heads=config.num_attention_heads,  # type: ignore[union-attr,arg-type]
    )


def _read_patch(conv: nn.Module) -> tuple[Affine, tuple[int, int]]:
    if not isinstance(conv, nn.Conv2d) or conv.stride != conv.kernel_size:
        raise _not_covered("a patch embedding that overlaps")
    if conv.padding not in ("valid", (0, 0)):
        raise _not_covered("a patch embedding that pads")
    return Affine(conv.weight.detach().flatten(1), conv.bias), (conv.kernel_size[0], conv.kernel_size[1])


def _not_covered(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the image tower uses {what}", remedy="It is prepared as a module instead; nothing needs to be done."
    )
