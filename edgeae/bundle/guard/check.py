"""Whether the bytes of an ONNX file hold a graph that edgeae runs, decided before ONNX Runtime sees them.

The bytes are walked once by a strict reader (`edgeae.bundle.protobuf`), every node is held against one table
(`operators`), and the shape of every value is inferred (`arithmetic`, `windows`, `arrange`, `quantised`), so that
memory and work are bounded before they are spent. Weights are neither copied nor looked at, but for the few that are
shapes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Final

import numpy as np

from edgeae.bundle.guard.operators import DTYPES, INPUTS, OPERATORS, WIDER, Attribute, Operator
from edgeae.bundle.guard.values import BOOL, FLOAT, FLOAT16, INT8, INT32, INT64, UINT8, Node, Value
from edgeae.bundle.protobuf import Malformed, Refused, parse_model
from edgeae.bundle.record import record
from edgeae.errors import BundleError

__all__ = ["GraphInfo", "Limits", "Tensor", "check_graph"]

Tensor = tuple[str, str, tuple[int, ...]]
"""Name, dtype, and shape of one row."""

OPSETS: Final = range(18, 24)
IR_VERSIONS: Final = range(8, 12)
FOREIGN_OPSETS: Final = {"com.microsoft": 1}
MAX_RANK: Final = 8
MAX_NAME: Final = 1024
MAX_KNOWN: Final = 64
BATCH_AS_DATA: Final = "it reads the size of the batch, which no row may depend on"

_ITEM_SIZES: Final = {FLOAT: 4, UINT8: 1, INT8: 1, INT32: 4, INT64: 8, BOOL: 1, FLOAT16: 2}
# where ONNX keeps the numbers of a tensor that has no raw_data
_TYPED_FIELDS: Final = {FLOAT: "floats", INT64: "int64s"} | dict.fromkeys((UINT8, INT8, INT32, BOOL, FLOAT16), "int32s")
_RANGES: Final = {UINT8: (0, 255), INT8: (-128, 127), BOOL: (0, 1), FLOAT16: (0, 65535)}
# ONNX's numbers of attribute types, and the field that holds each
_ATTRIBUTE_TYPES: Final = {1: "float", 2: "int", 3: "string", 4: "tensor", 6: "floats", 7: "ints"}
_VALUE_FIELDS: Final = tuple(_ATTRIBUTE_TYPES.values())


@record(frozen=True)
class Limits:
    """How much a graph may ask for, at batch 1 or at its fixed batch.

    Attributes:
        activation: Numbers in one value that is computed, or in an operator's temporary memory.
        activations: Numbers in all of them together.
        work: Multiply-adds of a run; a step of an elementwise operator counts as one.
        constant_work: The same for what does not depend on the input: it is computed while the graph is loaded.
    """

    activation: int = 2**26
    activations: int = 2**28
    work: int = 2**36
    constant_work: int = 2**30


_USUAL: Final = Limits()


@record(frozen=True)
class GraphInfo:
    """What the guard has seen of a graph that it let pass.

    Attributes:
        metadata: Its metadata_props.
        opset: Of the default domain.
        ir_version: Of the file.
        operators: How often each is used.
        parameters: Numbers in its weights.
        parameter_bytes: What they take.
        activation: Numbers in the largest value that is computed, at batch 1 or at the fixed batch.
        activations: Numbers in all of them.
        work: Multiply-adds of a run, at batch 1 or at the fixed batch.
        shapes: The shape of every value by name; the first entry of a value with a symbolic batch is 1.
    """

    metadata: Mapping[str, str]
    opset: int
    ir_version: int
    operators: Mapping[str, int]
    parameters: int
    parameter_bytes: int
    activation: int
    activations: int
    work: int
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)


def check_graph(
    data: bytes,
    *,
    where: str,
    source: Tensor,
    target: Tensor,
    batch: int | None = None,
    limits: Limits = _USUAL,
    trust: bool = False,
) -> GraphInfo:
    """Refuse a graph unless it is one that edgeae allows: see "Graphs" in export/FORMAT.md.

    Args:
        data: The bytes of the ONNX file: those that were hashed and that ONNX Runtime will load.
        where: What to call the file in messages.
        source: The input it must have: name, dtype ("float32" or "uint8"), shape of one row.
        target: The output it must have.
        batch: The first dimension of both; None: it must be symbolic.
        limits: How much the graph may ask for.
        trust: Also allow the operators of `WIDER`, which no fuzzer has tried.

    Raises:
        BundleError: naming `where`, what is wrong and what to do.

    Example:
        >>> check_graph(b"", where="scorer.onnx", source=("x", "float32", (3,)), target=("score", "float32", ()))
        Traceback (most recent call last):
        edgeae.errors.BundleError: scorer.onnx: no valid ONNX file: it is empty; copy or export the bundle again
    """
    try:
        return _Walk(limits, batch, trust).model(parse_model(data), source, target)
    except Malformed as problem:
        raise BundleError(f"{where}: no valid ONNX file: {problem}; copy or export the bundle again") from None
    except Refused as problem:
        raise BundleError(
            f"{where}: a graph that edgeae does not run: {problem}; export it with edgeae, "
            'or see "Graphs" in export/FORMAT.md for what is allowed'
        ) from None


class _Walk:
    """The values of a graph by name, and what they have cost so far."""

    def __init__(self, limits: Limits, batch: int | None, trust: bool) -> None:
        self.limits = limits
        self.trust = trust
        self.batch = batch
        self.values: dict[str, Value] = {}
        self.operators: Counter[str] = Counter()
        self.parameters = self.parameter_bytes = 0
        self.activation = self.activations = self.work = self.constant_work = 0

    def model(self, model: dict[str, Any], source: Tensor, target: Tensor) -> GraphInfo:
        """Check the whole file."""
        ir_version = model.get("ir_version", 0)
        if ir_version not in IR_VERSIONS:
            raise Refused(f"IR version {ir_version}; allowed are {IR_VERSIONS[0]} to {IR_VERSIONS[-1]}")
        opset = self.opsets(model["opsets"])
        if "graph" not in model:
            raise Malformed("it holds no graph")
        metadata: dict[str, str] = {}
        for entry in model["metadata"]:
            key = entry.get("key", "")
            if key in metadata:
                raise Malformed(f"its metadata has {_shown(key)} twice")
            metadata[key] = entry.get("value", "")
        graph = model["graph"]
        self.declare(graph["inputs"], source, "input")
        for tensor in graph["initializers"]:
            self.define(tensor.get("name", ""), self.constant(tensor))
        for node in graph["nodes"]:
            self.node(node, opset)
        declared = self.declared(graph["outputs"], target, "output")
        result = self.values.get(target[0])
        if result is None:
            raise Malformed(f"nothing makes its output {_shown(target[0])}")
        if result != declared:
            shape = [self.batch or "batch", *declared.shape[1:]]
            raise Refused(
                f"its output {_shown(target[0])} is {DTYPES[result.dtype]} {list(result.shape)}"
                f"{'' if result.rows else ' whatever the batch'}, expected {DTYPES[declared.dtype]} {shape}"
            )
        return GraphInfo(
            metadata,
            opset,
            ir_version,
            dict(self.operators),
            self.parameters,
            self.parameter_bytes,
            self.activation,
            self.activations,
            self.work,
            {name: value.shape for name, value in self.values.items()},
        )

    def opsets(self, imports: Sequence[Mapping[str, Any]]) -> int:
        """Return the version of the default domain's operator set."""
        versions: dict[str, int] = {}
        for each in imports:
            domain, version = each.get("domain", ""), each.get("version", 0)
            if domain in versions:
                raise Malformed(f"it imports the domain {_shown(domain)} twice")
            if domain and FOREIGN_OPSETS.get(domain) != version:
                raise Refused(f"it imports the foreign domain {_shown(domain)}, version {version}")
            versions[domain] = version
        opset = versions.get("", 0)
        if opset not in OPSETS:
            raise Refused(f"opset {opset}; allowed are {OPSETS[0]} to {OPSETS[-1]}")
        return opset

    def declared(self, found: Sequence[Mapping[str, Any]], wanted: Tensor, what: str) -> Value:
        """Return the value that an input or output must be, after checking that it says so."""
        name, dtype, row = wanted
        names = [value.get("name", "") for value in found]
        if names != [name]:
            raise Refused(f"its {what}s are {_shown(names)}, expected {[name]}")
        tensor = found[0].get("type", {}).get("tensor", {})
        dimensions = tensor.get("shape", {}).get("dimensions", [])
        if any(len(dimension) > 1 for dimension in dimensions):
            raise Malformed(f"its {what} has a dimension with a value and a symbol")
        sides = [dimension.get("value", dimension.get("symbol")) for dimension in dimensions]
        fits = len(sides) == len(row) + 1 and sides[1:] == list(row)
        first = sides[0] if sides else None
        fits = fits and (isinstance(first, str) and first != "" if self.batch is None else first == self.batch)
        if not fits or DTYPES.get(tensor.get("dtype", 0)) != dtype:
            shown = DTYPES.get(tensor.get("dtype", 0), "no allowed type")
            expected = [self.batch or "batch", *row]
            raise Refused(f"its {what} {_shown(name)} is {shown} {_shown(sides)}, expected {dtype} {expected}")
        return Value(tensor["dtype"], (self.batch or 1, *row), rows=True)

    def declare(self, found: Sequence[Mapping[str, Any]], wanted: Tensor, what: str) -> None:
        """Check and define the input."""
        value = self.declared(found, wanted, what)
        self.bound(value)
        self.define(wanted[0], value)

    def define(self, name: str, value: Value) -> None:
        """Give a name to a value; each is given once."""
        if not name or len(name) > MAX_NAME:
            raise Malformed(f"a value has {'a name that is too long' if name else 'no name'}")
        if name in self.values:
            raise Malformed(f"two values are called {_shown(name)}")
        self.values[name] = value

    def constant(self, tensor: Mapping[str, Any]) -> Value:
        """Check a weight and return it; small ones are read."""
        name = _shown(tensor.get("name", ""))
        dtype, shape = tensor.get("dtype", 0), tuple(tensor["dimensions"])
        if dtype not in DTYPES:
            raise Refused(f"its tensor {name} is of ONNX's type {dtype}; allowed are {', '.join(DTYPES.values())}")
        if tensor.get("location", 0) != 0:
            raise Refused("it holds external data")
        if len(shape) > MAX_RANK or any(side < 0 or side >= 2**31 for side in shape):
            raise Refused(f"its tensor {name} has the shape {_shown(shape)}")
        size = math.prod(shape)
        if size == 0:
            raise Refused(f"its tensor {name} is empty")
        numbers = self.numbers(tensor, dtype, size, name)
        self.parameters += size
        self.parameter_bytes += size * _ITEM_SIZES[dtype]
        return Value(dtype, shape, known=numbers if len(shape) < 2 else None)

    def numbers(self, tensor: Mapping[str, Any], dtype: int, size: int, name: str) -> tuple[Any, ...] | None:
        """Check that a tensor holds `size` numbers in one place; return them where they are few and may be a shape."""
        raw = tensor.get("raw")
        place = _TYPED_FIELDS[dtype]
        typed = tensor[place]
        if any(tensor[other] for other in ("floats", "int32s", "int64s") if other != place or raw is not None):
            raise Malformed(f"its tensor {name} holds its numbers in two places")
        if raw is None:
            count = len(typed)
            low, high = _RANGES.get(dtype, (-math.inf, math.inf))
            if count == size and dtype in _RANGES and not all(low <= number <= high for number in typed):
                raise Malformed(f"its tensor {name} has numbers beyond {DTYPES[dtype]}")
        else:
            count, remainder = divmod(len(raw), _ITEM_SIZES[dtype])
            count = -1 if remainder else count
            if dtype == BOOL and count == size and np.frombuffer(raw, np.uint8).max() > 1:
                raise Malformed(f"its tensor {name} has numbers beyond bool")
        if count != size:
            there = f"{len(raw):,} bytes" if raw is not None else f"{count:,} numbers"
            raise Malformed(f"its tensor {name} has {there} for {size:,} of {DTYPES[dtype]}")
        if dtype not in (FLOAT, INT32, INT64) or size > MAX_KNOWN:
            return None
        if raw is None:
            return tuple(typed)
        return tuple(np.frombuffer(raw, {FLOAT: "<f4", INT32: "<i4", INT64: "<i8"}[dtype]).tolist())

    def node(self, node: Mapping[str, Any], opset: int) -> None:
        """Check one node, infer what it makes and count what that costs."""
        op, domain = node.get("op", ""), node.get("domain", "")
        shown = _shown(f"{domain}.{op}" if domain else op)
        if node.get("overload"):
            raise Refused(f"it calls a function, {shown}")
        if len(node.get("name", "")) > MAX_NAME:
            raise Malformed("a node has a name that is too long")
        operator = OPERATORS.get((domain, op))
        if operator is None and (domain, op) in WIDER:
            if not self.trust:
                raise Refused(f"it uses the operator {shown}, run only where its maker is trusted (trust=True)")
            operator = WIDER[domain, op]
        if operator is None:
            raise Refused(f"it uses the operator {shown}, which is not in the list of those allowed")
        if opset < operator.since:
            raise Refused(f"it uses {shown} of opset {opset}; allowed since {operator.since}")
        self.operators[op] += 1
        try:
            self.infer(node, op, operator)
        except Refused as problem:
            makes = _shown(node["outputs"][0]) if node["outputs"] else "nothing"
            raise Refused(f"{shown}, which makes {makes}: {problem}") from None

    def infer(self, node: Mapping[str, Any], op: str, operator: Operator) -> None:
        """Apply the operator's rule to a node."""
        inputs = [self.input(name) for name in node["inputs"]]
        _check_inputs(inputs, operator)
        outputs = node["outputs"]
        made = Node(op, inputs, self.attributes(node["attributes"], operator), len(outputs), self.batch)
        if not operator.of_series and any(value is not None and value.axis for value in inputs):
            raise Refused("it works on values whose batch is not the first axis")
        values = operator.infer(made)
        if not 1 <= len(outputs) <= min(operator.outputs, len(values)):
            raise Refused(f"it names {len(outputs)} outputs")
        read = [value for value in inputs if value is not None]
        self.bound(Value(FLOAT, (made.scratch,)))
        for value in values:
            if min(value.shape, default=1) < 1 or len(value.shape) > MAX_RANK:
                raise Refused(f"its result has the shape {_shown(value.shape)}")
            if value.known is None and operator.of_shapes and inputs[0] is not None and inputs[0].of_batch:
                raise Refused(BATCH_AS_DATA)
            self.bound(value)
        constant = op != "Constant" and not any(value.rows for value in read)
        self.spend(max(made.work, *(value.size for value in (*read, *values))), constant=constant)
        for name, value in zip(outputs, values, strict=False):
            if name:
                self.define(name, value)

    def input(self, name: str) -> Value | None:
        """Return the value of that name, None for none."""
        if not name:
            return None
        if name not in self.values:
            raise Malformed(f"nothing before it makes {_shown(name)}, which a node reads")
        return self.values[name]

    def attributes(self, found: Sequence[Mapping[str, Any]], operator: Operator) -> dict[str, Any]:
        """Hold attributes against the table and return all, with their defaults."""
        values: dict[str, Any] = {}
        for attribute in found:
            name = attribute.get("name", "")
            allowed = operator.attributes.get(name)
            if allowed is None:
                raise Refused(f"its attribute {_shown(name)} is not allowed")
            if name in values:
                raise Malformed(f"a node has the attribute {_shown(name)} twice")
            values[name] = self.attribute(attribute, name, allowed)
        for name, allowed in operator.attributes.items():
            if name not in values:
                if allowed.required:
                    raise Refused(f"its attribute {name!r} is missing")
                values[name] = allowed.default
        return values

    def attribute(self, attribute: Mapping[str, Any], name: str, allowed: Attribute) -> Any:
        """Return the value of an attribute that is as the table has it."""
        kind = _ATTRIBUTE_TYPES.get(attribute.get("type", 0))
        if kind != allowed.kind:
            raise Refused(f"its attribute {name!r} is of type {attribute.get('type', 0)}, expected {allowed.kind}")
        if any(attribute.get(other) not in (None, []) for other in _VALUE_FIELDS if other != kind):
            raise Malformed(f"a node's attribute {name!r} has values of two types")
        # protobuf leaves the default out of some files: 0, nothing
        value = attribute.get(kind, {"float": 0.0, "int": 0, "string": b""}.get(kind))
        if kind == "tensor":
            if value is None:
                raise Malformed(f"a node's attribute {name!r} has no value")
            return self.constant(value)
        if kind == "string":
            value = bytes(value[:64])
        if not allowed.allows(value):
            raise Refused(f"its attribute {name!r} is {_shown(value)}, allowed is {allowed.describe()}")
        return value

    def bound(self, value: Value) -> None:
        """Count a value that is computed against the budget of memory."""
        size = value.size
        self.activation = max(self.activation, size)
        self.activations += size
        if size > self.limits.activation:
            raise Refused(f"{size:,} numbers at once, more than {self.limits.activation:,}")
        if self.activations > self.limits.activations:
            raise Refused(f"its values together have more than {self.limits.activations:,} numbers")

    def spend(self, work: int, *, constant: bool) -> None:
        """Count a node against the budget of time."""
        self.work += work
        if self.work > self.limits.work:
            raise Refused(f"a row takes more than {self.limits.work:,} multiply-adds")
        if constant:
            self.constant_work += work
            if self.constant_work > self.limits.constant_work:
                raise Refused(f"its constants take more than {self.limits.constant_work:,} steps to compute")


def _check_inputs(inputs: Sequence[Value | None], operator: Operator) -> None:
    """Hold the inputs of a node against its signature."""
    letters = operator.signature.split()
    if letters and letters[-1].endswith("*"):
        letters += [letters[-1]] * (len(inputs) - len(letters))
    if inputs and inputs[-1] is None:  # ONNX Runtime 1.32's LayerNormalization crashes on it
        raise Malformed("a node names an absent input at its end")
    if len(inputs) > len(letters):
        raise Refused(f"it has {len(inputs)} inputs, allowed are {len(letters)}")
    alike: int | None = None
    for index, letter in enumerate(letters):
        kind = INPUTS[letter[0]]
        value = inputs[index] if index < len(inputs) else None
        if value is None:
            if letter.endswith("?") or (letter.endswith("*") and index >= len(inputs)):
                continue
            raise Refused(f"input {index} is missing")
        if value.dtype not in kind.types:
            raise Refused(f"input {index} is {DTYPES[value.dtype]}, expected {kind.meaning}")
        if kind.alike:
            if alike is not None and alike != value.dtype:
                raise Refused(f"input {index} is {DTYPES[value.dtype]}, the one before {DTYPES[alike]}")
            alike = value.dtype
        if kind.known and (value.known is None or value.rows):
            raise Refused(f"input {index} must be a constant of at most {MAX_KNOWN} numbers")
        if value.of_batch and not (kind.known or operator.of_shapes):
            raise Refused(BATCH_AS_DATA)


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
