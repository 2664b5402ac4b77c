"""`--target mobile`: a fixed batch, an old opset, ORT-format files, reduced builds, and who takes which operator."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from edgeae.bundle import Bundle
from edgeae.bundle.bundle import GRAPHS, describe_file
from edgeae.bundle.guard.operators import OPERATORS, WIDER
from edgeae.cli import main
from edgeae.errors import ExportError, InputError
from edgeae.export import export_bundle
from edgeae.export.mobile import MOBILE_OPSET, placement_rows, read_operators, to_ort, write_mobile
from edgeae.export.mobile_providers import CPU_ONLY, PROVIDERS, SUPPORTED, place_operators
from edgeae.export.mobile_sizes import Kernels, estimate_size
from edgeae.training import train
from tests.make_golden import sensor_table

ROOT = Path(__file__).parents[1]
EVERY = sorted(path.parent.name for path in (ROOT / "export" / "golden").glob("*/manifest.json"))
GOLDEN = [name for name in EVERY if Bundle.read(ROOT / "export" / "golden" / name).manifest.opset <= MOBILE_OPSET]
PAGES = ROOT / "runtime" / "mobile"


def fixed(name: str, path: Path) -> Bundle:
    """Copy a golden bundle with its batch fixed at 1, as `--target mobile` would have exported it."""
    source = Bundle.read(ROOT / "export" / "golden" / name)
    files = {file.path: source.file(file) for file in source.files()}
    for held in files:
        if held.endswith(".onnx"):
            model = onnx.load_model_from_string(files[held])
            for value in (*model.graph.input, *model.graph.output):
                value.type.tensor_type.shape.dim[0].dim_value = 1
            files[held] = model.SerializeToString()
    precisions = {
        kind: replace(
            entry,
            encoder=describe_file(entry.encoder.path, files[entry.encoder.path]),
            decoder=describe_file(entry.decoder.path, files[entry.decoder.path]),
            scorer=describe_file(entry.scorer.path, files[entry.scorer.path]),
        )
        for kind, entry in source.manifest.precisions.items()
    }
    return Bundle.write(path, replace(source.manifest, batch=1, precisions=precisions), files)


@pytest.fixture(scope="module", params=GOLDEN)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    folder = tmp_path_factory.mktemp("mobile")
    bundle = fixed(request.param, folder / "bundle")
    return bundle, write_mobile(bundle, folder / "phone").path


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    train(sensor_table(200), path, latent_dim=2, epochs=1, device="cpu", threads=1, progress=False)
    return path


def test_ort_files_give_the_golden_numbers_and_keep_the_metadata(written: tuple[Bundle, Path]) -> None:
    bundle, folder = written
    for kind, entry in bundle.manifest.precisions.items():
        golden = bundle.golden(kind)
        inner = folder if kind == "fp32" else folder / kind
        for role, feed, name in (("encoder", "x", "z"), ("decoder", "z", "x_hat"), ("scorer", "x", "score")):
            session = ort.InferenceSession(str(inner / f"{role}.ort"), providers=["CPUExecutionProvider"])
            (source,) = session.get_inputs()
            assert source.shape[0] == 1
            rows, expected = getattr(golden, feed), getattr(golden, name)
            actual = np.concatenate([session.run(None, {feed: row[None]})[0] for row in rows])
            tolerance = entry.tolerance[name]
            np.testing.assert_allclose(actual, expected, rtol=tolerance.rtol, atol=tolerance.atol)
            model = onnx.load_model_from_string(bundle.graph(kind, role))
            assert session.get_modelmeta().custom_metadata_map == {p.key: p.value for p in model.metadata_props}


def test_the_configuration_lists_exactly_the_operators_of_the_optimised_graphs(
    written: tuple[Bundle, Path], tmp_path: Path
) -> None:
    bundle, folder = written
    needed = set()
    for kind in bundle.manifest.precisions:
        for role in GRAPHS:
            options = ort.SessionOptions()
            options.log_severity_level = 3
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
            ort.InferenceSession(bundle.graph(kind, role), options, providers=["CPUExecutionProvider"])
            nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
            needed |= {(node.domain or "ai.onnx", node.op_type) for node in nodes}
    text = (folder / "required_operators.config").read_text("utf-8")
    listed = {(key.split(";")[0], name) for key, names in read_operators(text).items() for name in names}
    assert listed == needed
    typed = (folder / "required_operators_and_types.config").read_text("utf-8")
    assert "uint8_t" in typed or "float" in typed
    assert {name for _, name in listed} == set(re.findall(r"(?<=[;,}])[A-Z]\w+", re.sub(r'"[^"]*"', "", typed)))
    assert tempfile.gettempdir() not in text + typed


def test_every_operator_of_every_golden_graph_was_looked_up(written: tuple[Bundle, Path]) -> None:
    bundle, folder = written
    for kind in bundle.manifest.precisions:
        for role in GRAPHS:
            for placed in place_operators(bundle.graph(kind, role)):
                assert "never looked up" not in placed.reason.values(), placed.operator
                assert all(bool(placed.reason[name]) == (placed.taken[name] < placed.nodes) for name in PROVIDERS)
    header, *rows = placement_rows(place_operators(bundle.graph("fp32", "scorer")))
    assert int(rows[-1][1]) == len(onnx.load_model_from_string(bundle.graph("fp32", "scorer")).graph.node)
    text = (folder / "README.md").read_text("utf-8")
    assert all(f"| {' | '.join(row)} |" in text for row in (header, *rows))


def test_the_estimated_size_of_a_reduced_build_has_every_operator_once(written: tuple[Bundle, Path]) -> None:
    _, folder = written
    configuration = (folder / "required_operators.config").read_text("utf-8")
    operators = read_operators(configuration)
    size = estimate_size(operators)
    assert size.unknown == () and len(size.own) == len({name for names in operators.values() for name in names})
    text = (folder / "README.md").read_text("utf-8")
    parts = re.findall(r"^\| (?:ONNX Runtime without|what several|\S+, beyond).* \| ([\d,]+) \|$", text, re.MULTILINE)
    assert len(parts) == len(size.own) + 2
    assert sum(int(part.replace(",", "")) for part in parts) == size.total
    assert f"| all | {size.total:,} |" in text
    assert f"# Estimated size of a reduced build: {size.total / 1e6:.1f} MB" in configuration


def test_the_sizes_in_the_readme_are_what_the_export_estimates(tmp_path: Path) -> None:
    shown = re.findall(r"^\| `([\w-]+)`.* \| ([\d.]+) MB \|$", (PAGES / "README.md").read_text("utf-8"), re.MULTILINE)
    assert len(shown) == 3
    for name, estimated in shown:
        written = write_mobile(fixed(name, tmp_path / name), tmp_path / f"{name}-mobile")
        assert f"{estimate_size(written.operators).total / 1e6:.2f}" == estimated


def test_shared_parts_count_once_and_what_was_never_measured_is_said() -> None:
    kernels = Kernels(1000, {"Conv": 10, "Gemm": 20, "com.microsoft:QGemm": 5}, ((300, frozenset({"Conv", "Gemm"})),))
    both = estimate_size({"ai.onnx;11": ("Conv",), "ai.onnx;13": ("Gemm", "Det")}, kernels)
    assert (both.total, both.shared, both.unknown) == (1330, 300, ("Det",))
    assert estimate_size({"com.microsoft;1": ("QGemm",)}, kernels).total == 1005


@pytest.mark.parametrize("name", sorted(set(EVERY) - set(GOLDEN)))
def test_operators_of_graphs_that_are_too_new_were_looked_up_and_measured_too(name: str) -> None:
    placed = place_operators(Bundle.read(ROOT / "export" / "golden" / name).graph("fp32", "scorer"))
    assert all("never looked up" not in each.reason.values() for each in placed)
    recurrent = {"GRU", "LSTM", "RNN"} & {each.operator for each in placed}
    assert not any(sum(each.taken.values()) for each in placed if each.operator in recurrent)
    assert estimate_size({"ai.onnx;14": tuple(recurrent)}).unknown == ()


def test_the_tables_cover_what_graphs_may_hold() -> None:
    known = CPU_ONLY.union(*SUPPORTED.values())
    held = {f"{domain}:{name}" if domain else name for domain, name in (*OPERATORS, *WIDER)}
    assert held <= known
    assert not CPU_ONLY & set().union(*SUPPORTED.values())


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("NNAPI", "nnapi"),
        ("CoreML", "coreml_supported_neuralnetwork"),
        ("CoreML ML Program", "coreml_supported_mlprog"),
    ],
)
def test_the_tables_are_those_of_the_installed_release(provider: str, name: str) -> None:
    lists = list((Path(ort.__file__).parent / "tools" / "mobile_helpers").glob(f"{name}*ops.md"))
    if not lists or tuple(map(int, ort.__version__.split(".")[:2])) < (1, 32):
        pytest.skip(f"ONNX Runtime {ort.__version__} does not come with the lists of 1.32")
    text = lists[0].read_text("utf-8").replace("Argmax", "ArgMax")  # as one of the lists has it
    listed = set(re.findall(r"^\|ai\.onnx[:.](\w+)\|", text, re.MULTILINE))
    known = CPU_ONLY.union(*SUPPORTED.values())
    assert set(SUPPORTED[provider]) == listed & known


def placements(node: onnx.NodeProto, dtype: int, shape: list[int], *constants: np.ndarray) -> dict[str, str]:
    """Why providers do not take a node whose first input is x."""
    held = [numpy_helper.from_array(array, name) for name, array in zip(node.input[1:], constants, strict=True)]
    source = helper.make_tensor_value_info("x", dtype, shape)
    target = helper.make_tensor_value_info("y", dtype, None)
    graph = helper.make_graph([node], "g", [source], [target], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    (placed,) = place_operators(model.SerializeToString())
    return dict(placed.reason)


@pytest.mark.parametrize(
    ("rank", "dtype", "taken"),
    [
        (2, np.float32, {"XNNPACK", "NNAPI", "CoreML", "CoreML ML Program"}),
        (1, np.float32, {"CoreML", "CoreML ML Program"}),
        (3, np.float32, set()),
        (2, np.float16, set()),
    ],
)
def test_conditions_on_a_convolution(rank: int, dtype: type, taken: set[str]) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    reason = placements(node, kind, [1, 3] + [8] * rank, np.ones([4, 3] + [3] * rank, dtype))
    assert {name for name in PROVIDERS if not reason[name]} == taken


@pytest.mark.parametrize(
    ("attributes", "taken"),
    [
        ({"mode": "linear"}, {"XNNPACK", "NNAPI", "CoreML ML Program"}),
        ({"mode": "nearest"}, {"NNAPI", "CoreML ML Program"}),
        (
            {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
            {"NNAPI", "CoreML", "CoreML ML Program"},
        ),
    ],
)
def test_conditions_on_a_resize(attributes: dict[str, str], taken: set[str]) -> None:
    node = helper.make_node("Resize", ["x", "roi", "scales"], ["y"], **attributes)
    scales = np.array([1, 1, 2, 2], np.float32)
    reason = placements(node, TensorProto.FLOAT, [1, 3, 4, 4], np.zeros(0, np.float32), scales)
    assert {name for name in PROVIDERS if not reason[name]} == taken


def test_conditions_on_a_transposed_convolution() -> None:
    weights = np.ones((3, 4, 2, 2), np.float32)
    for padding, taken in (([0, 0], {"XNNPACK", "CoreML ML Program"}), ([1, 1], {"XNNPACK"})):
        node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], output_padding=padding)
        reason = placements(node, TensorProto.FLOAT, [1, 3, 4, 4], weights)
        assert {name for name in PROVIDERS if not reason[name]} == taken


def test_an_operator_that_nobody_looked_up_is_said_to_be_one() -> None:
    reason = placements(helper.make_node("Det", ["x"], ["y"]), TensorProto.FLOAT, [1, 3])
    assert set(reason.values()) == {"never looked up"}


def test_export_fixes_the_batch_and_writes_both_folders(run_folder: Path, tmp_path: Path) -> None:
    bundle = export_bundle(run_folder, tmp_path / "pump", target="mobile")
    manifest = bundle.manifest
    assert (manifest.batch, manifest.opset, manifest.ir_version) == (1, 18, 8)
    for role in GRAPHS:
        model = onnx.load_model_from_string(bundle.graph("fp32", role))
        assert [value.type.tensor_type.shape.dim[0].dim_value for value in model.graph.input] == [1]
        assert (model.ir_version, max(entry.version for entry in model.opset_import)) == (8, 18)
    assert (tmp_path / "pump-mobile" / "scorer.ort").read_bytes()[4:8] == b"ORTM"
    with pytest.raises(InputError, match=r"pump-mobile.*exists already"):
        export_bundle(run_folder, tmp_path / "pump.zip", target="mobile")
    assert not (tmp_path / "pump.zip").exists()
    with pytest.raises(InputError, match="opset: older mobile builds take 18"):
        export_bundle(run_folder, tmp_path / "other", target="mobile", opset=20)
    with pytest.raises(InputError, match="target: 'phone' is not one of"):
        export_bundle(run_folder, tmp_path / "other", target="phone")  # type: ignore[arg-type]


def test_the_command_prints_who_takes_what(run_folder: Path, tmp_path: Path) -> None:
    options = ["--target", "mobile", "--batch", "3", "--name", 'a "pump"']
    result = CliRunner().invoke(main, ["export", str(run_folder), "-o", str(tmp_path / "pump.zip"), *options])
    assert result.exit_code == 0, result.output
    assert re.search(r"operator +nodes +XNNPACK +NNAPI +CoreML +CoreML ML Program", result.output)
    assert re.search(r"Gemm +\d+ +yes +yes +yes +yes", result.output)
    bundle = Bundle.read(tmp_path / "pump.zip")
    golden = json.loads((tmp_path / "pump-mobile" / "golden.json").read_text("utf-8"))
    session = ort.InferenceSession(str(tmp_path / "pump-mobile" / "scorer.ort"), providers=["CPUExecutionProvider"])
    x = np.asarray(golden["x"], np.float32).reshape(3, *bundle.manifest.input.shape)
    (score,) = session.run(None, {"x": x})
    np.testing.assert_allclose(score, golden["score"], rtol=golden["rtol"], atol=golden["atol"])


def test_constants_for_swift(run_folder: Path, tmp_path: Path) -> None:
    bundle = export_bundle(run_folder, tmp_path / "pump", target="mobile", name='a "pump" \\(x)')
    text = (tmp_path / "pump-mobile" / "EdgeaeModel.swift").read_text("utf-8")
    assert 'static let name = "a \\"pump\\" \\\\(x)"' in text
    value = float(re.findall(r"static let threshold: Float = (\S+)", text)[0])
    assert value == bundle.manifest.precisions["fp32"].threshold.value
    assert "static let inputShape: [Int] = [10]" in text
    used = set(re.findall(r"EdgeaeModel\.(?!swift)(\w+)", (PAGES / "ios.md").read_text("utf-8")))
    assert used and used <= set(re.findall(r"static (?:let|func) (\w+)", text))


def test_the_kotlin_page_reads_metadata_that_graphs_have() -> None:
    page = (PAGES / "android.md").read_text("utf-8")
    used = set(re.findall(r'field\("(\w+)"\)', page)) | set(re.findall(r'metadata\["edgeae\.(\w+)"\]', page))
    model = onnx.load_model_from_string(Bundle.read(ROOT / "export" / "golden" / "table").graph("fp32", "scorer"))
    assert {"threshold", "input_shape"} <= used <= {prop.key.removeprefix("edgeae.") for prop in model.metadata_props}


def test_the_table_in_the_readme_is_what_the_check_says() -> None:
    bundle = Bundle.read(ROOT / "export" / "golden" / "convolutional")
    header, *rows = placement_rows(place_operators(bundle.graph("fp32", "scorer")))
    lines = [header, ["---"] * len(header), *rows]
    shown = re.sub(r" ?\| ?", "|", (PAGES / "README.md").read_text("utf-8"))
    assert "\n".join(f"|{'|'.join(line)}|" for line in lines) in shown


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"its batch is not fixed.*--target mobile"):
        write_mobile(ROOT / "export" / "golden" / "dense", tmp_path / "phone")
    bundle = fixed("dense", tmp_path / "bundle")
    newer = replace(bundle, manifest=replace(bundle.manifest, opset=20, ir_version=9))
    with pytest.raises(ExportError, match="opset 20 and IR version 9 are newer"):
        write_mobile(newer, tmp_path / "phone")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="a folder with other things in it"):
        write_mobile(bundle, tmp_path / "mine", force=True)
    with pytest.raises(ExportError, match="does not convert"):
        to_ort(b"nothing of the kind")
    assert not (tmp_path / "phone").exists()


def test_a_graph_that_answers_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = fixed("dense", tmp_path / "bundle")
    other = to_ort(fixed("denoising", tmp_path / "other").graph("fp32", "scorer"))
    real = to_ort
    scorer = bundle.graph("fp32", "scorer")
    monkeypatch.setattr("edgeae.export.mobile.to_ort", lambda graph: other if graph == scorer else real(graph))
    with pytest.raises(ExportError, match="the scorer in ORT format does not give the golden score"):
        write_mobile(bundle, tmp_path / "phone")
    assert not (tmp_path / "phone").exists()
