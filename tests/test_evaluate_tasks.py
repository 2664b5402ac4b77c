"""`edgeae evaluate --task features` and `--task denoise`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import edgeae
from edgeae.bundle.manifest import Layout
from edgeae.cli import main
from edgeae.data import Dataset, load_data
from edgeae.errors import InputError
from edgeae.evaluation.denoise import NOISES, Noise, add_noise, evaluate_denoising
from edgeae.evaluation.features import evaluate_features, probe
from edgeae.evaluation.intervals import clopper_pearson
from edgeae.evaluation.pictures import psnr, ssim
from tests.bundles import Recipe, make_bundle
from tests.make_golden import GOLDEN
from tests.test_borders import blocked, run

Array = np.ndarray[Any, Any]
DIGITS = GOLDEN / "convolutional"


def test_a_probe_is_what_scikit_learn_makes_of_it() -> None:
    generator = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = generator.normal(0, 1, (300, 4)) * [1, 1, 1, 50] + np.eye(3)[y] @ generator.normal(0, 2, (3, 4))
    found = probe(x, y, 200)
    scaler = StandardScaler().fit(x[:200])
    linear = LogisticRegression(max_iter=1000).fit(scaler.transform(x[:200]), y[:200])
    hits = int((linear.predict(scaler.transform(x[200:])) == y[200:]).sum())
    assert found.linear.value == hits / 100
    assert (found.linear.low, found.linear.high) == clopper_pearson(hits, 100)
    assert found.neighbours.value == KNeighborsClassifier(5).fit(x[:200], y[:200]).score(x[200:], y[200:])
    assert 50 < 100 * found.linear.value < 100


def test_latents_that_are_the_classes_are_better_than_pca_and_noise_is_chance() -> None:
    generator = np.random.default_rng(1)
    y = np.arange(400) % 4
    assert probe(np.eye(4)[y], y, 300).linear.value == 1
    chance = probe(generator.normal(0, 1, (400, 4)), y, 300)
    for each in (chance.linear, chance.neighbours):
        assert each.value is not None and abs(each.value - 0.25) < 0.15


def test_features_are_compared_on_the_same_rows_at_every_precision() -> None:
    found = evaluate_features(DIGITS, "digits", device="cpu", rows=400, seed=3)
    assert (found.classes, found.trained, found.tested) == (10, 280, 120)
    assert list(found.precisions) == ["fp32", "fp16", "int8"]
    assert (found.rows.size, found.pca.size, found.precisions["int8"].size) == (64, 6, 6)
    assert found.rows.linear.value is not None and found.rows.linear.value > 0.9 > found.largest_class > 0.09
    again, other = (evaluate_features(DIGITS, "digits", device="cpu", rows=400, seed=seed) for seed in (3, 4))
    assert again == found != other


@pytest.mark.parametrize(
    ("labels", "rows", "words"),
    [
        (None, 100, "has no labels"),
        (np.zeros(20, int), 100, "two classes"),
        (np.r_[np.arange(19) % 2, 7], 100, "class 7 has one row"),
        (np.arange(20) % 10, 19, "19 rows are too few to fit and test 10 classes; give at least 20"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: Array | None, rows: int, words: str) -> None:
    data = Dataset(load_data("digits").x[:20], labels, "HW")
    with pytest.raises(InputError, match=words):
        evaluate_features(DIGITS, data, device="cpu", rows=rows)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((14, 17), "HW"), ((11, 11), "HW"), ((8, 20), "HW"), ((3, 4), "HW"), ((3, 12, 13), "CHW"), ((12, 13, 3), "HWC")],
)
def test_ssim_is_the_one_that_training_can_minimise(shape: tuple[int, ...], layout: Layout) -> None:
    torch = pytest.importorskip("torch")
    from edgeae.models.losses import ssim as trained

    x, y = np.random.default_rng(0).random((2, 5, *shape))
    wanted = trained(torch.from_numpy(x), torch.from_numpy(y), layout=layout).mean()
    assert ssim(x, y, layout) == pytest.approx(float(wanted), abs=1e-9)


def test_psnr_is_none_where_nothing_differs() -> None:
    x = np.random.default_rng(0).random((3, 4))
    assert psnr(x, x) is None
    assert psnr(x, x + 0.01) == pytest.approx(40)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("kind", NOISES)
def test_noise_is_as_strong_as_its_level_says(kind: Noise, dtype: type) -> None:
    x: Array = np.full((200, 100), 100, dtype)
    low, high, zero = (np.full(100, value, np.float32) for value in (20, 220, 50))
    noisy = add_noise(x, kind, 0.1, low=low, high=high, zero=zero, clip=False, seed=1)
    assert noisy.dtype == dtype and noisy.shape == x.shape
    change = noisy.astype(float) - 100
    if kind == "gaussian":
        assert change.std() == pytest.approx(20, rel=0.02) and abs(change.mean()) < 1
    else:
        assert (change != 0).mean() == pytest.approx(0.1, rel=0.05)
        assert set(np.unique(noisy)) == ({20, 100, 220} if kind == "salt_and_pepper" else {50, 100})
    assert np.array_equal(noisy, add_noise(x, kind, 0.1, low=low, high=high, zero=zero, clip=False, seed=1))


@pytest.mark.parametrize(("kind", "level"), [("rain", 0.1), ("masking", 1.5), ("gaussian", 0), ("masking", np.nan)])
def test_noise_that_is_none_is_refused(kind: Any, level: float) -> None:
    with pytest.raises(InputError, match="is no"):
        add_noise(
            np.ones((1, 2), np.float32), kind, level, low=np.zeros(2), high=np.ones(2), zero=np.zeros(2), clip=True
        )


def test_what_a_denoiser_restores_is_measured_against_the_clean_rows() -> None:
    found = evaluate_denoising(GOLDEN / "denoising", "digits", device="cpu", noise=["gaussian"], levels=[0.5], rows=200)
    assert (found.rows, found.fitted, found.components) == (100, 100, 8)
    clean, noisy = found.levels
    assert clean.noise == "none" and clean.noisy.psnr is None and clean.noisy.ssim == pytest.approx(1)
    assert list(noisy.baselines) == ["PCA", "median filter", "Gaussian filter"]
    # by hand, from the rows and the noise that the seed gives
    generator = np.random.default_rng(0)
    x = load_data("digits").x
    clean_rows = x[np.sort(generator.choice(len(x), 200, replace=False)[100:])]
    low, high, zero = (np.full((1, 1), value, np.float32) for value in (0, 16, 0))
    seed = int(generator.integers(2**63))
    rows = add_noise(clean_rows, "gaussian", 0.5, low=low, high=high, zero=zero, clip=True, seed=seed)
    with edgeae.load(GOLDEN / "denoising", device="cpu") as model:
        restored = model.reconstruct(rows)
    error = np.mean(np.square((restored - clean_rows.astype(float)) / 16))
    assert noisy.precisions["fp32"].psnr == pytest.approx(-10 * np.log10(error))
    error = np.mean(np.square((rows.astype(float) - clean_rows) / 16))
    assert noisy.noisy.psnr == pytest.approx(-10 * np.log10(error))


@pytest.mark.parametrize(
    ("shape", "layout", "filtered"),
    [((12,), "vector", 0), ((8, 3), "TC", 2), ((2, 6, 6), "CHW", 2), ((6, 6, 2), "HWC", 2)],
)
def test_rows_of_every_layout_are_restored(
    tmp_path: Path, shape: tuple[int, ...], layout: Layout, filtered: int
) -> None:
    network = make_bundle(tmp_path / "bundle", Recipe(shape, layout, shift=0.0, scale=1.0))
    x = network.rows(80)
    x[..., 0] = 2.0  # a constant feature or channel has no range, and takes no noise
    found = evaluate_denoising(tmp_path / "bundle", x, device="cpu", rows=60)
    assert len(found.levels) == 10 and all(len(each.baselines) == 1 + filtered for each in found.levels)
    assert all((each.noisy.ssim is not None) == (len(shape) == 3) for each in found.levels)
    for kind in NOISES:  # more noise, farther away
        figures = [each.noisy.psnr for each in found.levels if each.noise == kind]
        assert None not in figures and figures == sorted(figures, reverse=True)  # type: ignore[type-var]


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(InputError, match="3 rows are too few"):
        evaluate_denoising(GOLDEN / "denoising", "digits", device="cpu", rows=3)


@pytest.mark.parametrize("task", ["features", "denoise"])
def test_the_command_says_the_same_in_json_and_in_the_table(task: str) -> None:
    arguments = ["evaluate", str(DIGITS), "digits", "--task", task, "--rows", "300", "--device", "cpu"]
    plain, as_json = (CliRunner().invoke(main, [*arguments, *extra]) for extra in ([], ["--json"]))
    assert plain.exit_code == as_json.exit_code == 0, plain.output + as_json.output
    found = json.loads(as_json.stdout)
    if task == "features":
        assert f"{found['precisions']['int8']['linear']['value']:.3f} (" in plain.stdout
        assert f"{found['pca']['neighbours']['value']:.3f} (" in plain.stdout
    else:
        line = next(line for line in plain.stdout.splitlines() if line.split()[:2] == ["salt_and_pepper", "0.25"])
        level = next(each for each in found["levels"] if (each["noise"], each["level"]) == ("salt_and_pepper", 0.25))
        cells = [level["noisy"], *level["precisions"].values(), *level["baselines"].values()]
        assert line.split()[2:] == [f"{cell['psnr']:.3g}" for cell in cells]


@pytest.mark.parametrize(
    ("task", "option"), [("denoise", "--at"), ("features", "--levels"), ("detect", "--rows"), ("features", "--run")]
)
def test_options_of_another_task_are_a_usage_error(task: str, option: str) -> None:
    result = CliRunner().invoke(main, ["evaluate", str(DIGITS), "digits", "--task", task, option, "1"])
    assert result.exit_code == 2 and f"{option} is not for --task {task}" in result.output


@pytest.mark.parametrize(("module", "call"), [("features", "evaluate_features"), ("denoise", "evaluate_denoising")])
def test_neither_needs_pytorch(module: str, call: str) -> None:
    code = blocked("torch", "onnx") + (
        f"from edgeae.evaluation.{module} import {call}\n"
        f"print({call}({str(DIGITS)!r}, 'digits', device='cpu', rows=100).data)"
    )
    assert run(code).strip() == "digits"
