"""Training: defaults, the loop, run directories, resuming, and what goes wrong."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeae.training.fit
import edgeae.training.rows
import edgeae.training.trainer
from benchmarks.training_epoch import main as benchmark
from edgeae.bundle.manifest import Normalisation
from edgeae.data import Dataset, normalise
from edgeae.errors import DeviceError, InputError, TrainingError
from edgeae.training import Run, TrainConfig, train
from edgeae.training.config import PRESETS, VariantName
from edgeae.training.defaults import Facts, check_range, resolve
from edgeae.training.loop import epochs, learning_rate, mixed_seed
from edgeae.training.progress import Epoch
from edgeae.training.resume import merge_options
from edgeae.training.rows import Rows, batches
from edgeae.training.run import REFERENCE_ROWS, sample_reference

MNIST = Facts(54_000, (28, 28), "HW", whole_numbers=True, minimum=0, maximum=255)
TABLE = Facts(2_000, (12,), "vector", whole_numbers=False, minimum=-3, maximum=5)
WINDOWS = replace(TABLE, shape=(40, 3), layout="TC")
QUICK: dict[str, Any] = {"epochs": 4, "batch_size": 32, "threads": 1, "device": "cpu"}

Array = np.ndarray[Any, Any]


def blobs(rows: int = 160) -> Array:
    """Images of one bright spot: uint8 [rows, 8, 8]."""
    generator = np.random.default_rng(0)
    grid = np.arange(8)
    centres = generator.uniform(1, 6, (rows, 2, 1))
    profile = np.exp(-((grid - centres) ** 2) / 2)  # [rows, 2, 8]
    return (255 * profile[:, 0, :, None] * profile[:, 1, None, :]).astype(np.uint8)


def table(rows: int = 160) -> Array:
    """Six correlated columns: float32 [rows, 6]."""
    generator = np.random.default_rng(0)
    mixed = generator.normal(size=(rows, 2)) @ generator.normal(size=(2, 6))
    return (10 + 3 * mixed + 0.1 * generator.normal(size=(rows, 6))).astype(np.float32)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return run.model.state_dict()


def same(one: Run, other: Run) -> bool:
    mine, theirs = weights(one), weights(other)
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def history(run: Run) -> list[dict[str, str]]:
    with open(run.path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"]
    return rows


# defaults


def test_the_classic_network_is_the_default_for_images() -> None:
    plan = resolve(TrainConfig(), MNIST)
    assert plan.model.describe() == "dense 784-64-784, relu latent, sigmoid output"
    assert (plan.options.normalise, plan.options.loss, plan.options.epochs) == ("minmax", "mse", 10)


@pytest.mark.parametrize(
    ("variant", "facts"),
    [
        (variant, facts)
        for variant in PRESETS
        for facts in (MNIST, TABLE, WINDOWS)
        if (variant, facts) != ("convolutional", TABLE)
    ],
)
def test_resolving_leaves_nothing_open_and_is_stable(variant: VariantName, facts: Facts) -> None:
    plan = resolve(TrainConfig(variant=variant), facts)
    # these say how to read the data, or belong to another bottleneck
    may_be_open = {"layout", "label_column", "columns", "data_dir", "window", "time", "resample", "threads"}
    may_be_open |= set() if variant == "sparse" else {"sparsity", "sparsity_target", "sparsity_weight"}
    still_open = {field.name for field in fields(TrainConfig) if getattr(plan.options, field.name) is None}
    assert still_open <= may_be_open
    assert resolve(plan.options, facts) == plan


def test_sizes_follow_the_data() -> None:
    assert resolve(TrainConfig(variant="sparse"), MNIST).model.latent_dim == 1568
    assert resolve(TrainConfig(variant="sparse"), MNIST).model.active_units == 64
    assert (
        resolve(TrainConfig(variant="convolutional"), MNIST)
        .model.describe()
        .startswith("convolutional 28x28 (HW), 32, 64 channels, 32 latent")
    )
    large = Facts(5_000, (3, 224, 160), "CHW", whole_numbers=True, minimum=0, maximum=255)
    assert resolve(TrainConfig(variant="convolutional"), large).model.hidden == (32, 64, 128, 256, 256)
    for values in (1, 2, 3, 6, 64, 640):
        model = resolve(TrainConfig(), replace(TABLE, shape=(values,))).model
        assert 1 <= model.latent_dim <= max(1, values // 2 + 1)
    few = resolve(TrainConfig(), replace(TABLE, rows=50)).options
    assert few.batch_size == 16 and few.epochs == 300


def test_outputs_follow_the_data() -> None:
    assert resolve(TrainConfig(), TABLE).model.output_activation == "linear"
    assert resolve(TrainConfig(), TABLE).options.normalise == "standard"
    assert resolve(TrainConfig(loss="bce"), TABLE).options.normalise == "minmax"
    assert resolve(TrainConfig(loss="bce"), TABLE).model.output_activation == "sigmoid"
    floats = Facts(1000, (9, 9), "HW", whole_numbers=False, minimum=0.0, maximum=1.0)
    assert resolve(TrainConfig(), floats).model.output_activation == "linear"
    assert resolve(TrainConfig(normalise="none"), floats).model.output_activation == "sigmoid"
    assert resolve(TrainConfig(variant="variational"), MNIST).objective.loss == "bce"
    assert resolve(TrainConfig(variant="variational"), TABLE).objective.loss == "mse"
    assert resolve(TrainConfig(), MNIST).objective.beta == 0


@pytest.mark.parametrize(
    ("options", "facts", "words"),
    [
        ({"variant": "vae"}, MNIST, "variational"),
        ({"latent_dim": 0}, MNIST, "latent_dim must be at least 1"),
        ({"hidden": (5, 0)}, MNIST, "hidden"),
        ({"lr": 0.0}, MNIST, "lr must be more than 0"),
        ({"dropout": 1.0}, MNIST, "dropout"),
        ({"validation": 0.0}, MNIST, "validation"),
        ({"l1": -1.0}, MNIST, "l1"),
        ({"beta_warmup": 2.0}, MNIST, "beta_warmup"),
        ({"noise": "masking", "noise_level": 3.0}, MNIST, "noise_level"),
        ({"noise_level": 0.1}, MNIST, "choose noise"),
        ({"variant": "convolutional"}, TABLE, "architecture 'dense'"),
        ({"variant": "convolutional", "hidden": ()}, MNIST, "at least one stage"),
        ({"sparsity": "kl"}, MNIST, "add variant 'sparse'"),
        ({"variant": "sparse", "sparsity": "l1", "sparsity_target": 0.1}, MNIST, "sparsity_weight"),
        ({"variant": "sparse", "sparsity_weight": 0.1}, MNIST, "sparsity_target"),
        ({"variant": "sparse", "sparsity_target": 1.5}, MNIST, "between 0 and 1"),
        ({"variant": "sparse", "sparsity": "kl", "latent_activation": "relu"}, MNIST, "sigmoid"),
        ({"variant": "variational", "latent_activation": "relu"}, MNIST, "Gaussian"),
        ({"loss": "bce", "output_activation": "linear"}, MNIST, "sigmoid"),
        ({"loss": "ssim"}, TABLE, "use mse"),
        ({"loss": "ssim"}, replace(MNIST, shape=(2, 28)), "at least 3x3"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_the_remedy(options: dict[str, Any], facts: Facts, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        resolve(TrainConfig(**options), facts)
    assert "\n" not in str(caught.value)


def test_bce_outside_0_to_1_is_refused_with_the_remedy() -> None:
    plan = resolve(TrainConfig(loss="bce", normalise="standard"), TABLE)
    with pytest.raises(InputError, match=r"loss bce needs values in 0\.\.1.*use normalise 'minmax'"):
        check_range(plan, -2.5, 3.0)
    plan = check_range(resolve(TrainConfig(), TABLE), -2.5, 3.0)
    assert (plan.objective.low, plan.objective.high) == (-2.5, 3.0)


@pytest.mark.parametrize("scale", [1.0, 0.1, 1 / 3, 1e6])
def test_bce_takes_any_table_that_is_scaled_to_0_to_1(scale: float, tmp_path: Path) -> None:
    run = train(table() * np.float32(scale), tmp_path / "run", **QUICK, loss="bce")
    assert run.config.output_activation == "sigmoid" and run.results.validation_loss > 0


def test_options_are_read_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text('variant = "sparse"\nhidden = [32, 16]\nlr = 1\n')
    assert TrainConfig.from_toml(file) == TrainConfig(variant="sparse", hidden=(32, 16), lr=1.0)
    for text, words in [("epoch = 3", "unknown key 'epoch'"), ('epochs = "3"', "whole number"), ("epochs", "TOML")]:
        file.write_text(text)
        with pytest.raises(InputError, match=words):
            TrainConfig.from_toml(file)
    with pytest.raises(InputError, match="cannot be read"):
        TrainConfig.from_toml(tmp_path / "absent.toml")
    with pytest.raises(InputError, match="unknown training option 'latents'"):
        TrainConfig().with_options(latents=3)


def test_options_and_defaults_need_no_pytorch() -> None:
    program = (
        "import sys; from edgeae.training import TrainConfig; import edgeae.training.defaults, edgeae.models; "
        "TrainConfig(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# the pieces of the loop


@given(rows=st.integers(1, 90), size=st.integers(1, 40), world=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_batches_cover_all_rows_evenly(rows: int, size: int, world: int) -> None:
    order = torch.randperm(rows)
    shares = [batches(order, size, rank=rank, world=world) for rank in range(world)]
    counts = [[len(part) for part in share] for share in shares]
    assert all(count == counts[0] for count in counts)
    assert set(torch.cat([part for share in shares for part in share]).tolist()) == set(range(rows))
    assert sum(counts[0]) * world < rows + world
    if len(counts[0]) > 1 and size >= 2 * world:
        assert min(counts[0]) > 1


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_learning_rates_stay_between_zero_and_their_peak(schedule: Any) -> None:
    rates = [learning_rate(0.5, schedule, done) for done in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(0.5) and min(rates) >= 0
    peak = int(np.argmax(rates))
    assert peak == (30 if schedule == "onecycle" else 0)
    assert all(one >= other for one, other in zip(rates[peak:], rates[peak + 1 :], strict=False))
    assert rates[-1] == pytest.approx(0.5 if schedule == "constant" else 0)


def test_seeds_are_mixed() -> None:
    seeds = {mixed_seed(seed, epoch) for seed in range(20) for epoch in range(20)}
    assert len(seeds) == 400 and all(0 <= seed < 2**63 for seed in seeds)


def test_rows_too_large_for_float32_are_normalised_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    normalisation = Normalisation("standard", (40.0,), (60.0,))
    at_once = Rows(blobs(), normalisation, "HW", torch.device("cpu"))
    monkeypatch.setattr(edgeae.training.rows, "FLOAT_BYTES", 0)
    by_batch = Rows(blobs(), normalisation, "HW", torch.device("cpu"))
    index = torch.tensor([3, 99, 3])
    torch.testing.assert_close(by_batch.take(index), at_once.take(index))
    np.testing.assert_array_equal(at_once.take(index).numpy(), normalise(blobs()[[3, 99, 3]], normalisation, "HW"))


def test_small_models_train_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = QUICK | {"epochs": 1, "threads": None}
    assert train(blobs(), tmp_path / "small", **options).options.threads == 1
    monkeypatch.setattr(edgeae.training.trainer, "ONE_THREAD_FLOPS", 0.0)
    assert train(blobs(), tmp_path / "large", **options).options.threads == torch.get_num_threads()
    assert train(blobs(), tmp_path / "told", **(options | {"threads": 1})).options.threads == 1


# runs

COMBINATIONS: dict[str, dict[str, Any]] = {
    "dense": {},
    "denoising": {"variant": "denoising"},
    "sparse topk": {"variant": "sparse"},
    "sparse kl": {"variant": "sparse", "sparsity": "kl"},
    "sparse l1": {"variant": "sparse", "sparsity": "l1"},
    "variational": {"variant": "variational"},
    "convolutional": {"variant": "convolutional", "hidden": (4, 8)},
    "mlperf-tiny-ad": {"variant": "mlperf-tiny-ad"},
    "convolutional denoising": {"variant": "convolutional", "noise": "salt_and_pepper", "hidden": (4,), "dropout": 0.1},
    "convolutional variational": {"variant": "variational", "architecture": "convolutional", "hidden": (4, 8)},
    "ssim": {"loss": "ssim", "l2": 1e-6},
    "mixed": {"precision": "bf16-mixed", "clip_norm": 1.0, "optimizer": "adamw", "batch_norm": True},
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_combination_trains_and_loads_back(name: str, tmp_path: Path) -> None:
    run = train(blobs(), tmp_path / "run", **(QUICK | {"epochs": 8} | COMBINATIONS[name]))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run"]
    assert {file.name for file in run.path.iterdir()} == {
        "model.json", "model.safetensors", "history.csv", "resume.pt", "reference.npz"
    }  # fmt: skip
    losses = [float(row["validation_loss"]) for row in history(run)]
    assert len(losses) == 8
    best = min(losses) if run.config.bottleneck != "variational" else losses[-1]
    assert best < losses[0]
    assert run.results.stopped == "finished"
    assert losses[run.results.best_epoch - 1] == min(losses)
    loaded = Run.load(run.path)
    assert same(loaded, run) and loaded.results == run.results and loaded.options == run.options
    assert loaded.provenance.rows == 144 and loaded.input_dtype == "uint8"
    assert (loaded.minimum, loaded.maximum) == (float(blobs().min()), float(blobs().max()))
    assert len(loaded.reference.x_train) == 144 and loaded.reference.x_validation.dtype == np.uint8
    rows = torch.from_numpy(normalise(loaded.reference.x_validation, loaded.normalisation, "HW"))
    with torch.no_grad():
        error = float((loaded.model(rows) - rows).square().mean())
    assert error == pytest.approx(run.results.validation_mse, rel=1e-4)
    assert (run.results.active_share is not None) == (run.config.bottleneck == "sparse")
    assert (run.results.active_units is not None) == (run.config.bottleneck == "variational")


@pytest.mark.parametrize("sparsity", ["topk", "kl"])
def test_a_sparse_latent_keeps_its_target(sparsity: str, tmp_path: Path) -> None:
    options = {"variant": "sparse", "sparsity": sparsity, "sparsity_target": 0.1, "latent_dim": 100, "epochs": 60}
    run = train(blobs(), tmp_path / "run", **(QUICK | options))
    assert run.results.active_share == pytest.approx(0.1, rel=0.2)


def test_a_table_is_learnt(tmp_path: Path) -> None:
    run = train(table(400), tmp_path / "run", epochs=80, device="cpu")
    # two factors and noise of a thirtieth of the spread: a latent of three leaves next to nothing
    assert run.results.validation_mse < 0.05
    assert run.normalisation.kind == "standard" and len(run.normalisation.shift) == 6


@pytest.mark.parametrize("name", ["dense", "denoising", "variational", "convolutional", "mlperf-tiny-ad"])
def test_the_same_seed_gives_the_same_weights(name: str, tmp_path: Path) -> None:
    options = QUICK | {"epochs": 2} | COMBINATIONS[name]
    state = torch.get_rng_state()
    one = train(blobs(), tmp_path / "one", **options)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    other = train(blobs(), tmp_path / "other", **options)
    different = train(blobs(), tmp_path / "different", **(options | {"seed": 1}))
    assert same(one, other)
    assert not same(one, different)


def test_the_best_weights_are_kept_and_training_stops_early(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32)
    run = train(noise, tmp_path / "run", **(QUICK | {"epochs": 400, "patience": 5, "latent_dim": 19, "lr": 0.01}))
    assert run.results.stopped == "early"
    assert run.results.best_epoch == run.results.epochs - 5
    assert run.results.validation_mse == pytest.approx(run.results.validation_loss, rel=1e-4)


def test_a_model_that_memorises_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).normal(size=(40, 20)).astype(np.float32)
    run = train(noise, tmp_path / "run", **(QUICK | {"epochs": 200, "schedule": "constant"}))
    assert run.results.memorises and run.results.gap > 1
    assert "memorises" in caplog.text
    caplog.clear()
    run = train(blobs(400), tmp_path / "other", **QUICK)
    assert not run.results.memorises and "memorises" not in caplog.text


def test_labels_of_anomalies_are_kept_apart_and_classes_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edgeae")
    x, labels = table(), np.arange(160) % 8 == 0
    run = train(Dataset(x, labels.astype(np.int64)), tmp_path / "labelled", **QUICK)
    assert "20 labelled 1 are kept apart" in caplog.text
    assert run.provenance.rows == 126
    anomalies = run.reference.x_anomaly
    assert anomalies is not None
    np.testing.assert_array_equal(anomalies, x[labels])
    seen = np.concatenate([run.reference.x_train, run.reference.x_validation])
    assert sorted(seen[:, 0]) == sorted(x[~labels][:, 0])
    everything = train(Dataset(x, labels.astype(np.int64)), tmp_path / "all", **QUICK, train_on="all")
    assert everything.provenance.rows == 144
    classes = train(Dataset(x, np.arange(160) % 8), tmp_path / "classes", **QUICK)
    assert classes.provenance.rows == 144 and classes.reference.x_anomaly is None


def test_the_reference_is_bounded() -> None:
    rows = np.arange(30_000, dtype=np.float32)[:, None]
    reference = sample_reference(rows, rows[:9000], rows[:5000], seed=0)
    assert reference.x_anomaly is not None
    total = len(reference.x_train) + len(reference.x_validation) + len(reference.x_anomaly)
    assert total == REFERENCE_ROWS
    assert len(reference.x_validation) == 4000 and len(reference.x_anomaly) == 2000
    assert len(np.unique(reference.x_train)) == 4000
    wide = np.zeros((100, 2**22), np.uint8)
    bounded = sample_reference(wide, wide[:50], None, seed=0)
    assert bounded.x_train.nbytes + bounded.x_validation.nbytes <= 2**28


@pytest.mark.parametrize("rows", [2, 3, 17, 33])
def test_few_rows_are_enough(rows: int, tmp_path: Path) -> None:
    run = train(table(rows), tmp_path / "run", **QUICK)
    assert run.results.epochs == 4
    if rows > 2:
        train(table(rows), tmp_path / "normed", **QUICK, batch_norm=True)
    else:
        with pytest.raises(InputError, match="batch_norm needs at least 2"):
            train(table(rows), tmp_path / "normed", **QUICK, batch_norm=True)


def test_one_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 2"):
        train(table(1), tmp_path / "run", **QUICK)
    assert not any(tmp_path.iterdir())


def test_an_existing_run_is_replaced_only_with_force(tmp_path: Path) -> None:
    first = train(table(), tmp_path / "run", **QUICK)
    with pytest.raises(InputError, match="exists already"):
        train(table(), tmp_path / "run", **QUICK)
    second = train(table(), tmp_path / "run", **QUICK, seed=5, force=True)
    assert not same(first, second) and same(second, Run.load(tmp_path / "run"))
    with pytest.raises(InputError, match="does not exist"):
        train(table(), tmp_path / "absent" / "run", **QUICK)


def test_process_wide_settings_are_put_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(table(), tmp_path / "run", **(QUICK | {"epochs": 1}))
        assert torch.get_num_threads() == 2
        assert float(torch.tensor([1e-38]) * 1e-3) > 0
        assert not torch.backends.cudnn.deterministic
    finally:
        torch.set_num_threads(before)


def test_nothing_is_printed_and_epochs_are_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[Epoch] = []
    train(table(), tmp_path / "run", **QUICK, progress=seen.append)
    train(table(), tmp_path / "other", **QUICK, progress=True)
    assert [record.epoch for record in seen] == [1, 2, 3, 4]
    assert capfd.readouterr() == ("", "")


def test_a_bar_appears_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train(table(), tmp_path / "run", **QUICK, progress=True)
    shown = capsys.readouterr()
    assert "4/4" in shown.err and "validation" in shown.err
    assert shown.out == ""


def test_several_devices_train_one_model(tmp_path: Path) -> None:
    run = train(blobs(), tmp_path / "two", **(QUICK | {"devices": 2, "batch_norm": True}))
    alone = train(blobs(), tmp_path / "one", **(QUICK | {"batch_norm": True}))
    assert same(run, Run.load(tmp_path / "two"))
    assert run.results.stopped == "finished" and run.results.epochs == 4
    assert run.results.validation_loss == pytest.approx(alone.results.validation_loss, rel=0.2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one", "two"]


def test_an_error_on_one_of_several_devices_is_still_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"process \d of 2: the loss is not finite in the first epoch") as caught:
        train(table(), tmp_path / "run", **(QUICK | {"devices": 2, "lr": 1e30, "optimizer": "sgd"}))
    assert "\n" not in str(caught.value) and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "nonsense"}, "nonsense"),
        ({"device": "cpu:x"}, "one number"),
        ({"device": "cpu", "precision": "fp16-mixed"}, "needs a GPU"),
        pytest.param(
            {"device": "cuda"},
            "cuda",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here"),
        ),
    ],
)
def test_an_absent_device_is_an_error(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=words) as caught:
        train(table(), tmp_path / "run", **(QUICK | options))
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


# interrupted, killed, resumed


def interrupting(after: int, problem: BaseException) -> Callable[[Epoch], None]:
    def report(record: Epoch) -> None:
        if record.epoch == after:
            raise problem

    return report


RESUMABLE = ["dense", "denoising", "variational", "convolutional", "mlperf-tiny-ad", "convolutional denoising"]


@pytest.mark.parametrize("name", RESUMABLE)
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = QUICK | {"epochs": 5} | COMBINATIONS[name]
    whole = train(blobs(), tmp_path / "whole", **options)
    stopped = interrupting(2, KeyboardInterrupt())
    part = train(blobs(), tmp_path / "part", **options, progress=stopped)
    assert part.results.stopped == "interrupted" and part.results.epochs == 2
    assert "interrupted after epoch 2" in caplog.text
    assert same(part, Run.load(part.path))
    resumed = train(blobs(), tmp_path / "part", resume=True)
    assert resumed.results == whole.results
    assert same(resumed, whole) and history(resumed) == history(whole)


def test_a_killed_run_is_resumed_from_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edgeae.training.fit, "SAVE_SECONDS", 0.0)
    whole = train(table(), tmp_path / "whole", **QUICK)
    with pytest.raises(RuntimeError, match="power cut"):
        train(table(), tmp_path / "part", **QUICK, progress=interrupting(3, RuntimeError("power cut")))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["part.resume.pt", "whole"]
    resumed = train(table(), tmp_path / "part", resume=True)
    assert same(resumed, whole)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["part", "whole"]


def test_ctrl_c_within_an_epoch_loses_that_epoch_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting:
        steps = 0

        def step(self) -> None:
            self.steps += 1
            if self.steps == limit:
                raise KeyboardInterrupt

        def epoch(self, record: Epoch) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr(edgeae.training.fit, "reporter", lambda *_, **__: Interrupting())
    limit = 12  # five steps an epoch: in the third
    part = train(table(), tmp_path / "part", **QUICK)
    assert part.results.epochs == 2
    limit = 2
    with pytest.raises(KeyboardInterrupt):
        train(table(), tmp_path / "none", **QUICK)
    assert not (tmp_path / "none").exists()
    monkeypatch.undo()
    whole = train(table(), tmp_path / "whole", **QUICK)
    assert same(train(table(), tmp_path / "part", resume=True), whole)


def test_a_finished_run_goes_on_when_asked_for_more(tmp_path: Path) -> None:
    options = QUICK | {"schedule": "constant"}
    train(table(), tmp_path / "run", **options)
    more = train(table(), tmp_path / "run", resume=True, epochs=7)
    assert more.results.epochs == 7 and more.provenance.epochs == 7
    assert same(more, train(table(), tmp_path / "whole", **(options | {"epochs": 7})))


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        train(table(), tmp_path / "run", resume=True)
    train(table(), tmp_path / "run", **QUICK)
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    refused: list[tuple[dict[str, Any], str]] = [
        ({}, "has done 4 epochs already"),
        ({"epochs": 9, "lr": 0.5}, "lr was .* cannot become 0.5"),
        ({"epochs": 9, "seed": 3}, "seed was 0"),
    ]
    for options, words in refused:
        with pytest.raises(InputError, match=words):
            train(table(), tmp_path / "run", resume=True, **options)
    with pytest.raises(InputError, match="other rows"):
        train(table() + 1, tmp_path / "run", resume=True, epochs=9)
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before
    for damage in (b"", b"garbage", before["resume.pt"][:-400], before["resume.pt"][:200]):
        (tmp_path / "run" / "resume.pt").write_bytes(damage)
        with pytest.raises(InputError, match=r"resume\.pt: not a readable resume state"):
            train(table(), tmp_path / "run", resume=True, epochs=9)


def test_a_resume_state_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "touched",))

    (tmp_path / "run").mkdir()
    torch.save({"format_version": 1, "options": Evil()}, tmp_path / "run" / "resume.pt")
    with pytest.raises(InputError, match="not a readable resume state"):
        train(table(), tmp_path / "run", resume=True)
    assert not (tmp_path / "touched").exists()


def test_merging_options_takes_what_it_runs_on_from_the_new_ones() -> None:
    saved = resolve(TrainConfig(), MNIST).options
    merged = merge_options(saved, TrainConfig(epochs=30, device="cpu", threads=2))
    assert (merged.epochs, merged.device, merged.threads) == (30, "cpu", 2)
    assert replace(merged, epochs=saved.epochs, device=saved.device, threads=saved.threads) == saved


# losses that are not finite


def test_a_loss_that_is_never_finite_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"not finite in the first epoch; try a lower lr"):
        train(table(), tmp_path / "run", **QUICK, lr=1e30, schedule="constant", optimizer="sgd")
    assert not any(tmp_path.iterdir())


def test_a_loss_that_stops_being_finite_keeps_the_last_good_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = epochs

    def poisoned(loop: Any, *arguments: Any) -> Iterator[Epoch]:
        for record in real(loop, *arguments):
            yield record
            if record.epoch == 2:
                with torch.no_grad():
                    next(loop.objective.parameters()).fill_(torch.nan)

    monkeypatch.setattr(edgeae.training.fit, "epochs", poisoned)
    run = train(table(), tmp_path / "run", **QUICK)
    assert run.results.stopped == "nan" and run.results.epochs == 2
    assert "not finite in epoch 3; kept the weights of epoch" in caplog.text
    assert all(torch.isfinite(tensor).all() for tensor in weights(run).values())
    monkeypatch.undo()
    assert same(run, train(table(), tmp_path / "short", **QUICK, progress=interrupting(2, KeyboardInterrupt())))


# run directories


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run directory; make one with: edgeae train"):
        Run.load(tmp_path / "absent")
    with pytest.raises(InputError, match=r"it has no model\.json"):
        Run.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="it is a bundle"):
        Run.load(tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("model.json", lambda data: data[:-20], "not valid JSON"),
        ("model.json", lambda data: json.dumps({**json.loads(data), "extra": 1}).encode(), "unknown key 'extra'"),
        ("model.json", lambda data: json.dumps({**json.loads(data), "format": "x"}).encode(), "not an edgeae run"),
        ("model.json", lambda data: json.dumps({**json.loads(data), "format_version": 2}).encode(), "upgrade with"),
        ("model.safetensors", lambda data: data[:-20], "does not hold this model's weights"),
        ("model.safetensors", lambda data: b"", "does not hold this model's weights"),
        ("reference.npz", lambda data: data[:-20], "not a readable .npz"),
    ],
)
def test_a_damaged_run_is_refused(
    file: str, change: Callable[[bytes], bytes], words: str, tmp_path: Path, a_run: Run
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for original in a_run.path.iterdir():
        (copy / original.name).write_bytes(original.read_bytes())
    assert Run.load(copy).reference.x_anomaly is None
    (copy / file).write_bytes(change((copy / file).read_bytes()))
    with pytest.raises(InputError, match=words):
        _ = Run.load(copy).reference


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(table(), tmp_path_factory.mktemp("runs") / "run", **QUICK)


def test_the_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    try:
        benchmark(["--rows", "64", "--values", "10", "--epochs", "2", "--batch-size", "16"], standalone_mode=False)
    finally:
        torch.set_num_threads(before)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[3:]] == ["plain loop", "plain loop, fused Adam", "edgeae"]


def test_models_that_learn_nothing_or_copy_are_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="edgeae"):
        train(table(), tmp_path / "wide", **(QUICK | {"latent_dim": 6}))
        assert "can copy anything" in caplog.text
        train(
            table(),
            tmp_path / "wild",
            **(QUICK | {"lr": 1e10, "optimizer": "sgd", "schedule": "constant", "clip_norm": 1.0}),
        )
        assert "no better than the mean" in caplog.text
