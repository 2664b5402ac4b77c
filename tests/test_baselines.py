"""Simple baselines beside the model, and training on rows among which there are anomalies."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import edgeae
from edgeae.bundle.manifest import Normalisation
from edgeae.cli import main
from edgeae.data import Dataset
from edgeae.errors import InputError
from edgeae.evaluation import auroc, baselines
from edgeae.evaluation.baselines import Comparison, Detector, Reconstruction, compare_with_baselines, divide, take_some
from edgeae.evaluation.detection import compare_bundle, evaluate
from edgeae.export.score_fit import typical_errors, whiten
from edgeae.models import Autoencoder, ModelConfig, ObjectiveConfig
from edgeae.models.config import LossName
from edgeae.models.objective import TRIMMED_FROM, Objective
from edgeae.report import write_report
from edgeae.training import Run, TrainConfig, train

QUICK: dict[str, Any] = {"epochs": 6, "batch_size": 32, "threads": 1, "device": "cpu"}
PLAIN = Normalisation("none", (0.0,), (1.0,))

Array = np.ndarray[Any, Any]


def clusters(rows: int, seed: int = 0) -> Array:
    """Rows around three points: what lies between those is odd, and neighbours know it best. float32 [rows, 6]."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(0, 5, (3, 6))
    return (centres[generator.integers(0, 3, rows)] + 0.2 * generator.normal(size=(rows, 6))).astype(np.float32)


def between(rows: int) -> Array:
    """Rows on the lines between the points of `clusters`, where a linear model reconstructs well."""
    one, other = clusters(rows, seed=5), clusters(rows, seed=6)
    return (one + other) / 2 + 0.4


def compare(score: Any, reconstruct: Any, components: int = 2, anomalous: Array | None = None) -> Comparison:
    odd = between(60) if anomalous is None else anomalous
    found = compare_with_baselines(
        clusters(300),
        clusters(200, seed=1),
        odd,
        score=score,
        reconstruct=reconstruct,
        normalisation=PLAIN,
        layout="vector",
        components=components,
    )
    assert found is not None
    return found


def test_a_baseline_that_is_better_is_named_with_both_figures() -> None:
    found = compare(lambda rows: np.square(rows).mean(axis=1), np.zeros_like)
    own, best, *_ = found.detectors
    assert best.auroc > own.auroc + 0.1 and "5 nearest neighbours" in [each.name for each in found.better]
    assert not found.wins and found.better[0] == best
    first, second = found.sentences()
    verb = "are" if best.name == "5 nearest neighbours" else "is"
    assert first.startswith(f"{best.name} {verb} better here: AUROC {best.auroc:.3f} against {own.auroc:.3f} of")
    assert "(200 normal rows, 60 anomalies)" in first
    assert "the mean row reconstructs as well as the model" in second


def test_a_model_that_is_better_is_said_to_be() -> None:
    points = np.random.default_rng(9).normal(0, 5, (3, 6))

    def nearest(rows: Array) -> Array:
        return np.asarray(points[np.square(rows[:, None] - points).sum(axis=2).argmin(axis=1)])

    weak = clusters(300)
    weak[:, 0] += 100  # what all detectors see at once, PCA too
    found = compare(lambda rows: np.square(rows - nearest(rows)).mean(axis=1), nearest, components=1, anomalous=weak)
    assert found.detectors[0].auroc == 1.0 and not found.better
    assert found.sentences()[0].startswith("this model is no better than its best baseline")
    assert found.reconstruction.pca is not None and found.reconstruction.model < found.reconstruction.pca
    wins = Comparison(9, 9, 9, 1, found.reconstruction, (Detector("it", 0.9, 0.5), Detector("PCA", 0.8, 0.4)))
    assert wins.wins and wins.sentences()[0].startswith("it beats its baselines: AUROC 0.900 against 0.800 PCA")


def test_without_labels_pca_of_the_latent_size_and_the_mean_are_the_measure() -> None:
    def halved(rows: Array) -> Array:
        return rows / 2

    rows = clusters(300)
    options: dict[str, Any] = {"score": None, "reconstruct": halved, "normalisation": PLAIN, "layout": "vector"}
    found = compare_with_baselines(rows[:150], rows[150:], None, components=2, **options)
    assert found is not None and found.detectors == () and found.anomalies == 0
    assert found.reconstruction.pca is not None and found.reconstruction.pca < 0.1 < found.reconstruction.model
    assert not found.wins and found.sentences()[0].startswith("PCA with 2 components reconstructs better")
    wide = compare_with_baselines(rows[:150], rows[150:], None, components=6, **options)
    assert wide is not None and wide.reconstruction.pca is None  # PCA would keep all
    assert Comparison(9, 9, 0, 2, Reconstruction(0.1, 0.2, 1.0), ()).wins


@pytest.mark.parametrize("rows", [0, 9])
def test_too_few_rows_say_nothing(rows: int) -> None:
    x = clusters(rows)
    given: dict[str, Any] = {"score": None, "reconstruct": np.copy, "normalisation": PLAIN, "layout": "vector"}
    assert compare_with_baselines(clusters(50), x, None, components=2, **given) is None
    assert compare_with_baselines(x, clusters(50), None, components=2, **given) is None


def test_a_network_that_diverged_and_rows_that_are_not_finite_are_left_out() -> None:
    x = clusters(60)
    x[3, 2] = np.nan
    given: dict[str, Any] = {"score": None, "normalisation": PLAIN, "layout": "vector", "components": 2}
    found = compare_with_baselines(x, x, None, reconstruct=np.copy, **given)
    assert found is not None and (found.fitted, found.rows) == (59, 59)
    assert compare_with_baselines(x, x, None, reconstruct=lambda rows: rows * np.nan, **given) is None


def test_the_work_is_bounded_whatever_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(take_some(np.zeros((50, 3)), np.arange(50), 20)) == 20
    monkeypatch.setattr(baselines, "NUMBERS", 30)
    some = take_some(np.arange(150).reshape(50, 3), np.arange(50), 20)
    assert some.shape == (10, 3) and (np.diff(some[:, 0]) > 0).all()
    fitted, scored = divide(np.arange(101), ordered=False)
    assert sorted([*fitted, *scored]) == list(range(101)) and not np.array_equal(fitted, np.arange(50))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clusters with rows between them, labelled 1."""
    path = tmp_path_factory.mktemp("labelled") / "rows.npz"
    np.savez(path, x=np.concatenate([clusters(400), between(60)]), y=np.repeat([0, 1], [400, 60]))
    return path


@pytest.fixture(scope="module")
def trained(labelled: Path) -> Run:
    return train(labelled, labelled.parent / "run", latent_dim=2, **QUICK)


def test_train_export_evaluate_and_report_say_who_is_better(
    labelled: Path, trained: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beside = Run.load(trained.path).results.baselines
    assert beside == trained.results.baselines and beside is not None
    assert "5 nearest neighbours" in [each.name for each in beside.better]
    with caplog.at_level(logging.INFO, logger="edgeae"):
        edgeae.export_bundle(trained, tmp_path / "bundle", score="mse")
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    (line,) = (line for line in warned if "better here: AUROC" in line)
    assert "5 nearest neighbours" in line and "of the score mse" in line
    arguments = ["evaluate", str(tmp_path / "bundle"), str(labelled), "--resamples", "100", "--run", str(trained.path)]
    printed = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)["baselines"]
    assert printed["fitted"] == 360 and printed["rows"] == 400 and printed["anomalies"] == 60
    assert "better here: AUROC" in CliRunner().invoke(main, arguments).stdout
    own = evaluate(tmp_path / "bundle", labelled, device="cpu", resamples=100).baselines
    assert own is not None and (own.fitted, own.rows) == (200, 200)
    facts = write_report(tmp_path / "bundle", labelled, tmp_path / "r.html", run=trained.path)
    assert facts.baselines is not None and facts.baselines.fitted == 360
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "Beside simple baselines" in page and "better here: AUROC" in page


def test_rows_of_another_run_are_refused(trained: Run, labelled: Path, tmp_path: Path) -> None:
    edgeae.export_bundle(trained, tmp_path / "bundle")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(InputError, match=r"reference\.npz: cannot be read"):
        evaluate(tmp_path / "bundle", labelled, device="cpu", resamples=100, run=other)
    np.savez(other / "reference.npz", x_train=np.zeros((30, 5), np.float32))
    with pytest.raises(InputError, match="give its own run"):
        evaluate(tmp_path / "bundle", labelled, device="cpu", resamples=100, run=other)
    (other / "reference.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"not a readable \.npz"):
        evaluate(tmp_path / "bundle", labelled, device="cpu", resamples=100, run=other)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "bce", "ssim"])
@pytest.mark.parametrize("bottleneck", ["plain", "variational"])
def test_the_rows_with_the_largest_losses_are_left_out(loss: LossName, bottleneck: Any) -> None:
    torch.manual_seed(0)
    shape, layout = ((8, 8), "HW") if loss == "ssim" else ((12,), "vector")
    model = Autoencoder(
        ModelConfig(shape, layout, 3, bottleneck=bottleneck, latent_activation="linear", output_activation="sigmoid")  # type: ignore[arg-type]
    )
    x = 0.5 + 0.01 * torch.rand(20, *shape)
    x[:2] = torch.rand(2, *shape).round()
    plain, trimmed = (Objective(model, ObjectiveConfig(loss=loss, trim=trim)) for trim in (0.0, 0.1))
    torch.manual_seed(1)
    _, whole = plain(x)
    torch.manual_seed(1)
    _, kept = trimmed(x)
    torch.manual_seed(1)
    _, early = trimmed(x, TRIMMED_FROM / 2)
    assert early == pytest.approx(float(whole), rel=1e-5)
    assert kept < whole or loss == "bce"  # whose loss of grey values is large however well they are reconstructed
    if bottleneck == "plain":
        assert kept == pytest.approx(float(plain(x[2:])[1]), rel=1e-5)
        trimmed(x)[0].backward()


def contaminated() -> tuple[Array, Array]:
    """Six values on a line, among them a twelfth of rows that lie far off it, all in one direction."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(480, 1)) * np.linspace(1, 2, 6) + 0.1 * generator.normal(size=(480, 6))
    odd = np.zeros(480, bool)
    odd[::12] = True
    rows[odd] += 6 * np.array([1, -1, 1, -1, 1, -1])
    return rows.astype(np.float32), odd


def test_trimming_keeps_anomalies_among_the_training_rows_from_being_learnt(tmp_path: Path) -> None:
    rows, odd = contaminated()
    areas = {}
    for trim in (0.0, 0.1):
        run = train(rows, tmp_path / f"run{trim}", latent_dim=2, hidden=(16,), trim=trim, **QUICK | {"epochs": 40})
        assert Run.load(run.path).objective.trim == Run.load(run.path).options.trim == trim
        bundle = edgeae.export_bundle(run, tmp_path / f"bundle{trim}", score="mahalanobis")
        with edgeae.load(bundle.path, device="cpu") as model:
            scores = model.score(rows)
        areas[trim] = auroc(scores[~odd], scores[odd]), np.median(scores[odd] / np.median(scores))
    assert areas[0.1][0] > 0.99 and areas[0.1][1] > 3 * areas[0.0][1]


def test_trimming_goes_on_where_a_run_does(tmp_path: Path) -> None:
    rows, _ = contaminated()
    whole = train(rows, tmp_path / "whole", latent_dim=2, trim=0.1, schedule="constant", **QUICK)
    train(rows, tmp_path / "part", latent_dim=2, trim=0.1, schedule="constant", **QUICK | {"epochs": 3})
    with pytest.raises(InputError, match=r"trim was 0\.1"):
        train(rows, tmp_path / "part", resume=True, trim=0.2, epochs=6)
    resumed = train(rows, tmp_path / "part", resume=True, epochs=6)
    assert resumed.objective.trim == 0.1 and resumed.options.trim == 0.1 and whole.results.epochs == 6
    assert len(resumed.model.state_dict()) == len(whole.model.state_dict())


def test_trim_is_an_option_of_the_toml_file_and_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text("trim = 0.05\n")
    assert TrainConfig.from_toml(tmp_path / "train.toml").trim == 0.05
    with pytest.raises(InputError, match="trim must be a share of the rows"):
        train(clusters(60), tmp_path / "run", trim=0.5)
    assert "--trim X" in CliRunner().invoke(main, ["train", "--help"]).output


def test_the_statistics_of_a_score_leave_out_what_lies_far() -> None:
    rows, odd = contaminated()
    kept = typical_errors(rows.astype(float), 0.1)
    assert len(kept) == 432 and not odd[kept].any()
    assert np.abs(whiten(rows[kept])[0] - rows[~odd].mean(axis=0)).max() < 0.2


def test_a_series_is_compared_on_its_later_half() -> None:
    bundle = Path(__file__).parents[1] / "export" / "golden" / "windows"
    if not bundle.exists():
        pytest.skip("export/golden/windows is missing")
    with edgeae.load(bundle, device="cpu") as model:
        length, channels = model.input_shape
        series = np.random.default_rng(0).normal(size=(60 * length, channels)).astype(np.float32)
        windows = Dataset(series.reshape(60, length, channels), None, "TC", steps=np.arange(60))
        found = compare_bundle(model, windows)
    assert found is not None and (found.fitted, found.rows, found.detectors) == (30, 30, ())
