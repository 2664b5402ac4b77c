"""`edgeae threshold`: choose a bundle's thresholds again from fresh rows. No PyTorch, scikit-learn or SciPy."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeae.bundle import Bundle
from edgeae.bundle.arrays import pack_arrays
from edgeae.bundle.atomic import check_new
from edgeae.bundle.bundle import GRAPHS, describe_file
from edgeae.bundle.manifest import PrecisionEntry, Threshold
from edgeae.bundle.protobuf import Malformed, Refused, parse_model, with_metadata
from edgeae.data import Dataset, load_rows
from edgeae.errors import BundleError, InputError
from edgeae.evaluation.thresholds import NEED_ANOMALIES, choose_threshold
from edgeae.runtime.calibrated import score_table, table_name

__all__ = ["rethreshold", "with_thresholds"]

Array = np.ndarray[Any, Any]


def rethreshold(
    path: str | os.PathLike[str],
    data: Any,
    out: str | os.PathLike[str] | None = None,
    *,
    method: str = "quantile",
    fpr: float = 0.01,
    recall: float = 0.95,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    trust: bool = False,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Score fresh rows at every precision of a bundle, choose each threshold anew, and write the bundle with them.

    Manifest and the graphs' metadata get the new thresholds, statistics.npz the scores that calibrated ones are made
    from, and the digests follow; everything else of a graph keeps its bytes. A precision's `quality.label_flips` is
    measured again, on these rows.

    Args:
        path: The bundle, a directory or a .zip file, with all its files.
        data: Rows that the model was not trained on; see `load_rows`. With labels 0 and 1, 1 is an anomaly; rows with
            other labels, or with none, are all taken for normal.
        out: Where to write, a directory or a .zip file; by default `path` itself, which needs `force`.
        method: See `edgeae.evaluation.choose_threshold`, like the next two. "best-f1" and "recall" need labels.
        fpr: Wanted share of false alarms.
        recall: Wanted share of anomalies found.
        label_column: Where the labels are; by default `y` of an .npz.
        columns: See `load_rows`.
        data_dir: See `load_rows`.
        device: Where to score.
        trust: See `edgeae.load`.
        force: Replace what stands at `out`.
        progress: Called with what is being done.

    Returns:
        The bundle as written; its thresholds say what they promise.

    Raises:
        InputError: if an argument is out of range, the rows cannot give such a threshold, or `out` exists.
        BundleError: if the bundle cannot be used or lacks a file.

    Example:
        >>> import tempfile
        >>> bundle = Bundle.read("export/golden/dense")
        >>> rows = np.random.default_rng(0).integers(0, 17, (500, 8, 8)).astype(np.uint8)
        >>> made = rethreshold(bundle.path, rows, Path(tempfile.mkdtemp()) / "b", fpr=0.1, device="cpu")
        >>> made.manifest.precisions["int8"].threshold.rows
        500
    """
    import edgeae

    target = Path(path if out is None else out)
    if out is None and not force:
        raise InputError(
            f"{target}: its thresholds would be replaced; say so with --force (force=True), or give -o NEW"
        )
    check_new(target, force=force, what="the output", holds=None if target.suffix == ".zip" else "manifest.json")
    tell = progress or (lambda step: None)
    bundle = Bundle.read(path)
    dataset = load_rows(data, bundle.manifest.input, label_column=label_column, columns=columns, data_dir=data_dir)
    anomaly = _anomalies(dataset, method)
    scores: dict[str, Array] = {}
    thresholds: dict[str, Threshold] = {}
    for precision in bundle.manifest.precisions:
        tell(precision)
        with edgeae.load(path, device=device, precision=precision, trust=trust) as model:
            found = scores[precision] = model.score(dataset.x)
        thresholds[precision] = choose_threshold(found[~anomaly], found[anomaly], method=method, fpr=fpr, recall=recall)
    return with_thresholds(bundle, thresholds, target, scores=scores, normal=~anomaly, force=force)


def with_thresholds(
    bundle: Bundle,
    thresholds: Mapping[str, Threshold],
    out: Path,
    *,
    scores: Mapping[str, Array] | None = None,
    normal: Array | None = None,
    force: bool = False,
) -> Bundle:
    """Write a bundle with other thresholds to `out`, atomically; nothing else of its graphs changes.

    Args:
        bundle: All its files must be there.
        thresholds: One for each of its precisions.
        out: A directory or a .zip file; may be the bundle's own path.
        scores: Of the same rows at each precision, to measure anew how many of them are judged unlike fp32.
        normal: bool [n], which of these rows are normal: calibrated scores are then made from them.
        force: Replace what stands at `out`.

    Raises:
        BundleError: if a file is missing, or a graph cannot be read.
        InputError: if `out` exists and `force` is false, or cannot be written.
    """
    manifest = bundle.manifest
    files = {file.path: bundle.file(file) for file in bundle.files()}
    entries: dict[str, PrecisionEntry] = {}
    for precision, entry in manifest.precisions.items():
        threshold = thresholds[precision]
        rewritten = {}
        for role in GRAPHS:
            name = getattr(entry, role).path
            files[name] = _with_threshold(files[name], threshold.value, f"{bundle.path}/{name}")
            rewritten[role] = describe_file(name, files[name])
        quality = entry.quality
        if scores is not None and quality.label_flips is not None:
            alarms, others = (~(scores[kind] <= np.float32(thresholds[kind].value)) for kind in (precision, "fp32"))
            quality = replace(quality, label_flips=float(np.mean(alarms != others)))
        entries[precision] = replace(
            entry,
            encoder=rewritten["encoder"],
            decoder=rewritten["decoder"],
            scorer=rewritten["scorer"],
            threshold=threshold,
            quality=quality,
        )
    manifest = replace(manifest, precisions=entries)
    if scores is not None and normal is not None:
        tables = {table_name(precision): score_table(scores[precision][normal]) for precision in entries}
        files["statistics.npz"] = pack_arrays(**bundle.statistics() | tables)
        manifest = replace(manifest, statistics=describe_file("statistics.npz", files["statistics.npz"]))
    return Bundle.write(out, manifest, files, force=force)


def _with_threshold(graph: bytes, value: float, where: str) -> bytes:
    try:
        metadata = {each["key"]: each["value"] for each in parse_model(graph)["metadata"]}
        return with_metadata(graph, metadata | {"edgeae.threshold": repr(value)})
    except (Malformed, Refused) as problem:
        raise BundleError(f"{where}: {problem}; export the bundle again") from None


def _anomalies(dataset: Dataset, method: str) -> Array:
    """Return which rows are labelled as anomalies, bool [n]."""
    labelled = dataset.y is not None and dataset.anomaly_labels
    anomaly: Array = dataset.y == 1 if labelled and dataset.y is not None else np.zeros(len(dataset), bool)
    if method in NEED_ANOMALIES and not (labelled and anomaly.any()):
        raise InputError(
            f"{dataset.source}: the method {method} needs labels, 0 for normal rows and 1 for anomalies, with both "
            "among them; name their column with --label-column, or put them into an .npz as y"
        )
    if anomaly.all():
        raise InputError(f"{dataset.source}: every row is labelled as an anomaly; normal rows are needed")
    return anomaly
