"""Write what graphs may hold into export/FORMAT.md, from the guard's tables: `python -m tests.make_operators`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeae.bundle import protobuf
from edgeae.bundle.guard import check as guard
from edgeae.bundle.guard.operators import DTYPES, INPUTS, OPERATORS, WIDER, Operator

FORMAT = Path(__file__).parents[1] / "export" / "FORMAT.md"
BEGIN, END = "<!-- operators:begin -->\n", "<!-- operators:end -->\n"


def markdown() -> str:
    """Return the limits and the table of operators."""
    limits = guard.Limits()
    graph = {field.name: field.limit for field in protobuf.GRAPH.fields.values()}
    lines = [
        f"- IR versions {guard.IR_VERSIONS[0]} to {guard.IR_VERSIONS[-1]}, opsets {guard.OPSETS[0]} to "
        f"{guard.OPSETS[-1]}; of other domains only "
        + ", ".join(f"`{name}` version {version}" for name, version in guard.FOREIGN_OPSETS.items())
        + ".",
        f"- At most {graph['nodes']:,} nodes and {graph['initializers']:,} weights, of {', '.join(DTYPES.values())}, "
        f"with {guard.MAX_RANK} axes at most and none of them empty.",
        f"- At batch 1, or at the fixed batch: at most {limits.activation:,} numbers in one computed value and "
        f"{limits.activations:,} in all, {limits.work:,} multiply-adds, and {limits.constant_work:,} steps for what "
        "does not depend on the input.",
        "",
        "| input | what it may be |",
        "|---|---|",
        *(f"| {letter} | {kind.meaning} |" for letter, kind in INPUTS.items()),
        "",
        "`?` marks an optional input, `*` any number of them. Attributes that are not listed are not allowed.",
        "",
        "| operator | inputs | attributes | rule |",
        "|---|---|---|---|",
    ]
    lines += _rows(OPERATORS)
    lines += [
        "",
        "Operators that a reader MUST refuse unless the user says that the maker of the bundle is to be trusted: their "
        "shapes are inferred and bounded in the same way, but no fuzzer has tried them in ONNX Runtime.",
        "",
        "| operator | inputs | attributes | rule |",
        "|---|---|---|---|",
        *_rows(WIDER),
    ]
    return "\n".join(lines) + "\n"


def _rows(operators: Mapping[tuple[str, str], Operator]) -> list[str]:
    rows: dict[str, list[str]] = {}
    for (domain, name), operator in operators.items():
        attributes = "; ".join(f"{key}: {value.describe()}" for key, value in operator.attributes.items())
        notes = [f"since opset {operator.since}"] if operator.since > guard.OPSETS[0] else []
        notes += [operator.note] if operator.note else []
        cells = f"| {operator.signature} | {attributes} | {'; '.join(notes)} |"
        rows.setdefault(cells, []).append(f"`{domain}.{name}`" if domain else f"`{name}`")
    return [f"| {', '.join(names)} {cells}" for cells, names in rows.items()]


def with_table(text: str) -> str:
    """Return the text of FORMAT.md with what is between its two marks made again."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{markdown()}{END}{after}"


if __name__ == "__main__":
    FORMAT.write_text(with_table(FORMAT.read_text("utf-8")), "utf-8")
