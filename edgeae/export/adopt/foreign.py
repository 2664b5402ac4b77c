"""A foreign ONNX model: what it declares, what it does when it is run, and its nodes rewritten."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeae.bundle.guard.operators import OPERATORS, WIDER
from edgeae.errors import ExportError, InputError
from edgeae.export.adopt.lower import LOWERED, lower
from edgeae.export.adopt.network import Runner, Side, from_middle, to_middle
from edgeae.export.adopt.observe import Seen, observe, of_rows
from edgeae.export.adopt.read import modern, nodes_of
from edgeae.export.adopt.rewrite import Work
from edgeae.export.adopt.tidy import tidy
from edgeae.export.source import Arithmetic

__all__ = ["Declared", "Foreign", "declared_input", "open_model"]

_log = logging.getLogger("edgeae")

# a batch that is written into a Reshape is rarely larger
_LARGEST_BATCH: Final = 1024
_INTEGERS: Final = ("uint8", "int8", "int32", "int64")
_FLOATS: Final = ("float32", "float64", "float16")
_RANDOM: Final = ("RandomNormal", "RandomUniform", "Bernoulli", "Multinomial")
_GRAPHS_INSIDE: Final = ("If", "Loop", "Scan", "SequenceMap")
_QUANTISED: Final = ("QuantizeLinear", "DynamicQuantizeLinear", "DequantizeLinear", "QLinear", "QGemm")


@dataclass(frozen=True)
class Declared:
    """The input that a model declares; None stands for a side or a batch that is free."""

    name: str
    dtype: str
    batch: int | None
    row: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Foreign:
    """A model that was read and run.

    Attributes:
        where: What to call it in messages.
        original: As it was read.
        modern: The same in an opset that bundles have.
        source: Its input.
        output: The name of the output that was chosen.
        declared: The batch that its input declares.
        batch: How many rows it takes per call, or None for any number.
        seen: Its runs by batch size.
    """

    where: str
    original: onnx.ModelProto = field(repr=False)
    modern: onnx.ModelProto = field(repr=False)
    source: Side
    output: str
    declared: int | None
    batch: int | None
    seen: dict[int, Seen] = field(repr=False)

    @property
    def opset(self) -> int:
        """The opset of `modern`."""
        return int(next(each.version for each in self.modern.opset_import if each.domain in ("", "ai.onnx")))

    @property
    def arithmetic(self) -> Arithmetic:
        """What it computes in, the coarsest of it."""
        if any(node.op_type.startswith(_QUANTISED) or "Integer" in node.op_type for node in self.modern.graph.node):
            return "int8"
        kinds = {dtype for seen in self.seen.values() for dtype in seen.dtypes.values()}
        return "float16" if "float16" in kinds else "float32"

    @property
    def recurrent(self) -> bool:
        """Whether its rows are series."""
        return any(node.op_type in ("LSTM", "GRU", "RNN") for node in self.modern.graph.node)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one row of a value."""
        return next(iter(self.seen.values())).shapes[name][1:]

    def work(self, *, symbolic: bool, keep: Collection[str]) -> Work:
        """Return its nodes rewritten.

        Args:
            symbolic: Make the batch free; else it is `fixed_batch`.
            keep: Values that must be there, besides the output.

        Raises:
            ExportError: naming the node that cannot be rewritten.
        """
        free = symbolic and 2 in self.seen and 3 in self.seen
        first = self.seen[2 if free else self.fixed_batch]
        first = replace(first, shapes=dict(first.shapes), dtypes=dict(first.dtypes))
        second = self.seen[3] if free else None
        work = Work(self.modern, first, second, symbolic=symbolic, opset=self.opset, where=self.where)
        self._take_floats(work)
        for node in self.modern.graph.node:
            work.watch(node)
            if work.dependent.intersection(node.output):
                lower(work, node)
            elif node.op_type == "DequantizeLinear":
                work.copy(node)  # so that the weights stay in 8 bits
            else:
                work.settle(node)
        tidy(work, {work.resolve(name) for name in (*keep, self.output)})
        return work

    def _take_floats(self, work: Work) -> None:
        """Let the input be float32, as rows are."""
        name, dtype = self.source.name, self.source.dtype
        readers = [node for node in self.modern.graph.node if name in node.input]
        casts = [node for node in readers if node.op_type == "Cast" and node.attribute[0].i in _CASTS_TO_FLOAT]
        if dtype in _FLOATS or len(casts) == len(readers):
            work.declare(name, self.source.sides)
            return
        rows = work.declare(work.fresh("rows"), self.source.sides)
        if dtype in ("uint8", "int8"):
            # rows of whole numbers, so that rounding is none
            zero = work.constant(np.zeros((), dtype))
            work.add("QuantizeLinear", [rows, work.constant(np.float32(1)), zero], name)
        else:
            work.add("Cast", [rows], name, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        work.head = rows

    @property
    def fixed_batch(self) -> int:
        """The batch that a graph of a fixed batch has."""
        wanted = self.batch or self.declared or 1
        return wanted if wanted in self.seen else min(self.seen)

    def runner(self, target: str, *, latent: str | None = None) -> Runner:
        """Return what runs the model as it is up to `target`, from its input or from `latent`."""
        model = self._with(target, latent)
        if latent is None:
            return Runner(to_middle(model, target).SerializeToString(), self.source, target, self.batch)
        seen = self.seen[self.fixed_batch]
        side = Side(latent, seen.dtypes[latent], seen.shapes[latent][1:])
        fed = to_middle(from_middle(model, latent, side.dtype, side.sides), target)
        return Runner(fed.SerializeToString(), side, target, self.batch, others=(self.source,))

    def _with(self, *names: str | None) -> onnx.ModelProto:
        """Return the model as it was read, if it has values of these names: an upgrade may add some."""
        held = {name for node in self.original.graph.node for name in node.output}
        return self.original if held.issuperset(name for name in names if name is not None) else self.modern


_CASTS_TO_FLOAT: Final = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


def declared_input(model: onnx.ModelProto, where: str) -> Declared:
    """Return the one input of a model.

    Raises:
        ExportError: if it has several, or one of a type that rows cannot have.
    """
    names = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in names]
    if len(inputs) != 1:
        raise ExportError(
            f"{where}: has {len(inputs)} inputs ({', '.join(value.name for value in inputs) or 'none'}); one that "
            "takes the rows is needed: export it with the others as constants"
        )
    tensor = inputs[0].type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type).lower() if tensor.elem_type else "no tensor"
    dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
    if dtype not in (*_FLOATS, *_INTEGERS):
        raise ExportError(f"{where}: its input {inputs[0].name!r} is {dtype}, which rows of numbers cannot be")
    if not tensor.HasField("shape") or not len(tensor.shape.dim):
        return Declared(inputs[0].name, dtype, None, None)
    sides = [side.dim_value if side.dim_value > 0 else None for side in tensor.shape.dim]
    return Declared(inputs[0].name, dtype, sides[0], tuple(sides[1:]))


def open_model(
    path: Path,
    *,
    row: Sequence[int] | None,
    output: str | None,
    trust: bool,
    given: onnx.ModelProto,
    opset: int | None = None,
) -> Foreign:
    """Run a model in a child process to see what it does.

    Args:
        path: What to call it.
        row: Shape of one row, where the file leaves it open.
        output: Which of its outputs; needed where several could be meant.
        trust: Also take operators that bundles hold on request only.
        given: The model.
        opset: The opset that it shall have at least.

    Raises:
        InputError: if it cannot be read.
        ExportError: if it has an operator that bundles do not hold, or ONNX Runtime does not run it.
    """
    where = str(path)
    upgraded = modern(given, where, opset)
    declared = declared_input(upgraded, where)
    _check_operators(upgraded, declared.name, trust, where)
    sides = _row(declared, row, where)
    chosen = _choose_output(upgraded, output, where)
    tried = list(dict.fromkeys([2, 3, 1, *([declared.batch] if declared.batch else [])]))
    runs = observe(upgraded, sides, declared.dtype, tried, where)
    if declared.batch is None and not isinstance(runs[2], Seen) and not isinstance(runs[1], Seen):
        runs |= observe(upgraded, sides, declared.dtype, _batches_inside(upgraded), where)
    seen = {batch: run for batch, run in runs.items() if isinstance(run, Seen)}
    if not seen:
        raise ExportError(f"{where}: ONNX Runtime does not run it for rows of shape {list(sides)}: {runs[1]}")
    if not seen.keys() >= {2, 3}:
        seen = {batch: run for batch, run in seen.items() if batch == (declared.batch or batch)}
    if not seen:
        raise ExportError(
            f"{where}: declares batches of {declared.batch}, but does not run: {runs[declared.batch or 1]}"
        )
    batch = declared.batch
    if declared.batch is None and not seen.keys() >= {2, 3}:
        batch = min(seen)
        _log.info("%s: declares a free batch, but runs with batches of %d only", where, batch)
    source = Side(declared.name, declared.dtype, sides)
    return Foreign(where, given, upgraded, source, chosen, declared.batch, batch, seen)


def _row(declared: Declared, given: Sequence[int] | None, where: str) -> tuple[int, ...]:
    """Return the shape of one row that a model takes."""
    if declared.row is None:
        if given is None:
            raise InputError(
                f"{where}: does not say the shape of its rows; give it (--shape 3,32,32) or rows (--calibrate)"
            )
        return tuple(given)
    if not declared.row:
        raise ExportError(f"{where}: its input has no axis for the batch; export it for rows [batch, ...]")
    if None not in declared.row:
        return tuple(side for side in declared.row if side is not None)
    shown = ", ".join(str(side or "?") for side in declared.row)
    if given is None:
        raise InputError(
            f"{where}: takes rows of shape [{shown}]; say which (--shape 3,32,32) or give rows (--calibrate)"
        )
    fits = len(given) == len(declared.row) and all(
        b is None or a == b for a, b in zip(given, declared.row, strict=True)
    )
    if not fits:
        raise InputError(f"{where}: takes rows of shape [{shown}], not {list(given)}")
    return tuple(given)


def _choose_output(model: onnx.ModelProto, wanted: str | None, where: str) -> str:
    names = [value.name for value in model.graph.output]
    if wanted is not None:
        if wanted not in names:
            raise InputError(f"reconstruction: {where} has no output {wanted!r}; it has {', '.join(names)}")
        return wanted
    if len(names) != 1:
        raise InputError(
            f"reconstruction: {where} has the outputs {', '.join(names)}; say which is meant (--reconstruction NAME, "
            "of an encoder --latent NAME)"
        )
    return str(names[0])


def _check_operators(model: onnx.ModelProto, source: str, trust: bool, where: str) -> None:
    """Refuse operators that rows would go through and that no rule is there for."""
    rows = of_rows(model.graph, source)
    for node in model.graph.node:
        if not rows.intersection(node.output):
            continue
        key = ("" if node.domain == "ai.onnx" else node.domain, node.op_type)
        if key in OPERATORS or key in LOWERED or (trust and key in WIDER):
            continue
        name = f"{key[0]}.{key[1]}" if key[0] else key[1]
        shown = f"{where}: the operator {name} (node {node.name or node.output[0]!r})"
        if key in WIDER:
            raise ExportError(
                f"{shown} is for trusted models only: adopt it with --trust, and load the bundle with trust=True"
            )
        if node.op_type.startswith(_RANDOM):
            raise ExportError(f"{shown} draws random numbers; export the model in eval mode, its mean as the latent")
        if node.op_type in _GRAPHS_INSIDE:
            raise ExportError(f"{shown} holds graphs of its own, which edgeae does not run; export the model without")
        raise ExportError(f"{shown} is not one that edgeae runs; export/FORMAT.md lists those that are")
    for node in nodes_of(model.graph):
        if node.op_type.startswith(_RANDOM):
            raise ExportError(f"{where}: {node.op_type} draws random numbers; export the model in eval mode")


def _batches_inside(model: onnx.ModelProto) -> list[int]:
    """Return the numbers that lead a list of sides somewhere: one of them may be the batch."""
    arrays = [
        numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT64
    ]
    first = {int(array[0]) for array in arrays if array.ndim == 1 and len(array)}
    return sorted(number for number in first if 1 < number <= _LARGEST_BATCH) or [1]
