"""Options that several commands share, and options made from a dataclass."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

__all__ = [
    "BATCHES",
    "NAMES",
    "NUMBERS",
    "bundle_argument",
    "data_argument",
    "data_options",
    "dataclass_options",
    "force_option",
    "model_options",
    "section_option",
    "target_options",
    "trust_option",
]

F = TypeVar("F", bound=Callable[..., Any])

bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))
data_argument = click.argument("data")
trust_option = click.option(
    "--trust", is_flag=True, help="Run operators that need it (see edgeae adopt); only if you know the bundle's maker."
)
force_option = click.option("--force", is_flag=True, help="Replace the output if it exists.")


def _stack(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


class _Names(click.ParamType[Any]):
    """A comma-separated list."""

    name = "a,b,..."

    def __init__(self, kind: type = str) -> None:
        self.kind = kind
        self.name = {int: "n,n,...", float: "x,x,..."}.get(kind, "a,b,...")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(self.kind(part.strip()) for part in value.split(",") if part.strip())
        except ValueError:
            what = "whole numbers" if self.kind is int else "numbers"
            self.fail(f"{value!r} is not a comma-separated list of {what}", param, ctx)


NAMES = _Names()
BATCHES = _Names(int)
NUMBERS = _Names(float)


class SectionOption(click.Option):
    """An option that the help lists under a heading of its own."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionCommand(click.Command):
    """A command whose help lists its `SectionOption`s by section, after the others."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and record is not None:
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl(records)


def section_option(section: str, *names: str, **settings: Any) -> Callable[[F], F]:
    """Return a `click.option` that the help lists under a heading."""
    return click.option(*names, cls=SectionOption, section=section, **settings)


def data_options(function: F) -> F:
    """Add the options that say how to read DATA for a bundle."""
    return _stack(
        click.option("--label-column", metavar="NAME", help="Column (or .npz key) with labels, left out of the rows."),
        click.option("--columns", type=NAMES, help="Columns of a table to use, in this order; -NAME leaves one out."),
        click.option("--data-dir", type=click.Path(), help="Folder with the files of a named data set."),
    )(function)


def model_options(function: F) -> F:
    """Add the options that say where and how a bundle runs."""
    return _stack(
        click.option(
            "--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or cuda:N."
        ),
        click.option(
            "--precision",
            default="fp32",
            show_default=True,
            type=click.Choice(["fp32", "fp16", "int8", "auto"]),
            help="Which of the bundle's graphs to run.",
        ),
    )(function)


def target_options(function: F) -> F:
    """Add the options that say what a bundle is for."""
    return _stack(
        click.option(
            "--target",
            default="server",
            show_default=True,
            type=click.Choice(["server", "mobile", "web"]),
            help="mobile: batch 1, and beside it OUTPUT-mobile with ORT-format files for phones. "
            "web: beside it OUTPUT.html, a page that runs it.",
        ),
        click.option(
            "--onnxruntime-web",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="For web: the npm package onnxruntime-web, to put it into the page.",
        ),
    )(function)


def dataclass_options(cls: type) -> Callable[[F], F]:
    """Add an option for every field of a dataclass whose fields carry a "doc"; None means: not given."""
    hints = typing.get_type_hints(cls)
    options = []
    section = ""
    for field in dataclasses.fields(cls):
        section = field.metadata.get("section", section)
        name = "--" + field.name.replace("_", "-")
        doc = field.metadata["doc"]
        shown = "" if field.default in (None, False, "") else f"  [default: {field.default}]"
        text = f"{doc[0].upper()}{doc[1:]}.{shown}"
        settings: dict[str, Any] = {"default": None, "cls": SectionOption, "section": section, "help": text}
        kind = hints[field.name]
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            (kind,) = (arm for arm in typing.get_args(kind) if arm is not type(None))
        if kind is bool:
            options.append(click.option(f"{name}/--no-{name[2:]}", field.name, **settings))
            continue
        if typing.get_origin(kind) is Literal:
            settings["type"] = click.Choice(list(typing.get_args(kind)))
        elif typing.get_origin(kind) is tuple:
            settings["type"] = _Names(typing.get_args(kind)[0])
        else:
            settings["type"] = kind
            settings["metavar"] = "PATH" if field.metadata.get("path") else {int: "N", float: "X", str: "NAME"}[kind]
        options.append(click.option(name, field.name, **settings))
    return _stack(*options)
