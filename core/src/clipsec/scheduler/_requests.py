"""What a problem may yield, and what comes back. This is all a plugin sees of the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

import attrs
import torch
from torch import Tensor

T = TypeVar("T")


@attrs.frozen(eq=False)
class Tower:
    """A frozen, content-addressed function from rows to features.

    Rows are independent of each other: row i of the output depends on row i of the input alone. A tower is
    never mutated; other weights make another tower with another key.
    """

    key: str
    """Digest of architecture, weights, dtype and preparation. Equal keys mean equal functions."""
    fn: Callable[..., Tensor]
    """`fn(rows, *aux) -> [n, ...]`, rows and aux on `device`, floating rows in `dtype`. Pure.

    For results that do not depend on neighbours to the last bit, it must also not matter in which place of
    a batch a row stands. Dense layers of a few dozen units and more keep to that, and all in bfloat16. A
    float32 `rows @ weight` with a stored `[k, n]` weight of n = 5, 6, 7, 10 or 11 does not (MKL 2024.2, any
    k, batches of 2 to 64), `F.linear` with a stored `[n, k]` weight does for k a multiple of 4 in batches
    of at least 4.
    """
    label: str
    """For people and for records of micro-batches, e.g. `image tf_efficientnet_lite0 bfloat16`."""
    device: torch.device = attrs.field(default=torch.device("cpu"), converter=torch.device)
    dtype: torch.dtype = torch.float32
    micro_batch: int | None = None
    """The physical batch this tower is best called with, a power of two; None leaves it to the scheduler. A
    tower whose single row is already a large batch (all prompts of a head) wants a small one."""


@attrs.frozen(eq=False)
class Encode:
    """Ask for `tower(rows)`; the answer is a float32 tensor `[n, ...]` on the rows' device.

    When `rows` requires a gradient the answer is a leaf that collects one; a later `Backward` carries it
    through the tower into the rows. Without a gradient the answer may come from the feature cache.
    """

    tower: Tower
    rows: Tensor
    """`[n, ...]`; what one row is depends on the tower."""
    aux: tuple[Tensor, ...] = ()
    """Per-row tensors `[n, ...]` that never need a gradient, e.g. end-of-text positions."""
    row_keys: Sequence[bytes] | None = None
    """Content keys of the rows when the caller knows them (a pool's digest and index); saves hashing. They
    must cover `rows`; `aux` is hashed in any case."""
    micro_batch: int | None = None
    """The physical batch for this request, a power of two, instead of the tower's or the scheduler's. For a
    problem that never has neighbours: three lonely rows in a batch of 32 pay for 29 rows of padding. Only
    requests with the same micro-batch share one."""
    cache: bool = True
    """False for rows that nobody will ask for again; saves hashing them and room in the cache."""


@attrs.frozen(eq=False)
class Backward:
    """Ask for the gradient of `loss` in every leaf, through all towers the problem has called since the
    last `Backward`. The answer is None; afterwards the leaves hold `.grad`.

    The result is what one `loss.backward()` over the uncut graph would leave, however the encodes are chained
    or shared. Nothing is accumulated before all towers are pulled back: when one of them fails, for lack of
    memory say, every `.grad` is as it was. What lies between features and loss is traversed twice, so it must
    be pure. The features themselves are used up: a later loss may use them detached.
    """

    loss: Tensor


@attrs.frozen(eq=False)
class Gather:
    """Run sub-problems concurrently within this session; the answer is a list of `Done` in input order."""

    problems: Iterable[tuple[Hashable, Problem]]
    max_live: int | None = None
    on_done: Callable[[Done], None] | None = None
    """Called as each sub-problem ends, in order of completion (to store its result at once)."""


@attrs.frozen(eq=False)
class Done:
    """How one problem ended."""

    tag: Hashable
    value: Any = None
    error: BaseException | None = None

    def unwrap(self) -> Any:
        """The value, or raise the problem's error."""
        if self.error is not None:
            raise self.error
        return self.value


Request: TypeAlias = Encode | Backward | Gather
Problem: TypeAlias = Generator[Request, Any, Any]
"""A plain generator. Cancelling is `close()`, failing is `throw()`, Ctrl-C is Ctrl-C."""
