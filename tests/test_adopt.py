"""Models that edgeae did not train: what comes out of ONNX files of all kinds, and of PyTorch modules."""

from __future__ import annotations

import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

import edgeae
from edgeae.bundle import Bundle
from edgeae.bundle.bundle import GRAPHS
from edgeae.cli.group import main
from edgeae.errors import BundleError, ExportError, InputError
from edgeae.export.adopt import adopt, constants
from edgeae.export.adopt.coders import permutation
from edgeae.export.adopt.read import read_model
from edgeae.runtime.verify import verify_bundle
from tests import foreign
from tests.foreign import ZOO, Array, Model, draw, ints, run

QUANTISED = ("qdq", "qoperator", "dynamic")


@pytest.fixture(autouse=True)
def notes(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Listen to what is said."""
    caplog.set_level(logging.INFO, logger="edgeae")
    return caplog


def make(model: Model, folder: Path, **options: Any) -> tuple[Bundle, Path, Array]:
    """Adopt a model with 120 rows; return the bundle, the model's file and the rows."""
    path = model.save(folder / "model.onnx")
    x = model.rows(120)
    given = {"calibrate": x.astype(np.float32) if model.dtype != "uint8" else x, "fpr": 0.05, **options}
    return adopt(path, folder / "bundle", **given), path, x


def operators(bundle: Bundle) -> set[str]:
    """Return which operators the graphs of a bundle have."""
    models = [onnx.load_from_string(bundle.graph("fp32", role)) for role in GRAPHS]
    return {node.op_type for model in models for node in model.graph.node}


def close(actual: Array, expected: Array, share: float = 1e-4) -> None:
    """Compare with a tolerance of a share of the largest value."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=share * float(np.abs(expected).max()))


# --- ONNX files of all kinds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_a_bundle_computes_what_the_model_computes(name: str, tmp_path: Path) -> None:
    build, batch = ZOO[name]
    model = build()
    bundle, path, x = make(model, tmp_path)
    own = {"wrongly free": 4}.get(name, 1)
    wanted = run(path, x, batch=own).astype(np.float32)
    if name == "channels moved":
        wanted = wanted.transpose(0, 2, 3, 1)
    share = 2e-2 if name in QUANTISED else 1e-4
    assert bundle.manifest.batch == batch and bundle.manifest.variant == "adopted"
    assert bundle.manifest.input.shape == model.row
    with edgeae.load(bundle.path, device="cpu") as loaded:
        z = loaded.encode(x)
        assert z.shape == (len(x), bundle.manifest.latent_dim) and z.shape[1] < math.prod(model.row)
        close(loaded.reconstruct(x), wanted.reshape(x.shape), share)
        close(loaded.decode(z), wanted.reshape(x.shape), share)
        error = np.square(x.astype(np.float64) - wanted.reshape(x.shape)).reshape(len(x), -1).mean(axis=1)
        close(loaded.score(x), error, share)
        one_by_one = np.concatenate([loaded.score(x[index : index + 1]) for index in range(7)])
        close(loaded.score(x[:7]), one_by_one, 1e-5)


@pytest.mark.parametrize("name", ["lstm", "nhwc", "dynamic", "uint8"])
def test_what_is_adopted_passes_the_deep_checks(name: str, tmp_path: Path) -> None:
    bundle, _, _ = make(ZOO[name][0](), tmp_path)
    checks = verify_bundle(bundle.path, deep=True)
    assert all(check.passed for check in checks), checks


def test_nothing_of_the_files_origin_is_in_the_bundle(tmp_path: Path) -> None:
    model = foreign.dense().build()
    model.producer_name, model.doc_string, model.domain = "secret", "secret", "secret"
    model.metadata_props.add(key="path", value="/home/secret")
    for item in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output, model.graph):
        item.doc_string = "secret"
    model.graph.node[0].metadata_props.add(key="stack", value="/home/secret/model.py")
    onnx.save(model, tmp_path / "model.onnx")
    bundle = adopt(tmp_path / "model.onnx", tmp_path / "bundle", threshold=1.0)
    assert not any(b"secret" in bundle.graph("fp32", role) for role in GRAPHS)
    assert (
        "secret" not in bundle.manifest.to_json().decode() and str(tmp_path) not in bundle.manifest.to_json().decode()
    )


def test_batch_normalisation_is_folded(tmp_path: Path) -> None:
    bundle, _, _ = make(foreign.normed(), tmp_path)
    assert "BatchNormalization" not in operators(bundle)


def test_arithmetic_on_shapes_is_gone(tmp_path: Path) -> None:
    bundle, _, _ = make(foreign.reads_its_shape(), tmp_path)
    assert operators(bundle) == {"Reshape", "Gemm", "Relu", "Sub", "Mul", "ReduceMean"}


def test_what_was_done_is_said(tmp_path: Path, notes: pytest.LogCaptureFixture) -> None:
    make(foreign.fixed(), tmp_path)
    assert (
        "its batch of 1 is made free" in notes.text and "its latent is 'latent', 4 values of a row of 12" in notes.text
    )
    make(foreign.wrongly_free(), tmp_path, force=True)
    assert "declares a free batch, but runs with batches of 4 only" in notes.text
    make(foreign.double(), tmp_path, force=True)
    assert "float64 is converted to float32" in notes.text
    make(foreign.dynamic(), tmp_path, force=True)
    assert "it is quantised" in notes.text and "batches of 1, over which the runtime loops: " in notes.text


def test_a_model_that_is_worse_than_the_mean_is_warned_of(tmp_path: Path, notes: pytest.LogCaptureFixture) -> None:
    identity = np.eye(4, dtype=np.float32)
    model = Model(
        (4,),
        [("Gemm", "input a", "latent", {}), ("Gemm", "latent b", "y", {})],
        {"a": identity[:, :3], "b": identity[:3]},
    )
    x = model.rows(200)
    bundle, _, _ = make(model, tmp_path, calibrate=x * np.array([1, 1, 1, 0.01], np.float32))
    assert "their mean alone" not in notes.text
    bundle, _, _ = make(model, tmp_path, calibrate=x + np.array([0, 0, 0, 9], np.float32), force=True)
    quality = bundle.manifest.precisions["fp32"].quality
    assert (
        f"{quality.reconstruction_mse:.3g}" in notes.text
        and f"their mean alone has {quality.mean_mse:.3g}" in notes.text
    )


# --- where it is cut ------------------------------------------------------------------------------------------------


def test_the_latent_can_be_named_and_what_cannot_be_one_is_refused(tmp_path: Path) -> None:
    path = foreign.normed().save(tmp_path / "model.onnx")
    bundle = adopt(path, tmp_path / "wide", latent="n1", threshold=1.0)
    assert bundle.manifest.latent_dim == 36
    x = foreign.normed().rows(5)
    with edgeae.load(bundle.path, device="cpu") as loaded:
        close(loaded.reconstruct(x), run(path, x))
    with pytest.raises(ExportError, match=r"cannot be cut at 'nowhere'.*latent \(3\)"):
        adopt(path, tmp_path / "none", latent="nowhere", threshold=1.0)
    assert not (tmp_path / "none").exists()


def test_a_skip_connection_cannot_be_cut(tmp_path: Path) -> None:
    nodes: list[foreign.Node] = [
        ("Gemm", "input a", "narrow", {}),
        ("Gemm", "narrow b", "wide", {}),
        ("Add", "wide input", "y", {}),
    ]
    path = Model((4,), nodes, {"a": draw(4, 2), "b": draw(2, 4)}).save(tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="skip connections"):
        adopt(path, tmp_path / "bundle", threshold=1.0)
    with pytest.raises(ExportError, match="cannot be cut at 'narrow'"):
        adopt(path, tmp_path / "bundle", latent="narrow", threshold=1.0)


def test_without_a_bottleneck_the_user_has_to_say_where(tmp_path: Path) -> None:
    nodes: list[foreign.Node] = [("Gemm", "input a", "h", {}), ("Relu", "h", "r", {}), ("Gemm", "r b", "y", {})]
    path = Model((4,), nodes, {"a": draw(4, 6), "b": draw(6, 4)}).save(tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"no bottleneck.*r \(6\)"):
        adopt(path, tmp_path / "bundle", threshold=1.0)
    assert adopt(path, tmp_path / "bundle", latent="r", threshold=1.0).manifest.latent_dim == 6


def test_several_outputs_are_chosen_from_by_name(tmp_path: Path) -> None:
    path = foreign.several().save(tmp_path / "model.onnx")
    with pytest.raises(InputError, match="outputs y, latent, variance"):
        adopt(path, tmp_path / "bundle", threshold=1.0)
    with pytest.raises(InputError, match="no output 'nothing'"):
        adopt(path, tmp_path / "bundle", reconstruction="nothing", threshold=1.0)
    bundle = adopt(path, tmp_path / "bundle", reconstruction="y", threshold=1.0)
    x = foreign.several().rows(3)
    with edgeae.load(bundle.path, device="cpu") as loaded:
        close(loaded.reconstruct(x), run(path, x, "y"))
        close(loaded.encode(x), run(path, x, "latent"))


def test_an_encoder_and_a_decoder_become_one_bundle(tmp_path: Path) -> None:
    both: list[foreign.Node] = [
        ("Flatten", "input", "flat", {}),
        ("Gemm", "flat a", "mean", {}),
        ("Neg", "mean", "spread", {}),
    ]
    encoder = Model((3, 4), both, {"a": draw(12, 3)}, batch=1, outputs={"mean": None, "spread": None}, opset=13)
    back: list[foreign.Node] = [("Gemm", "input b", "h", {}), ("Reshape", "h s", "y", {})]
    decoder = Model((3,), back, {"b": draw(3, 12), "s": ints(-1, 12)}, opset=20, ir_version=9)
    paths = encoder.save(tmp_path / "encoder.onnx"), decoder.save(tmp_path / "decoder.onnx")
    x = encoder.rows(40)
    with pytest.raises(InputError, match="--latent"):
        adopt(paths[0], tmp_path / "bundle", decoder=paths[1], calibrate=x)
    bundle = adopt(paths[0], tmp_path / "bundle", decoder=paths[1], latent="mean", calibrate=x, fpr=0.1)
    z = run(paths[0], x, "mean")
    with edgeae.load(bundle.path, device="cpu") as loaded:
        close(loaded.encode(x), z)
        close(loaded.reconstruct(x), run(paths[1], z).reshape(x.shape))
    with pytest.raises(ExportError, match=r"latents of 3 values, .* takes \[12\]"):
        adopt(
            paths[0],
            tmp_path / "other",
            decoder=foreign.dense().save(tmp_path / "d.onnx"),
            latent="mean",
            threshold=1.0,
        )


def test_bce_takes_the_logits_from_before_the_last_sigmoid(tmp_path: Path) -> None:
    nodes: list[foreign.Node] = [*foreign.dense().nodes[:-1], ("Sigmoid", "last", "y", {})]
    model = Model((12,), nodes, foreign.dense().constants)
    x = np.random.default_rng(2).random((60, 12), np.float32)
    bundle, path, _ = make(model, tmp_path, calibrate=x, score="bce")
    y = run(path, x).astype(np.float64)
    with edgeae.load(bundle.path, device="cpu") as loaded:
        close(loaded.score(x), -(x * np.log(y) + (1 - x) * np.log1p(-y)).mean(axis=1))
        close(loaded.reconstruct(x), y)
    with pytest.raises(InputError, match="bce needs a model with a sigmoid"):
        adopt(foreign.dense().save(path), tmp_path / "other", calibrate=x, score="bce")


@pytest.mark.parametrize(
    ("made", "row", "order"),
    [
        ((784,), (28, 28), None),
        ((1, 28, 28), (28, 28, 1), None),
        ((3, 32, 32), (32, 32, 3), (0, 2, 3, 1)),
        ((32, 32, 3), (3, 32, 32), (0, 3, 1, 2)),
        ((4, 9), (9, 4), (0, 2, 1)),
    ],
)
def test_the_axes_of_the_output_come_into_the_order_of_the_rows(
    made: tuple[int, ...], row: tuple[int, ...], order: tuple[int, ...] | None
) -> None:
    assert permutation(made, row, "model.onnx") == order


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "users"), [((1, 3, 4), (3, 4)), ((12,), (3, 4)), ((3, 4, 1), (3, 4)), ((3, 4), (12,))])
def test_rows_keep_the_shape_that_the_user_has(own: tuple[int, ...], users: tuple[int, ...], tmp_path: Path) -> None:
    nodes: list[foreign.Node] = [("Reshape", "input s", "flat", {}), *foreign.dense().nodes[1:]]
    model = Model(own, nodes, {**foreign.dense().constants, "s": ints(-1, 12)})
    path = model.save(tmp_path / "model.onnx")
    x = model.rows(60)
    bundle = adopt(path, tmp_path / "bundle", calibrate=x.reshape(-1, *users), fpr=0.1)
    assert bundle.manifest.input.shape == (users if len(users) == 2 else own)
    with edgeae.load(bundle.path, device="cpu") as loaded:
        rows = x.reshape(-1, *bundle.manifest.input.shape)
        close(loaded.reconstruct(rows), run(path, x).reshape(rows.shape))


def test_rows_of_another_size_are_refused(tmp_path: Path) -> None:
    path = foreign.dense().save(tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"calibrate: .*\(7,\)"):
        adopt(path, tmp_path / "bundle", calibrate=np.zeros((9, 7), np.float32))
    with pytest.raises(InputError, match=r"--calibrate DATA.*--threshold"):
        adopt(path, tmp_path / "bundle")
    with pytest.raises(InputError, match="fitted on rows"):
        adopt(path, tmp_path / "bundle", threshold=1.0, normalisation="standard")


def test_an_open_shape_is_taken_from_the_rows_or_the_user(tmp_path: Path) -> None:
    nodes: list[foreign.Node] = [("Conv", "input k", "latent", {"strides": [2, 2]})]
    nodes.append(("ConvTranspose", "latent k2", "y", {"strides": [2, 2]}))
    model = Model((1, 6, 4), nodes, {"k": draw(2, 1, 2, 2), "k2": draw(2, 1, 2, 2)}).build()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side_{axis}"
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"rows of shape \[1, \?, \?\]"):
        adopt(path, tmp_path / "bundle", threshold=1.0)
    with pytest.raises(InputError, match=r"not \[2, 6, 4\]"):
        adopt(path, tmp_path / "bundle", threshold=1.0, shape=(2, 6, 4))
    assert adopt(path, tmp_path / "a", threshold=1.0, shape=(1, 6, 4)).manifest.latent_dim == 12
    rows = np.random.default_rng(0).random((50, 1, 8, 6), np.float32)
    assert adopt(path, tmp_path / "b", calibrate=rows, layout="CHW", fpr=0.1).manifest.latent_dim == 24


@pytest.mark.parametrize("normalisation", ["standard", constants((0.5,), (2.0,)), constants(None, (255.0,))])
def test_rows_are_normalised_as_the_model_expects_and_come_back_in_the_users_units(
    normalisation: Any, tmp_path: Path
) -> None:
    bundle, path, x = make(foreign.dense(), tmp_path, normalisation=normalisation)
    shift, scale = bundle.manifest.normalisation.arrays((12,), "vector")
    inner = ((x - shift) / scale).astype(np.float32)
    wanted = run(path, inner)
    with edgeae.load(bundle.path, device="cpu") as loaded:
        close(loaded.reconstruct(x), wanted * scale + shift)
        close(loaded.score(x), np.square(inner - wanted).mean(axis=1), 1e-3)


def test_constants_must_be_such() -> None:
    assert constants(None, None) is None
    for shift, scale in (((float("nan"),), None), (None, (0.0,)), (None, (-1.0,))):
        with pytest.raises(InputError, match="finite numbers"):
            constants(shift, scale)


def test_feature_names_labels_and_zscore_come_from_the_table(tmp_path: Path) -> None:
    x = foreign.dense().rows(300)
    header = ",".join([*(f"sensor_{index}" for index in range(12)), "fault"])
    table = np.column_stack([x, np.arange(300) % 10 == 0])
    np.savetxt(tmp_path / "rows.csv", table, delimiter=",", header=header, comments="", fmt="%.9g")
    path = foreign.dense().save(tmp_path / "model.onnx")
    bundle = adopt(path, tmp_path / "bundle", calibrate=tmp_path / "rows.csv", label_column="fault", score="zscore")
    assert bundle.manifest.input.feature_names == tuple(f"sensor_{index}" for index in range(12))
    assert bundle.manifest.precisions["fp32"].quality.auroc is not None
    assert bundle.manifest.precisions["fp32"].threshold.rows == 270


def test_int8_graphs_are_made_of_float_models_only(tmp_path: Path) -> None:
    bundle, _, _ = make(foreign.dense(), tmp_path, precision=("fp32", "int8"))
    assert "fp32" in bundle.manifest.precisions
    with pytest.raises(InputError, match="quantised already"):
        make(foreign.qdq(), tmp_path, precision=("int8",), force=True)
    with pytest.raises(InputError, match="fp16"):
        make(foreign.dense(), tmp_path, precision=("fp16",), force=True)


# --- files that are not what they should be -------------------------------------------------------------------------


def external(folder: Path, location: str, **entries: int) -> Path:
    """Write the dense model with its first weights in another file."""
    model = foreign.dense().build()
    tensor = model.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **{key: str(value) for key, value in entries.items()}}.items():
        tensor.external_data.add(key=key, value=str(value))
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_bytes(b"\0" * 64 + data)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_external_data_becomes_inline(tmp_path: Path) -> None:
    path = external(tmp_path, "weights.bin", offset=64, length=192)
    bundle = adopt(path, tmp_path / "bundle", threshold=1.0)
    x = foreign.dense().rows(4)
    with edgeae.load(bundle.path, device="cpu") as loaded:
        close(loaded.reconstruct(x), run(foreign.dense().build(), x))


@pytest.mark.parametrize(
    ("location", "entries", "reason"),
    [
        ("other.bin", {}, "keeps weights in 'other.bin', which is not beside it"),
        ("../weights.bin", {}, "cannot be read"),
        ("/etc/passwd", {}, "cannot be read"),
        ("link.bin", {}, "cannot be read"),
        ("weights.bin", {"offset": 100, "length": 192}, "'weights.bin'"),
    ],
)
def test_external_data_is_read_from_beside_the_model_only(
    location: str, entries: dict[str, int], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 192)
    path = external(tmp_path / "model", location, **entries)
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(InputError, match=reason):
        adopt(path, tmp_path / "bundle", threshold=1.0)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"no model at all", "no ONNX"), (b"", "holds no graph"), (b"\x08\0\0\0ORTM" + b"\0" * 40, "ORT format")],
)
def test_files_that_are_no_models_are_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(InputError, match=reason):
        adopt(tmp_path / "model.onnx", tmp_path / "bundle", threshold=1.0)
    with pytest.raises(InputError, match="No such file"):
        adopt(tmp_path / "nothing.onnx", tmp_path / "bundle", threshold=1.0)


def _replaced(op: str, **attributes: Any) -> Model:
    model = foreign.dense()
    return replace(model, nodes=[(op, "input", "flat", attributes), *model.nodes[1:]])


REFUSED: dict[str, tuple[Callable[[], Model], str]] = {
    "an unknown operator": (lambda: _replaced("Det"), r"operator Det \(node 'node_0'\) is not one that edgeae runs"),
    "random numbers": (lambda: _replaced("RandomNormalLike"), "draws random numbers"),
    "an operator that needs trust": (foreign.sines, "Sin.*--trust"),
    "what mixes rows": (foreign.mixes_rows, "ReduceMean.*along the batch.*depends on the others in its batch"),
    "no batch": (lambda: replace(foreign.dense(), row=(), batch=12), "no axis for the batch"),
    "another size": (
        lambda: Model(
            (12,), [("Gemm", "input a", "h", {}), ("Gemm", "h b", "y", {})], {"a": draw(12, 3), "b": draw(3, 5)}),
        r"gives \[5\] for rows of shape \[12\]"),
    "what does not load": (
        lambda: replace(foreign.fixed(), constants={**foreign.fixed().constants, "s1": ints(5, 5)}),
        "ONNX Runtime does not load it: Node"),
    "unusual activations": (
        lambda: Model((5, 3), [("Transpose", "input", "t", {"perm": [1, 0, 2]}),
            ("RNN", "t w r", "a h", {"hidden_size": 2, "activations": ["Relu"]}), ("Squeeze", "h zero", "z", {}),
            ("Gemm", "z b", "y", {})], {"w": draw(1, 2, 3), "r": draw(1, 2, 2), "zero": ints(0), "b": draw(2, 15)}),
        "RNN, which makes 'a': activations relu"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_bundle_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    build, reason = REFUSED[name]
    path = build().save(tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=reason) as caught:
        adopt(path, tmp_path / "bundle", threshold=1.0)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == [path]


def test_several_inputs_are_refused(tmp_path: Path) -> None:
    model = foreign.dense().build()
    model.graph.input.append(helper.make_tensor_value_info("training", TensorProto.BOOL, []))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"2 inputs \(input, training\)"):
        adopt(tmp_path / "model.onnx", tmp_path / "bundle", threshold=1.0)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"crashes on it \(signal SIGSEGV\)"),
        ("import time; time.sleep(60)", "has not run a few rows through it in 0.5 s"),
        ("raise MemoryError('too much')", r"crashes on it \(code 1\).*too much"),
    ],
)
def test_a_model_on_which_onnx_runtime_crashes_or_hangs_is_refused(
    program: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trial.py").write_text(program)
    monkeypatch.setattr("edgeae.export.adopt.observe.TRIAL", tmp_path / "trial.py")
    monkeypatch.setattr("edgeae.export.adopt.observe.SECONDS", 0.5 if "sleep" in program else 60.0)
    path = foreign.dense().save(tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=reason):
        adopt(path, tmp_path / "bundle", threshold=1.0)
    assert not (tmp_path / "bundle").exists()


def test_trust_is_asked_for_when_adopting_and_when_loading(tmp_path: Path) -> None:
    bundle, path, x = make(foreign.sines(), tmp_path, trust=True)
    with edgeae.load(bundle.path, device="cpu") as loaded, pytest.raises(BundleError, match=r"Sin.*trust=True"):
        loaded.score(x)
    with edgeae.load(bundle.path, device="cpu", trust=True) as loaded:
        close(loaded.reconstruct(x), run(path, x))
    assert not all(check.passed for check in verify_bundle(bundle.path))
    assert all(check.passed for check in verify_bundle(bundle.path, trust=True))
    model = _replaced("Det").save(tmp_path / "other.onnx")
    with pytest.raises(ExportError, match="not one that edgeae runs"):
        adopt(model, tmp_path / "other", threshold=1.0, trust=True)


def test_what_loads_a_bundle_on_the_command_line_asks_for_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle, _, x = make(foreign.sines(), tmp_path, trust=True)
    np.savez(tmp_path / "rows.npz", x=np.tile(x, (4, 1)), y=np.arange(4 * len(x)) % 2)
    data, path = str(tmp_path / "rows.npz"), str(bundle.path)
    labelled = [data, "--label-column", "y"]
    for arguments in (
        ["bench", path, "--batches", "1", "--seconds", "0.01", "--cold-starts", "1"],
        ["bench", path, "--batches", "1", "--seconds", "0.01", "--against", path],
        ["tune", path, "--seconds", "0.1", "--dry-run", "--device", "cpu"],
        ["report", path, *labelled, "-o", str(tmp_path / "report.html")],
        ["evaluate", path, *labelled, "--resamples", "100"],
        ["threshold", path, *labelled, "--fpr", "0.2", "-o", str(tmp_path / "again")],
    ):
        refused = CliRunner().invoke(main, arguments)
        assert refused.exit_code == 1 and "Sin" in refused.stderr and "trust" in refused.stderr, (arguments, refused)
        result = CliRunner().invoke(main, [*arguments, "--trust"])
        assert result.exit_code == 0, (arguments, result.output)


@pytest.mark.parametrize("model", [foreign.dense(), foreign.fixed()], ids=["free", "fixed"])
def test_for_a_phone_the_batch_is_fixed_and_its_files_lie_beside(model: Model, tmp_path: Path) -> None:
    path = model.save(tmp_path / "model.onnx")
    np.save(tmp_path / "rows.npy", model.rows(60))
    arguments = ["adopt", str(path), "-o", str(tmp_path / "b"), "--calibrate", str(tmp_path / "rows.npy")]
    result = CliRunner().invoke(main, [*arguments, "--fpr", "0.1", "--target", "mobile"])
    assert result.exit_code == 0, result.output
    assert "NNAPI" in result.stdout and "reduced to its operators" in result.stderr
    assert Bundle.read(tmp_path / "b").manifest.batch == 1
    assert {"scorer.ort", "required_operators.config"} <= {file.name for file in (tmp_path / "b-mobile").iterdir()}
    newer = onnx.load(path)
    newer.opset_import[0].version = 21
    onnx.save(newer, tmp_path / "newer.onnx")
    with pytest.raises(ExportError, match="opset 21 is newer than the 18 of older mobile builds"):
        adopt(tmp_path / "newer.onnx", tmp_path / "c", threshold=1.0, target="mobile")
    assert not (tmp_path / "c").exists()


def test_for_the_web_a_page_lies_beside(tmp_path: Path) -> None:
    path = foreign.dense().save(tmp_path / "model.onnx")
    adopt(path, tmp_path / "b", threshold=1.0, target="web")
    assert (tmp_path / "b.html").read_bytes().startswith(b"<!DOCTYPE html>")
    with pytest.raises(InputError, match=r"b\.html"):
        adopt(path, tmp_path / "b.zip", threshold=1.0, target="web")


def test_a_graph_that_differs_from_the_model_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeae.export.adopt import tidy

    fold = tidy._fold

    def wrong(work: Any, layer: onnx.NodeProto, norm: onnx.NodeProto) -> bool:
        folded = fold(work, layer, norm)
        for name in layer.input[1:2]:
            work.constants[name] = work.constants[name] * np.float32(1.01)
        return folded

    monkeypatch.setattr(tidy, "_fold", wrong)
    with pytest.raises(ExportError, match=r"off by|differs"):
        make(foreign.normed(), tmp_path)
    assert not (tmp_path / "bundle").exists()


def test_an_existing_bundle_is_replaced_on_request_only(tmp_path: Path) -> None:
    make(foreign.dense(), tmp_path)
    with pytest.raises(InputError, match="exists"):
        make(foreign.dense(), tmp_path)


# --- PyTorch --------------------------------------------------------------------------------------------------------

SOURCE = """
import torch
from torch import nn


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(6, 2), nn.Linear(2, 6)

    def forward(self, x):
        return self.up(torch.tanh(self.down(x)))


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 2), nn.Linear(2, 6)

    def forward(self, x):
        return self.decoder(self.encoder(x))


def pair():
    return nn.Linear(6, 2), nn.Linear(2, 6)


def text():
    return "no module"


def needy(size):
    return nn.Linear(size, size)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Write a module into the working directory and return its name."""
    name = f"foreign_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def _whole(weights: dict[str, Tensor], x: Array, names: tuple[str, str], inner: Callable[[Tensor], Tensor]) -> Array:
    down, up = names
    z = inner(nn.functional.linear(torch.from_numpy(x), weights[f"{down}.weight"], weights[f"{down}.bias"]))
    return nn.functional.linear(z, weights[f"{up}.weight"], weights[f"{up}.bias"]).numpy()


@pytest.mark.parametrize("factory", ["Whole", "Parts", "pair"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_module_is_built_and_filled_with_weights(factory: str, suffix: str, package: str, tmp_path: Path) -> None:
    names = ("down", "up") if factory == "Whole" else ("encoder", "decoder")
    weights = {f"{names[0]}.weight": torch.from_numpy(draw(2, 6)), f"{names[0]}.bias": torch.from_numpy(draw(2))}
    weights |= {f"{names[1]}.weight": torch.from_numpy(draw(6, 2)), f"{names[1]}.bias": torch.from_numpy(draw(6))}
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"epoch": 3, "state_dict": weights}, file)
    else:
        save_file(weights, file)
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    bundle = adopt(f"{package}:{factory}", tmp_path / "bundle", weights=file, calibrate=x, fpr=0.1)
    assert bundle.manifest.latent_dim == 2
    with edgeae.load(bundle.path, device="cpu") as loaded:
        close(loaded.reconstruct(x), _whole(weights, x, names, torch.tanh if factory == "Whole" else lambda z: z))


def test_weights_that_would_run_code_or_do_not_fit_are_refused(package: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"threshold": 1.0, "shape": (6,)}

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"w": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="would run code"):
        adopt(f"{package}:Whole", tmp_path / "bundle", weights=tmp_path / "evil.pt", **arguments)
    assert not (tmp_path / "ran").exists()
    save_file({"down.weight": torch.zeros(2, 6)}, tmp_path / "some.safetensors")
    with pytest.raises(InputError, match=r"does not fit Whole: .*Missing key"):
        adopt(f"{package}:Whole", tmp_path / "bundle", weights=tmp_path / "some.safetensors", **arguments)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no whole file of weights"):
        adopt(f"{package}:Whole", tmp_path / "bundle", weights=tmp_path / "broken.safetensors", **arguments)
    with pytest.raises(InputError, match="no such file of weights"):
        adopt(f"{package}:Whole", tmp_path / "bundle", weights=tmp_path / "none.pt", **arguments)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [("Nothing", "has no 'Nothing'"), ("text", "got str"), ("needy", "cannot be called without arguments")],
)
def test_factories_that_make_no_module_are_refused(factory: str, reason: str, package: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        adopt(f"{package}:{factory}", tmp_path / "bundle", threshold=1.0, shape=(6,))
    with pytest.raises(InputError, match="no module no_such_package"):
        adopt("no_such_package.models:make", tmp_path / "bundle", threshold=1.0, shape=(6,))


def test_modules_need_the_shape_of_a_row(tmp_path: Path) -> None:
    pair = (nn.Linear(6, 2), nn.Linear(2, 6))
    with pytest.raises(InputError, match="--shape"):
        adopt(pair, tmp_path / "bundle", threshold=1.0)
    assert adopt(pair, tmp_path / "bundle", threshold=1.0, shape=(6,)).manifest.latent_dim == 2
    with pytest.raises(InputError, match="weights: an ONNX file holds its own"):
        adopt(foreign.dense().save(tmp_path / "m.onnx"), tmp_path / "b", weights="w.pt", threshold=1.0)


class Convolutional(nn.Module):
    """A convolutional autoencoder with batch normalisation whose view has the batch in it."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.dense, self.back = nn.Linear(64, 5), nn.Linear(5, 64)
        self.up = nn.Sequential(nn.Dropout2d(), nn.ConvTranspose2d(4, 1, 3, 2, 1, output_padding=1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        z = self.dense(self.down(x).view(x.size(0), -1))
        return self.up(torch.relu(self.back(z)).view(x.size(0), 4, 4, 4))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """An LSTM that sums a series up, and one that unrolls it again."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_lstm = nn.LSTM(3, 4, batch_first=True)
        self.decoder_lstm = nn.LSTM(4, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, _) = self.encoder_lstm(x)
        y, _ = self.decoder_lstm(h[-1].unsqueeze(1).repeat(1, x.shape[1], 1))
        return self.head(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("free", [True, False], ids=["free", "fixed"])
@pytest.mark.parametrize(("build", "row"), [(Convolutional, (1, 8, 8)), (Recurrent, (6, 3))])
def test_what_both_of_pytorchs_exporters_write(
    build: Callable[[], nn.Module], row: tuple[int, ...], free: bool, dynamo: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module, x = build().eval(), torch.rand(20, *row)
    count = 2 if free else 1
    options: dict[str, Any] = {"dynamo": dynamo, "input_names": ["input"], "verbose": False}
    if free and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    elif free:
        options["dynamic_axes"] = {"input": {0: "batch"}}
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():  # PyTorch's, about PyTorch
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x[:count],), path, **options)
    bundle = adopt(path, tmp_path / "bundle", calibrate=x.numpy(), layout="TC" if len(row) == 2 else "CHW", fpr=0.1)
    assert bundle.manifest.batch is None
    assert bundle.manifest.latent_dim == (5 if len(row) == 3 else 4)
    with edgeae.load(bundle.path, device="cpu") as loaded, torch.no_grad():
        close(loaded.reconstruct(x.numpy()), module(x).numpy())


def test_recurrent_modules_are_adopted_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Recurrent().eval(), torch.rand(30, 6, 3)
    bundle = adopt(module, tmp_path / "bundle", calibrate=x.numpy(), layout="TC", fpr=0.1)
    assert bundle.manifest.batch is None and "LSTM x 2" in bundle.manifest.description
    with edgeae.load(bundle.path, device="cpu") as loaded, torch.no_grad():
        close(loaded.reconstruct(x.numpy()), module(x).numpy())


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    path = foreign.dense().save(tmp_path / "model.onnx")
    np.save(tmp_path / "rows.npy", foreign.dense().rows(60))
    arguments = ["adopt", str(path), "-o", str(tmp_path / "bundle"), "--calibrate", str(tmp_path / "rows.npy")]
    result = CliRunner().invoke(main, [*arguments, "--scale", "2", "--fpr", "0.1", "--latent", "latent"])
    assert result.exit_code == 0, result.output
    assert "4 values" in result.stdout and "Gemm x 2" in result.stdout and "edgeae verify" in result.stderr
    assert Bundle.read(tmp_path / "bundle").manifest.normalisation.scale == (2.0,)
    result = CliRunner().invoke(main, [*arguments, "--scale", "x"])
    assert result.exit_code == 2 and "list of numbers" in result.stderr
    result = CliRunner().invoke(main, ["adopt", str(tmp_path / "none.onnx"), "-o", "b", "--threshold", "1"])
    assert result.exit_code == 1 and result.stderr.count("\n") == 1


def test_reading_strips_the_weights_others_hold(tmp_path: Path) -> None:
    model = read_model(external(tmp_path, "weights.bin", offset=64))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(weights["w1"], draw(12, 4))
