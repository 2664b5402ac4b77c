"""What `edgeae bench` is made of: the figures hang together; how large they are is not a test's business."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeae.bundle import Bundle
from edgeae.bundle.strict import from_plain, to_plain
from edgeae.errors import BundleError, EdgeaeError, InputError
from edgeae.runtime import bench as module
from edgeae.runtime.bench import Benchmark, Comparison, bench, compare, peak_memory
from edgeae.timing import Ratio
from tests.bundles import make_bundle


def quick(path: Path, **arguments: Any) -> Benchmark:
    given: dict[str, Any] = {"device": "cpu", "seconds": 0.02, "cold_starts": 0} | arguments
    return bench(path, **given)


def test_a_whole_benchmark_is_json(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b")
    steps: list[str] = []
    options = {"session": {"graph_optimization_level": "ORT_ENABLE_BASIC"}, "workers": 1}
    result = quick(tmp_path / "b", cold_starts=2, progress=steps.append, options=options)
    assert from_plain(Benchmark, json.loads(json.dumps(to_plain(result))), where="json") == result
    assert [each.batch for each in result.latency] == [1, 8, 64, 512]
    for each in result.latency:
        assert 0 < each.p50_us <= each.p90_us <= each.p99_us <= each.p999_us
        assert each.rows_per_second == pytest.approx(1e6 * each.batch / each.p50_us)
    assert result.throughput.rows_per_second >= result.throughput.rows_per_second_p90 > 0
    assert result.cold_start is not None
    assert result.cold_start.runs == 2
    assert 0 < result.cold_start.fastest_seconds <= result.cold_start.median_seconds
    assert result.memory_first_bytes is not None
    assert result.memory_bulk_bytes is not None
    assert 10**7 < result.memory_first_bytes <= result.memory_bulk_bytes
    assert result.files == {
        file.name: file.stat().st_size for file in (tmp_path / "b").iterdir() if file.name != "statistics.npz"
    }
    assert result.digest == Bundle.read(tmp_path / "b").digest
    assert steps == ["latency", "throughput", "cold start and memory"]


def test_a_fixed_batch_and_a_zip_file_can_be_measured(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b.zip", batch=4, dtype="uint8", shift=0.0, scale=255.0)
    result = quick(tmp_path / "b.zip", batches=(2, 9))
    assert [each.batch for each in result.latency] == [2, 9]
    assert (result.cold_start, result.memory_first_bytes, result.memory_bulk_bytes) == (None, None, None)


@pytest.mark.parametrize(
    "wrong", [{"batches": ()}, {"batches": (0,)}, {"batches": (True,)}, {"seconds": 0}, {"cold_starts": -1}]
)
def test_impossible_arguments_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="bench"):
        quick(tmp_path, **wrong)


def test_bundles_and_precisions_are_compared_in_turns(tmp_path: Path) -> None:
    make_bundle(tmp_path / "small", precisions=("fp32", "int8"))
    make_bundle(tmp_path / "large", shape=(40,))
    steps: list[str] = []
    common: dict[str, Any] = {"devices": ("cpu",), "seconds": 0.02}
    found = compare([tmp_path / "small"], precisions=("fp32", "int8"), batches=(1, 4), progress=steps.append, **common)
    assert [(one.bundle, one.precision, one.device) for one in found.contenders] == [
        ("tiny", "fp32", "cpu"),
        ("tiny", "int8", "cpu"),
    ]
    first, second = found.contenders
    assert first.latency_ratios == (Ratio(1.0, 1.0), Ratio(1.0, 1.0)) and first.throughput_ratio == Ratio(1.0, 1.0)
    assert [each.batch for each in second.latency] == [1, 4]
    for own, other, ratio in zip(second.latency, first.latency, second.latency_ratios, strict=True):
        assert ratio.median == pytest.approx(own.p50_us / other.p50_us)
    assert steps == ["latency", "throughput"]
    assert from_plain(Comparison, json.loads(json.dumps(to_plain(found))), where="json") == found
    both = compare([tmp_path / "small", tmp_path / "large"], batches=(1,), **common)
    assert [one.digest for one in both.contenders] == [
        Bundle.read(tmp_path / name).digest for name in ("small", "large")
    ]
    bulk, base = both.contenders[1].throughput, both.contenders[0].throughput
    expected = base.rows_per_second / bulk.rows_per_second
    assert both.contenders[1].throughput_ratio.median == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [{}, {"precisions": ("fp32", "fp16"), "seconds": 0}, {"devices": ()}])
def test_a_comparison_of_one_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="bench"):
        compare([tmp_path], **wrong)


def test_no_bundle_no_benchmark(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        quick(tmp_path / "none")


def test_a_fresh_process_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path / "b")
    monkeypatch.setattr(module, "CHILD", "raise SystemExit('no memory left')")
    with pytest.raises(EdgeaeError, match="cold start failed: no memory left"):
        quick(tmp_path / "b", cold_starts=1)


def test_peak_memory_grows_with_use() -> None:
    before = peak_memory()
    assert before is not None
    block = bytearray(b"x") * (before + 2**24)
    after = peak_memory()
    assert after is not None
    assert after > before
    del block
