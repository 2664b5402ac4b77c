"""What people and compilers read in a folder for mobile programs: its README.md and the constants for Swift."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from edgeae.bundle import Bundle
from edgeae.export.mobile_providers import NOT_LISTED, PROVIDERS, Placement
from edgeae.export.mobile_sizes import Estimate, estimate_size

__all__ = ["constants_swift", "placement_rows", "readme"]


def constants_swift(bundle: Bundle) -> str:
    """Return Swift source with what ONNX Runtime's Objective-C interface cannot read from the graph's metadata."""
    manifest = bundle.manifest
    names = manifest.input.feature_names
    thresholds = [f"    static let threshold: Float = {manifest.precisions['fp32'].threshold.value!r}"]
    thresholds += [
        f"    static let {precision}Threshold: Float = {entry.threshold.value!r}  // for {precision}/scorer.ort"
        for precision, entry in manifest.precisions.items()
        if precision != "fp32"
    ]
    lines = [
        "// Written by edgeae export --target mobile: the same numbers are in each graph's metadata (edgeae.*).",
        "enum EdgeaeModel {",
        f"    static let name = {_quoted(manifest.name)}",
        f"    static let bundleDigest = {_quoted(bundle.digest)}",
        f"    static let batch = {manifest.batch}",
        f"    static let inputShape: [Int] = [{', '.join(map(str, manifest.input.shape))}]  // one row",
        f"    static let rowValues = {math.prod(manifest.input.shape)}",
        f"    static let inputIsBytes = {'true' if manifest.input.dtype == 'uint8' else 'false'}",
        f"    static let latentDim = {manifest.latent_dim}",
        f"    static let score = {_quoted(manifest.score.kind)}",
        *thresholds,
        f"    static let featureNames: [String] = [{', '.join(map(_quoted, names or ()))}]",
        "",
        "    /// A score that is not a number is an anomaly too.",
        "    static func isAnomaly(_ score: Float) -> Bool { !(score <= threshold) }",
        "}",
        "",
    ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a manifest's strings need no escapes that Swift has not


def placement_rows(placements: Sequence[Placement]) -> list[list[str]]:
    """Return the table of operators against providers as cells: a header, a row per operator, a row of sums."""
    rows = [["operator", "nodes", *PROVIDERS]]
    for placed in placements:
        cells = []
        for provider in PROVIDERS:
            taken, reason = placed.taken[provider], placed.reason[provider]
            some = f"{taken} of {placed.nodes}" if taken else "CPU"
            why = "" if reason == NOT_LISTED else f": {reason}"
            cells.append(some + why if reason else "yes")
        rows.append([placed.operator, str(placed.nodes), *cells])
    nodes = sum(placed.nodes for placed in placements)
    sums = [f"{sum(placed.taken[provider] for placed in placements)} of {nodes}" for provider in PROVIDERS]
    return [*rows, ["all", str(nodes), *sums]]


def readme(
    bundle: Bundle,
    sizes: Mapping[str, int],
    operators: Mapping[str, Sequence[str]],
    placements: Sequence[Placement],
    runtime: str,
) -> str:
    """Return the folder's README.md.

    Args:
        bundle: What was converted.
        sizes: Bytes by file.
        operators: What a reduced build must hold, by "domain;opset".
        placements: Of the fp32 scorer's nodes.
        runtime: The release of ONNX Runtime that made the files.
    """
    manifest = bundle.manifest
    header, *rows = placement_rows(placements)
    facts = {
        "x": f"{manifest.input.dtype} [{', '.join(map(str, (manifest.batch, *manifest.input.shape)))}], in your units",
        "score": f"float32 [{manifest.batch}], {manifest.score.kind}, higher is more anomalous",
        **{f"threshold, {kind}": repr(entry.threshold.value) for kind, entry in manifest.precisions.items()},
        "an anomaly": "`!(score <= threshold)`, so a score that is not a number is one",
        "bundle": f"{bundle.digest} (SHA-256 of its manifest.json)",
    }
    required = {name for names in operators.values() for name in names}
    lines = [
        f"# {manifest.name} for phones",
        "",
        "Written by `edgeae export --target mobile`. Android and iOS code: runtime/mobile in edgeae's sources.",
        "",
        "| what | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items()),
        "",
        "## Files",
        "",
        "| file | bytes |",
        "|---|---|",
        *(f"| {name} | {size:,} |" for name, size in sizes.items()),
        "",
        f"The `.ort` files were converted by ONNX Runtime {runtime} and need release 1.16 or newer. The bundle's",
        f"`.onnx` files (opset {manifest.opset}, IR {manifest.ir_version}) need 1.14 or newer, fp16 ones 1.15. Give",
        "XNNPACK, NNAPI and CoreML the `.onnx` files: in the `.ort` ones nodes are fused already, into operators that",
        "only the CPU has.",
        "",
        "## What takes the scorer's operators",
        "",
        "By the lists of ONNX Runtime 1.32 (NNAPI, CoreML) and its XNNPACK page; the CPU runs the rest, and each",
        "change between the two copies. XNNPACK also fuses a Relu or Clip into the Conv in front of it.",
        "",
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "## Reduced build",
        "",
        f"The `.ort` files need {len(required)} operators. In ONNX Runtime's sources:",
        "",
        "```",
        "./build.sh --config MinSizeRel --minimal_build --disable_ml_ops --skip_tests \\",
        "  --include_ops_by_config required_operators_and_types.config --enable_reduced_operator_type_support",
        "```",
        "",
        "plus the options of the platform (`--android --android_abi arm64-v8a --build_java`, or `--ios",
        "--build_apple_framework`), and `--disable_exceptions` where an error inside ONNX Runtime may end the program.",
        "",
        *_estimate(estimate_size(operators)),
    ]
    return "\n".join(lines)


def _estimate(size: Estimate) -> list[str]:
    own = sorted(size.own.items(), key=lambda item: (-item[1], item[0]))
    unknown = f"Never measured, and not in the sum: {', '.join(size.unknown)}."
    return [
        f"Estimated size of that library: {size.total / 1e6:.1f} MB for 64-bit Arm processors, not compressed. It is",
        "an estimate, from kernels measured one by one in a build of ONNX Runtime 1.21.0 for Linux on arm64 (clang 19,",
        "`--disable_exceptions`, all types of every operator): other releases and compilers give other sizes,",
        "exceptions a larger one, fewer types a smaller one. It was measured by runtime/mobile/measure_sizes.py.",
        "",
        "| part | bytes |",
        "|---|---|",
        f"| ONNX Runtime without operators | {size.base:,} |",
        f"| what several operators share | {size.shared:,} |",
        *(f"| {name}, beyond that | {count:,} |" for name, count in own),
        f"| all | {size.total:,} |",
        "",
        *([unknown, ""] if size.unknown else []),
    ]
