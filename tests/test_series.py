"""Series: windows that are views, timestamps, gaps, resampling, labels, and a run that remembers how."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeae
from edgeae.bundle import Bundle
from edgeae.bundle.manifest import Input, Manifest, Series
from edgeae.data import Dataset, Windowing, load_data, load_rows, normalise
from edgeae.data.normalisation import fit_normalisation
from edgeae.data.timestamps import parse_period, parse_times, said_period
from edgeae.data.windows import map_steps, split_windows, take_rows, windows_of
from edgeae.errors import BundleError, InputError
from edgeae.runtime.drift import input_bins
from edgeae.training import Run
from tests.make_golden import sensor_series

Array = np.ndarray[Any, Any]
HOUR = 3600 * 10**9


def table(path: Path, times: list[str], values: Array, header: str = "timestamp,heat,flow") -> Path:
    lines = [header, *(f"{time},{','.join(f'{value:.6g}' for value in row)}" for time, row in zip(times, values))]  # noqa: B905
    path.write_text("\n".join(lines) + "\n")
    return path


def hours(*numbers: int) -> list[str]:
    return [f"2024-01-{1 + number // 24:02d} {number % 24:02d}:00:00" for number in numbers]


@given(steps=st.integers(1, 40), length=st.integers(1, 12), stride=st.integers(1, 5), channels=st.integers(1, 3))
def test_windows_are_what_slices_would_be(steps: int, length: int, stride: int, channels: int) -> None:
    series = np.arange(steps * channels, dtype=np.float32).reshape(steps, channels)
    windows = windows_of(series, length, stride)
    wanted = [series[at : at + length] for at in range(0, steps - length + 1, stride)]
    assert windows.shape == (len(wanted), length, channels)
    assert all(np.array_equal(one, other) for one, other in zip(windows, wanted, strict=True))
    assert np.array_equal(map_steps(windows, lambda part: part * 2), windows * 2)


def test_windows_of_one_series_share_its_memory_and_so_do_normalised_ones() -> None:
    series = sensor_series(5000)
    data = load_data(series, windows=Windowing(100))
    assert data.x.shape == (4901, 100, 2) and np.shares_memory(data.x, series)
    normalisation = fit_normalisation(data.x, "standard", "TC")
    assert len(normalisation.shift) == 2  # one for each channel, not for each position
    scaled = normalise(data.x, normalisation, "TC")
    assert scaled.strides == data.x.strides
    assert np.array_equal(scaled, normalise(data.x.copy(), normalisation, "TC"))


def test_a_file_is_mapped_and_one_channel_may_be_a_line(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", sensor_series(300))
    data = load_data(tmp_path / "a.npy", windows=Windowing(10, stride=3))
    assert not data.x.flags.writeable and data.x.shape == (97, 10, 2)
    assert data.steps is not None and data.steps[:3].tolist() == [9, 12, 15]
    assert load_data(np.arange(20.0), windows=Windowing(5)).row_shape == (5, 1)
    np.save(tmp_path / "line.npy", np.arange(20.0))
    assert load_data(tmp_path / "line.npy", windows=Windowing(5)).row_shape == (5, 1)


@pytest.mark.parametrize("kind", ["csv", "headerless", "parquet", "parquet text", "frame", "frame index", "seconds"])
def test_timestamps_are_found_and_are_no_feature(kind: str, tmp_path: Path) -> None:
    values, times = sensor_series(50), hours(*range(50))
    frame = pd.DataFrame({"when": pd.to_datetime(times), "heat": values[:, 0], "flow": values[:, 1]})
    source: Any = frame
    if kind == "csv":
        source = table(tmp_path / "a.csv", times, values)
    elif kind == "headerless":
        source = table(tmp_path / "a.csv", times[1:], values[1:], f"{times[0]},{values[0, 0]:.6g},{values[0, 1]:.6g}")
    elif kind == "seconds":
        seconds = [str(each // 10**9) for each in parse_times(times, "")]
        source = table(tmp_path / "a.csv", seconds, values, "time;heat;flow".replace(";", ","))
    elif kind == "frame index":
        source = frame.set_index("when")
    elif kind.startswith("parquet"):
        frame = frame.assign(when=times) if "text" in kind else frame
        frame.to_parquet(source := tmp_path / "a.parquet")
    data = load_data(source, windows=Windowing(10))
    assert data.x.shape == (41, 10, 2) and data.series is not None
    assert data.series.period == 3600
    assert data.series.channel_names == (None if kind == "headerless" else ("heat", "flow"))
    np.testing.assert_allclose(data.x[0], values[:10], rtol=1e-5)


def test_no_window_reaches_across_a_gap(tmp_path: Path) -> None:
    values = np.arange(20, dtype=np.float32)[:, None]
    source = table(tmp_path / "a.csv", hours(*range(12), *range(15, 23)), values, "timestamp,heat")
    with pytest.raises(InputError, match=r"steps are missing before row 12 .* 4h after .* 1h is usual .* --gaps split"):
        load_data(source, windows=Windowing(5))
    data = load_data(source, windows=Windowing(5, gaps="split"))
    assert data.steps is not None and data.steps.tolist() == [*range(4, 12), *range(19, 23)]
    assert all(np.ptp(window) == 4 for window in data.x)
    with pytest.raises(InputError, match="longest unbroken stretch has 12 steps, a window 13"):
        load_data(source, windows=Windowing(13, gaps="split"))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["2024-01-01 00:00", "2024-01-01 01:00", "2024-01-01 01:40", "2024-01-01 02:40"], "row 2 .* 40min after"),
        (["2024-01-01 01:00", "2024-01-01 02:00", "2024-01-01 02:00", "2024-01-01 03:00"], "row 2 .* is not after"),
        (["2024-01-01 01:00", "yesterday", "2024-01-01 02:00", "2024-01-01 03:00"], "row 1 .* 'yesterday'; write ISO"),
    ],
)
def test_irregular_times_are_refused_with_place_and_remedy(times: list[str], message: str, tmp_path: Path) -> None:
    source = table(tmp_path / "a.csv", times, np.ones((4, 2)))
    with pytest.raises(InputError, match=message):
        load_data(source, windows=Windowing(2))


def test_resampling_is_the_mean_in_each_period_as_pandas_has_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    seconds = np.sort(rng.uniform(0, 3000, 400)).round(3)
    values = rng.normal(size=(400, 2)).astype(np.float32)
    frame = pd.DataFrame({"heat": values[:, 0], "flow": values[:, 1], "bad": (values[:, 0] > 2).astype(int)})
    frame.index = pd.to_datetime(seconds, unit="s")
    wanted = frame.resample("30s").agg({"heat": "mean", "flow": "mean", "bad": "max"})
    data = load_data(frame, windows=Windowing(1, resample="30s", label="last"), label_column="bad")
    filled = wanted.notna().all(axis=1).to_numpy()
    np.testing.assert_allclose(data.x[:, 0], wanted[["heat", "flow"]][filled], rtol=1e-5)
    assert data.y is not None and data.y.tolist() == wanted["bad"][filled].astype(int).tolist()
    with pytest.raises(InputError, match="nearly all of which are empty"):
        load_data(frame, windows=Windowing(2, resample="1ms"), label_column="bad")
    with pytest.raises(InputError, match="'5 parsecs' is no period"):
        load_data(frame, windows=Windowing(2, resample="5 parsecs"), label_column="bad")


@pytest.mark.parametrize("seconds", [0.005, 1, 90, 300, 5400, 86400])
def test_periods_are_read_as_they_are_said(seconds: float) -> None:
    assert parse_period(said_period(seconds * 1e9)) == round(seconds * 1e9)


@pytest.mark.parametrize(("rule", "wanted"), [("any", [0, 1, 1, 1, 0]), ("last", [0, 1, 0, 0, 0])])
def test_labels_of_windows(rule: Any, wanted: list[int], tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.arange(7.0), "bad": [0, 0, 0, 1, 0, 0, 0]})
    data = load_data(frame, windows=Windowing(3, label=rule), label_column="bad")
    assert data.y is not None and data.y.tolist() == wanted


@settings(max_examples=50)
@given(
    runs=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    length=st.integers(1, 9),
    stride=st.integers(1, 4),
    share=st.floats(0.05, 0.5),
)
def test_windows_held_out_share_no_step_with_others(runs: list[int], length: int, stride: int, share: float) -> None:
    parts, begin = [], length
    for count in runs:
        parts.append(begin + stride * np.arange(count))
        begin += stride * count + 100
    steps = np.concatenate(parts)
    try:
        training, held_out = split_windows(steps, length, stride, share)
    except InputError:
        assert max(runs) <= max(1, round(max(runs) * share)) + (length - 1) // stride
        return
    assert len(training) and len(held_out)
    apart = np.abs(steps[training][:, None] - steps[held_out][None])
    assert apart.min() >= length


def test_rows_that_follow_on_each_other_are_not_copied() -> None:
    x = windows_of(sensor_series(50), 5)
    assert np.shares_memory(take_rows(x, np.arange(3, 20)), x)
    assert np.array_equal(take_rows(x, np.array([4, 2])), x[[4, 2]])


def test_several_series(tmp_path: Path) -> None:
    one, other = sensor_series(40), sensor_series(30, seed=1)
    data = load_data([one, other], windows=Windowing(10))
    assert len(data) == 31 + 21
    table(tmp_path / "a.csv", hours(*range(40)), one)
    table(tmp_path / "b.csv", hours(*range(30)), other)
    folder = load_data(tmp_path, windows=Windowing(10))
    np.testing.assert_allclose(folder.x, data.x, rtol=1e-5)
    with pytest.raises(InputError, match="other channels"):
        load_data([one, other[:, :1]], windows=Windowing(10))


def test_rows_for_a_bundle_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = sensor_series(40)
    wanted = Input((10, 2), "float32", "TC", series=Series(channel_names=("heat", "flow"), period=3600.0))
    source = table(tmp_path / "a.csv", hours(*range(20), *range(30, 50)), values[:, ::-1], "date,flow,heat")
    rows = load_rows(source, wanted)
    assert rows.steps is not None and rows.steps.tolist() == [*range(9, 20), *range(39, 50)]
    np.testing.assert_allclose(rows.x[0], values[:10], rtol=1e-5)  # by name, not by place
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
    assert np.array_equal(load_rows("-", wanted).x, rows.x)
    assert load_rows(values, wanted).x.shape == (31, 10, 2)
    assert np.array_equal(load_rows(windows_of(values, 10), wanted).x, windows_of(values, 10))
    assert load_rows(values.reshape(2, 40)[:, :20], wanted).x.shape == (2, 10, 2)
    faster = [f"2024-01-01 {number // 60:02d}:{number % 60:02d}" for number in range(40)]
    with pytest.raises(InputError, match="its steps are 1min apart, those of the bundle's windows 1h"):
        load_rows(table(tmp_path / "b.csv", faster, values), wanted)


@pytest.mark.parametrize(
    ("windows", "options", "message"),
    [
        (Windowing(0), {}, "window must be a whole number from 1"),
        (Windowing(3, stride=0), {}, "stride must be a whole number from 1"),
        (Windowing(3, gaps="keep"), {}, "gaps: 'keep' is not one of"),  # type: ignore[arg-type]
        (Windowing(3, time="when"), {}, "--time when: is for tables"),
        (Windowing(3, resample="5min"), {}, "has no timestamps to resample by"),
        (Windowing(300), {}, "the longest unbroken stretch has 50 steps"),
        (Windowing(3), {"layout": "HW"}, "windows of a series have the layout TC"),
    ],
)
def test_mistakes_are_named(windows: Windowing, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(sensor_series(50), windows=windows, **options)


def test_windows_are_no_series(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Leave --window out"):
        load_data(np.zeros((20, 5, 2)), windows=Windowing(3))
    with pytest.raises(InputError, match="stride is for series"):
        edgeae.train(np.zeros((20, 5)), tmp_path / "run", stride=2)


def test_a_run_and_its_bundle_know_how_windows_were_cut(tmp_path: Path) -> None:
    series = sensor_series(600)
    source = table(tmp_path / "a.csv", hours(*range(600)), series)
    options: dict[str, Any] = {"variant": "convolutional", "hidden": [4], "latent_dim": 4, "epochs": 2, "device": "cpu"}
    run = edgeae.train(source, tmp_path / "run", window=24, stride=2, validation=0.2, **options)
    wanted = Series(2, ("heat", "flow"), 3600.0)
    assert run.series == wanted and Run.load(tmp_path / "run").series == wanted
    held_out = run.reference.x_validation
    assert len(held_out) == 58 and np.allclose(held_out[-1], series[-24:], rtol=1e-4)  # the last ones
    bundle = edgeae.export_bundle(run, tmp_path / "bundle", calibrate=source, fpr=0.05)
    assert bundle.manifest.input.series == wanted
    assert bundle.manifest.precisions["fp32"].threshold.rows == 577
    assert input_bins(bundle.statistics(), 2, "") is not None
    with edgeae.load(bundle.path, device="cpu") as model:
        assert model.score(load_rows(source, model.manifest.input).x).shape == (577,)


def test_labelled_windows_are_not_trained_on(tmp_path: Path) -> None:
    frame = pd.DataFrame(sensor_series(400), columns=["heat", "flow"]).assign(bad=0)
    frame.loc[100, "bad"] = 1
    data = load_data(frame, windows=Windowing(10), label_column="bad")
    run = edgeae.train(data, tmp_path / "run", epochs=1, device="cpu", latent_dim=2, hidden=[4])
    assert run.reference.x_anomaly is not None and len(run.reference.x_anomaly) == 10


def test_a_data_set_says_what_it_is() -> None:
    data = load_data(sensor_series(50), windows=Windowing(10))
    assert isinstance(data, Dataset) and data.layout == "TC" and data.feature_names is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"stride": 1', '"stride": 0', "input.series.stride 0 is out of bounds"),
        ('["heat", "flow"]', '["heat"]', "input.series.channel_names: 1 names for windows of shape"),
        ('"period": null', '"period": -1.0', "input.series.period must be positive"),
        ('"resampled": false', '"resampled": true', "input.series: resampled, and no period"),
        ('"label": "any"', '"label": "some"', "'some' is not one of any, last"),
        ('"stride": 1', '"step": 1', "unknown key 'step'"),
    ],
)
def test_a_manifest_with_a_series_that_does_not_fit_is_refused(old: str, new: str, message: str) -> None:
    manifest = (Path(__file__).parents[1] / "export" / "golden" / "windows" / "manifest.json").read_text()
    assert old in manifest
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(manifest.replace(old, new).encode())


def test_only_windows_have_a_series() -> None:
    bundle = Bundle.read(Path(__file__).parents[1] / "export" / "golden" / "table")
    row = replace(bundle.manifest.input, series=Series())
    with pytest.raises(BundleError, match=r"input\.series: rows of the layout vector are no windows"):
        Manifest.from_json(replace(bundle.manifest, input=row).to_json())
