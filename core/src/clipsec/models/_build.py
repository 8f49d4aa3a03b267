"""From a description and weights to a module: checked against each other before memory is taken."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clipsec.errors import MalformedModelError, ModelError, UnsafeModelError, UnsupportedModelError
from clipsec.models._files import shown_names
from clipsec.models._weights import Weights
from clipsec_registry import printable

_RANDOM = {
    nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.orthogonal_,
    nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_,
    Tensor.normal_, Tensor.uniform_, Tensor.erfinv_,
}  # fmt: skip


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves parameters as they were allocated: every one of them is loaded, or the load fails.

    Random numbers for ViT-L/14 took 2.1 s of the 2.2 s that building it takes.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        target = args[0] if args else (kwargs or {}).get("tensor")
        if function in _RANDOM and isinstance(target, nn.Parameter):
            return target
        return function(*args, **(kwargs or {}))


def build(
    make: Callable[[], nn.Module],
    weights: Weights,
    *,
    what: str,
    max_bytes: int,
    adapt: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]] = lambda module, tensors: tensors,
) -> nn.Module:
    """The module that `make` describes, holding exactly `weights`; fp32, frozen, in eval mode.

    It is made twice: first without memory, to compare every name and shape with the weights, then in
    earnest. `adapt` renames tensors to suit the module, and never leaves any out silently.

    Raises `UnsafeModelError` when it would take more than `max_bytes`, `MalformedModelError` when weights are
    missing, left over, of another shape or not finite, `UnsupportedModelError` when `make` fails.
    """
    with torch.device("meta"):
        sketch = _make(make, what)
    expected = sketch.state_dict()
    total = sum(tensor.numel() * max(tensor.element_size(), 4) for tensor in expected.values())
    if total > max_bytes:
        raise UnsafeModelError(
            f"{what} would take {total:,} bytes; at most {max_bytes:,} are allowed",
            remedy="If a model of this size is expected, raise LoadRequest.max_bytes.",
        )
    tensors = adapt(sketch, dict(weights.tensors))
    _compare(expected, tensors, what, weights.source)
    # What is initialised all the same must not move the program's random generator.
    with torch.random.fork_rng(devices=[]), _WithoutInitialisation():
        module = _make(make, what).float()
    # copy_ casts half precision to fp32 and leaves the file.
    module.load_state_dict(tensors, strict=True)
    check_finite(module, what)
    return module.eval().requires_grad_(False)


def _make(make: Callable[[], nn.Module], what: str) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()
    except ModelError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"{what} cannot be built from its description: {type(error).__name__}: {printable(error, 160)}",
            remedy="Check the configuration; if a newer library wrote it, upgrade open_clip_torch, timm or "
            "transformers.",
        ) from error


def _compare(expected: dict[str, Tensor], given: dict[str, Tensor], what: str, source: str) -> None:
    missing = sorted(set(expected) - set(given))
    extra = sorted(set(given) - set(expected))
    reshaped = [
        f"{printable(name, 60)} is {list(given[name].shape)} in the file and "
        f"{list(expected[name].shape)} in the model"
        for name in sorted(set(expected) & set(given))
        if given[name].shape != expected[name].shape
    ]
    if not (missing or extra or reshaped):
        return
    parts = []
    if reshaped:
        parts.append(f"{len(reshaped)} of another shape ({'; '.join(reshaped[:2])})")
    if missing:
        parts.append(f"{len(missing)} missing ({shown_names(missing)})")
    if extra:
        parts.append(f"{len(extra)} left over ({shown_names(extra)})")
    raise MalformedModelError(
        f"the weights in {source} are not those of {what}: of {len(expected)} tensors, {', '.join(parts)}",
        remedy="Name the architecture that the weights were made for, with its image size and activation "
        "(open_clip:NAME@FILE), or ask the vendor for the matching configuration.",
    )


def check_finite(module: nn.Module, what: str) -> None:
    """Raise `MalformedModelError` when a weight is NaN or infinite."""
    bad = non_finite(module.state_dict().items())
    if bad:
        raise MalformedModelError(
            f"{what} has weights that are not finite numbers: {shown_names(bad)}",
            remedy="The training diverged or the file is damaged: ask the vendor for a working checkpoint.",
        )


def non_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the floating tensors that hold a NaN or an infinity."""
    return [name for name, tensor in tensors if tensor.is_floating_point() and not _is_finite(tensor)]


def _is_finite(tensor: Tensor) -> bool:
    # A sum carries any NaN or infinity, at five times the speed; a sum of finite numbers may overflow.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def frozen(module: nn.Module) -> nn.Module:
    """The module itself if it is in fp32, on the CPU, in eval mode and frozen; otherwise a copy that is."""
    ready = not any(layer.training for layer in module.modules()) and all(
        tensor.device.type == "cpu"
        and not tensor.requires_grad
        and (tensor.dtype == torch.float32 or not tensor.is_floating_point())
        for tensor in [*module.parameters(), *module.buffers()]
    )
    return module if ready else copy.deepcopy(module).cpu().float().eval().requires_grad_(False)
