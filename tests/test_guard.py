"""The guard: what it lets pass, what it refuses and how, and that ONNX Runtime survives what passed."""

from __future__ import annotations

import math
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeae.bundle.bundle import GRAPHS, Bundle
from edgeae.bundle.guard import GraphInfo, Limits, Tensor, check_graph
from edgeae.bundle.guard.operators import OPERATORS, WIDER
from edgeae.bundle.protobuf import parse_model, with_metadata
from edgeae.errors import BundleError
from tests.bundles import Recipe, make_bundle
from tests.fuzz.mutate import mutate_structure
from tests.fuzz.run import TIGHT, Findings, describe, fuzz, judge
from tests.fuzz.samples import Sample, Step, build, draw, ints, one, samples, trusted_samples
from tests.fuzz.worker import Worker
from tests.make_operators import FORMAT, with_table

GOLDEN = Path(__file__).parents[1] / "export" / "golden"
MEMORY = 200 * 2**20


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


def refusal(data: bytes, *, batch: int | None = None, source: Tensor = ("x", "float32", (4,))) -> str:
    """Return the one line with which the guard refuses a graph from `source` to y [batch, 4]."""
    with pytest.raises(BundleError) as caught:
        check_graph(data, where="scorer.onnx", source=source, target=("y", "float32", (4,)), batch=batch)
    message = str(caught.value)
    assert message.startswith("scorer.onnx: ") and "\n" not in message and message.isprintable()
    assert "copy or export the bundle again" in message or "FORMAT.md" in message
    return message


def check_bundle(bundle: Bundle) -> Iterator[GraphInfo]:
    """Run the guard on every graph of a bundle."""
    manifest = bundle.manifest
    x = ("x", manifest.input.dtype, manifest.input.shape)
    x_hat = ("x_hat", "float32", manifest.input.shape)
    z, score = ("z", "float32", (manifest.latent_dim,)), ("score", "float32", ())
    ends = {"encoder": (x, z), "decoder": (z, x_hat), "scorer": (x, score)}
    for precision in manifest.precisions:
        for role in GRAPHS:
            data = bundle.graph(precision, role)
            source, target = ends[role]
            info = check_graph(data, where=role, source=source, target=target, batch=manifest.batch)
            assert info.metadata["edgeae.role"] == role and info.opset == manifest.opset
            yield info


# --- what passes --------------------------------------------------------------------------------------------------


def test_every_operator_of_the_table_has_a_sample() -> None:
    used = {
        (node.domain, node.op_type)
        for sample in samples().values()
        for node in onnx.load_from_string(sample.data).graph.node
    }
    assert used == set(OPERATORS)


@pytest.mark.parametrize("name", trusted_samples())
def test_operators_that_need_trust_pass_on_request_only(name: str, worker: Worker) -> None:
    sample = trusted_samples()[name]
    with pytest.raises(BundleError, match="only where its maker is trusted"):
        sample.check()
    sample.check(trust=True)
    assert worker.run(sample.data, sample.source[1], sample.source[2], sample.target[2], sample.batch) == "ran"


def test_every_operator_that_needs_trust_has_a_sample() -> None:
    used = {node.op_type for each in trusted_samples().values() for node in onnx.load_from_string(each.data).graph.node}
    assert {name for _, name in WIDER} <= used


@pytest.mark.parametrize("name", samples())
def test_samples_pass_and_run_with_the_shapes_that_were_inferred(name: str, worker: Worker) -> None:
    sample = samples()[name]
    info = sample.check()
    assert worker.run(sample.data, sample.source[1], sample.source[2], sample.target[2], sample.batch) == "ran"
    model = onnx.load_from_string(sample.data)
    weights = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    weights += [numpy_helper.to_array(node.attribute[0].t) for node in model.graph.node if node.op_type == "Constant"]
    assert info.parameters == sum(weight.size for weight in weights)
    assert info.parameter_bytes == sum(weight.nbytes for weight in weights)
    assert sum(info.operators.values()) == len(model.graph.node)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for value in inferred.graph.value_info:
        dimensions = value.type.tensor_type.shape.dim
        if all(each.HasField("dim_value") for each in dimensions[1:]) and value.type.tensor_type.HasField("shape"):
            assert info.shapes[value.name][1:] == tuple(each.dim_value for each in dimensions[1:]), value.name


@pytest.mark.parametrize(
    "changes",
    [{}, {"dtype": "uint8", "shift": 0.0, "scale": 255.0}, {"batch": 1}, {"score": "elbo"}, {"score": "bce"}],
    ids=str,
)
def test_bundles_made_by_hand_pass(tmp_path: Path, changes: Mapping[str, Any]) -> None:
    make_bundle(tmp_path / "bundle", Recipe(**changes))
    assert len(list(check_bundle(Bundle.read(tmp_path / "bundle")))) == 3


@pytest.mark.parametrize("name", sorted(path.parent.name for path in GOLDEN.glob("*/manifest.json")))
def test_golden_bundles_pass(name: str) -> None:
    assert len(list(check_bundle(Bundle.read(GOLDEN / name)))) >= 3


CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "sparse": {
        "input_shape": (6, 6), "layout": "HW", "latent_dim": 32, "bottleneck": "sparse", "sparsity": "topk",
        "active_units": 4, "activation": "gelu", "hidden": (8,),
    },
    "resize": {
        "input_shape": (7, 6, 2), "layout": "HWC", "latent_dim": 3, "architecture": "convolutional", "hidden": (3, 4),
        "upsample": "resize", "bottleneck": "variational", "activation": "silu",
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "half", "opset"), [("sparse", False, 20), ("resize", True, 18)])
def test_what_the_exporter_writes_passes(name: str, half: bool, opset: int) -> None:
    import torch

    from edgeae.bundle.manifest import Input, Normalisation
    from edgeae.export.assemble import Cores, Plan, assemble
    from edgeae.export.cores import Network, export_core
    from edgeae.export.scores import ScoreSpec
    from edgeae.models import Autoencoder, ModelConfig

    config = ModelConfig(**CONFIGS[name])
    model = Autoencoder(config).eval()
    row, sigmoid = config.input_shape, config.output_activation == "sigmoid"
    network = Network.of(model.encoder, model.decoder, torch.zeros(2, *row), sigmoid=sigmoid)
    encoder, decoder = (export_core(network, role, opset=opset, half=half) for role in ("encoder", "decoder"))
    cores = Cores(encoder, decoder, half)
    score = ScoreSpec("elbo", decoder_variance=0.5) if config.bottleneck == "variational" else ScoreSpec("bce")
    normalisation = Normalisation("standard", (0.5,), (2.0,))
    plan = Plan(Input(row, "uint8", config.layout), normalisation, config.latent_dim, sigmoid, score, None, opset)
    x, z = ("x", "uint8", row), ("z", "float32", (config.latent_dim,))
    ends = {"encoder": (x, z), "decoder": (z, ("x_hat", "float32", row)), "scorer": (x, ("score", "float32", ()))}
    for role, (source, target) in ends.items():
        data = assemble(role, cores, plan, {"edgeae.role": role}).SerializeToString()
        assert check_graph(data, where=role, source=source, target=target).work > 0


@st.composite
def geometries(draws: st.DrawFn) -> tuple[str, tuple[int, ...], list[Any], dict[str, Any]]:
    """Draw an operator on images of 2 channels: name, shape of a row, constants, attributes."""
    side = draws(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    pair = st.lists(st.integers(1, 3), min_size=2, max_size=2)
    kernel, dilations = draws(pair), draws(pair)
    window: dict[str, Any] = {
        "strides": draws(pair),
        "pads": draws(st.lists(st.integers(0, 2), min_size=4, max_size=4)),
    }
    constants: list[Any] = []
    op = draws(st.sampled_from(["Conv", "ConvTranspose", "MaxPool", "AveragePool", "Slice", "Resize", "Pad"]))
    match op:
        case "Conv":
            constants, window["dilations"] = [draw(3, 2, *kernel)], dilations
        case "ConvTranspose":
            constants, window["dilations"] = [draw(2, 3, *kernel)], dilations
            window["output_padding"] = draws(st.lists(st.integers(0, 2), min_size=2, max_size=2))
        case "MaxPool" | "AveragePool":
            window |= {"kernel_shape": kernel} | ({"dilations": dilations} if op == "MaxPool" else {})
        case "Slice":
            bounds = st.sampled_from([-(2**63) + 1, -9, -3, -1, 0, 1, 2, 5, 9, 2**31, 2**63 - 1])
            step = draws(st.sampled_from([-3, -1, 1, 2, 2**30]))
            constants, window = [ints(draws(bounds)), ints(draws(bounds)), ints(-1), ints(step)], {}
        case "Resize":
            factors = draws(st.tuples(*[st.floats(0.25, 4, width=32)] * 2))
            constants, window = [None, np.array([1, 1, *factors], np.float32)], {"mode": "nearest"}
        case _:
            low, high = draws(st.tuples(*[st.integers(0, 9)] * 2))
            constants, window = [ints(low, high), None, ints(2)], {"mode": "reflect"}
    return op, (2, *side), constants, window


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(geometries())
def test_geometry_is_inferred_as_onnx_runtime_has_it(
    drawn: tuple[str, tuple[int, ...], list[Any], dict[str, Any]],
) -> None:
    op, row, constants, attributes = drawn
    try:
        sample = one(op, row, constants, **attributes)  # declares the shape that ONNX Runtime returned
    except Exception:  # ONNX Runtime refuses it; its exceptions share no class
        assume(False)
    assume(min(sample.target[2]) > 0)
    try:
        sample.check()
    except BundleError as problem:
        # stricter than ONNX Runtime on purpose; its own checks for these differ between versions
        strict = (
            "reflects more",
            "output_padding is too large",
            "padding is not smaller",
            "kernel is larger",
            "ambiguous",
        )
        assert any(reason in str(problem) for reason in strict), problem


def test_weights_are_not_copied() -> None:
    steps: Sequence[Step] = [("MatMul", "x w", "h", {}), ("MatMul", "h v", "y", {})]
    sample = build("large", (4,), steps, {"w": draw(4, 2**19), "v": draw(2**19, 4)})
    assert len(sample.data) > 2**24
    tracemalloc.start()
    try:
        info = sample.check()
        assert tracemalloc.get_traced_memory()[1] < 2**17
    finally:
        tracemalloc.stop()
    assert info.work == 2 * 4 * 2**19 and info.activation == 2**19 and info.parameter_bytes == 2**24


def test_metadata_can_be_rewritten() -> None:
    sample = samples()["scorer"]
    metadata = {"edgeae.threshold": "0.5", "name": "Grüße", "empty": ""}
    data = with_metadata(with_metadata(sample.data, {"old": "gone"}), metadata)
    assert sample.check(data).metadata == metadata
    model = onnx.load_from_string(data)
    assert {entry.key: entry.value for entry in model.metadata_props} == metadata
    assert with_metadata(data, {}) == sample.data


def test_the_format_holds_the_table() -> None:
    text = FORMAT.read_text("utf-8")
    assert with_table(text) == text, "run: python -m tests.make_operators"


# --- one row never changes another --------------------------------------------------------------------------------

ALONG_THE_BATCH: Mapping[str, Callable[[], Sample]] = {
    "transpose": lambda: one("Transpose", (2,), perm=[1, 0]),
    "reduce": lambda: one("ReduceSum", (4,), [ints(0)], keepdims=1),
    "reduce all": lambda: build("all", (4,), [("ReduceSum", "x", "y", {})]),
    "softmax": lambda: one("Softmax", (4,), axis=-2),
    "layer norm": lambda: build("norm", (4,), [("LayerNormalization", "x c", "y", {"axis": 0})], {"c": draw(2, 4)}),
    "reshape": lambda: one("Reshape", (4,), [ints(4, -1)]),
    "reshape to one": lambda: one("Reshape", (4,), [ints(1, -1)]),
    "flatten": lambda: one("Flatten", (4,), axis=0),
    "flatten more": lambda: one("Flatten", (2, 2), axis=2),
    "concat": lambda: one("Concat", (4,), [draw(1, 4)], axis=0),
    "slice": lambda: one("Slice", (4,), [ints(0), ints(1), ints(0)]),
    "gather": lambda: one("Gather", (4,), [ints(0, 0)], axis=0),
    "topk": lambda: build("topk", (4,), [("TopK", "x k", "y i", {"axis": 0})], {"k": ints(1)}),
    "pad": lambda: one("Pad", (4,), [ints(1, 0, 0, 0)]),
    "tile": lambda: one("Tile", (4,), [ints(2, 1)]),
    "resize": lambda: one("Resize", (4,), [None, np.array([2, 1], np.float32)]),
    "constant rows": lambda: one("Add", (4,), [draw(2, 4)]),
    "more axes": lambda: one("Add", (4,), [draw(1, 1, 4)]),
    "matrix left": lambda: build("left", (4,), [("MatMul", "c x", "y", {})], {"c": draw(3, 2)}),
    "transposed": lambda: build("gemm", (4,), [("Gemm", "x x", "y", {"transA": 1})]),
    "rows with rows": lambda: build("gemm", (4,), [("Gemm", "x x", "y", {"transB": 1})]),
    "squeeze": lambda: build(
        "squeeze", (4,), [("Unsqueeze", "x a", "u", {}), ("Squeeze", "u a", "y", {})], {"a": ints(0)}),
    "broadcast": lambda: build(
        "cross", (4,), [("Unsqueeze", "x a", "u", {}), ("Mul", "u x", "y", {})], {"a": ints(1)}),
    "dynamic": lambda: build(
        "dynamic", (4,), [("DynamicQuantizeLinear", "x", "q s z", {}), ("DequantizeLinear", "q s z", "y", {})]),
    "flatten a list": lambda: build(
        "list", (4,), [("ReduceSum", "x a", "s", {"keepdims": 0}), ("Flatten", "s", "f", {"axis": 0}),
        ("Transpose", "f", "y", {"perm": [1, 0]})], {"a": ints(1)}),
    "batch as a number": lambda: build(
        "count", (4,), [("Shape", "x", "s", {}), ("Cast", "s", "f", {"to": 1}), ("Div", "x f", "y", {})],
        target=(4,)),
    "batch as a reshaped number": lambda: build(
        "count", (4,), [("Shape", "x", "s", {"end": 1}), ("Reshape", "s r", "t", {}), ("Cast", "t", "f", {"to": 1}),
        ("Div", "x f", "y", {})], {"r": ints(1, 1)}),
    "expand": lambda: build("expand", (4,), [("Expand", "x s", "y", {})], {"s": ints(2, 4)}),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONG_THE_BATCH)
def test_what_works_along_the_batch_is_refused(name: str) -> None:
    sample = ALONG_THE_BATCH[name]()
    refusal(sample.data, source=sample.source)


def test_a_slice_that_starts_far_below_zero_and_goes_back_is_what_onnx_runtime_makes_of_it() -> None:
    sample = one("Slice", (2, 3), [ints(-(2**63) + 1), ints(-(2**63) + 1), ints(-1), ints(-2)])
    assert sample.target[2] == (2, 1)
    sample.check()


def test_a_result_that_ignores_its_input_is_refused() -> None:
    sample = build("constant", (4,), [("Identity", "c", "y", {})], {"c": draw(2, 4)}, target=(4,))
    assert "whatever the batch" in refusal(sample.data)


# --- known ways in ------------------------------------------------------------------------------------------------


def deform(change: Callable[[onnx.ModelProto], object]) -> bytes:
    """Return y = x + x after a change."""
    steps: Sequence[Step] = [("Add", "x x", "y", {})]
    model = onnx.load_from_string(build("add", (4,), steps, {"unused": draw(3)}).data)
    change(model)
    data: bytes = model.SerializeToString()
    return data


def nodes(*steps: Step, **constants: Any) -> bytes:
    """Return a graph from x [batch, 4] to y, declared [batch, 4], whatever the steps make."""
    return build("bomb", (4,), steps, constants, target=(4,)).data


def _mutual_functions(model: onnx.ModelProto) -> None:
    for name, other in (("f", "g"), ("g", "f")):
        body = [helper.make_node(other, ["a"], ["b"], domain="local")]
        imports = [helper.make_opsetid("local", 1)]
        model.functions.append(helper.make_function("local", name, ["a"], ["b"], body, imports))
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[0].CopyFrom(helper.make_node("f", ["x"], ["y"], domain="local"))


def _loop(model: onnx.ModelProto) -> None:
    truth = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    body = helper.make_graph([], "body", [truth], [truth])
    model.graph.node[0].CopyFrom(helper.make_node("Loop", ["", ""], ["y"], body=body))


def _external(path: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=path)

    return change


def _doubling(count: int, constant: Any = None) -> bytes:
    steps: list[Step] = [("Concat", f"h{index} h{index}", f"h{index + 1}", {"axis": 1}) for index in range(count)]
    first, constants = ("x", {}) if constant is None else ("c", {"c": constant})
    return nodes(("Identity", first, "h0", {}), *steps, ("Identity", f"h{count}", "y", {}), **constants)


def _many(count: int) -> bytes:
    node = helper.make_node("Relu", ["x"], ["y"]).SerializeToString()
    graph = (bytes([0x0A, len(node)]) + node) * count
    return bytes([0x08, 0x0A]) + _graph(graph)


def _graph(graph: bytes) -> bytes:
    length, encoded = len(graph), bytearray()
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([0x3A, *encoded, length]) + graph


def _image(*steps: Step, **constants: Any) -> bytes:
    return nodes(("Reshape", "x image", "i", {}), *steps, image=ints(-1, 1, 2, 2), **constants)


KNOWN: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "GatherND with negative batch_dims": (
        lambda: nodes(("GatherND", "x i", "y", {"batch_dims": -1}), i=np.zeros((1, 1), np.int64)), "GatherND"),
    "Split with too few outputs": (lambda: nodes(("Split", "x", "y", {"num_outputs": 4, "axis": 1})), "Split"),
    "functions that call each other": (lambda: deform(_mutual_functions), "functions"),
    "Concat doubling": (lambda: _doubling(60), "numbers at once"),
    "Concat doubling of constants": (lambda: _doubling(60, draw(1, 4)), "numbers at once"),
    "ConstantOfShape": (lambda: nodes(("ConstantOfShape", "s", "y", {}), s=ints(2**31, 4)), "ConstantOfShape"),
    "Resize by scales": (
        lambda: _image(("Resize", "i - s", "y", {}), s=np.array([1, 1, 65536, 65536], np.float32)), "numbers at once"),
    "Resize by an infinite scale": (
        lambda: _image(("Resize", "i - s", "y", {}), s=np.array([1, 1, np.inf, 1], np.float32)), "scales"),
    "Resize to sizes": (lambda: _image(("Resize", "i - - s", "y", {}), s=ints(1, 1, 2**40, 1)), "its sizes"),
    "Resize to sizes, the batch kept": (
        lambda: _image(("Shape", "x", "b", {"end": 1}), ("Concat", "b s", "t", {"axis": 0}),
        ("Resize", "i - - t", "y", {}), s=ints(1, 2**20, 2**20)), "numbers at once"),
    "Pad": (lambda: nodes(("Pad", "x p", "y", {}), p=ints(0, 2**30, 0, 0)), "numbers at once"),
    "Pad that overflows": (lambda: nodes(("Pad", "x p", "y", {}), p=ints(0, 2**63 - 1, 0, 2**63 - 1)), "its pads"),
    "Pad that crops": (lambda: nodes(("Pad", "x p", "y", {}), p=ints(0, -3, 0, 0)), "its pads"),
    "ConvTranspose": (
        lambda: _image(("ConvTranspose", "i w", "y", {"strides": [2**30, 2**30]}), w=draw(1, 1, 1, 1)), "strides"),
    "ConvTranspose within its attributes": (
        lambda: _image(*[("ConvTranspose", f"{a} w", b, {"strides": [1024, 1024]}) for a, b in ("ij", "jk", "ky")],
        w=draw(1, 1, 1, 1)), "numbers at once"),
    "ConvTranspose with a large unrolled input": (
        lambda: nodes(
            ("Gemm", "x g", "h", {}), ("Reshape", "h image", "i", {}),
            ("ConvTranspose", "i w", "y", {"pads": [511] * 4}),
            g=draw(4, 512 * 512), image=ints(-1, 1, 512, 512), w=draw(1, 1, 512, 512)), "numbers at once"),
    "Reshape and MatMul": (
        lambda: nodes(
            ("Gemm", "x g", "h", {}), ("Reshape", "h column", "c", {}), ("Reshape", "h line", "l", {}),
            ("MatMul", "c l", "y", {}),
            g=draw(4, 2**15), column=ints(-1, 2**15, 1), line=ints(-1, 1, 2**15)), "numbers at once"),
    "products without end": (
        lambda: nodes(
            ("Reshape", "x line", "l", {}), ("Tile", "l repeats", "h0", {}),
            *[("MatMul", f"h{index} h{index}", f"h{index + 1}", {}) for index in range(9)],
            ("Identity", "h9", "y", {}), line=ints(-1, 1, 4), repeats=ints(1, 2**11, 2**9)), "multiply-adds"),
    "values without end": (
        lambda: nodes(
            ("Tile", "x repeats", "h0", {}),
            *[("Relu", f"h{index}", f"h{index + 1}", {}) for index in range(1500)],
            ("Identity", "h1500", "y", {}), repeats=ints(1, 2**16)), "together"),
    "constants that take long to fold": (
        lambda: nodes(
            ("MatMul", "w w", "v", {}), ("MatMul", "v v", "u", {}), ("Identity", "x", "y", {}),
            w=np.zeros((1024, 1024), np.float32)), "constants"),
    "Expand": (
        lambda: nodes(("Expand", "c s", "e", {}), ("Identity", "x", "y", {}), c=draw(1), s=ints(2**30)),
        "numbers at once"),
    "Tile": (lambda: nodes(("Tile", "x r", "y", {}), r=ints(1, 2**30)), "numbers at once"),
    "a broadcast of constants": (
        lambda: nodes(("Mul", "a b", "c", {}), ("Identity", "x", "y", {}), a=draw(2**14, 1), b=draw(1, 2**14)),
        "numbers at once"),
    "Loop": (lambda: deform(_loop), "subgraph"),
    "MaxPool with a huge kernel": (
        lambda: _image(("MaxPool", "i", "y", {"kernel_shape": [2**31 - 1, 2**31 - 1]})), "kernel_shape"),
    "200,000 nodes": (lambda: _many(200_000), "more than 2,000"),
    "2,001 nodes": (lambda: _many(2_001), "more than 2,000"),
    "ORT format": (lambda: b"\x18\x00\x00\x00ORTM" + bytes(200), "ORT format"),
    "external data by ..": (lambda: deform(_external("../../secret")), "external data"),
    "external data by an absolute path": (lambda: deform(_external("/etc/passwd")), "external data"),
    "external data in memory": (lambda: deform(_external("*/_ORT_MEM_ADDR_/*")), "external data"),
    "integers divided by zero": (
        lambda: nodes(("Div", "a b", "c", {}), ("Identity", "x", "y", {}), a=ints(1), b=ints(0)), "int64"),
    "LayerNormalization with an absent bias named": (
        lambda: nodes(("LayerNormalization", "x c -", "y", {}), c=draw(4)), "absent input"),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_ways_in_are_refused_within_little_memory(name: str) -> None:
    make, reason = KNOWN[name]
    data = make()
    tracemalloc.start()
    try:
        assert reason in refusal(data)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def _sparse(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(draw(1), "s")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, numpy_helper.from_array(ints(0)), [9]))


def _rename(tensor: str, name: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        {"node": model.graph.node[0], "weight": model.graph.initializer[0], "graph": model.graph}[tensor].name = name

    return change


DEFORMED: Mapping[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "training information": (lambda m: m.training_info.add(), "training information"),
    "sparse weights": (_sparse, "sparse weights"),
    "value_info": (lambda m: m.graph.value_info.append(m.graph.output[0]), "value_info"),
    "annotations": (lambda m: m.graph.quantization_annotation.add(), "annotations"),
    "stack traces": (lambda m: m.graph.node[0].metadata_props.add(key="a", value="b"), "metadata of a node"),
    "a foreign domain": (lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3)), "foreign domain"),
    "a foreign operator": (lambda m: setattr(m.graph.node[0], "domain", "com.microsoft"), "com.microsoft.Add"),
    "an overload": (lambda m: setattr(m.graph.node[0], "overload", "f"), "function"),
    "opset 17": (lambda m: setattr(m.opset_import[0], "version", 17), "opset 17"),
    "two opsets": (lambda m: m.opset_import.append(m.opset_import[0]), "twice"),
    "no opset": (lambda m: m.ClearField("opset_import"), "opset 0"),
    "IR 3": (lambda m: setattr(m, "ir_version", 3), "IR version 3"),
    "no graph": (lambda m: m.ClearField("graph"), "no graph"),
    "no nodes": (lambda m: m.graph.ClearField("node"), "nothing makes"),
    "two inputs": (lambda m: m.graph.input.append(m.graph.input[0]), "inputs are"),
    "no output": (lambda m: m.graph.ClearField("output"), "outputs are"),
    "another input": (lambda m: setattr(m.graph.input[0], "name", "q"), "inputs are"),
    "a weight that is an input": (_rename("weight", "x"), "two values"),
    "a weight that is made": (_rename("weight", "y"), "two values"),
    "a weight without a name": (_rename("weight", ""), "no name"),
    "a long name": (_rename("weight", "a" * 5000), "too long"),
    "a long node name": (_rename("node", "a" * 5000), "too long"),
    "a fixed batch": (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 3), "expected"),
    "another width": (lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 5), "expected"),
    "a symbolic width": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_param", "n"), "expected"),
    "no shape": (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "expected"),
    "another type": (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 7), "expected"),
    "a type that wraps": (lambda m: setattr(m.graph.initializer[0], "data_type", 8), "type 8"),
    "a sequence": (lambda m: m.graph.input[0].type.sequence_type.elem_type.tensor_type.shape.dim.add(), "sequence"),
    "a cycle": (lambda m: m.graph.node[0].input.__setitem__(0, "y"), "nothing before"),
    "an unknown input": (lambda m: m.graph.node[0].input.__setitem__(0, "evil\n\x1b[31m"), "nothing before"),
    "a node twice": (lambda m: m.graph.node.append(m.graph.node[0]), "two values"),
    "a node without outputs": (lambda m: m.graph.node[0].ClearField("output"), "0 outputs"),
    "an unknown attribute": (
        lambda m: m.graph.node[0].attribute.append(helper.make_attribute("axis", 1)), "attribute 'axis'"),
    "an attribute without a type": (lambda m: m.graph.node[0].attribute.add(name="axis"), "attribute 'axis'"),
    "a dimension below zero": (lambda m: m.graph.initializer[0].dims.__setitem__(0, -3), "shape"),
    "dimensions that overflow": (lambda m: m.graph.initializer[0].dims.extend([2**62, 4]), "shape"),
    "an empty weight": (lambda m: m.graph.initializer[0].dims.__setitem__(0, 0), "empty"),
    "a short weight": (lambda m: m.graph.initializer[0].dims.__setitem__(0, 4), "12 bytes for 4"),
    "half a number": (lambda m: setattr(m.graph.initializer[0], "raw_data", bytes(11)), "11 bytes"),
    "numbers in two places": (lambda m: m.graph.initializer[0].float_data.extend([1, 2, 3]), "two places"),
    "too few typed numbers": (
        lambda m: (m.graph.initializer[0].ClearField("raw_data"), m.graph.initializer[0].float_data.append(1)),
        "1 numbers"),
    "metadata twice": (lambda m: [m.metadata_props.add(key="a", value=v) for v in "bc"], "twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFORMED)
def test_deformed_graphs_are_refused(name: str) -> None:
    change, reason = DEFORMED[name]
    assert reason in refusal(deform(change))


ATTRIBUTES: Mapping[str, tuple[str, str, Any, str]] = {
    "out of bounds": ("Softmax", "axis", 2**62, "allowed is int"),
    "of another type": ("Softmax", "axis", 1.0, "of type 1, expected int"),
    "a word that is not known": ("Gelu", "approximate", "sin", "allowed is none or tanh"),
    "not a number": ("LeakyRelu", "alpha", math.nan, "allowed is float"),
    "of a list": ("Transpose", "perm", [0, 99], "allowed is ints"),
    "too many": ("Transpose", "perm", [0] * 1000, "more than 64"),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_are_held_against_the_table(name: str) -> None:
    op, key, value, reason = ATTRIBUTES[name]
    model = onnx.load_from_string(nodes((op, "x", "y", {})))
    model.graph.node[0].attribute.append(helper.make_attribute(key, value))
    assert reason in refusal(model.SerializeToString())


def test_an_attribute_that_stands_there_twice_is_refused() -> None:
    model = onnx.load_from_string(nodes(("Softmax", "x", "y", {"axis": 1})))
    model.graph.node[0].attribute.append(model.graph.node[0].attribute[0])
    assert "twice" in refusal(model.SerializeToString())
    model.graph.node[0].attribute[1].CopyFrom(helper.make_attribute("axis", 1))
    model.graph.node[0].attribute.pop(0)
    model.graph.node[0].attribute[0].ints.append(0)
    assert "two types" in refusal(model.SerializeToString())


def _graph_weights(count: int) -> bytes:
    """Return the bytes of a graph's weights, each a list of 2¹⁶ packed integers without a shape."""
    weight = onnx.TensorProto(int64_data=[1] * 2**16).SerializeToString()
    data: bytes = onnx.GraphProto(initializer=[onnx.TensorProto.FromString(weight)] * count).SerializeToString()
    return data


# --- bytes --------------------------------------------------------------------------------------------------------

ADD = samples()["Add"].data
WIRE: Mapping[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "text": (b"not a model at all", "no valid ONNX"),
    "a group": (bytes([0x0B, 0x0C]), "wire type 3"),
    "wire type 7": (bytes([0x0F]), "wire type 7"),
    "field 0": (bytes([0x00, 0x01]), "out of range"),
    "an unknown field": (ADD + bytes([0xF8, 0x06, 0x01]), "unknown field"),
    "another wire type": (bytes([0x0D, 1, 2, 3, 4]), "wire type 5"),
    "an integer of 11 bytes": (bytes([0x08, *[0x80] * 10, 0x01]), "too long"),
    "an integer beyond 64 bits": (bytes([0x08, *[0xFF] * 9, 0x7F]), "too long"),
    "an overlong integer": (bytes([0x08, 0x8A, 0x00]), "too long"),
    "an integer that is cut off": (bytes([0x08, 0x8A]), "cut off"),
    "a huge length": (bytes([0x3A, *[0xFF] * 8, 0x7F]), "cut off"),
    "a length that overflows": (bytes([0x3A, *[0xFF] * 9, 0x01]), "cut off"),
    "two graphs": (ADD + onnx.ModelProto(graph=onnx.load_from_string(ADD).graph).SerializeToString(), "twice"),
    "two versions": (ADD + bytes([0x08, 9]), "twice"),
    "text that is not UTF-8": (bytes([0x12, 2, 0xC3, 0x28]), "UTF-8"),
    "an enumeration beyond 32 bits": (
        bytes([0x3A, 8, 0x2A, 6, 0x10, 0x81, 0x80, 0x80, 0x80, 0x10]), "beyond 32 bits"),
    "too many fields": (bytes([0x42, 0]) * 20, "more than 16"),
    "a million fields": (bytes([0x3A, *[0x80, 0x89, 0x7A]]) + bytes([0x62, 0]) * 1_000_000, "more than 16"),
    "numbers without end": (_graph(_graph_weights(20)), "numbers in lists"),
    "depth": (bytes([0x3A, 0x7F]) * 5000, "unknown field"),
}  # fmt: skip


@pytest.mark.parametrize("name", WIRE)
def test_bytes_that_two_readers_may_read_differently_are_refused(name: str) -> None:
    data, reason = WIRE[name]
    assert reason in refusal(data)


def test_repeated_raw_data_is_refused() -> None:
    """protobuf takes the last one, so that a size could be checked on one and used on the other."""
    tensor = numpy_helper.from_array(draw(3), "unused").SerializeToString()
    spoilt = tensor + bytes([0x4A, 4, 0, 0, 0, 0])
    data = ADD + bytes([0x3A, len(spoilt) + 2, 0x2A, len(spoilt)]) + spoilt
    with pytest.raises(BundleError, match="raw of its tensor stands there twice"):
        check_graph(data[len(ADD) :], where="w", source=("x", "float32", (4,)), target=("y", "float32", (4,)))


def test_numbers_may_be_packed_or_not_and_are_read_like_protobuf_does() -> None:
    model = onnx.load_from_string(nodes(("Reshape", "x s", "y", {}), s=ints(-1, 4)))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.int64_data.extend([-1, 4])
    data = model.SerializeToString()
    packed, loose = struct.pack("<B", 0x3A), bytes([0x38, *[0xFF] * 9, 0x01, 0x38, 0x04])
    at = data.index(packed + bytes([11, *[0xFF] * 9, 0x01, 0x04]))
    for variant in (data, data[:at] + loose + data[at + 13 :]):
        parsed = onnx.load_from_string(variant)
        assert list(parsed.graph.initializer[0].int64_data) == [-1, 4]
        assert parse_model(variant)["graph"]["initializers"][0]["int64s"] == [-1, 4]


@pytest.mark.parametrize("name", ["scorer", "TopK"])
def test_truncation_at_every_length_is_refused(name: str) -> None:
    sample = samples()[name]
    for length in range(len(sample.data)):
        with pytest.raises(BundleError):
            sample.check(sample.data[:length])


def test_single_bit_flips_are_refused_or_harmless(worker: Worker) -> None:
    sample = samples()["Gemm"]
    findings = Findings()
    for bit in range(8 * len(sample.data)):
        data = bytearray(sample.data)
        data[bit // 8] ^= 1 << bit % 8
        judge(sample, bytes(data), worker, findings)
    assert not findings.bad, [(what, describe(data)) for _, what, data in findings.bad]
    assert findings.verdicts["guard"] > 1000 and findings.verdicts["ran"] > 100


# --- fuzz ---------------------------------------------------------------------------------------------------------


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(sorted(samples())), rng=st.randoms(use_true_random=False))
def test_graphs_of_any_structure_are_refused_or_harmless(name: str, rng: random.Random, worker: Worker) -> None:
    findings = Findings()
    judge(samples()[name], mutate_structure(samples()[name].data, rng), worker, findings)
    assert not findings.bad, [(what, describe(data)) for _, what, data in findings.bad]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_named_error(data: bytes) -> None:
    refusal(data)


def test_fuzz_with_a_fixed_seed() -> None:
    findings = fuzz(rounds=3000, seed=20)
    assert not findings.bad, [(name, what, describe(data)) for name, what, data in findings.bad]
    assert findings.verdicts["ran"] > 300 and findings.verdicts["guard"] > 1000


def test_the_worker_sees_a_crash_and_works_on() -> None:
    sample = samples()["Relu"]
    crash = build("crash", (4,), [("LayerNormalization", "x c -", "y", {})], {"c": draw(4)}, target=(4,))
    with Worker(seconds=20) as worker:
        # a graph that the guard refuses, and that kills ONNX Runtime 1.32; other versions may survive it
        verdict = worker.run(crash.data, "float32", (4,), (4,), None)
        assert verdict.startswith(("crashed", "ran", "refused"))
        assert worker.run(sample.data, "float32", (9,), sample.target[2], None).startswith("refused")
        assert worker.run(sample.data, "float32", sample.source[2], (9,), None).startswith("shape")
        assert worker.run(sample.data, "float32", sample.source[2], sample.target[2], None) == "ran"


def test_limits_can_be_tightened() -> None:
    sample = samples()["convolutional"]
    info = sample.check()
    for name in ("activation", "activations", "work"):
        sample.check(**{name: getattr(info, name)})
        with pytest.raises(BundleError, match="more than"):
            sample.check(**{name: getattr(info, name) - 1})
    assert Limits(**TIGHT).work < Limits().work
