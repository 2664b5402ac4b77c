"""`edgeae sweep`: what is tried, what is kept, what is picked, and that it can be stopped and gone on with."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import edgeae
from edgeae.bundle import Bundle
from edgeae.cli import main
from edgeae.codec import coded_size
from edgeae.data import load_data
from edgeae.errors import InputError, MissingPackageError, TrainingError
from edgeae.runtime.verify import verify_bundle
from edgeae.sweeping import Limits, Point, Sweep, Trial, loop
from edgeae.sweeping.front import pareto_front, pick
from edgeae.sweeping.measure import make_trial
from edgeae.sweeping.record import read_sweep
from edgeae.sweeping.search import check_search, next_setting
from edgeae.sweeping.space import combinations, grid, options_of, read_parameters, suggested_parameters
from edgeae.training.config import TrainConfig
from edgeae.training.defaults import Facts

GOLDEN = Path(__file__).parents[1] / "export" / "golden"
IMAGES = Facts(1000, (28, 28), "HW", whole_numbers=True, minimum=0, maximum=255)
VECTORS = Facts(1000, (10,), "vector", whole_numbers=False, minimum=-3, maximum=3)
FEW: dict[str, Any] = {"epochs": 1, "latents": ("int8", "int3"), "seconds": 0.01}
needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="needs Optuna: pip install 'edgeae[sweep]'"
)


def point(trial: int = 0, mse: float = 0.1, row: float = 8.0, size: int = 1000, latency: float = 20.0) -> Point:
    return Point(trial, "fp32", "int8", mse, mse, None, row, size, 2 * size, latency, 1e5)


def run(*arguments: str | Path, fails: int = 0) -> Result:
    result = CliRunner().invoke(main, ["sweep", *map(str, arguments)])
    assert result.exit_code == fails, result.output
    return result


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sweep]:
    """A sweep that picked; tests that change it take a copy."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    vary = {"latent_dim": (2, 5, 12)}
    return out, edgeae.sweep("digits", out, vary=vary, limits=Limits(max_bytes=100_000), keep="all", **FEW)


# what is tried


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ({"latent": "8"}, "unknown parameter 'latent'; what can be varied is width, depth, variant"),
        ({"seed": "1,2"}, "seed cannot be varied"),
        ({"normalise": "none"}, "normalise cannot be varied"),
        ({"validation": "0.1,0.2"}, "validation cannot be varied"),
        ({"latent_dim": ""}, "latent_dim: there are no values to try; write for instance --vary latent_dim=8,16,32"),
        ({"latent_dim": ()}, "there are no values to try"),
        ({"latent_dim": "8,x"}, "latent_dim: 'x' is no value of it; expected a whole number"),
        ({"latent_dim": "16..8"}, "the range '16..8' is empty"),
        ({"lr": "1e-3..inf"}, "expected a finite number"),
        ({"loss": "mse..mae"}, "loss: 'mse..mae' is a range, and loss is no number"),
        ({"loss": "mse,l2"}, "'l2' is not one of mse, bce"),
        ({"batch_norm": "yes"}, "expected true or false"),
        ({"width": "0"}, "width must be at least 1"),
        ({"hidden": "64", "depth": "1"}, "hidden cannot be varied together with width or depth"),
        ({"latent_dim": range(1, 2000)}, "more than 1000"),
    ],
)
def test_what_cannot_be_tried_is_refused(vary: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said.replace("(", "\\(")):
        read_parameters(vary)


def test_values_are_read_from_sequences_and_text_alike() -> None:
    from_text = read_parameters({"hidden": "none,128,256x64", "batch_norm": "true", "loss": "mse, mae"})
    assert from_text == read_parameters({"hidden": [(), 128, (256, 64)], "batch_norm": [True], "loss": ("mse", "mae")})
    setting = {parameter.name: parameter.values[-1] for parameter in from_text}
    assert options_of(setting, TrainConfig(), IMAGES) == {"hidden": (256, 64), "batch_norm": True, "loss": "mae"}


@pytest.mark.parametrize(
    ("setting", "config", "hidden"),
    [
        ({"width": "64"}, TrainConfig(), (64,)),
        ({"depth": "2"}, TrainConfig(), (128, 64)),
        ({"depth": "0"}, TrainConfig(), ()),
        ({"width": "3", "depth": "3"}, TrainConfig(), (3, 1, 1)),
        ({"width": "8"}, TrainConfig(variant="convolutional"), (8, 16)),
        ({"width": "8", "depth": "3", "architecture": "convolutional"}, TrainConfig(), (8, 16, 32)),
    ],
)
def test_width_and_depth_make_hidden_layers(
    setting: dict[str, str], config: TrainConfig, hidden: tuple[int, ...]
) -> None:
    assert options_of(setting, config, IMAGES)["hidden"] == hidden


def test_what_is_tried_unless_said_follows_the_data_and_leaves_alone_what_is_given() -> None:
    latents, depth, width = suggested_parameters(TrainConfig(), IMAGES)
    assert (latents.values, depth.values, width.values) == (("16", "32", "64", "128"), ("0", "1"), ("32", "128", "512"))
    assert suggested_parameters(TrainConfig(), VECTORS)[0].values == ("1", "2", "5", "9")
    assert [each.name for each in suggested_parameters(TrainConfig(hidden=(8,)), IMAGES)] == ["latent_dim"]
    assert [each.name for each in suggested_parameters(TrainConfig(variant="convolutional"), IMAGES)][1:] == ["width"]
    with pytest.raises(InputError, match="nothing left to vary"):
        suggested_parameters(TrainConfig(hidden=(8,), latent_dim=4), IMAGES)


def test_a_grid_has_every_setting_once_and_none_of_them_a_width_without_a_layer() -> None:
    parameters = read_parameters({"depth": "0,1", "width": "8,16", "latent_dim": "2,4"})
    settings = grid(parameters, seed=0)
    assert len(settings) == combinations(parameters) == 6
    assert len({tuple(setting.items()) for setting in settings}) == 6
    assert all(("width" in setting) == (setting["depth"] == "1") for setting in settings)
    assert settings != grid(parameters, seed=1) and settings == grid(parameters, seed=0)
    assert math.isinf(combinations(read_parameters({"lr": "1e-4..1e-2"})))


def test_few_settings_are_all_tried_without_optuna() -> None:
    parameters = read_parameters({"latent_dim": "2,4,8"})
    done: list[Trial] = []
    while (setting := next_setting(parameters, done, trials=3, seed=0)) is not None:
        done.append(Trial(len(done), setting, 1.0))
    assert sorted(trial.setting["latent_dim"] for trial in done) == ["2", "4", "8"]


def test_more_settings_than_trials_without_optuna_is_an_error_with_both_remedies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    parameters = read_parameters({"latent_dim": "2,4,8"})
    check_search(parameters, 3)
    with pytest.raises(MissingPackageError, match=r"3 settings and 2 trials.*edgeae\[sweep\].*--trials 3"):
        check_search(parameters, 2)
    with pytest.raises(MissingPackageError, match=r"infinitely many"):
        check_search(read_parameters({"lr": "1e-4..1e-2"}), 2)


@needs_optuna
def test_optuna_s_choice_follows_from_the_trials_done_and_learns_from_them() -> None:
    parameters = read_parameters(
        {"latent_dim": "2..64", "lr": "1e-4..1e-2", "loss": "mse,mae", "depth": "0,1,2", "width": "16,64,256"}
    )

    def search(count: int, done: list[Trial]) -> list[Trial]:
        while len(done) < count:
            setting = next_setting(parameters, done, trials=count, seed=3)
            size = int(setting["latent_dim"])
            bad = abs(math.log(float(setting["lr"]) / 1e-3)) + (setting["loss"] == "mae")
            made = point(len(done), mse=math.exp(bad) / size, row=float(size), size=100 * size)
            done.append(Trial(len(done), setting, 1.0, operations=1, points=(made,)))
        return done

    whole = search(40, [])
    assert len({tuple(trial.setting.items()) for trial in whole}) == 40
    assert [trial.setting for trial in whole] == [trial.setting for trial in search(40, whole[:15])]
    assert all(("width" in trial.setting) == (trial.setting["depth"] != "0") for trial in whole)
    assert all(2 <= int(trial.setting["latent_dim"]) <= 64 for trial in whole)
    assert all(1e-4 <= float(trial.setting["lr"]) <= 1e-2 for trial in whole)
    first, last = (
        [trial.setting["loss"] for trial in part].count("mse") / len(part) for part in (whole[:10], whole[10:])
    )
    assert last > first  # mae is worse in everything


@needs_optuna
def test_a_space_that_is_exhausted_ends_the_search() -> None:
    parameters = read_parameters({"latent_dim": "1..3"})
    done: list[Trial] = []
    while (setting := next_setting(parameters, done, trials=10, seed=0)) is not None:
        done.append(Trial(len(done), setting, 1.0, points=(point(len(done)),)))
    assert len(done) == 3


# what is picked


@given(st.lists(st.tuples(*[st.integers(1, 4)] * 4), min_size=1, max_size=12))
def test_the_front_is_what_nothing_dominates(costs: list[tuple[int, int, int, int]]) -> None:
    points = [point(index, mse, row, size, 2.0**latency) for index, (mse, row, size, latency) in enumerate(costs)]
    front = {each.trial for each in pareto_front(points)}
    for index, own in enumerate(costs):
        better = any(all(a <= b for a, b in zip(other, own, strict=True)) and other != own for other in costs)
        same = [each for each, other in enumerate(costs) if other == own]
        assert (index in front) == (not better and index == same[0])


def test_latencies_within_noise_do_not_make_a_model_worth_having() -> None:
    worse = point(1, mse=0.2, size=2000, latency=20.1)
    assert pareto_front([worse, point(0, latency=20.2)]) == [point(0, latency=20.2)]
    assert len(pareto_front([replace(worse, latency_us=15.0), point(0, latency=20.2)])) == 2


def test_the_smallest_that_meets_the_limits_is_picked_or_the_nearest_named() -> None:
    small, middle, large = point(0, 0.2, 4, 100), point(1, 0.1, 8, 200), point(2, 0.05, 16, 300)
    rough = replace(middle, dtype="int3", row_bytes=6.0, mse=0.11)
    front = [small, middle, rough, large]
    assert pick(front, Limits()) == (None, None)
    assert pick(front, Limits(max_mse=0.12)) == (rough, None)
    assert pick(front, Limits(max_mse=0.1)) == (middle, None)
    assert pick(front, Limits(max_mse=0.01)) == (None, large)
    assert pick(front, Limits(max_mse=0.04, max_bytes=200)) == (None, large)
    assert pick(front, Limits(max_mse=0.01, max_row_bytes=1)) == (None, middle)
    assert pick(front, Limits(max_latency_us=1.0, max_mse=0.15)) == (None, rough)


@pytest.mark.parametrize("limit", ["max_mse", "max_latency_us", "max_bytes", "max_row_bytes"])
def test_a_limit_is_positive(limit: str) -> None:
    with pytest.raises(InputError, match=f"{limit} must be more than 0"):
        Limits(**{limit: 0})


# the whole


def test_a_sweep_trains_measures_and_picks(found: tuple[Path, Sweep]) -> None:
    out, sweep = found
    assert sweep.stopped == "finished" and len(sweep.trials) == 3 and sweep.held_out == 180
    assert read_sweep(out) == sweep
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    points = [point for trial in sweep.trials for point in trial.points]
    assert len(points) == 6 and {point.dtype for point in points} == {"int8", "int3"}
    by = {(sweep.trials[each.trial - 1].setting["latent_dim"], each.dtype): each for each in points}
    assert by["2", "int3"].row_bytes < by["2", "int8"].row_bytes < by["12", "int8"].row_bytes < 64
    assert by["2", "int8"].model_bytes < by["12", "int8"].model_bytes < by["12", "int8"].bundle_bytes
    assert all(point.latency_us > 0 and point.rows_per_second > 0 for point in points)
    # digits are 0..16 and scaled to 0..1
    assert all(point.mse_in_units == pytest.approx(point.mse * 16**2, rel=1e-6) for point in points)
    small, large = (next(t for t in sweep.trials if t.setting["latent_dim"] == size) for size in ("2", "12"))
    assert 0 < small.operations < large.operations and small.latent_dim == 2


def test_what_is_picked_is_the_smallest_and_a_whole_bundle(found: tuple[Path, Sweep]) -> None:
    out, sweep = found
    assert sweep.best is not None and sweep.nearest is None
    assert sweep.best.model_bytes == min(point.model_bytes for point in sweep.front)
    assert not [check for check in verify_bundle(out / "best") if not check.passed]
    assert Bundle.read(out / "best").digest == Bundle.read(out / "trials" / str(sweep.best.trial) / "bundle").digest
    assert all((out / "trials" / str(number) / "run" / "model.json").is_file() for number in (1, 2, 3))


def test_the_error_is_that_of_a_latent_file(found: tuple[Path, Sweep]) -> None:
    out, sweep = found
    trial = sweep.trials[0]
    rows = np.load(out / "trials" / "1" / "run" / "reference.npz")["x_validation"]
    with edgeae.load(out / "trials" / "1" / "bundle", device="cpu") as model:
        plain = float(np.mean(np.square((model.reconstruct(rows) - rows) / 16.0)))
    exact, rough = sorted(trial.points, key=lambda each: -each.row_bytes)
    assert exact.mse == pytest.approx(plain, rel=2e-2) and exact.mse != pytest.approx(plain, rel=1e-9)
    assert rough.dtype == "int3" and exact.psnr is not None


def test_the_normalised_error_counts_each_feature_on_its_own_scale() -> None:
    with edgeae.load(GOLDEN / "table", device="cpu") as model:
        rows = np.tile(model.bundle.golden().x, (4, 1))
        coded = coded_size(model, rows, "float32")
        _, scale = model.manifest.normalisation.arrays(model.input_shape, model.manifest.input.layout)
        plain = (model.reconstruct(rows) - rows) / scale
    assert len(set(np.unique(scale))) > 1
    assert coded.normalised_error == pytest.approx(float(np.mean(np.square(plain))), rel=1e-4)


def test_a_sweep_that_is_resumed_goes_on_as_if_it_had_not_stopped(
    found: tuple[Path, Sweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, made = tmp_path / "out", 0

    def interrupted(trial: Trial, *arguments: Any, **options: Any) -> Trial:
        nonlocal made
        made += 1
        if made == 2:
            raise KeyboardInterrupt
        return make_trial(trial, *arguments, **options)

    monkeypatch.setattr(loop, "make_trial", interrupted)
    vary = {"latent_dim": (2, 5, 12)}
    stopped = edgeae.sweep("digits", out, vary=vary, **FEW)
    assert stopped.stopped == "interrupted" and len(stopped.trials) == 1 and stopped.front
    assert not (out / "trials" / "2").exists() and (out / "front.png").is_file()
    (out / "trials" / "2").mkdir()  # what a killed process leaves
    (out / "trials" / "2" / "run").write_text("torn")
    whole = edgeae.sweep("digits", out, resume=True, seconds=0.01, limits=Limits(max_mse=1e-9))
    assert whole.stopped == "finished"
    same = [[(point.mse, point.row_bytes) for point in trial.points] for trial in whole.trials]
    assert same == [[(point.mse, point.row_bytes) for point in trial.points] for trial in found[1].trials]
    assert whole.best is None and whole.nearest is not None and not (out / "best").exists()
    kept = {path.name for path in (out / "trials").iterdir()}
    assert kept == {str(point.trial) for point in whole.front} == {str(t.number) for t in whole.trials if t.kept}

    for options, said in (
        ({"vary": {"latent_dim": (2, 3)}}, "begun with another vary"),
        ({"latents": ("int5",)}, "begun with another latents"),
        ({"epochs": 7}, "epochs 7: the sweep was begun with 1"),
    ):
        with pytest.raises(InputError, match=said):
            edgeae.sweep("digits", out, resume=True, **options)
    with pytest.raises(InputError, match="other rows than these"):
        edgeae.sweep(load_data("digits").x[1:], out, resume=True)


def test_a_setting_that_fails_does_not_end_the_sweep(tmp_path: Path) -> None:
    vary = {"output_activation": ("linear", "sigmoid"), "latent_dim": (2,)}
    found = edgeae.sweep("digits", tmp_path / "out", vary=vary, loss="bce", **FEW)
    failed, made = sorted(found.trials, key=lambda trial: len(trial.points))
    assert failed.problem is not None and "needs output_activation 'sigmoid'" in failed.problem and made.points
    with pytest.raises(TrainingError, match="no trial succeeded; the first: latent_dim must be at least 1"):
        edgeae.sweep("digits", tmp_path / "none", vary={"latent_dim": (0,)}, **FEW)


def test_windows_of_a_series_can_be_swept(tmp_path: Path) -> None:
    series = np.sin(np.arange(400) / 5)[:, None] + np.random.default_rng(0).normal(0, 0.05, (400, 2))
    found = edgeae.sweep(series.astype(np.float32), tmp_path / "out", vary={"latent_dim": (2,)}, window=16, **FEW)
    assert found.row_bytes == 16 * 2 * 4 and found.front[0].psnr is not None


@needs_optuna
def test_a_sweep_with_optuna_ends_with_the_trials_it_may_make(tmp_path: Path) -> None:
    vary = {"lr": "1e-3..1e-2", "latent_dim": "2..12"}
    found = edgeae.sweep("digits", tmp_path / "out", vary=vary, trials=1, weights=("fp32", "int8"), **FEW)
    assert len(found.trials) == 1 and {point.weights for point in found.trials[0].points} == {"fp32", "int8"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trials": 0}, "trials must be at least 1"),
        ({"minutes": 0.0}, "minutes must be more than 0"),
        ({"seconds": math.inf}, "seconds must be more than 0"),
        ({"keep": "some"}, "keep 'some' is not one of front, all"),
        ({"latents": ("int9",)}, "'int9' is not one of"),
        ({"latents": ()}, "no type to store latents"),
        ({"weights": ("fp64",)}, "expected any of fp32"),
        ({"vary": {"latent_dim": (2,)}, "latent_dim": 4}, "latent_dim is given, and latent_dim is to be varied"),
        ({"vary": {"depth": (2,)}, "hidden": (4,)}, "hidden is given, and depth is to be varied"),
        ({"nonsense": 1}, "unknown training option 'nonsense'"),
    ],
)
def test_arguments_are_checked_before_anything_is_written(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        edgeae.sweep("digits", tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_rows_that_hold_nan_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    rows = np.zeros((20, 4), np.float32)
    rows[3, 2] = np.nan
    with pytest.raises(InputError, match=r"\[3, 2\] is missing"):
        edgeae.sweep(rows, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists already; use --force"):
        edgeae.sweep("digits", tmp_path / "out")
    with pytest.raises(InputError, match="other things in it"):
        edgeae.sweep("digits", tmp_path / "out", force=True)
    with pytest.raises(InputError, match="no such sweep"):
        edgeae.sweep("digits", tmp_path / "out", resume=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_the_time_that_is_up_begins_no_trial(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no trial is done; go on with --resume"):
        edgeae.sweep("digits", tmp_path / "out", vary={"latent_dim": (2,)}, minutes=1e-9, **FEW)
    assert read_sweep(tmp_path / "out").stopped == "time"


# the command


def test_the_command_prints_the_front_and_says_when_nothing_meets_the_limits(tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ("--vary", "latent-dim=2", "--epochs", "1", "--latents", "int8", "--seconds", "0.01")
    first = run("digits", "-o", out, *settings, "--max-bytes", "100000")
    assert "latent_dim" in first.stdout and "picked: trial 1, dense 64-2-64" in first.stderr
    assert "edgeae compress" in first.stderr and (out / "best" / "manifest.json").is_file()
    assert "exists already" in run("digits", "-o", out, *settings, fails=1).stderr
    again = run("digits", "-o", out, "--resume", "--seconds", "0.01", "--max-mse", "1e-9", "--json", fails=1)
    assert json.loads(again.stdout)["nearest"]["dtype"] == "int8"
    assert "no model meets the limits; the nearest misses --max-mse by a factor of" in again.stderr
    assert not (out / "best").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--vary", "latent_dim"], "expected NAME=VALUES"),
        (["--vary", "lr=1", "--vary", "lr=2"], "lr stands there twice"),
        (["--vary", "size=1"], "unknown parameter 'size'"),
        (["--max-mse", "-1"], "max_mse must be more than 0"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = run("digits", "-o", tmp_path / "out", *arguments, fails=1)
    assert said in result.stderr and len(result.stderr.splitlines()) == 1


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from edgeae.cli import main\n"
        "try: main(['sweep', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'onnxruntime', 'optuna', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
