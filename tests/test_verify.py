"""`edgeae verify`: what it checks, and that nothing which becomes of a bundle becomes of the one who asks."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from edgeae.bundle import Bundle
from edgeae.bundle.bundle import describe_file, pack_arrays
from edgeae.cli.group import main as group
from edgeae.errors import BundleError, DeviceError, InputError
from edgeae.runtime import load, verify
from edgeae.runtime.parity import check_batches, check_parity
from edgeae.runtime.verify import Check, verify_bundle
from tests.bundles import Network, Recipe, make_bundle, parts
from tests.fuzz.spoil import GOLDEN, Parts

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "mse": {}, "mae": {"score": "mae"}, "zscore": {"score": "zscore"}, "bce": {"score": "bce"},
    "elbo": {"score": "elbo", "generative": True}, "uint8": {"dtype": "uint8", "shift": 0.0, "scale": 255.0},
    "fixed batch": {"batch": 3}, "images": {"shape": (2, 4, 3), "layout": "CHW"},
    "far from zero": {"shift": 1000.0, "scale": 0.5},
}  # fmt: skip


def failures(checks: tuple[Check, ...]) -> dict[str, str]:
    return {check.name: check.detail for check in checks if not check.passed}


@pytest.mark.parametrize("name", ["table", "sparse", "variational"])
def test_golden_bundles_pass_all_checks(name: str) -> None:
    checks = verify_bundle(GOLDEN / name, deep=True)
    assert not failures(checks)
    bundle = Bundle.read(GOLDEN / name)
    names = [check.name for check in checks]
    for precision in bundle.manifest.precisions:
        assert {f"{precision} {what}" for what in ("encoder", "decoder", "scorer", "parity", "batches")} < set(names)
    assert {file.path for file in bundle.files()} < set(names)
    assert names[:2] == ["limits", "manifest"]


@pytest.mark.parametrize("name", RECIPES)
def test_graphs_of_every_kind_agree_with_each_other(name: str, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", Recipe(**RECIPES[name]))
    with load(tmp_path / "bundle", device="cpu") as model:
        assert "fresh rows" in check_parity(model, seed=3)
        assert "agree" in check_batches(model, seed=3)


def spoilt(path: Path, recipe: Recipe, role: str, weight: str, factor: float) -> Path:
    """Write a bundle one of whose graphs has a weight that the others have not, and whose golden rows say so too."""
    network = Network.of(recipe)
    manifest, files = parts(network)
    model = onnx.load_from_string(files[f"{role}.onnx"])
    (tensor,) = (each for each in model.graph.initializer if each.name == weight)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), weight))
    files[f"{role}.onnx"] = model.SerializeToString()
    other = dataclasses.replace(network, **{weight: getattr(network, weight) * np.float32(factor)})
    x = network.rows(8, seed=99)
    encoder, decoder, scorer = (other if role == each else network for each in ("encoder", "decoder", "scorer"))
    z = encoder.encode(x).astype(np.float32)
    golden = {"x": x, "z": z, "x_hat": decoder.decode(z), "score": scorer.score(x)}
    files["golden.npz"] = pack_arrays(**{key: np.asarray(each, np.float32) for key, each in golden.items()})
    described: dict[str, Any] = {
        part: describe_file(file, files[file]) for part, file in ((role, f"{role}.onnx"), ("golden", "golden.npz"))
    }
    entry = dataclasses.replace(manifest.precisions["fp32"], **described)
    Bundle.write(path, dataclasses.replace(manifest, precisions={"fp32": entry}), files)
    return path


@pytest.mark.parametrize("role", ["encoder", "decoder", "scorer"])
@pytest.mark.parametrize("score", ["mse", "mae", "bce", "zscore"])
def test_graphs_that_do_not_belong_together_are_found_by_fresh_rows_only(score: str, role: str, tmp_path: Path) -> None:
    weight = "w1" if role == "encoder" else "w2"
    path = spoilt(tmp_path / "bundle", Recipe(score=score), role, weight, 1.2)  # type: ignore[arg-type]
    with load(path, device="cpu") as model:
        model.prepare()  # the golden rows agree with each graph
        with pytest.raises(BundleError, match=r"then decoder, then .* gives .* the scorer"):
            check_parity(model, seed=3)


def test_a_decoder_that_makes_an_elbo_impossible_is_found(tmp_path: Path) -> None:
    path = spoilt(tmp_path / "bundle", Recipe(score="elbo", generative=True), "decoder", "w2", -3.0)
    with load(path, device="cpu") as model, pytest.raises(BundleError, match="the scorer"):
        check_parity(model, seed=3)


@pytest.mark.parametrize("tied", [True, False])
def test_near_ties_are_set_aside_and_nothing_else(tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is one when a change as small as rounding switches a latent unit on or off."""
    make_bundle(tmp_path / "bundle")
    with load(tmp_path / "bundle", device="cpu") as model:
        kind, seen = type(model), list[np.ndarray[Any, Any]]()
        score, encode = kind.score, kind.encode

        def switched(self: Any, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            z = encode(self, x).copy()
            z[5, 0] = 1.0 if seen else 0.0
            seen.extend([x] * tied)
            return z

        monkeypatch.setattr(kind, "encode", switched)
        monkeypatch.setattr(kind, "score", lambda self, x: score(self, x) + (np.arange(len(x)) == 5))
        if tied:
            assert "1 set aside" in check_parity(model, seed=3)
        else:
            with pytest.raises(BundleError, match="random row 5"):
                check_parity(model, seed=3)


def test_rows_that_change_with_the_batch_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path / "bundle")
    with load(tmp_path / "bundle", device="cpu") as model:
        score = type(model).score
        monkeypatch.setattr(type(model), "score", lambda self, x: score(self, x) * (1 + 0.01 * (len(x) == 7)))
        with pytest.raises(BundleError, match="score of random row 0 differs between batches of 7 and of 256"):
            check_batches(model, seed=3)


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_what_is_wrong_is_named_and_the_rest_still_checked(suffix: str, tmp_path: Path) -> None:
    original = Parts.of(GOLDEN / "table")
    data = bytearray(original.files["fp16/decoder.onnx"])
    data[-1] ^= 1
    changed = Parts(original.manifest, {**original.files, "fp16/decoder.onnx": bytes(data)})
    failed = failures(verify_bundle(changed.write(tmp_path / f"bundle{suffix}"), deep=True))
    assert set(failed) == {"fp16/decoder.onnx", "fp16 decoder"}
    assert all("SHA-256" in detail for detail in failed.values())


def test_a_missing_file_and_one_too_many_are_failures(tmp_path: Path) -> None:
    path = Parts.of(GOLDEN / "table-far").write(tmp_path / "bundle")
    (path / "decoder.onnx").unlink()
    assert set(failures(verify_bundle(path))) == {"decoder.onnx", "fp32 decoder"}
    (path / "notes.txt").write_text("")
    failed = failures(verify_bundle(path))
    assert set(failed) == {"manifest"} and "notes.txt" in failed["manifest"]


def test_statistics_that_explain_nothing_are_a_failure(tmp_path: Path) -> None:
    original = Parts.of(GOLDEN / "table")
    path = original.with_file("statistics.npz", pack_arrays(spread=np.zeros(10, np.float32))).write(tmp_path / "bundle")
    assert "positive" in failures(verify_bundle(path))["statistics"]


CHILDREN = {
    "hangs": ("import time; time.sleep(60)", "took longer than 2 s and was stopped"),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
    "is killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "short of memory"),
    "gives up": ("raise SystemExit(3)", "ended with code 3"),
}


@pytest.mark.parametrize("what", CHILDREN)
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_child_that_dies_or_hangs_is_a_failed_check(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, reason = CHILDREN[what]
    script = textwrap.dedent("""
        import resource, json
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        print(json.dumps({"begin": "manifest"}))
        print(json.dumps({"name": "manifest", "passed": True, "detail": "fine"}))
        print(json.dumps({"begin": "fp32 encoder"}), flush=True)
    """)
    monkeypatch.setattr(verify, "COMMAND", (sys.executable, "-c", script + code))
    limits, manifest, failed = verify_bundle(GOLDEN / "table", seconds=2)
    assert limits.passed and manifest == Check("manifest", True, "fine")
    assert failed.name == "fp32 encoder" and not failed.passed and reason in failed.detail
    assert signal.SIGSEGV.name in failed.detail or what != "crashes"


def test_nothing_in_the_current_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Parts.of(GOLDEN / "table-far").write(tmp_path / "bundle")
    for name in ("json", "numpy", "resource", "edgeae", "onnxruntime"):
        (path / f"{name}.py").write_text("open('run', 'w').close(); raise SystemExit(9)")
    monkeypatch.chdir(path)
    failed = failures(verify_bundle("."))
    assert set(failed) == {"manifest"} and "numpy.py" in failed["manifest"]
    assert not Path("run").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux enforces RLIMIT_AS")
def test_too_little_memory_is_a_failed_check() -> None:
    checks = verify_bundle(GOLDEN / "sparse", memory=2**20)
    assert "1 MiB of memory" in checks[0].detail
    assert failures(checks)


def test_without_limits_the_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    checks = verify_bundle(GOLDEN / "table-far")
    assert "memory not limited" in checks[0].detail and not failures(checks)
    monkeypatch.setattr(sys, "executable", "")
    checks = verify_bundle(GOLDEN / "table-far")
    assert "in this process" in checks[0].detail and not failures(checks) and len(checks) > 8


def test_what_cannot_be_asked_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        verify_bundle(tmp_path / "nowhere")
    with pytest.raises(InputError, match="positive"):
        verify_bundle(GOLDEN / "table", seconds=0)
    with pytest.raises((DeviceError, InputError), match="cuda:77"):
        verify_bundle(GOLDEN / "table", device="cuda:77")


def test_the_command_prints_a_table_or_json_and_exits_with_1(tmp_path: Path) -> None:
    run = CliRunner()
    path = Parts.of(GOLDEN / "table-far").write(tmp_path / "bundle")
    passed = run.invoke(group, ["verify", str(path), "--deep"])
    assert passed.exit_code == 0 and "parity" in passed.stdout and "FAILED" not in passed.stdout
    place = path / "manifest.json"
    place.write_bytes(place.read_bytes().replace(b'"threshold": {', b'"threshold": {"fpr": NaN, '))
    failed = run.invoke(group, ["verify", str(path)])
    assert failed.exit_code == 1 and "FAILED" in failed.stdout
    answer = run.invoke(group, ["verify", str(path), "--json"])
    assert answer.exit_code == 1
    checks = json.loads(answer.stdout)
    assert [(check["name"], check["passed"]) for check in checks] == [("limits", True), ("manifest", False)]


def test_markup_in_a_manifest_is_text(tmp_path: Path) -> None:
    original = Parts.of(GOLDEN / "table-far")
    manifest = {**original.manifest, "name": "[/red]", "variant": "[bold]x[/]"}
    path = Parts(manifest, original.files).write(tmp_path / "bundle")
    shown = CliRunner().invoke(group, ["inspect", str(path)])
    assert shown.exit_code == 0 and "[/red]" in shown.stdout and "[bold]x[/]" in shown.stdout
