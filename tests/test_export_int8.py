"""int8: integer layers, recipes, the accuracy gate, own thresholds; integer arithmetic against ONNX Runtime."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import nn

import edgeae
from edgeae.bundle import Bundle
from edgeae.bundle.bundle import GRAPHS
from edgeae.bundle.guard import check_graph
from edgeae.bundle.manifest import Input, Normalisation, Quality
from edgeae.cli.group import main
from edgeae.errors import BundleError, ExportError, InputError
from edgeae.export.assemble import Cores, Plan, assemble
from edgeae.export.cores import Network, export_core
from edgeae.export.graph import constants_of
from edgeae.export.int8.choose import Quantised, candidates, layers_of, quantise_cores
from edgeae.export.int8.equalise import equalise
from edgeae.export.int8.integers import MAX_PRODUCTS, WEIGHT_LEVELS, needed_ranges
from edgeae.export.int8.layers import prepare
from edgeae.export.int8.ranges import FLAT, RANGES, Observed, observe, quantisation
from edgeae.export.parity import run_graph
from edgeae.export.quality import Wanted, why_not
from edgeae.export.scores import ScoreSpec
from edgeae.models import Autoencoder
from edgeae.models.config import ModelConfig
from tests.make_golden import sensor_table

Array = np.ndarray[Any, Any]
OPSET = 18

MODELS = {
    "dense": ModelConfig((12,), "vector", 3, hidden=(16, 8), batch_norm=True),
    "image": ModelConfig((4, 5), "HW", 4, output_activation="sigmoid"),
    "tanh": ModelConfig((12,), "vector", 3, hidden=(16,), activation="tanh", latent_activation="linear"),
    "sparse": ModelConfig((12,), "vector", 24, bottleneck="sparse", sparsity="topk", active_units=4),
    "variational": ModelConfig(
        (12,), "vector", 3, hidden=(16,), bottleneck="variational", latent_activation="linear", activation="gelu"
    ),
    "transposed": ModelConfig((7, 10), "HW", 5, architecture="convolutional", hidden=(4, 6), batch_norm=True),
    "resized": ModelConfig((7, 9, 2), "HWC", 5, architecture="convolutional", hidden=(4, 6), upsample="resize"),
    "series": ModelConfig((15, 3), "TC", 5, architecture="convolutional", hidden=(4, 6)),
    "resized series": ModelConfig(
        (16, 3), "TC", 5, architecture="convolutional", hidden=(4, 6), upsample="resize", activation="leaky_relu"
    ),
}


def _modules(config: ModelConfig) -> Autoencoder:
    """A model whose units, biases and statistics differ as trained ones do."""
    torch.manual_seed(0)
    model = Autoencoder(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        model(torch.randn(64, *config.input_shape))
    return model.eval()


def _rows(shape: tuple[int, ...], count: int = 256, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


@pytest.fixture(scope="module")
def exported() -> Callable[[str], tuple[Cores, Plan]]:
    """The float32 cores and the plan of a model by name, exported once."""
    made: dict[str, tuple[Cores, Plan]] = {}

    def get(name: str) -> tuple[Cores, Plan]:
        if name not in made:
            config = MODELS[name]
            model = _modules(config)
            sigmoid = config.output_activation == "sigmoid"
            rows = torch.from_numpy(_rows(config.input_shape, 2))
            network = Network.of(model.encoder, model.decoder, rows, sigmoid=sigmoid)
            plan = Plan(
                input=Input(config.input_shape, "float32", config.layout),
                normalisation=Normalisation("none", (0.0,), (1.0,)),
                latent_dim=config.latent_dim,
                sigmoid=sigmoid,
                score=ScoreSpec("elbo", decoder_variance=0.5) if network.variational else ScoreSpec("mse"),
                batch=None,
                opset=OPSET,
            )
            encoder, decoder = (export_core(network, role, opset=OPSET) for role in ("encoder", "decoder"))
            made[name] = Cores(encoder, decoder), plan
        return made[name]

    return get


@pytest.fixture(scope="module")
def quantised(exported: Callable[[str], tuple[Cores, Plan]]) -> Callable[[str], Cores]:
    """The integer cores of a model by the last recipe, which does most, made once."""

    @cache
    def get(name: str) -> Cores:
        groups = list(candidates(exported(name)[0], OPSET, _rows(MODELS[name].input_shape, seed=1)))
        return next(group for group in reversed(groups) if group)[-1].cores

    return get


# --- whole models -------------------------------------------------------------------------------------------------

FLOATING = {"Gemm", "MatMul", "Conv", "ConvTranspose"}


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_of_every_kind_of_model_computes_in_integers(
    exported: Callable[[str], tuple[Cores, Plan]], quantised: Callable[[str], Cores], name: str
) -> None:
    cores, plan = exported(name)
    layers = sum(node.op_type in FLOATING for core in (cores.encoder, cores.decoder) for node in core.node)
    models = {role: assemble(role, quantised(name), plan, {}) for role in GRAPHS}
    kinds = {role: Counter(node.op_type for node in model.graph.node) for role, model in models.items()}
    integer = {role: kind["QGemm"] + kind["QLinearConv"] for role, kind in kinds.items()}
    assert not any(FLOATING & set(kind) for kind in kinds.values())
    unread = MODELS[name].bottleneck == "variational"  # the encoder does not give the log variance
    assert integer["scorer"] == layers and integer["encoder"] + integer["decoder"] == layers - unread
    for model in models.values():
        _check_integers(model)
    graphs = {role: model.SerializeToString() for role, model in models.items()}
    row = plan.input.shape
    check_graph(
        graphs["scorer"], where="scorer", source=("x", "float32", row), target=("score", "float32", ()), batch=None
    )
    source, target = ("z", "float32", (plan.latent_dim,)), ("x_hat", "float32", row)
    check_graph(graphs["decoder"], where="decoder", source=source, target=target, batch=None)
    # close to float32, and the same whichever graphs compute it
    x = _rows(row, 64, seed=2)
    wanted = run_graph(assemble("scorer", cores, plan, {}).SerializeToString(), x, batch=None)
    score = run_graph(graphs["scorer"], x, batch=None)
    assert np.corrcoef(score, wanted)[0, 1] > 0.99
    if plan.score.kind == "mse":
        x_hat = run_graph(graphs["decoder"], run_graph(graphs["encoder"], x, batch=None), batch=None)
        np.testing.assert_allclose(np.square(x - x_hat).reshape(64, -1).mean(axis=1), score, rtol=2e-3)
    # one row at a time gives the same integers
    np.testing.assert_allclose(run_graph(graphs["scorer"], x, batch=None, chunk=1), score, rtol=1e-5)


def _check_integers(model: onnx.ModelProto) -> None:
    """Weights that no kernel can saturate on; nothing float that is quantised again unless something needs it."""
    constants = constants_of(model.graph)
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        if node.op_type in ("QGemm", "QLinearConv"):
            weight = constants[node.input[3]]
            assert weight.dtype == np.int8 and np.abs(weight.astype(int)).max() <= WEIGHT_LEVELS
            assert constants[node.input[2]].dtype == np.uint8 and not constants[node.input[5]].any()
        source = node.input[0]
        if node.op_type == "QuantizeLinear" and source in makers and readers[source] == 1:
            assert makers[source].op_type not in ("Relu", "DequantizeLinear", "QGemm", "Reshape", "Resize")
    assert 2 * 255 * WEIGHT_LEVELS < 2**15


def test_rectifiers_disappear_and_quantising_comes_first(exported: Callable[[str], tuple[Cores, Plan]]) -> None:
    cores, plan = exported("dense")
    plain = next(iter(candidates(cores, OPSET, _rows((12,)))))[0]
    kinds = [node.op_type for node in assemble("scorer", plain.cores, plan, {}).graph.node]
    assert kinds[:7] == ["QuantizeLinear", *["QGemm"] * 6] and "Relu" not in kinds and "QuantizeLinear" not in kinds[1:]
    encoder = [node.op_type for node in assemble("encoder", plain.cores, plan, {}).graph.node]
    assert encoder == ["QuantizeLinear", "QGemm", "QGemm", "QGemm", "Relu"]  # the latent is float32 and not rounded
    assert plain.describe() == "6 layers in integers; minmax ranges, one scale per dense layer"


class QGemm(OpRun):
    """com.microsoft QGemm as its documentation has it, in NumPy."""

    op_domain = "com.microsoft"

    def _run(self, *inputs: Array | None, transB: int = 0, **_: Any) -> tuple[Array]:
        a, a_scale, a_zero, b, b_scale, b_zero, bias, *result = inputs
        assert a is not None and b is not None and a_zero is not None and b_zero is not None and bias is not None
        right = b.astype(np.int64) - b_zero.astype(np.int64)
        sums = (a.astype(np.int64) - int(a_zero)) @ (right.T if transB else right) + bias
        assert np.abs(sums).max() < 2**31
        real = sums.astype(np.float64) * (np.float64(a_scale) * np.asarray(b_scale, np.float64))
        return (_levels(real, *result) if result else real.astype(np.float32),)


class QLinearConv(OpRun):
    """QLinearConv as its documentation has it; ONNX's own has no channels of other than two axes."""

    def _run(self, *inputs: Array, pads: Any = None, strides: Any = None, **_: Any) -> tuple[Array]:
        x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = inputs
        axes = x.ndim - 2
        pads = pads or [0] * 2 * axes
        around = [(0, 0), (0, 0), *((pads[axis], pads[axis + axes]) for axis in range(axes))]
        centred = np.pad(x.astype(np.float64) - float(x_zero), around)
        conv = nn.functional.conv1d if axes == 1 else nn.functional.conv2d
        weight, offset = (torch.from_numpy(np.asarray(part, np.float64)) for part in (w, bias))
        sums = conv(torch.from_numpy(centred), weight, offset, stride=tuple(strides or [1] * axes)).numpy()
        channel = (1, -1, *[1] * axes)
        scale = np.float64(x_scale) * np.asarray(w_scale, np.float64).reshape(channel if np.ndim(w_scale) else ())
        assert not np.any(w_zero) and np.abs(sums).max() < 2**31
        return (_levels(sums * scale, y_scale, y_zero),)


def _levels(real: Array, scale: Array | None, zero: Array | None) -> Array:
    assert scale is not None and zero is not None
    levels: Array = np.clip(np.rint(real / np.float64(scale)) + int(zero), 0, 255).astype(np.uint8)
    return levels


@pytest.mark.parametrize("name", ["dense", "tanh", "sparse", "transposed", "resized", "series"])
def test_onnx_runtime_computes_what_integer_arithmetic_says(
    exported: Callable[[str], tuple[Cores, Plan]], quantised: Callable[[str], Cores], name: str
) -> None:
    _, plan = exported(name)
    x = _rows(plan.input.shape, 16, seed=3)
    for role in ("encoder", "decoder"):
        model = assemble(role, quantised(name), plan, {})
        actual = run_graph(model.SerializeToString(), x, batch=None)
        model.opset_import[0].version = 20  # the same operators; ONNX's evaluator has no DequantizeLinear of opset 18
        (result,) = ReferenceEvaluator(model, new_ops=[QGemm, QLinearConv]).run(None, {model.graph.input[0].name: x})
        # where a scaled sum is halfway between two integers, the two may round it apart
        step = float(np.ptp(result)) / 255
        assert np.mean(np.abs(actual - result) > 1e-3 * step) < 0.02
        assert np.abs(actual - result).max() < 4 * step
        x = actual


# --- the pieces ---------------------------------------------------------------------------------------------------


def _core(nodes: list[onnx.NodeProto], constants: Mapping[str, Array], source: list[Any], target: list[Any]) -> Any:
    return helper.make_graph(
        nodes,
        "core",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, source)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, target)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )


def _computes(core: onnx.GraphProto, x: Array) -> Array:
    model = helper.make_model(core, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    return run_graph(model.SerializeToString(), x, batch=None)


TRANSPOSED = [
    case
    for case in itertools.product((1, 2), (1, 2, 3), (1, 2, 3, 4, 5), (0, 1, 2), (0, 1))
    if case[3] < case[2] and case[4] < case[1]  # padding below the kernel, output padding below the stride
]


@pytest.mark.parametrize(("axes", "stride", "kernel", "pad", "extra"), TRANSPOSED)
def test_a_transposed_convolution_becomes_a_convolution_exactly(
    axes: int, stride: int, kernel: int, pad: int, extra: int
) -> None:
    generator = np.random.default_rng(kernel)
    weight = generator.standard_normal((3, 2, *[kernel] * axes)).astype(np.float32)
    source = (6, 5)[:axes]
    target = [(side - 1) * stride + kernel - 2 * pad + extra for side in source]
    node = helper.make_node(
        "ConvTranspose",
        ["x", "w", "b"],
        ["y"],
        strides=[stride] * axes,
        pads=[pad] * 2 * axes,
        output_padding=[extra] * axes,
        kernel_shape=[kernel] * axes,
    )
    bias = generator.standard_normal(2).astype(np.float32)
    core = _core([node], {"w": weight, "b": bias}, ["batch", 3, *source], ["batch", 2, *target])
    prepared = prepare(core, OPSET)
    assert "ConvTranspose" not in {node.op_type for node in prepared.node}
    x = generator.standard_normal((4, 3, *source)).astype(np.float32)
    np.testing.assert_allclose(_computes(prepared, x), _computes(core, x), atol=1e-5)


@pytest.mark.parametrize(("group", "dilation"), [(2, 1), (1, 2)])
def test_a_transposed_convolution_of_another_kind_stays(group: int, dilation: int) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=group, dilations=[dilation])
    weight = np.ones((4, 2, 3), np.float32)
    length = 6 + dilation * 2
    core = _core([node], {"w": weight}, ["batch", 4, 6], ["batch", 2 * group, length])
    assert [node.op_type for node in prepare(core, OPSET).node] == ["ConvTranspose"]


def test_every_way_to_write_a_dense_layer_is_one() -> None:
    generator = np.random.default_rng(0)
    square = generator.standard_normal((4, 4)).astype(np.float32)
    bias = generator.standard_normal(4).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["b", "a"], ["c"]),
        helper.make_node("Gemm", ["c", "w"], ["d"], transB=1, alpha=0.5),
        helper.make_node("Gemm", ["d", "w", "b"], ["e"], beta=2.0),
        helper.make_node("MatMul", ["e", "w"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "half"], ["y"]),
    ]
    half = np.float32(0.5).reshape(1)
    core = _core(nodes, {"w": square, "b": bias, "half": half}, ["batch", 4], ["batch", 4])
    prepared = prepare(core, OPSET)
    assert [node.op_type for node in prepared.node] == ["Gemm"] * 5
    x = generator.standard_normal((8, 4)).astype(np.float32)
    np.testing.assert_allclose(_computes(prepared, x), _computes(core, x), rtol=1e-4, atol=1e-5)


def test_what_has_no_constant_weights_stays_float() -> None:
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    core = _core(nodes, {}, ["batch", 3, 3], ["batch", 3, 3])
    assert [node.op_type for node in prepare(core, OPSET).node] == ["MatMul"]


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("name", ["dense", "transposed", "series"])
def test_equalising_changes_ranges_and_nothing_else(
    exported: Callable[[str], tuple[Cores, Plan]], name: str, inputs: bool
) -> None:
    x = _rows(MODELS[name].input_shape)
    x[..., 0] *= 20
    core = prepare(exported(name)[0].encoder, OPSET)
    seen, _ = observe(core, OPSET, x, needed_ranges(core))
    evened = equalise(core, seen, inputs=inputs)
    assert evened != core
    np.testing.assert_allclose(_computes(evened, x), _computes(core, x), rtol=1e-3, atol=1e-4)
    again, _ = observe(evened, OPSET, x, needed_ranges(evened))
    assert (x.shape[1:] == (12,) and inputs) == any(name.endswith("evened") for name in again)


def test_a_range_holds_zero_exactly_and_costs_least_where_it_should() -> None:
    values = np.sort(np.append(np.random.default_rng(0).standard_normal(5000), [-3.0, 90.0]).astype(np.float32))
    seen = Observed(values, np.ones(1, np.float32))

    def error(method: Any) -> float:
        levels = quantisation(seen, method)
        integers = np.clip(np.rint(values / levels.scale) + levels.zero, 0, 255)
        return float(np.mean(np.square(values - levels.scale * (integers - levels.zero))))

    assert min(RANGES, key=error) == "mse"
    assert quantisation(seen, "minmax").scale == pytest.approx(float(np.ptp(values)) / 255)
    assert quantisation(seen, "99.9 %").scale < 0.03
    nothing = quantisation(Observed(np.zeros(4, np.float32), np.zeros(1, np.float32)), "mse")
    assert nothing.scale > 0 and nothing.zero == 0
    positive = Observed(np.linspace(2, 3, 9, dtype=np.float32), np.ones(1, np.float32))
    assert quantisation(positive, "minmax").zero == 0


@pytest.mark.parametrize(("reader", "sigmoid"), [("", False), ("", True), ("Sigmoid", False), ("Tanh", True)])
def test_what_is_beyond_where_an_activation_is_flat_takes_no_levels(reader: str, sigmoid: bool) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["a" if reader else "y"])]
    nodes += [helper.make_node(reader, ["a"], ["y"])] if reader else []
    core = _core(nodes, {"w": np.eye(3, dtype=np.float32)}, ["n", 3], ["n", 3])
    x = 300 * _rows((3,))
    seen, _ = observe(core, OPSET, x, ["a" if reader else "y"], sigmoid=sigmoid)
    (found,) = seen.values()
    flat = FLAT[reader] if reader else FLAT["Sigmoid"] if sigmoid else np.inf
    np.testing.assert_array_equal(found.values[[0, -1]], np.clip([x.min(), x.max()], -flat, flat))


def test_convolutions_have_a_scale_per_channel_even_where_dense_layers_have_one(
    exported: Callable[[str], tuple[Cores, Plan]],
) -> None:
    first = next(candidates(exported("transposed")[0], OPSET, _rows((7, 10))))[0]
    for core in (first.cores.encoder, first.cores.decoder):
        constants = constants_of(core)
        for node in core.node:
            if node.op_type == "QLinearConv":
                assert constants[node.input[4]].shape == constants[node.input[3]].shape[:1]
            elif node.op_type == "QGemm":
                assert constants[node.input[4]].shape == ()


def test_dead_units_and_large_biases_do_not_cost_the_others_their_levels() -> None:
    weight = np.array([[1.0, 0.0, 0.0], [0.5, 0.0, 0.0]], np.float32)
    bias = np.array([0.1, 1000.0, 0.0], np.float32)
    core = _core([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], {"w": weight, "b": bias}, ["n", 2], ["n", 3])
    x = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    decoder = _core(
        [helper.make_node("Gemm", ["x", "w"], ["y"])], {"w": np.eye(3, dtype=np.float32)}, ["n", 3], ["n", 3]
    )
    plan = Plan(
        Input((2,), "float32", "vector"), Normalisation("none", (0,), (1,)), 3, False, ScoreSpec("mse"), None, 18
    )
    for group in candidates(Cores(core, decoder), OPSET, x):
        for candidate in group:
            z = run_graph(assemble("encoder", candidate.cores, plan, {}).SerializeToString(), x, batch=None)
            np.testing.assert_allclose(z, x @ weight + bias, rtol=1e-4, atol=0.1)


def test_a_layer_whose_sums_could_overflow_stays_float() -> None:
    for width, ranges in ((MAX_PRODUCTS, ["x", "y"]), (MAX_PRODUCTS + 1, [])):
        weight = np.zeros((width, 1), np.float32)
        core = _core([helper.make_node("Gemm", ["x", "w"], ["y"])], {"w": weight}, ["n", width], ["n", 1])
        assert needed_ranges(prepare(core, OPSET)) == ranges
    assert MAX_PRODUCTS * 255 * WEIGHT_LEVELS + 2**24 < 2**31


@pytest.mark.parametrize(
    ("dtype", "mode", "allowed"), [(1, "linear", True), (2, "nearest", True), (2, "linear", False)]
)
def test_bytes_are_resized_by_repeating_them_only(dtype: int, mode: str, allowed: bool) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=1),
        helper.make_node("QuantizeLinear", ["c", "s", "zero"], ["q"]),
        helper.make_node("Resize", ["q" if dtype == 2 else "c", "", "scales"], ["r"], mode=mode),
        helper.make_node("DequantizeLinear", ["r", "s", "zero"], ["d"]),
        helper.make_node("Identity", ["d" if dtype == 2 else "r"], ["y"]),
    ]
    if dtype == 1:
        nodes = [nodes[0], nodes[2], nodes[4]]
    constants: dict[str, Any] = {"s": np.float32(1), "zero": np.uint8(0), "scales": np.array([1, 1, 2, 2], np.float32)}
    model = helper.make_model(
        _core(nodes, constants, ["batch", 1, 2, 2], ["batch", 1, 4, 4]),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
    )

    def check() -> None:
        check_graph(
            model.SerializeToString(),
            where="it",
            source=("x", "float32", (1, 2, 2)),
            target=("y", "float32", (1, 4, 4)),
            batch=None,
        )

    if allowed:
        check()
    else:
        with pytest.raises(BundleError, match="nearest"):
            check()


# --- layers in float ----------------------------------------------------------------------------------------------


def _made(cores: Cores, gate: Callable[[Cores], float]) -> Quantised:
    rows = _rows(MODELS["transposed"].input_shape, 32)
    made = quantise_cores(cores, OPSET, rows, lambda _: 0.0, gate, enough=1.0, allowed=1.0)
    assert made is not None
    return made


def test_the_layers_of_a_model_and_their_multiplications(exported: Callable[[str], tuple[Cores, Plan]]) -> None:
    layers = layers_of(exported("transposed")[0], OPSET)  # 7x10, 4 and 6 channels: 4x5, 2x3, latent 5
    assert [(layer.role, layer.place) for layer in layers] == [
        *(("encoder", place) for place in (1, 2, 3)),
        *(("decoder", place) for place in (4, 5, 6)),
    ]
    assert [layer.work for layer in layers] == [36 * 20, 216 * 6, 180, 180, 216 * 6, 36 * 20]


def test_of_the_layers_that_are_enough_the_one_with_the_least_work_stays_in_float(
    exported: Callable[[str], tuple[Cores, Plan]],
) -> None:
    cores, _ = exported("transposed")

    def gate(candidate: Cores) -> float:
        """Any transposed convolution in float will do."""
        return 2.0 - any(node.op_type == "ConvTranspose" for node in candidate.decoder.node)

    made = _made(cores, gate)
    assert [layer.place for layer in made.floating] == [6]
    assert "5 layers in integers, 1 stays float (layer 6 of 6 for accuracy)" in made.describe()


def test_layers_stay_in_float_one_after_the_other_until_the_gate_is_passed(
    exported: Callable[[str], tuple[Cores, Plan]],
) -> None:
    cores, _ = exported("transposed")

    def gate(candidate: Cores) -> float:
        """A share for each dense layer in float, a larger one for the decoder's."""
        kinds = [Counter(node.op_type for node in core.node) for core in (candidate.encoder, candidate.decoder)]
        return 2.0 - 0.4 * kinds[0]["Gemm"] - 0.6 * kinds[1]["Gemm"]

    assert [layer.place for layer in _made(cores, gate).floating] == [4, 3]


def test_with_less_than_half_in_integers_a_model_is_not_worth_it(
    exported: Callable[[str], tuple[Cores, Plan]],
) -> None:
    cores, _ = exported("transposed")
    most: list[int] = []

    def gate(candidate: Cores) -> float:
        kinds = Counter(node.op_type for core in (candidate.encoder, candidate.decoder) for node in core.node)
        most.append(sum(kinds[kind] for kind in FLOATING))
        return 2.0 - most[-1] / 100

    assert _made(cores, gate).floating == ()
    layers = sorted(layer.work for layer in layers_of(cores, OPSET))
    assert 0 < sum(sorted(layers)[: max(most)]) <= sum(layers) / 2


# --- bundles ------------------------------------------------------------------------------------------------------


def _pair(width: int = 96, hidden: int = 64, latent: int = 8) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, latent))
    return encoder, nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, width))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A pair of modules as float32 and int8."""
    path = tmp_path_factory.mktemp("int8") / "bundle"
    rows = _rows((96,), 1200) * np.geomspace(1e-3, 1e3, 96, dtype=np.float32) + 5
    precision = ("fp32", "int8")
    return edgeae.export_bundle(
        _pair(), path, calibrate=rows, normalisation="standard", score="mse", precision=precision, fpr=0.02
    )


def test_a_bundle_has_int8_graphs_with_a_threshold_of_their_own(bundle: Bundle) -> None:
    fp32, int8 = bundle.manifest.precisions["fp32"], bundle.manifest.precisions["int8"]
    assert int8.scorer.path == "int8/scorer.onnx"
    assert int8.threshold.value != fp32.threshold.value and int8.threshold.fpr == 0.02
    rows = _rows((96,), 1200) * np.geomspace(1e-3, 1e3, 96, dtype=np.float32) + 5
    scores = run_graph(bundle.graph("int8", "scorer"), rows, batch=None)
    assert 0.01 <= float(np.mean(scores > int8.threshold.value)) <= 0.02
    assert int8.quality.rank_correlation is not None and 0.995 <= int8.quality.rank_correlation < 1
    assert int8.quality.label_flips is not None and int8.quality.label_flips <= 0.005
    with edgeae.load(bundle.path, device="cpu", precision="int8") as model:
        np.testing.assert_array_equal(model.predict(rows), ~(scores <= np.float32(int8.threshold.value)))
        for role in GRAPHS:
            model.prepare(role)  # runs the golden rows


def test_int8_graphs_are_a_third_of_float32_at_most(bundle: Bundle) -> None:
    sizes = {
        precision: sum(getattr(entry, role).size for role in GRAPHS)
        for precision, entry in bundle.manifest.precisions.items()
    }
    assert sizes["int8"] <= 0.34 * sizes["fp32"]  # 13,000 weights; names and scales weigh less in larger networks


def test_a_bad_row_is_seen_and_changes_no_other(bundle: Bundle) -> None:
    rows = _rows((96,), 5) * np.geomspace(1e-3, 1e3, 96, dtype=np.float32) + 5
    bad = rows.copy()
    bad[1, 3], bad[2, 0], bad[3, 5] = np.nan, np.inf, -np.inf
    scores = run_graph(bundle.graph("int8", "scorer"), bad, batch=None)
    assert np.isfinite(scores).tolist() == [True, False, False, False, True]
    np.testing.assert_array_equal(scores[[0, 4]], run_graph(bundle.graph("int8", "scorer"), rows, batch=None)[[0, 4]])
    with edgeae.load(bundle.path, device="cpu", precision="int8") as model, pytest.raises(InputError, match="row 1"):
        model.score(bad)
    with edgeae.load(bundle.path, device="cpu", precision="int8", on_invalid="flag") as model:
        assert np.isnan(model.score(bad)).tolist() == [False, True, True, True, False]


def test_a_row_far_outside_still_scores_higher(bundle: Bundle) -> None:
    row = _rows((96,), 1) * np.geomspace(1e-3, 1e3, 96, dtype=np.float32) + 5
    far = np.concatenate([row, row * 10, row * 1e3, row * 1e6])
    scores = run_graph(bundle.graph("int8", "scorer"), far, batch=None)
    assert scores.tolist() == sorted(scores.tolist()) and scores[-1] > 1e6 * scores[0]


def test_the_same_modules_and_rows_give_the_same_int8_bytes(bundle: Bundle, tmp_path: Path) -> None:
    rows = _rows((96,), 1200) * np.geomspace(1e-3, 1e3, 96, dtype=np.float32) + 5
    other = edgeae.export_bundle(
        _pair(),
        tmp_path / "bundle",
        calibrate=rows,
        normalisation="standard",
        score="mse",
        precision=("fp32", "int8"),
        fpr=0.02,
    )
    assert other.manifest.precisions == bundle.manifest.precisions


def test_bytes_in_a_fixed_batch_and_labelled_rows(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (300, 6, 6)).astype(np.uint8)
    data = replace(edgeae.data.load_data(images), y=(np.arange(300) % 3 == 0).astype(np.int64))
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU())
    decoder = nn.Sequential(nn.Linear(12, 36), nn.Unflatten(1, (6, 6)))
    made = edgeae.export_bundle(
        (encoder, decoder),
        tmp_path / "bundle",
        calibrate=data,
        normalisation="minmax",
        output_activation="sigmoid",
        precision=("fp32", "fp16", "int8"),
        input_dtype="uint8",
        batch=4,
        threshold=0.1,
        score="bce",
    )
    fp32, int8 = made.manifest.precisions["fp32"], made.manifest.precisions["int8"]
    assert fp32.threshold == int8.threshold and int8.threshold.method == "fixed"
    assert fp32.quality.auroc is not None and int8.quality.auroc is not None
    assert int8.quality.auroc >= fp32.quality.auroc - 0.005
    scores = run_graph(made.graph("int8", "scorer"), images, batch=4)
    np.testing.assert_allclose(scores, run_graph(made.graph("fp32", "scorer"), images, batch=4), rtol=0.05)


class _Almost(nn.Module):
    """Reconstructs its input but for an error far below 1/255 of its range."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        nn.init.eye_(self.layer.weight)
        nn.init.constant_(self.layer.bias, error)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x) * (1 + 1e-4 * torch.tanh(x))
        return result


def test_what_costs_too_much_accuracy_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    modules, rows = (_Almost(0.0), _Almost(1e-4)), sensor_table()[:, :6]
    with caplog.at_level(logging.WARNING, "edgeae"):
        kept = edgeae.export_bundle(
            modules, tmp_path / "kept", calibrate=rows, normalisation="standard", precision=("fp32", "int8")
        )
    assert set(kept.manifest.precisions) == {"fp32"} and not (tmp_path / "kept" / "int8").exists()
    assert "int8 is not kept: the rank correlation of its scores with fp32's is" in caplog.text
    with pytest.raises(ExportError, match=r"int8: the rank correlation.*nothing is written"):
        edgeae.export_bundle(modules, tmp_path / "alone", calibrate=rows, normalisation="standard", precision=("int8",))
    assert {path.name for path in tmp_path.iterdir()} == {"kept"}


def _last_layer_counts() -> tuple[tuple[nn.Module, nn.Module], Array]:
    """A linear model of two patterns and rows of these: 32 noisy channels are averaged into values of a wide range."""
    generator = np.random.default_rng(0)
    side, channels = 12, 32
    patterns = np.linalg.qr(generator.standard_normal((side * side, 2)))[0].astype(np.float32) * side
    gains = generator.uniform(0.5, 1, (channels, 1, 1)).astype(np.float32)
    layers = nn.Linear(side * side, 2), nn.Linear(2, channels * side * side), nn.Conv2d(channels, 1, 1)
    weights = patterns.T / side**2, (gains * patterns).reshape(-1, 2), (1 / gains / channels)[None]
    for layer, weight in zip(layers, weights, strict=True):
        layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.zeros(len(weight))})
    encoder = nn.Sequential(nn.Flatten(), layers[0])
    decoder = nn.Sequential(layers[1], nn.Unflatten(1, (channels, side, side)), layers[2])
    rows = generator.standard_normal((1200, 2)) @ patterns.T + 0.2 * generator.standard_normal((1200, side * side))
    return (encoder, decoder), rows.reshape(-1, 1, side, side).astype(np.float32)


def test_a_layer_that_costs_too_much_accuracy_stays_in_float(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    modules, rows = _last_layer_counts()
    with caplog.at_level(logging.INFO, "edgeae"):
        made = edgeae.export_bundle(
            modules, tmp_path / "bundle", calibrate=rows, normalisation="none", score="mse", precision=("fp32", "int8")
        )
    assert "int8: 2 layers in integers, 1 stays float (layer 3 of 3 for accuracy)" in caplog.text
    quality = made.manifest.precisions["int8"].quality
    assert quality.rank_correlation is not None and quality.rank_correlation >= 0.995
    kinds = Counter(node.op_type for node in onnx.load_from_string(made.graph("int8", "scorer")).graph.node)
    assert kinds["Conv"] == 1 and kinds["QGemm"] == 2 and not kinds["QLinearConv"]
    with edgeae.load(made.path, device="cpu", precision="int8") as model:
        model.prepare()  # runs the golden rows


def test_without_rows_or_layers_there_is_no_int8(tmp_path: Path) -> None:
    rows = sensor_table()[:, :6]
    with pytest.raises(InputError, match="calibrate: int8 needs normal rows"):
        edgeae.export_bundle(
            _pair(6, 4, 2), tmp_path / "bundle", example=rows, threshold=1.0, precision=("fp32", "int8")
        )
    with pytest.raises(ExportError, match="int8: none of its layers has an integer kernel"):
        edgeae.export_bundle((nn.Tanh(), nn.ReLU()), tmp_path / "bundle", calibrate=rows, precision=("int8",))
    assert not list(tmp_path.iterdir())


def _quality(**values: float) -> Quality:
    return Quality(parity={}, parity_rows=0, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "fp32", "kept"),
    [
        ({"rank_correlation": 0.9951, "label_flips": 0.005}, {}, True),
        ({"rank_correlation": 0.9949, "label_flips": 0.0}, {}, False),
        ({"rank_correlation": 0.999, "label_flips": 0.006}, {}, False),
        ({"rank_correlation": 0.9, "label_flips": 0.1, "auroc": 0.897}, {"auroc": 0.9}, True),
        ({"rank_correlation": 0.9, "label_flips": 0.1, "auroc": 0.93}, {"auroc": 0.9}, True),
        ({"rank_correlation": 1.0, "label_flips": 0.0, "auroc": 0.894}, {"auroc": 0.9}, False),
    ],
)
def test_the_gate(found: dict[str, float], fp32: dict[str, float], kept: bool) -> None:
    assert (why_not(_quality(**found), _quality(**fp32)) is None) == kept


def test_drift_is_what_the_gate_measures() -> None:
    scores = np.linspace(0, 1, 1000)
    wanted = Wanted(scores, None, float(scores[-11]), fixed=False)
    assert wanted.drift(scores * 3 + 1, None) == pytest.approx(0, abs=1e-9)
    assert replace(wanted, fixed=True).drift(scores * 3 + 1, None) == pytest.approx(0.99 / 0.005, rel=0.01)
    swapped = scores.copy()
    swapped[[-10, -20]] = swapped[[-20, -10]]
    assert wanted.drift(swapped, None) == pytest.approx(0.002 / 0.005)
    labelled = replace(wanted, anomalous=np.full(10, 2.0))
    assert labelled.drift(scores, np.full(10, 2.0)) == pytest.approx(0, abs=1e-9)
    assert labelled.drift(scores, np.full(10, 0.5)) > 10
    assert labelled.drift(swapped, np.full(10, 2.0)) > labelled.gate(swapped, np.full(10, 2.0)) == 0  # AUROC decides
    assert wanted.gate(swapped, None) == wanted.drift(swapped, None)
    assert wanted.drift(np.where(scores < 0.5, np.nan, scores), None) == float("inf")


def test_the_command_exports_int8_and_says_what_it_left_out(tmp_path: Path) -> None:
    edgeae.train("digits", tmp_path / "run", latent_dim=8, epochs=2, device="cpu", threads=1, progress=False)
    run, out = str(tmp_path / "run"), str(tmp_path / "bundle")
    result = CliRunner().invoke(main, ["export", run, "-o", out, "--precision", "fp32,int8", "--calibrate", "digits"])
    assert result.exit_code == 0, result.output
    assert "int8" in result.output
    assert "int8" in Bundle.read(out).manifest.precisions
    verified = CliRunner().invoke(main, ["verify", out])
    assert verified.exit_code == 0 and "int8 scorer" in verified.output
    wrong = CliRunner().invoke(main, ["export", run, "-o", f"{out}2", "--precision", "int4"])
    assert wrong.exit_code == 1 and "int4" in wrong.output
