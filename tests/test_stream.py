"""Streams: each step's score is that of its window, alarms, adaptive thresholds, drift, states, lines from a pipe."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeae
from edgeae.bundle import Bundle
from edgeae.bundle.arrays import read_arrays
from edgeae.bundle.bundle import pack_arrays
from edgeae.data.lines import MAX_LINE, score_samples
from edgeae.data.windows import windows_of
from edgeae.errors import BundleError, InputError
from edgeae.runtime import Autoencoder, Step, Stream, StreamOptions
from edgeae.runtime.adaptive import AdaptiveThreshold
from edgeae.runtime.alarms import Alarms
from edgeae.runtime.calibrated import score_table
from edgeae.runtime.drift import Watch, input_bins, input_histograms, score_bins, stability_index
from tests.bundles import make_bundle
from tests.make_golden import sensor_series
from tests.test_borders import THIRD_PARTY_OF_TRAIN, blocked, run

GOLDEN = Path(__file__).parents[1] / "export" / "golden"
WINDOWS = GOLDEN / "windows"
LENGTH = 24
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def model() -> Iterator[Autoencoder]:
    with edgeae.load(WINDOWS, device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def flagging() -> Iterator[Autoencoder]:
    with edgeae.load(WINDOWS, device="cpu", on_invalid="flag") as loaded:
        yield loaded


def push(stream: Stream, samples: Any) -> list[Step]:
    return [stream.push(sample) for sample in samples]


def scores(steps: list[Step]) -> list[float | None]:
    return [step.score for step in steps]


# --------------------------------------------------------------------------------------------------------------------
# Scores


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_each_step_has_the_score_of_the_window_that_ends_with_it(precision: str) -> None:
    series = sensor_series(100, seed=3)
    with edgeae.load(WINDOWS, device="cpu", precision=precision) as loaded:
        steps = push(Stream(loaded), series)
        one = loaded.bind()
        wanted = [one.score(window) for window in windows_of(series, LENGTH)]
    assert scores(steps[: LENGTH - 1]) == [None] * (LENGTH - 1)
    assert scores(steps[LENGTH - 1 :]) == wanted
    assert [step.row for step in steps] == list(range(100))
    assert [step.anomaly for step in steps[LENGTH - 1 :]] == [not (score <= loaded.threshold) for score in wanted]
    assert not any(step.anomaly or step.alarm for step in steps[: LENGTH - 1])


@pytest.mark.parametrize(
    "convert",
    [list, tuple, lambda row: row.astype(np.float64), lambda row: np.stack([row, row], 1)[:, 0], lambda row: row[::1]],
    ids=["list", "tuple", "float64", "strided", "view"],
)
def test_samples_in_every_form_give_the_same(model: Autoencoder, convert: Any) -> None:
    series = sensor_series(40)
    assert push(Stream(model), map(convert, series)) == push(Stream(model), series)


def test_rows_that_are_vectors_are_windows_of_one_sample() -> None:
    with edgeae.load(GOLDEN / "table", device="cpu") as loaded:
        x = loaded.bundle.golden().x
        one = loaded.bind()
        assert scores(push(Stream(loaded), x)) == [one.score(row) for row in x]


def test_whole_numbers_and_one_channel(tmp_path: Path) -> None:
    network = make_bundle(tmp_path / "b", shape=(6, 1), layout="TC", dtype="uint8", shift=0.0, scale=255.0)
    series = np.random.default_rng(0).integers(0, 256, 20).astype(np.float64)
    with edgeae.load(tmp_path / "b", device="cpu") as loaded:
        stream = Stream(loaded)
        found = scores(push(stream, series))  # a number alone is a sample of one channel
        wanted = network.score(windows_of(series[:, None], 6))
        np.testing.assert_allclose(np.array(found[5:], float), wanted, rtol=1e-4)
        for bad in (-1, 256, 0.5):
            with pytest.raises(InputError, match="whole numbers from 0 to 255"):
                stream.push(bad)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ([1.0], r"sample 0: expected 2 numbers, got float64 \[1\]"),
        (3.0, r"sample 0: expected 2 numbers, got float64 \[\]"),
        (["a", "b"], "sample 0: expected 2 numbers, got <U1"),
        ([1.0, np.nan], "sample 0: channel 'flow' is nan"),
        ([np.inf, 1.0], "sample 0: channel 'heat' is inf"),
        ([1e300, 1.0], "sample 0: channel 'heat' is inf"),
        ([[1.0, 2.0], [3.0]], "sample 0: cannot be read as numbers"),
    ],
)
def test_other_samples_are_refused_and_leave_no_trace(model: Autoencoder, sample: Any, message: str) -> None:
    series = sensor_series(60)
    stream = Stream(model)
    with pytest.raises(InputError, match=message):
        stream.push(sample)
    first = push(stream, series[:30])
    with pytest.raises(InputError, match="sample 30"):
        stream.push(sample)
    assert first + push(stream, series[30:]) == push(Stream(model), series)


def test_an_invalid_sample_is_an_anomaly_and_in_no_window(flagging: Autoencoder) -> None:
    series = sensor_series(100)
    series[40, 1] = np.nan
    steps = push(Stream(flagging), series)
    assert steps[40].score != steps[40].score and steps[40].anomaly and steps[40].alarm
    assert scores(steps[41 : 40 + LENGTH]) == [None] * (LENGTH - 1)
    assert not any(step.anomaly for step in steps[41 : 40 + LENGTH])
    assert scores(steps[40 + LENGTH :]) == scores(push(Stream(flagging), series[41:]))[LENGTH - 1 :]


def test_after_a_gap_a_window_begins_anew(model: Autoencoder) -> None:
    series = sensor_series(60)
    stream = Stream(model)
    push(stream, series[:30])
    stream.gap()
    assert scores(push(stream, series[30:])) == scores(push(Stream(model), series[30:]))


def test_large_finite_values_are_samples(model: Autoencoder) -> None:
    """Their squares overflow, they do not."""
    stream = Stream(model)
    push(stream, sensor_series(LENGTH - 1))
    assert stream.push(np.array([3e25, 0], np.float32)).anomaly


def test_a_step_allocates_no_array(model: Autoencoder) -> None:
    series = sensor_series(400)
    stream = Stream(model, StreamOptions(2, 3, drift_steps=10_000, adaptive=0.001))
    push(stream, series[:200])
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for sample in series[200:]:
            stream.push(sample)
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    arrays = tracemalloc.Filter(True, "*", domain=np.lib.tracemalloc_domain)
    grown = after.filter_traces([arrays]).compare_to(before.filter_traces([arrays]), "filename")
    assert sum(each.count_diff for each in grown) <= 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"needed": 0}, "needed must be a whole number from 1"),
        ({"needed": 3, "among": 2}, "needed must be above clear and at most among, got 3 of 2"),
        ({"needed": 1, "clear": 1}, "needed must be above clear"),
        ({"cooldown": -1}, "cooldown must be a whole number from 0"),
        ({"drift_level": 0.0}, "drift_level must be above 0"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"adaptive": 0.5}, "adaptive: the rate 0.5 is not between 0 and 0.1"),
    ],
)
def test_impossible_options_are_refused(model: Autoencoder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Stream(model, options)


def test_images_are_no_series_and_a_bundle_may_lack_what_is_needed(tmp_path: Path) -> None:
    with edgeae.load(GOLDEN / "dense", device="cpu") as images, pytest.raises(InputError, match="of the layout HW"):
        Stream(images)
    make_bundle(tmp_path / "b", shape=(6, 2), layout="TC")
    with edgeae.load(tmp_path / "b", device="cpu") as plain:
        assert Stream(plain).period is None
        with pytest.raises(InputError, match="keeps no histograms"):
            Stream(plain, StreamOptions(drift_steps=10))
        with pytest.raises(InputError, match="no scores of normal rows"):
            Stream(plain, StreamOptions(adaptive=0.01))


# --------------------------------------------------------------------------------------------------------------------
# Alarms


@given(
    anomalies=st.lists(st.booleans(), max_size=60),
    among=st.integers(1, 6),
    needed=st.integers(1, 6),
    clear=st.integers(0, 5),
    cooldown=st.integers(0, 5),
)
def test_alarms_are_what_their_definition_says(
    anomalies: list[bool], among: int, needed: int, clear: int, cooldown: int
) -> None:
    needed = min(needed, among)
    clear = min(clear, needed - 1)
    alarms = Alarms(needed, among, clear, cooldown)
    active, ended = False, -(10**9)
    for at, anomaly in enumerate(anomalies):
        count = sum(anomalies[max(0, at - among + 1) : at + 1])
        if active and count <= clear:
            active, ended = False, at
        elif not active and count >= needed and at - ended > cooldown:
            active = True
        assert alarms.step(anomaly) is active


# --------------------------------------------------------------------------------------------------------------------
# Thresholds that follow, and drift


@pytest.mark.parametrize("draw", ["exponential", "lognormal", "pareto"])
def test_an_adaptive_threshold_holds_its_rate_and_follows(draw: str) -> None:
    rng = np.random.default_rng(0)

    def drawn(count: int) -> Array:
        values = {
            "exponential": rng.exponential(size=count),
            "lognormal": rng.lognormal(0, 1, count),
            "pareto": 1 + rng.pareto(2.0, count),
        }
        return np.asarray(values[draw], np.float32)

    threshold = AdaptiveThreshold(score_table(drawn(1000)), 0.005)
    alarms = sum(threshold.is_anomaly(float(score)) for score in drawn(20_000))
    assert 0.0025 < alarms / 20_000 < 0.01
    before = threshold.value
    for score in np.linspace(1, 1.25, 20_000) * drawn(20_000):  # what is normal grows slowly
        threshold.is_anomaly(float(score))
    assert threshold.value > before
    assert threshold.is_anomaly(float("nan"))


def test_too_little_to_adapt_to() -> None:
    with pytest.raises(InputError, match="scores of 50 normal rows"):
        AdaptiveThreshold(score_table(np.arange(50, dtype=np.float32)), 0.01)
    with pytest.raises(InputError, match="no tail to fit"):
        AdaptiveThreshold(np.array([[0.0, 1.0], [1000, 500]], np.float32), 0.01)


def test_histograms_count_as_numpy_does_and_hold_no_users_value() -> None:
    values = np.random.default_rng(0).normal(20, 3, (4000, 2)).astype(np.float32)
    values[:, 1] = np.rint(values[:, 1])
    made = input_histograms(values)
    bins = input_bins(made, 2, "here")
    assert bins is not None
    for column in range(2):
        edges = bins.edges[:, column].astype(np.float64)
        place = np.searchsorted(edges, values[:, column], "left")
        np.testing.assert_allclose(bins.shares[:, column], np.bincount(place, minlength=10) / 4000, atol=1e-6)
    assert not np.isin(bins.edges[:, 0], values[:, 0]).any()
    watch = Watch(bins, "inputs")
    for row in values:
        watch.add(row)
    index = watch.index()
    assert index is not None and index.max() < 1e-6
    assert watch.index() is None
    shares = np.array([[0.5], [0.0], [0.5]])
    assert np.isfinite(stability_index(shares, np.array([[0.0], [0.5], [0.5]]))).all()


def test_drift_is_seen_said_once_and_over_when_it_is_over(model: Autoencoder, caplog: Any) -> None:
    stream = Stream(model, StreamOptions(drift_steps=480))
    series = sensor_series(480, seed=5)
    with caplog.at_level(logging.WARNING, "edgeae"):
        push(stream, series)
        assert stream.drift is not None and stream.drift.exceeded == () and max(stream.drift.inputs.values()) < 0.1
        assert not caplog.records
        for _ in range(2):
            push(stream, series + np.array([0, 0.004], np.float32))
            assert list(stream.drift.exceeded) == ["flow", "score"] and stream.drift.inputs["heat"] < 0.1
        assert [record.getMessage()[:26] for record in caplog.records] == ["drift: in the 480 steps up"]
        push(stream, series)
        push(stream, series)
        assert stream.drift.exceeded == ()


def test_scores_are_compared_with_the_bundles_table_of_them() -> None:
    normal = np.random.default_rng(0).exponential(size=3000).astype(np.float32)
    bins = score_bins({"scores_fp32": score_table(normal)}, "fp32", "here")
    assert bins is not None and abs(bins.shares.sum() - 1) < 1e-6
    place = np.searchsorted(bins.edges[:, 0], normal, "left")
    np.testing.assert_allclose(bins.shares[:, 0], np.bincount(place, minlength=len(bins.shares)) / 3000, atol=1e-6)
    assert score_bins({}, "fp32", "here") is None


@pytest.mark.parametrize("spoil", ["shape", "order", "sum", "missing", "dtype"])
def test_histograms_that_are_none_are_refused(spoil: str) -> None:
    made = input_histograms(np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32))
    edges, shares = made["input_edges"].copy(), made["input_shares"].copy()
    damaged: dict[str, dict[str, Array]] = {
        "shape": {"input_edges": edges[:, :1], "input_shares": shares},
        "order": {"input_edges": edges[::-1], "input_shares": shares},
        "sum": {"input_edges": edges, "input_shares": 2 * shares},
        "missing": {"input_edges": edges},
        "dtype": {"input_edges": edges.astype(np.float64), "input_shares": shares},
    }
    with pytest.raises(BundleError, match="here: statistics: input_edges and input_shares"):
        input_bins(damaged[spoil], 2, "here")


# --------------------------------------------------------------------------------------------------------------------
# States

FULL = StreamOptions(needed=2, among=4, clear=1, cooldown=3, adaptive=0.01, drift_steps=70)


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(0, 150))
def test_a_stream_goes_on_where_its_state_was_taken(model: Autoencoder, cut: int) -> None:
    series = sensor_series(150, seed=2)
    series[80:90, 0] += 30
    whole, before, after = (Stream(model, FULL) for _ in range(3))
    wanted = push(whole, series)
    assert push(before, series[:cut]) == wanted[:cut]
    after.restore(before.state())
    assert push(after, series[cut:]) == wanted[cut:]
    assert after.state() == whole.state() and after.alarms == whole.alarms and after.threshold == whole.threshold


def test_states_are_kept_in_files(model: Autoencoder, tmp_path: Path) -> None:
    stream, other = Stream(model), Stream(model)
    push(stream, sensor_series(30))
    stream.save(tmp_path / "state.npz")
    assert np.load(tmp_path / "state.npz", allow_pickle=False)["samples"].shape == (LENGTH - 1, 2)
    other.load(tmp_path / "state.npz")
    assert other.row == 30
    with pytest.raises(InputError, match="cannot be read: No such file"):
        other.load(tmp_path / "none.npz")


def damaged_states(model: Autoencoder) -> dict[str, tuple[bytes, str]]:
    stream = Stream(model, FULL)
    push(stream, sensor_series(100))
    state = stream.state()
    arrays = dict(read_arrays(state, ""))

    def other(**changes: Array) -> bytes:
        return pack_arrays(**(arrays | changes))

    plain = Stream(model)
    return {
        "empty": (b"", "is no state"),
        "cut": (state[:-30], "is no state"),
        "options": (plain.state(), "another options"),
        "no samples": (pack_arrays(**{k: v for k, v in arrays.items() if k != "samples"}), "'samples'"),
        "more samples": (other(samples=np.zeros((LENGTH, 2), np.float32)), "samples of this bundle"),
        "NaN": (other(samples=np.full((3, 2), np.nan, np.float32)), "samples of this bundle"),
        "dtype": (other(samples=np.zeros((3, 2))), "samples of this bundle"),
        "rows": (other(counts=np.array([-1, 0])), "number of samples"),
        "alarms": (other(alarms=np.array([9, 0, 0, 0])), "alarms is damaged"),
        "tail": (other(tail=np.full(7, np.inf)), "adaptive threshold is damaged"),
        "peaks": (other(peaks=np.full(30, -1.0)), "adaptive threshold is damaged"),
        "counts": (other(inputs_count=np.array([-5])), "counts of inputs are damaged"),
    }


def test_damaged_and_foreign_states_are_refused(model: Autoencoder) -> None:
    series = sensor_series(100)
    for name, (state, message) in damaged_states(model).items():
        stream = Stream(model, FULL)
        push(stream, series[:40])
        with pytest.raises(
            InputError, match=f"saved: is no state that this stream can go on from: .*{message}|{message}"
        ):
            stream.restore(state, where="saved")
        assert push(stream, series) == push(Stream(model, FULL), series), name
    with edgeae.load(WINDOWS, device="cpu", precision="int8") as other, pytest.raises(InputError, match="precision"):
        Stream(other).restore(Stream(model).state())


# --------------------------------------------------------------------------------------------------------------------
# Lines


def lines(series: Array, header: str = "", times: list[str] | None = None) -> list[bytes]:
    rows = [",".join(f"{value!r}" for value in row.tolist()) for row in series]
    rows = rows if times is None else [f"{time},{row}" for time, row in zip(times, rows, strict=True)]
    return [f"{line}\n".encode() for line in ([header] if header else []) + rows]


def answers(model: Autoencoder, given: list[bytes], **options: Any) -> list[str]:
    return list(score_samples(Stream(model), given, **options))


def test_lines_are_answered_as_samples_are(model: Autoencoder) -> None:
    series = sensor_series(40)
    found = answers(model, lines(series))
    steps = push(Stream(model), series)
    assert [line.split(",")[0] for line in found] == [str(step.row) for step in steps]
    assert [line.split(",")[1] for line in found] == ["" if s.score is None else f"{s.score:.9g}" for s in steps]
    swapped = [b"flow;extra;heat\n", *(f"{flow!r};x;{heat!r}\r\n\n".encode() for heat, flow in series.tolist())]
    assert answers(model, [part for line in swapped for part in line.splitlines(keepends=True)]) == found
    days = [f"2024-01-{1 + hour // 24:02d} {hour % 24:02d}:00" for hour in range(40)]
    assert answers(model, lines(series, times=days)) == found
    assert answers(model, lines(series, "when,heat,flow", days), time="when") == found


def test_each_line_is_answered_before_the_next_is_asked_for(model: Autoencoder) -> None:
    asked = 0

    def given() -> Iterator[bytes]:
        nonlocal asked
        for line in lines(sensor_series(30), "heat,flow"):
            asked += 1
            yield line

    for count, _ in enumerate(score_samples(Stream(model), given()), 1):
        assert asked == count + 1


BAD_LINES = [
    (b"1,2,3\n", "line 3: has 3 cells, 2 are expected"),
    (b"1,two\n", "line 3: 'two' is not a number"),
    (b"1,\n", "line 3: sample 2: channel 'flow' is nan"),
    (b"\xff\xfe,1\n", "line 3: is not UTF-8"),
    (b"1" * MAX_LINE, "line 3: is longer than"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=["cells", "text", "empty", "binary", "endless"])
def test_a_line_that_cannot_be_read_is_named_or_flagged(
    model: Autoencoder, flagging: Autoencoder, line: bytes, message: str
) -> None:
    given = lines(sensor_series(30))
    given.insert(2, line)
    reading = score_samples(Stream(model), given)
    assert [next(reading), next(reading)] == ["0,,0,0\n", "1,,0,0\n"]
    with pytest.raises(InputError, match=message):
        next(reading)
    assert answers(flagging, given)[2] == "2,nan,1,1\n" and len(answers(flagging, given)) == 31


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([b"heat,pressure\n"], "line 1: the header has no one column 'flow'; its columns are heat, pressure"),
        ([b"1,2,3\n"], "line 1: has 3 columns, the bundle 2 channels"),
        ([b"1\n"], "line 1: has 1 columns"),
    ],
)
def test_a_first_line_that_does_not_fit_is_refused(
    model: Autoencoder, flagging: Autoencoder, given: list[bytes], message: str
) -> None:
    for loaded in (model, flagging):
        with pytest.raises(InputError, match=message):
            answers(loaded, given)


def test_timestamps_show_gaps(tmp_path: Path) -> None:
    bundle = Bundle.read(WINDOWS)
    manifest = bundle.manifest.to_json().replace(b'"period": null', b'"period": 60.0')
    for file in bundle.files():
        (tmp_path / "b" / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / file.path).write_bytes(bundle.file(file))
    (tmp_path / "b" / "manifest.json").write_bytes(manifest)
    series = sensor_series(60)
    seconds = [str(60 * number + (600 if number >= 30 else 0)) for number in range(60)]
    with edgeae.load(tmp_path / "b", device="cpu") as loaded:
        found = answers(loaded, lines(series, "time,heat,flow", seconds))
        assert [line.split(",")[1] == "" for line in found] == [*[True] * 23, *[False] * 7, *[True] * 23, *[False] * 7]
        seconds[40] = seconds[39]
        with pytest.raises(InputError, match="line 42: its timestamp is not after"):
            answers(loaded, lines(series, "time,heat,flow", seconds))


def edgeae_command(*arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "error", "-m", "edgeae", "score", *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_pipe_is_answered_line_by_line_and_its_end_is_clean(model: Autoencoder, tmp_path: Path) -> None:
    series = sensor_series(60)
    wanted = answers(model, lines(series))
    first = edgeae_command(WINDOWS, "-", "--stream", "--state", tmp_path / "state.npz")
    assert first.stdin is not None and first.stdout is not None
    assert first.stdout.readline() == b"row,score,anomaly,alarm\n"
    for line, answer in zip(lines(series[:30]), wanted, strict=False):
        first.stdin.write(line)
        first.stdin.flush()
        assert first.stdout.readline().decode() == answer  # though nothing has followed yet
    _, errors = first.communicate()
    assert first.returncode == 0 and errors.startswith(b"edgeae: ") and errors.count(b"\n") == 1
    second = edgeae_command(WINDOWS, "-", "--stream", "--state", tmp_path / "state.npz")
    output, _ = second.communicate(b"".join(lines(series[30:])))
    assert output.decode().splitlines(keepends=True)[1:] == wanted[30:]


def test_a_reader_that_goes_away_and_a_bad_line_end_it_with_one_line_at_most() -> None:
    process = edgeae_command(WINDOWS, "-", "--stream")
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    with pytest.raises(BrokenPipeError):
        for line in lines(sensor_series(20_000)):
            process.stdin.write(line)
            process.stdin.flush()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    assert process.stderr.read() == b"" and process.wait() == 1
    process.stderr.close()
    process = edgeae_command(WINDOWS, "-", "--stream")
    _, errors = process.communicate(b"1,2\n1,x\n")
    assert process.returncode == 1 and errors.splitlines() == [b"edgeae: line 2: 'x' is not a number"]


@pytest.mark.skipif(os.name == "nt", reason="signals are others on Windows")
def test_an_interrupt_is_clean_and_keeps_the_state(tmp_path: Path) -> None:
    import signal

    process = edgeae_command(WINDOWS, "-", "--stream", "--state", tmp_path / "state.npz")
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(b"".join(lines(sensor_series(5))))
    process.stdin.flush()
    for _ in range(6):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130 and errors == b"edgeae: interrupted\n"
    assert np.load(tmp_path / "state.npz")["counts"].tolist() == [5, 0]


def test_series_and_streams_work_with_the_thin_install(model: Autoencoder, tmp_path: Path) -> None:
    series = sensor_series(60)
    times = [f"2024-01-{1 + hour // 24:02d} {hour % 24:02d}:00" for hour in range(60)]
    (tmp_path / "series.csv").write_bytes(b"".join(lines(series, "timestamp,heat,flow", times)))
    code = blocked(*THIRD_PARTY_OF_TRAIN) + "from edgeae.cli import main; main(sys.argv[1:])"
    found = run(code, "-q", "score", str(WINDOWS), str(tmp_path / "series.csv")).splitlines()
    streamed = run(code, "-q", "score", str(WINDOWS), str(tmp_path / "series.csv"), "--stream").splitlines()
    assert found[0] == "row,score,anomaly" and streamed[0] == "row,score,anomaly,alarm"
    assert [line.rpartition(",")[0] for line in streamed[LENGTH:]] == found[1:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--alarm", "2,3"], "need --stream"),
        (["--stream", "--alarm", "2"], "expected two numbers"),
        (["--stream", "-o", "scores.csv"], "--stream prints scores"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from edgeae.cli import main

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    result = CliRunner().invoke(main, ["score", str(WINDOWS), "-", *arguments])
    assert result.exit_code == 2 and message in result.output
