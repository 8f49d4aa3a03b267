"""Features that were computed before, by anybody, in memory or on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsec.scheduler import Encode, FeatureCache, Scheduler, Tower
from clipsec.scheduler._shards import Shards


def results(scheduler, problems, **options):
    return {d.tag: d.unwrap() for d in scheduler.as_completed(problems, **options)}


def shards_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_two_detectors_pay_once(lab):
    """At the same time or one after the other: forty distinct rows cost forty rows."""
    scheduler, rows = Scheduler(micro_batch=16), torch.randn(40, 12)
    done = results(
        scheduler, [("a", lab.encode(lab.image, rows)), ("b", lab.encode(lab.image, rows))], session=str
    )
    assert torch.equal(done["a"], done["b"])
    assert torch.equal(scheduler.encode(lab.image, rows[::2], session="c"), done["a"][::2])
    assert scheduler.counts().forward_rows == 40
    counts = [scheduler.counts(session) for session in "abc"]
    assert [c.forward_rows + c.cached_rows for c in counts] == [40, 40, 20]
    assert counts[0].forward_rows + counts[1].forward_rows == 40
    assert counts[2].forward_rows == 0


@settings(deadline=None, max_examples=40)
@given(
    asked=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=15), min_size=1, max_size=6),
    memory_bytes=st.sampled_from([0, 100, 10_000]),
    micro_batch=st.sampled_from([1, 4, 8]),
)
def test_rows_paid_never_exceed_distinct_rows(asked, memory_bytes, micro_batch):
    """Property (c), with repeats inside and across problems; with a tiny cache it holds for those at once."""
    pool = torch.randn(13, 12)
    tower = Tower("double", lambda rows: rows * 2, "double")
    scheduler = Scheduler(micro_batch=micro_batch, cache=FeatureCache(memory_bytes))

    def problem(places):
        return (yield Encode(tower, pool[places]))

    done = results(scheduler, enumerate(map(problem, asked)), max_live=len(asked))
    for i, places in enumerate(asked):
        assert torch.equal(done[i], pool[places] * 2)
    distinct = len({place for places in asked for place in places})
    assert scheduler.counts().forward_rows == distinct
    assert scheduler.counts().cached_rows == sum(map(len, asked)) - distinct
    again = results(scheduler, enumerate(map(problem, asked)))
    assert all(torch.equal(again[i], done[i]) for i in done)
    if memory_bytes >= 10_000:
        assert scheduler.counts().forward_rows == distinct


keys = st.integers(0, 20).map(lambda n: n.to_bytes(20, "big"))


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.tuples(st.booleans(), keys, st.integers(1, 40)), max_size=60),
    memory_bytes=st.integers(0, 500),
    on_disk=st.booleans(),
)
def test_memory_never_exceeds_its_bound(tmp_path_factory, steps, memory_bytes, on_disk):
    """Property (d): after any sequence of gets and puts; and what comes back is what was put."""
    folder = tmp_path_factory.mktemp("cache") if on_disk else None
    cache = FeatureCache(memory_bytes, folder=folder)
    put = {}
    for is_put, key, floats in steps:
        if is_put and key not in put:
            put[key] = torch.full((floats,), float(key[-1]))
            cache.put(key, put[key])
        else:
            row = cache.get(key)
            assert row is None or torch.equal(row, put[key])
        assert cache.size <= memory_bytes
        assert sum(row.nbytes for row in cache._rows.values()) <= memory_bytes


def test_the_bound_holds_while_rows_wait_for_the_disk(tmp_path):
    """What is kept and what waits to be written stay below the bound together."""
    cache = FeatureCache(400, folder=tmp_path)
    sizes = []
    for i in range(50):
        cache.put(bytes([i]) * 32, torch.zeros(6))
        sizes.append(cache.size)
    assert 300 < max(sizes) <= 400


def test_a_cached_row_owns_its_memory(lab):
    """A view would keep its whole batch alive and make the bound a lie."""
    cache = FeatureCache()
    Scheduler(micro_batch=16, cache=cache).encode(lab.image, lab.pool)
    assert len(cache) == 3
    assert all(row.untyped_storage().nbytes() == row.nbytes for row in cache._rows.values())


def test_the_least_recently_used_row_goes_first():
    """Asking for a row keeps it."""
    cache = FeatureCache(3 * 32)
    names = [bytes([i]) * 32 for i in range(5)]
    for name in names[:3]:
        cache.put(name, torch.zeros(8))
    assert cache.get(names[0]) is not None
    cache.put(names[3], torch.zeros(8))
    assert [cache.get(name) is not None for name in names[:4]] == [True, False, True, True]
    assert len(cache) == 3


def test_given_keys_replace_hashing(lab):
    """With row keys the rows' content is not read: the key decides, and must decide rightly."""
    scheduler = Scheduler(micro_batch=4)
    first = scheduler.encode(lab.image, lab.pool, row_keys=[b"a", b"b", b"c"])
    second = scheduler.encode(lab.image, torch.zeros(2, 12), row_keys=[b"c", b"a"])
    assert torch.equal(second, first[[2, 0]])
    assert scheduler.counts().forward_rows == 3
    assert not torch.equal(scheduler.encode(lab.image, torch.zeros(1, 12)), first[:1])


def test_what_decides_a_feature_decides_its_key(lab):
    """Another tower, dtype of rows, shape, aux or micro-batch is another row."""
    scheduler = Scheduler(micro_batch=4)

    def add(rows, *aux):
        return rows.float().flatten(1)[:, :2] + sum(a[:, None] for a in aux)

    rows = torch.zeros(1, 4)
    one, two = lab.tower(add, "one"), lab.tower(add, "two")
    aux = torch.tensor([1.0])
    scheduler.encode(one, rows)
    scheduler.encode(one, rows, row_keys=[b"k"])
    for tower, asked, extra in [
        (two, rows, ()),
        (one, rows.int(), ()),
        (one, rows.view(1, 2, 2), ()),
        (one, rows, (aux,)),
        (one, rows, (aux + 1,)),
        (one, rows, (aux.int(),)),
    ]:
        for options in ({}, {"row_keys": [b"k"]}):
            before = scheduler.counts().forward_rows
            scheduler.encode(tower, asked, *extra, **options)
            assert scheduler.counts().forward_rows == before + 1
    before = scheduler.counts().forward_rows
    scheduler.run(lab.encode(one, rows, micro_batch=2))
    assert scheduler.counts().forward_rows == before + 1


def test_uncached_requests_neither_read_nor_write(lab):
    """`cache=False` computes every row, and leaves nothing behind."""
    cache = FeatureCache()
    scheduler = Scheduler(micro_batch=4, cache=cache)
    for _ in range(2):
        features = scheduler.run(lab.encode(lab.image, lab.pool[[0, 0, 1]], cache=False))
        torch.testing.assert_close(features, lab.net(lab.pool[[0, 0, 1]]))
    assert scheduler.counts().forward_rows == 6
    assert len(cache) == 0


def test_gradient_requests_are_never_cached(lab):
    """Only features without a gradient are the same for everybody."""
    cache = FeatureCache()
    scheduler = Scheduler(micro_batch=32, cache=cache)
    results(scheduler, lab.inversions(lab.image))
    assert len(cache) == 0


def test_features_outlive_the_process(lab, tmp_path):
    """A second scheduler on the same folder computes nothing and returns the same bits."""
    rows = torch.randn(20, 12)
    cache = FeatureCache(folder=tmp_path)
    features = Scheduler(micro_batch=8, cache=cache).encode(lab.image, rows)
    cache.flush()
    second = Scheduler(micro_batch=8, cache=FeatureCache(folder=tmp_path))
    assert torch.equal(second.encode(lab.image, rows.flip(0)), features.flip(0))
    assert second.counts().forward_rows == 0
    assert second.counts().cached_rows == 20


def test_features_are_written_when_the_process_ends(tmp_path):
    """Without any flush: a script that merely ends leaves its features on disk."""
    script = """
        import sys, torch
        from clipsec.scheduler import FeatureCache, Scheduler, Tower
        scheduler = Scheduler(cache=FeatureCache(folder=sys.argv[1]))
        scheduler.encode(Tower("t", lambda rows: rows * 2, "t"), torch.ones(3, 4))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=True, timeout=120)
    assert len(shards_of(tmp_path)) == 1


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped bit":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "not ours":
        path.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    elif how == "absurd header":
        path.write_bytes(b"\xff" * 8 + data[8:])
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped bit", "not ours", "absurd header", "gone"])
@pytest.mark.parametrize("when", ["before listing", "after listing"])
def test_a_damaged_shard_is_ignored_and_written_again(lab, tmp_path, how, when):
    """Whatever happened to the file, features are right, and the next process finds them on disk again."""
    rows = torch.randn(6, 12)
    features = Scheduler(micro_batch=8, cache=FeatureCache(folder=tmp_path)).encode(lab.image, rows)
    (shard,) = _flushed(lab, rows, tmp_path)
    cache = FeatureCache(folder=tmp_path)
    scheduler = Scheduler(micro_batch=8, cache=cache)
    if when == "after listing":
        scheduler.encode(lab.image, torch.randn(1, 12))
    damage(shard, how)
    assert torch.equal(scheduler.encode(lab.image, rows), features)
    cache.flush()
    third = Scheduler(micro_batch=8, cache=FeatureCache(folder=tmp_path))
    assert torch.equal(third.encode(lab.image, rows), features)
    assert third.counts().forward_rows == 0


def _flushed(lab, rows, folder):
    cache = FeatureCache(folder=folder)
    Scheduler(micro_batch=8, cache=cache).encode(lab.image, rows)
    cache.flush()
    return shards_of(folder)


def test_a_disk_that_refuses_ends_writing_and_not_the_run(lab, tmp_path, caplog):
    """A folder that cannot be written to costs a warning."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    cache = FeatureCache(folder=blocked)
    scheduler = Scheduler(micro_batch=8, cache=cache)
    features = scheduler.encode(lab.image, lab.pool)
    cache.flush()
    assert torch.equal(scheduler.encode(lab.image, lab.pool), features)
    assert "no longer written" in caplog.text


def test_the_disk_tier_is_bounded_too(tmp_path):
    """Beyond disk_bytes the oldest shards go; what is gone is a miss, what stays is right."""
    cache = FeatureCache(8000, folder=tmp_path, disk_bytes=6000)
    names = [bytes([i]) * 32 for i in range(60)]
    for i, name in enumerate(names):
        cache.put(name, torch.full((50,), float(i)))
        if i % 10 == 9:
            cache.flush()
            for age, shard in enumerate(
                sorted(shards_of(tmp_path), key=lambda path: path.stat().st_mtime_ns)
            ):
                os.utime(shard, (age, age))
    assert sum(path.stat().st_size for path in shards_of(tmp_path)) <= 6000
    fresh = FeatureCache(8000, folder=tmp_path)
    found = [i for i, name in enumerate(names) if fresh.get(name) is not None]
    assert found == list(range(found[0], 60))
    assert all(torch.equal(fresh.get(names[i]), torch.full((50,), float(i))) for i in found)


def test_rows_wait_no_longer_than_some_seconds(tmp_path):
    """A kill costs what was computed in the last seconds, not the run."""
    shards = Shards(tmp_path, 1 << 20, None, seconds=0.0)
    shards.add(b"k" * 32, torch.ones(3))
    shards.write_if_old()
    assert len(shards_of(tmp_path)) == 1
    patient = Shards(tmp_path, 1 << 20, None, seconds=1000.0)
    patient.add(b"l" * 32, torch.ones(3))
    patient.write_if_old()
    assert len(shards_of(tmp_path)) == 1


def test_two_processes_may_share_a_folder(lab, tmp_path):
    """Both write what they computed; neither disturbs the other, and a third finds all of it."""
    rows = torch.randn(8, 12)
    caches = [FeatureCache(folder=tmp_path) for _ in range(2)]
    schedulers = [Scheduler(micro_batch=8, cache=cache) for cache in caches]
    schedulers[0].encode(lab.image, rows[:6])
    schedulers[1].encode(lab.image, rows[2:])
    for cache in caches:
        cache.flush()
    third = Scheduler(micro_batch=8, cache=FeatureCache(folder=tmp_path))
    torch.testing.assert_close(third.encode(lab.image, rows), lab.net(rows))
    assert third.counts().forward_rows == 0
