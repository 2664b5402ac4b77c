"""`edgeae tune`: what was clearly faster is chosen, kept under the right key, and used; numbers stay what they are."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import edgeae
from edgeae.bundle import Bundle
from edgeae.bundle.atomic import write_file
from edgeae.bundle.strict import to_json
from edgeae.cli import main
from edgeae.errors import InputError
from edgeae.runtime import tune as module
from edgeae.runtime.bulk import run_rows
from edgeae.runtime.machine import machine
from edgeae.runtime.options import Options
from edgeae.runtime.tune import tune
from edgeae.runtime.tuned import Choice, Trial, Tuning, lookup, store, tuning_key
from edgeae.timing import Timing, summarise
from tests.bundles import make_bundle

Clock = Callable[[str, str, Choice], tuple[float, float]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgeae" / "tune"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "b", precisions=("fp32", "int8"))
    return tmp_path / "b"


def tuning(bundle: Path, **changes: Any) -> Tuning:
    made = Tuning(
        key=tuning_key(Bundle.read(bundle).digest, "cpu"),
        bundle="tiny",
        latency={"fp32": Choice(threads=2)},
        throughput={"fp32": Choice(chunk=3, workers=1), "int8": Choice(chunk=5, workers=1)},
        fastest={"latency": "fp32", "throughput": "int8"},
        trials=(Trial("latency", "fp32", Choice(threads=2), p50=2e-6, p10=1e-6),),
    )
    return replace(made, **changes)


def timed_by(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Let candidates take what `clock` says for their profile, precision and settings: (median, 10th percentile)."""
    race = module._race

    def measured(profile: Any, candidates: Any, *, rows: int, seconds: float) -> list[Trial]:
        def told(calls: Mapping[str, Callable[[], object]], **_: object) -> dict[str, Timing]:
            for call in calls.values():
                call()
            found = {}
            for name, (precision, choice) in zip(calls, candidates, strict=True):
                median, fast = clock(profile, precision, choice)
                found[name] = replace(summarise([1.0]), p50=rows * median, p10=rows * fast)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(module, "measure", told)
            return race(profile, candidates, rows=rows, seconds=seconds)

    monkeypatch.setattr(module, "_race", measured)


def test_what_is_clearly_faster_is_chosen(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clock(profile: str, precision: str, choice: Choice) -> tuple[float, float]:
        wanted = not choice.prepack if profile == "latency" else choice.workers == 1 and choice.threads is None
        taken = 0.5 if wanted else 1.0
        if profile == "throughput":
            taken *= 1 + abs(np.log2((choice.chunk or 1) / 256))
        return (taken * (0.8 if precision == "int8" else 1.0),) * 2

    timed_by(monkeypatch, clock)
    monkeypatch.setattr(module, "available_cores", lambda: 4)
    monkeypatch.setattr(module, "chunk_rows", lambda shape, on_gpu: 64)
    found = tune(bundle, device="cpu", seconds=0.1)
    for precision in ("fp32", "int8"):
        assert found.latency[precision] == Choice(prepack=False)
        assert found.throughput[precision] == Choice(chunk=256, workers=1)
    assert found.fastest == {"latency": "int8", "throughput": "int8"}
    assert {trial.choice.threads for trial in found.trials} == {None, 1, 4}


@pytest.mark.parametrize("times", [(0.98, 0.98), (0.5, 1.0), (1.0, 0.5)], ids=["barely", "median only", "p10 only"])
def test_what_is_not_clearly_faster_changes_nothing(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, times: tuple[float, float]
) -> None:
    usual = {"latency": Choice(), "throughput": Choice(chunk=64)}
    timed_by(
        monkeypatch,
        lambda profile, precision, choice: (
            (1.0, 1.0) if choice == usual[profile] and precision == "fp32" else (times[0], times[1])
        ),
    )
    monkeypatch.setattr(module, "chunk_rows", lambda shape, on_gpu: 64)
    found = tune(bundle, device="cpu", seconds=0.1)
    assert found.latency["fp32"] == usual["latency"]
    assert found.throughput["fp32"] == usual["throughput"]
    assert found.fastest == {"latency": "fp32", "throughput": "fp32"}


def test_it_measures_for_real_and_what_it_kept_is_found(bundle: Path, cache: Path) -> None:
    found = tune(bundle, device="cpu", precisions=("fp32",), seconds=0.1)
    assert all(trial.p50 >= trial.p10 > 0 for trial in found.trials)
    digest = Bundle.read(bundle).digest
    assert lookup(digest, "cpu") is None
    path = store(found)
    assert path.parent == cache
    assert lookup(digest, "cpu") == found
    assert lookup(digest, "cuda:0") is None
    assert lookup("0" * 64, "cpu") is None


def test_another_machine_or_version_asks_for_another_tuning(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tuning(bundle))
    digest, here = Bundle.read(bundle).digest, machine()
    assert lookup(digest, "cpu") is not None
    for changed in ({"cores": here.cores + 1}, {"processor": "another"}, {"onnxruntime": "0.1"}):
        with monkeypatch.context() as patch:
            patch.setattr("edgeae.runtime.tuned.machine", lambda changed=changed: replace(here, **changed))
            assert lookup(digest, "cpu") is None
    monkeypatch.setattr("edgeae.runtime.tuned.__version__", "999.0")
    assert lookup(digest, "cpu") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": 1}', b"\xff\xfe"])
def test_a_damaged_file_is_as_good_as_none_and_said(
    bundle: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = store(tuning(bundle))
    write_file(path, content)
    with caplog.at_level(logging.WARNING, logger="edgeae"):
        assert edgeae.load(bundle, device="cpu").precision == "fp32"
    assert str(path) in caplog.text
    assert "run edgeae tune again" in caplog.text


def used(monkeypatch: pytest.MonkeyPatch, bundle: Path, **arguments: Any) -> tuple[str, int, int]:
    """Return the precision, the chunk and the workers with which a loaded model scores."""
    seen: list[tuple[int, int]] = []

    def noted(*positional: Any, **named: Any) -> None:
        seen.append((named["chunk"], named["workers"]))
        run_rows(*positional, **named)

    with monkeypatch.context() as patch:
        patch.setattr("edgeae.runtime.model.run_rows", noted)
        model = edgeae.load(bundle, device="cpu", **arguments)
        model.score(np.zeros((9, *model.input_shape), np.float32))
    return (model.precision, *seen[-1])


def test_load_uses_what_was_kept_unless_told_otherwise(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untuned = used(monkeypatch, bundle)
    store(tuning(bundle))
    assert untuned[0] == "fp32"
    assert used(monkeypatch, bundle) == ("fp32", 3, 1)
    assert used(monkeypatch, bundle, precision="int8") == ("int8", 5, 1)
    assert used(monkeypatch, bundle, precision="auto") == ("int8", 5, 1)
    assert used(monkeypatch, bundle, precision="auto", profile="latency")[0] == "fp32"
    assert used(monkeypatch, bundle, options={}) == untuned
    assert used(monkeypatch, bundle, options=Options(chunk=8))[1] == 8


def test_a_bundle_that_changed_is_not_run_with_the_old_settings(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untuned = used(monkeypatch, bundle)
    store(tuning(bundle))
    make_bundle(bundle, precisions=("fp32", "int8"), seed=1)
    assert used(monkeypatch, bundle) == untuned


def test_settings_change_no_score(bundle: Path) -> None:
    x = np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32)
    before = edgeae.load(bundle, device="cpu").score(x)
    store(tuning(bundle))
    np.testing.assert_allclose(edgeae.load(bundle, device="cpu").score(x), before, rtol=1e-5)


def test_a_busy_machine_is_said(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (9.0, 0.0, 0.0))
    timed_by(monkeypatch, lambda profile, precision, choice: (1.0, 1.0))
    with caplog.at_level(logging.WARNING, logger="edgeae"):
        tune(bundle, device="cpu", seconds=0.1)
    assert "busy (load 9.0" in caplog.text


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_impossible_durations_are_refused(bundle: Path, seconds: float) -> None:
    with pytest.raises(InputError, match="seconds must be positive"):
        tune(bundle, device="cpu", seconds=seconds)


def test_the_command(bundle: Path, cache: Path) -> None:
    arguments = ["tune", str(bundle), "--seconds", "0.1", "--device", "cpu"]
    dry = CliRunner().invoke(main, [*arguments, "--dry-run", "--json"])
    assert dry.exit_code == 0, dry.output
    assert set(json.loads(dry.stdout)["latency"]) == {"fp32", "int8"}
    assert not cache.exists()
    kept = CliRunner().invoke(main, arguments)
    assert kept.exit_code == 0, kept.output
    assert "kept in" in kept.stdout
    assert len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_named(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        store(tuning(bundle))


def test_a_choice_says_what_it_changes() -> None:
    assert str(Choice()) == "default"
    assert str(Choice(chunk=64, spin=True, prepack=False)) == "chunk 64, spin on, prepack off"
    assert to_json(Choice())
