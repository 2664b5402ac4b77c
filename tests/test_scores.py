"""Scores that know what normal rows look like, mahalanobis and prototype, and which score is chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import edgeae
from benchmarks import accuracy
from benchmarks.adbench import load_split
from benchmarks.false_alarms import Promise
from edgeae.bundle import Bundle
from edgeae.bundle.bundle import describe_file, pack_arrays
from edgeae.bundle.manifest import ScoreKind
from edgeae.bundle.strict import from_plain
from edgeae.errors import BundleError, InputError
from edgeae.export.score_fit import MAX_PROTOTYPES, MAX_WHITENED, choose_score, own_rows, typical_rows, whiten
from edgeae.export.source import Source, from_modules
from edgeae.runtime import load
from edgeae.runtime.parity import check_parity
from edgeae.runtime.verify import verify_bundle

KINDS: tuple[ScoreKind, ...] = ("mahalanobis", "prototype")
VALUES = 6

Array = np.ndarray[Any, Any]
Pair = tuple[nn.Module, nn.Module]


def pair(shape: tuple[int, ...] = (VALUES,), latent: int = 2) -> Pair:
    torch.manual_seed(0)
    values = int(np.prod(shape))
    inner, outer = nn.Linear(values, latent), nn.Linear(latent, values)
    if len(shape) == 1:
        return inner, outer
    return nn.Sequential(nn.Flatten(), inner), nn.Sequential(outer, nn.Unflatten(1, shape))


def rows(n: int, shape: tuple[int, ...] = (VALUES,), *, offset: float = 0.0, seed: int = 0) -> Array:
    """Two clusters of correlated values."""
    values = int(np.prod(shape))
    mixing = np.random.default_rng(7).normal(size=(2, values))
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 2)) + 4 * (rng.random((n, 1)) < 0.5)
    x = hidden @ mixing + 0.2 * rng.normal(size=(n, values)) + offset
    return x.reshape(n, *shape).astype(np.float32)


def export(path: Path, kind: str, shape: tuple[int, ...] = (VALUES,), **changes: Any) -> Bundle:
    options: dict[str, Any] = {
        "calibrate": rows(400, shape),
        "normalisation": "standard",
        "score": kind,
        "layout": {1: "vector", 2: "TC"}[len(shape)],
        **changes,
    }
    return edgeae.export_bundle(pair(shape), path, **options)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Bundle]:
    folder = tmp_path_factory.mktemp("scores")
    return {kind: export(folder / kind, kind, precision=("fp32", "fp16")) for kind in KINDS}


def expected(bundle: Bundle, x: Array, x_hat: Array) -> Array:
    """The definition in export/FORMAT.md, in float64 and by plain loops over rows."""
    shift, scale = bundle.manifest.normalisation.arrays(x.shape[1:], bundle.manifest.input.layout)
    u, v = ((each.astype(np.float64) - shift) / scale for each in (x, x_hat))
    known = {name: array.astype(np.float64) for name, array in bundle.statistics().items()}
    found = []
    for row, again in zip(u, v, strict=True):
        whitened = (row - again - known["centre"]).reshape(-1) @ known["whitening"]
        score = float(np.mean(whitened**2))
        if "prototypes" in known:
            away = (row.reshape(-1) - known["prototypes"]) / known["spread"].reshape(-1)
            score += float(np.min(np.mean(away**2, axis=1)))
        found.append(score)
    return np.array(found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_computes_the_definition(bundles: Mapping[str, Bundle], kind: str) -> None:
    bundle, x = bundles[kind], np.concatenate([rows(50, seed=3), 30 * rows(5, seed=4)])
    for precision, tolerance in (("fp32", 2e-4), ("fp16", 5e-2)):
        with load(bundle.path, device="cpu", precision=precision) as model:
            np.testing.assert_allclose(model.score(x), expected(bundle, x, model.reconstruct(x)), rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_add_up_and_name_the_value_that_is_odd(bundles: Mapping[str, Bundle], kind: str) -> None:
    x = rows(20, seed=5)
    x[0, 3] += 25
    with load(bundles[kind].path, device="cpu") as model:
        values = model.explain(x).values
        np.testing.assert_allclose(values.mean(axis=1), model.score(x), rtol=1e-3)
        assert (values >= 0).all()
        assert model.explain(x[:1]).top(1)[0][0][0] == "3"


def test_what_breaks_the_correlation_counts_although_no_value_is_large(bundles: Mapping[str, Bundle]) -> None:
    """The error's own spread is all that mahalanobis knows of a value; together they say more."""
    x = rows(200, seed=6)
    mixed = np.stack([np.random.default_rng(column).permutation(x[:, column]) for column in range(VALUES)], axis=1)
    with load(bundles["mahalanobis"].path, device="cpu") as model:
        assert np.median(model.score(mixed)) > 5 * np.median(model.score(x))


def test_between_two_clusters_a_row_is_odd_for_prototype_only(bundles: Mapping[str, Bundle]) -> None:
    middle = rows(400).mean(axis=0, keepdims=True)
    ranks = {}
    for kind in KINDS:
        with load(bundles[kind].path, device="cpu") as model:
            ranks[kind] = float(np.mean(model.score(rows(300, seed=8)) < model.score(middle)))
    assert ranks["mahalanobis"] < 0.5 < ranks["prototype"]


@pytest.mark.parametrize("kind", KINDS)
def test_verify_recomputes_the_score(bundles: Mapping[str, Bundle], kind: str) -> None:
    checks = verify_bundle(bundles[kind].path, deep=True)
    assert not [check for check in checks if not check.passed]
    assert {"statistics", "fp32 parity", "fp16 parity"} <= {check.name for check in checks}


@pytest.mark.parametrize("name", ["centre", "whitening", "spread", "prototypes"])
@pytest.mark.parametrize("how", ["missing", "other shape", "too many", "other numbers"])
def test_statistics_that_do_not_belong_to_the_graph_are_found(
    bundles: Mapping[str, Bundle], tmp_path: Path, name: str, how: str
) -> None:
    bundle = bundles["prototype"]
    arrays = dict(bundle.statistics())
    if how == "missing":
        del arrays[name]
    elif how == "other shape":
        arrays[name] = arrays[name][..., :-1]
    elif how == "too many":
        arrays[name] = np.ones((4097, VALUES), np.float32)
    else:
        arrays[name] = arrays[name] * np.float32(1.3) + np.float32(0.1)
    files = {file.path: bundle.file(file) for file in bundle.files()} | {"statistics.npz": pack_arrays(**arrays)}
    statistics = describe_file("statistics.npz", files["statistics.npz"])
    Bundle.write(tmp_path / "b", replace(bundle.manifest, statistics=statistics), files)
    with load(tmp_path / "b", device="cpu") as model:
        if how == "other numbers":
            with pytest.raises(BundleError, match="the scorer"):
                check_parity(model, seed=1)
            return
        with pytest.raises(BundleError, match=name):
            model.explain(rows(1))
    failed = [check for check in verify_bundle(tmp_path / "b") if not check.passed]
    assert failed and failed[0].name == "statistics" and name in failed[0].detail


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(VALUES,), (4, 3)])
def test_far_from_zero_and_windows_and_a_fixed_batch(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    """Normalisation cannot be folded so far from zero; distances must not drown in the offset."""
    x = rows(300, shape, offset=3000.0)
    bundle = export(tmp_path / "b", kind, shape, calibrate=x, batch=2)
    fresh = rows(9, shape, offset=3000.0, seed=9)
    with load(bundle.path, device="cpu") as model:
        np.testing.assert_allclose(model.score(fresh), expected(bundle, fresh, model.reconstruct(fresh)), rtol=2e-2)
        assert "fresh rows" in check_parity(model, seed=2)


def test_int8_keeps_the_distances_in_float(tmp_path: Path) -> None:
    bundle = export(tmp_path / "b", "prototype", precision=("fp32", "int8"), calibrate=rows(3000))
    assert set(bundle.manifest.precisions) == {"fp32", "int8"}
    assert not [check for check in verify_bundle(bundle.path, deep=True) if not check.passed]


def test_the_threshold_is_not_taken_from_rows_that_shaped_the_covariance(tmp_path: Path) -> None:
    bundle = export(tmp_path / "b", "mahalanobis", calibrate=rows(401), fpr=0.1)
    assert bundle.manifest.precisions["fp32"].threshold.rows == 200


def source(n: int, shape: tuple[int, ...] = (VALUES,), layout: Any = "vector") -> Source:
    return from_modules(
        pair(shape),
        None,
        rows(n, shape),
        normalisation="standard",
        output_activation="linear",
        layout=layout,
        feature_names=None,
    )


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (source(200), "prototype"),
        (source(198), "mse"),  # half of the rows are for the threshold
        (source(700, (110,)), "prototype"),
        (source(650, (110,)), "mse"),  # fewer than three rows per value
        (source(300, (4, 3), "TC"), "mse"),
        (replace(source(40), training=rows(100)), "prototype"),
        (source(4000, (MAX_WHITENED + 1,)), "mse"),
    ],
)
def test_auto_follows_the_rows(given: Source, kind: str) -> None:
    assert choose_score("auto", given) == kind


def test_rows_of_a_run_need_not_be_divided() -> None:
    run = replace(source(40), training=rows(100))
    assert own_rows("prototype", run) is run
    divided = own_rows("prototype", source(41))
    assert divided.training is not None
    assert (len(divided.training), len(divided.normal)) == (21, 20)
    assert len(own_rows("mse", source(41)).normal) == 41


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_had_is_refused_with_the_remedy(kind: ScoreKind) -> None:
    with pytest.raises(InputError, match=f"{kind}.*513 x 513.*use zscore"):
        choose_score(kind, source(20, (513,)))
    with pytest.raises(InputError, match=f"calibrate: the score {kind} needs normal rows"):
        choose_score(kind, source(3))
    with pytest.raises(InputError, match=r"'distance' is not one of auto, mse"):
        choose_score("distance", source(20))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", ["few", "constant", "zero", "two rows"])
def test_a_covariance_that_cannot_be_inverted_is_shrunk(case: str) -> None:
    errors = np.random.default_rng(0).normal(size=(4, 10))
    if case == "constant":
        errors = np.concatenate([np.zeros((500, 3)), np.random.default_rng(0).normal(size=(500, 3))], axis=1)
    elif case == "zero":
        errors = np.zeros((20, 4))
    elif case == "two rows":
        errors = errors[:2]
    centre, whitening = whiten(errors)
    assert np.isfinite(whitening).all() and np.isfinite(centre).all()
    np.testing.assert_allclose(whitening, whitening.T, atol=1e-5 * np.abs(whitening).max())
    assert np.linalg.eigvalsh(whitening.astype(np.float64)).min() > 0


def test_whitened_errors_are_uncorrelated() -> None:
    errors = rows(20_000).astype(np.float64)
    centre, whitening = whiten(errors)
    np.testing.assert_allclose(np.cov((errors - centre) @ whitening, rowvar=False), np.eye(VALUES), atol=0.02)


@pytest.mark.parametrize(("n", "most"), [(1, 1), (20, 2), (400, 50), (4000, MAX_PROTOTYPES)])
def test_prototypes_are_means_of_several_rows(n: int, most: int) -> None:
    x = rows(n)
    prototypes, spread = typical_rows(x)
    assert 0 < len(prototypes) <= most and spread > 0
    if n >= 20:
        nearest = np.min(np.linalg.norm(prototypes[:, None] - x[None], axis=2), axis=1)
        assert nearest.min() > 0  # none of them is a row


def test_a_few_odd_rows_in_training_make_no_prototype() -> None:
    odd = np.full((2, VALUES), 500.0, np.float32)
    prototypes, _ = typical_rows(np.concatenate([rows(800), odd]))
    assert np.abs(prototypes).max() < 100


def test_equal_rows_have_one_prototype_and_equal_bytes() -> None:
    prototypes, spread = typical_rows(np.ones((50, 3), np.float32))
    assert prototypes.tolist() == [[1, 1, 1]] and spread > 0
    one, other = (typical_rows(rows(500))[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_the_accuracy_table_has_every_method_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: peer for name, peer in accuracy.PEERS.items() if not name.startswith("PyOD")}
    monkeypatch.setattr(accuracy, "PEERS", kept)
    odd = np.random.default_rng(1).normal(0, 8, (30, VALUES)).astype(np.float32)
    (tmp_path / "sets").mkdir()
    labels = np.repeat([0, 1], [300, 30])
    np.savez(tmp_path / "sets" / "1_clusters.npz", X=np.concatenate([rows(300), odd]), y=labels)
    options = ["--data-dir", str(tmp_path / "sets"), "--seeds", "1", "--scores", "auto,mse", "--trim", "0,0.1"]
    done = CliRunner().invoke(accuracy.main, [*options, "--json", str(tmp_path / "out.json")], catch_exceptions=False)
    assert done.exit_code == 0
    trials = json.loads((tmp_path / "out.json").read_text())
    ours = ["edgeae, auto", "edgeae, mse", "edgeae, auto, trim 0.1", "edgeae, mse, trim 0.1"]
    assert [trial["method"] for trial in trials] == [*ours, *kept]
    assert all(0.9 < trial["auroc"] <= 1 for trial in trials)
    assert "Average precision" in done.output and "1_clusters" in done.output
    if find_spec("pyod") is None:
        monkeypatch.undo()
        monkeypatch.setattr(accuracy, "run_trials", lambda *rest: [accuracy.Trial("s", 0, "m", 0.5, 0.5, 0.0, 0.0)])
        assert "absent: PyOD VAE" in CliRunner().invoke(accuracy.main, options).output


def test_promises_are_held_against_fresh_rows(tmp_path: Path) -> None:
    odd = np.random.default_rng(1).normal(0, 8, (30, VALUES)).astype(np.float32)
    np.savez(tmp_path / "set.npz", X=np.concatenate([rows(600), odd]), y=np.repeat([0, 1], [600, 30]))
    options = ["--data-dir", str(tmp_path), "--false-alarms", "--fpr", "0.1", "--methods", "quantile,evt"]
    more = ["--seeds", "2", "--json", str(tmp_path / "out.json")]
    done = CliRunner().invoke(accuracy.main, [*options, *more], catch_exceptions=False)
    promises = [from_plain(Promise, each, where="out") for each in json.loads((tmp_path / "out.json").read_text())]
    assert [(each.method, each.rows, each.fresh) for each in promises] == 2 * [("quantile", 30, 300)]
    assert f"in {sum(each.within for each in promises)} of 2 trials" in done.output
    assert all(each.recall > 0.5 and 0 < each.measured < 0.5 for each in promises)


@pytest.mark.parametrize(
    ("alarms", "within", "contradicts"), [(0, True, False), (1, True, False), (13, True, False), (14, False, False)]
)
def test_the_ends_of_an_interval_are_rounded_outwards(alarms: int, within: bool, contradicts: bool) -> None:
    promise = Promise("s", 0, "quantile", 99, 0.01, 0.01, (0.001, 0.0245), 500, alarms / 500, 0.5, 2.0)
    assert (promise.within, promise.contradicts) == (within, contradicts)
    assert replace(promise, measured=0.1).contradicts


def test_a_split_keeps_its_halves_apart_and_names_files_that_are_none(tmp_path: Path) -> None:
    x = np.arange(20, dtype=np.float64).reshape(10, 2)
    np.savez(tmp_path / "set.npz", X=x, y=np.repeat([0, 1], [8, 2]))
    split = load_split(tmp_path / "set.npz", seed=0)
    assert [len(part) for part in (split.training, split.normal, split.anomalies)] == [4, 4, 2]
    assert {tuple(row) for part in (split.training, split.normal) for row in part} == set(map(tuple, x[:8]))
    whole = load_split(tmp_path / "set.npz", seed=0, protocol="unsupervised")
    assert [len(part) for part in (whole.training, whole.normal, whole.anomalies)] == [10, 8, 2]
    np.savez(tmp_path / "none.npz", X=x)
    with pytest.raises(InputError, match=r"none.npz: is no .npz file with X and y"):
        load_split(tmp_path / "none.npz", seed=0)
    np.savez(tmp_path / "normal.npz", X=x, y=np.zeros(10))
    with pytest.raises(InputError, match="0 anomalies"):
        load_split(tmp_path / "normal.npz", seed=0)
