"""Out of memory: nothing of a plugin is lost, the micro-batch shrinks, and what was learnt is remembered."""

from __future__ import annotations

import json
import weakref

import pytest
import torch

from clipsec.errors import OutOfMemoryError
from clipsec.scheduler import Backward, Encode, SafeBatch, Scheduler, events
from clipsec.scheduler._batch import BatchKey
from clipsec.scheduler._memory import fit_line, is_out_of_memory, probe_micro_batch

CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"


def cuda_like():
    return torch.OutOfMemoryError("CUDA out of memory.")


def check_all(lab, results):
    for i in range(10):
        torch.testing.assert_close(results[i].unwrap(), lab.alone[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (cuda_like(), True),
        (MemoryError(), True),
        (RuntimeError(CPU_MESSAGE), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, verdict):
    """CUDA, cuBLAS, MPS and CPU allocators say it in different words; other errors are never mistaken for
    it."""
    assert is_out_of_memory(error) is verdict


@pytest.mark.parametrize("limit", [1, 2, 5, 9])
@pytest.mark.parametrize("error", [cuda_like, lambda: RuntimeError(CPU_MESSAGE)])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(lab, limit, error):
    """All results stand, the micro-batch ends at the largest power of two that fits, and the session
    knows."""

    def forward(rows):
        if len(rows) > limit:
            raise error()
        return lab.net(rows)

    told = []
    scheduler = Scheduler(micro_batch=32, on_event=told.append)
    check_all(
        lab, {d.tag: d for d in scheduler.as_completed(lab.inversions(lab.tower(forward)), session="s")}
    )
    fitting = {1: 1, 2: 2, 5: 4, 9: 8}[limit]
    counts = scheduler.counts("s")
    assert counts.micro_batches == {"image grad": fitting}
    shrunk = [event.micro_batch for event in told if isinstance(event, events.OutOfMemory)]
    assert shrunk == [size for size in (16, 8, 4, 2, 1) if size >= fitting]
    assert counts.degraded == len(shrunk)


@pytest.mark.parametrize("k", range(1, 25))
def test_out_of_memory_at_any_forward_is_harmless(lab, failing_at, k):
    """The k-th tower call, first or recomputed, may fail: the results are the same."""
    forward = failing_at(lab.net, k, cuda_like)
    scheduler = Scheduler(micro_batch=8, graph_rows=0)
    check_all(lab, {d.tag: d for d in scheduler.as_completed(lab.inversions(lab.tower(forward)))})


@pytest.mark.parametrize("k", range(1, 6))
def test_out_of_memory_in_any_backward_is_harmless(lab, trip_backward, k):
    """The k-th vjp may fail half-way, when its graph is already partly freed: it is computed again."""
    seen = []

    def trip(gradient):
        seen.append(len(gradient))
        if len(seen) == k:
            raise cuda_like()

    def forward(rows):
        return lab.net(trip_backward(rows, trip))

    scheduler = Scheduler(micro_batch=32)
    check_all(lab, {d.tag: d for d in scheduler.as_completed(lab.inversions(lab.tower(forward)))})
    assert scheduler.counts().degraded == 1
    assert scheduler.counts().recomputed_rows == 30


@pytest.mark.parametrize("recomputed", [False, True])
def test_what_did_not_fit_is_free_before_the_next_try(lab, recomputed):
    """The error that came instead of a result holds on to nothing: a second try would not fit either."""
    refs = []

    def forward(rows):
        assert all(ref() is None for ref in refs)
        refs.clear()
        intermediate = rows * 2
        if len(rows) > 2 and not plenty:
            refs.append(weakref.ref(intermediate))
            raise cuda_like()
        return lab.net(rows)

    plenty = [True] if recomputed else []

    def problem():
        rows = torch.randn(16, 12, requires_grad=True)
        features = yield Encode(lab.tower(forward), rows)
        plenty.clear()
        yield Backward(features.sum())
        return rows.grad

    scheduler = Scheduler(micro_batch=8, graph_rows=0)
    assert scheduler.run(problem()) is not None
    assert scheduler.counts().degraded == 2


def test_kept_graphs_are_given_up_before_the_micro_batch(lab, failing_at):
    """The first answer to a lack of memory costs a recomputation, not the bit-equality of a fixed batch."""
    forward = failing_at(lab.net, 2, cuda_like)

    def problem(steps):
        trigger = torch.zeros(12, requires_grad=True)
        for _ in range(steps):
            yield Encode(lab.tower(forward), lab.pool + trigger)
        features = yield Encode(lab.tower(forward), lab.pool + trigger)
        yield Backward(features.sum())
        return trigger.grad

    scheduler = Scheduler(micro_batch=4, graph_rows=100)
    scheduler.run(problem(1))
    assert scheduler.counts().degraded == 0
    assert scheduler.counts().micro_batches == {"image grad": 4}


@pytest.mark.parametrize("with_gradient", [False, True])
def test_a_row_that_never_fits_is_an_error_the_plugin_may_catch(lab, with_gradient):
    """At one row the problem gets OutOfMemoryError with a remedy, goes on with something else, and
    succeeds."""

    def forward(rows):
        if rows.shape[1] > 12:
            raise cuda_like()
        return lab.net(rows)

    tower = lab.tower(forward)

    def problem():
        with pytest.raises(OutOfMemoryError) as caught:
            yield Encode(tower, torch.ones(3, 24, requires_grad=with_gradient))
        assert caught.value.remedy
        assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
        rows = lab.pool.clone().requires_grad_(True)
        yield Backward((yield Encode(tower, rows)).sum())
        return rows.grad

    scheduler = Scheduler(micro_batch=4)
    assert scheduler.run(problem()) is not None
    assert scheduler.counts().degraded == 2


def test_a_vjp_that_never_fits_is_an_error_for_its_problem_alone(lab, trip_backward):
    """Rows that cannot be pulled back even one by one fail their own problem; the batch neighbours
    succeed."""

    def trip(gradient):
        if (gradient.abs() > 1e6).any():
            raise cuda_like()

    tower = lab.tower(lambda rows: lab.net(trip_backward(rows, trip)))

    def problem(scale):
        rows = lab.pool.clone().requires_grad_(True)
        features = yield Encode(tower, rows)
        yield Backward(features.sum() * scale)
        return rows.grad

    done = {d.tag: d for d in Scheduler(micro_batch=8).as_completed((s, problem(s)) for s in (1.0, 1e9, 2.0))}
    assert isinstance(done[1e9].error, OutOfMemoryError)
    torch.testing.assert_close(done[2.0].unwrap(), 2 * done[1.0].unwrap())


def test_the_safe_micro_batch_survives_the_process(lab, tmp_path):
    """A later scheduler with the same memo starts where the first had to go, and is not degraded."""
    memo = tmp_path / "deep" / "memo.json"

    def forward(rows):
        if len(rows) > 4:
            raise cuda_like()
        return lab.net(rows)

    first = Scheduler(micro_batch=16, memo_path=memo)
    features = first.encode(lab.tower(forward), lab.pool)
    assert first.counts().degraded == 2
    second = Scheduler(micro_batch=16, memo_path=memo)
    assert torch.equal(second.encode(lab.tower(forward), lab.pool), features)
    assert second.counts().degraded == 0
    assert second.counts().micro_batches == {"image forward": 4}
    assert [path.name for path in memo.parent.iterdir()] == ["memo.json"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"version": 2}',
        '{"version": 1, "micro_batches": {"a": 3}}',
        '{"version": 1, "micro_batches": 5}',
    ],
)
def test_an_unreadable_memo_counts_as_empty_and_is_replaced(tmp_path, content):
    """A truncated, foreign or absurd memo neither stops a run nor decides a batch."""
    memo = tmp_path / "memo.json"
    memo.write_text(content)
    batch = SafeBatch(16, memo)
    key = BatchKey("t", "grad", (3,), torch.float32, torch.device("cpu"))
    assert batch.get(key) == 16
    assert batch.shrink(key) == 8
    assert list(json.loads(memo.read_text())["micro_batches"].values()) == [8]


def test_micro_batches_shrink_apart_and_never_grow():
    """Op, shape, dtype and tower each have their own; what was asked for does not matter to what fits."""
    batch = SafeBatch(8)
    key = BatchKey("t", "grad", (3,), torch.float32, torch.device("cpu"))
    others = [
        key._replace(tower="u"),
        key._replace(op="forward"),
        key._replace(shape=(4,)),
        key._replace(dtype=torch.bfloat16),
    ]
    assert [batch.shrink(key) for _ in range(4)] == [4, 2, 1, None]
    assert all(batch.get(other) == 8 for other in others)
    assert batch.get(key._replace(declared=32)) == 1
    with pytest.raises(ValueError):
        SafeBatch(12)


class ModelledMemory:
    """A device on which a call of n rows takes `offset + slope n` bytes, and too many are too many."""

    def __init__(self, total, slope, offset):
        self.total, self.slope, self.offset = total, slope, offset
        self.calls = []

    def run(self, n):
        self.calls.append(n)
        if self.offset + self.slope * n > self.total:
            raise cuda_like()

    def free(self):
        return self.total

    def peak(self, call):
        call()
        return self.offset + self.slope * self.calls[-1]


@pytest.mark.parametrize(
    ("total", "slope", "offset", "batches_open", "expected"),
    [
        (1000, 10, 0, 1, 64),  # 80 rows fit into 80 %
        (1000, 10, 0, 2, 32),
        (1000, 10, 300, 1, 32),  # 50 rows beside the offset
        (10_000, 1, 0, 1, 256),  # the cap
        (1000, 300, 0, 1, 2),
    ],
)
def test_the_first_guess_is_the_largest_power_of_two_that_fits(total, slope, offset, batches_open, expected):
    """Two small measured calls decide, whatever a call costs besides its rows."""
    memory = ModelledMemory(total, slope, offset)
    assert probe_micro_batch(memory.run, memory, batches_open=batches_open) == expected
    assert memory.calls == [1, 2, 4]


def test_a_line_goes_through_its_points():
    """Least squares recovers slope and offset; one point gives a line through the origin."""
    assert fit_line([2, 4, 8], [7, 11, 19]) == pytest.approx((2, 3))
    assert fit_line([4], [8]) == (2, 0)


def test_a_device_with_a_meter_is_probed_once_and_remembered(lab, tmp_path):
    """The measured micro-batch holds for the run, also for a later run with the memo; a declared one wins."""
    memory = ModelledMemory(2000, 50, 0)
    memo = tmp_path / "memo.json"

    def scheduler():
        made = Scheduler(memo_path=memo)
        made._core.meter = lambda device: memory
        return made

    def forward(rows):
        memory.run(len(rows))
        return lab.net(rows)

    first = scheduler()
    for _ in range(2):
        first.encode(lab.tower(forward), torch.randn(40, 12))
    assert memory.calls == [1, 2, 4, 32, 32, 32, 32]
    memory.calls.clear()
    first.run(lab.encode(lab.tower(forward), torch.randn(3, 12, requires_grad=True)))
    assert memory.calls == [1, 2, 4, 16]  # two graphs may be open at once
    memory.calls.clear()
    second = scheduler()
    second.encode(lab.tower(forward), torch.randn(3, 12))
    second.run(lab.encode(lab.tower(forward), torch.randn(3, 12), micro_batch=4))
    assert memory.calls == [32, 4]


def test_a_probe_that_does_not_fit_settles_for_what_did(lab):
    """When not even four rows fit there is no line to draw: the run starts with the two that did."""
    memory = ModelledMemory(120, 50, 0)

    def forward(rows):
        memory.run(len(rows))
        return lab.net(rows)

    scheduler = Scheduler()
    scheduler._core.meter = lambda device: memory
    torch.testing.assert_close(scheduler.encode(lab.tower(forward), lab.pool), lab.net(lab.pool))
    assert scheduler.counts().micro_batches == {"image forward": 2}
    assert scheduler.counts().degraded == 0
