"""Encoder and decoder cores of foreign models, with a free batch where that computes the same, else a fixed one."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch

from edgeae.bundle.bundle import GRAPHS
from edgeae.errors import ExportError
from edgeae.export.adopt.cut import choose_latent, listed, part, waists
from edgeae.export.adopt.foreign import Foreign
from edgeae.export.adopt.network import OnnxNetwork, count_parameters
from edgeae.export.adopt.rewrite import Work
from edgeae.export.assemble import Cores, Plan, assemble
from edgeae.export.bundle import TOLERANCES, check_allowed
from edgeae.export.parity import run_graph
from edgeae.export.source import Arithmetic

__all__ = ["Coders", "Wish", "permutation", "settle_batch"]

_log = logging.getLogger("edgeae")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Wish:
    """What the two cores shall be.

    Attributes:
        row: Shape of one row of the bundle.
        latent: The latent's name, or None for the narrowest value.
        logits: Leave a last sigmoid to the graphs around the core.
    """

    row: tuple[int, ...]
    latent: str | None
    logits: bool


@dataclass(frozen=True)
class Coders:
    """A network and whether its batch is free: see `settle_batch`."""

    network: OnnxNetwork
    batch: int | None
    arithmetic: Arithmetic


def network_of(models: Sequence[Foreign], wish: Wish, *, symbolic: bool) -> OnnxNetwork:
    """Return one autoencoder cut in two, or an encoder and a decoder as they are, with a free or a fixed batch.

    Raises:
        ExportError: if it cannot be cut or rewritten.
    """
    first, second = models[0], models[-1]
    latent = wish.latent if len(models) == 1 else first.output
    work = first.work(symbolic=symbolic, keep=[] if latent is None else [latent])
    if len(models) == 1:
        found = waists(work, work.resolve(first.output))
        if latent is None:
            latent = choose_latent(found, math.prod(wish.row), first.where)
        elif work.resolve(latent) not in {each.name for each in found}:
            raise ExportError(
                f"{first.where}: cannot be cut at {latent!r}: it is no value of one row that everything passes "
                f"through; possible are {listed(found)}"
            )
    middle = work.resolve(latent or first.output)
    width = math.prod(work.shape(middle)[1:])
    encoder = part(work, work.head, middle, name="x", sides=wish.row, output="z", made=(width,))
    start = middle
    if len(models) == 2:
        work = second.work(symbolic=symbolic, keep=())
        start = work.head
        if math.prod(work.shape(start)[1:]) != width:
            raise ExportError(
                f"{first.where} gives latents of {width} values, {second.where} takes {list(second.source.sides)}; "
                "give a decoder that fits"
            )
    end, order, sigmoid = _end(work, second.output, wish)
    decoder = part(work, start, end, name="z", sides=(width,), output="out", made=wish.row)
    target = _sigmoid_input(second, second.output) if sigmoid else second.output
    return OnnxNetwork(
        encoder=first.runner(latent or first.output),
        decoder=replace(second.runner(target, latent=latent if len(models) == 1 else None), permutation=order),
        cores=(encoder, decoder),
        row_shape=wish.row,
        latent_dim=width,
        sigmoid=sigmoid,
        parameters=sum(count_parameters(model.modern) for model in models),
        origin="the original",
        latent=latent or first.output,
    )


def _end(work: Work, output: str, wish: Wish) -> tuple[str, tuple[int, ...] | None, bool]:
    """Return the value that is the reconstruction, how its axes were moved, and whether a sigmoid was left out."""
    name, sigmoid = work.resolve(output), False
    sides = work.shape(name)[1:]
    maker = next((node for node in work.nodes if name in node.output), None)
    if wish.logits and maker is not None and maker.op_type == "Sigmoid":
        name, sigmoid = maker.input[0], True
    if work.dtype(name) not in ("float32", "float64", "float16"):
        name = work.declare(work.add("Cast", [name], work.fresh("float"), to=onnx.TensorProto.FLOAT), sides)
    order = permutation(sides, wish.row, work.where)
    if order is None:
        return name, None, sigmoid
    moved = work.add("Transpose", [name], work.fresh("moved"), perm=list(order))
    return work.declare(moved, [sides[axis - 1] for axis in order[1:]]), order, sigmoid


def permutation(made: Sequence[int], row: Sequence[int], where: str) -> tuple[int, ...] | None:
    """Return how to bring axes [batch, *made] into the order of [batch, *row], or None where a reshape will do.

    Raises:
        ExportError: if the two are not of one size.

    Example:
        >>> permutation((3, 32, 32), (32, 32, 3), "model.onnx")
        (0, 2, 3, 1)
    """
    if math.prod(made) != math.prod(row):
        raise ExportError(
            f"{where}: gives {list(made)} for rows of shape {list(row)}; a reconstruction must have the size of its "
            "input: choose another output (--reconstruction NAME)"
        )
    plain = [[side for side in sides if side != 1] for sides in (made, row)]
    if plain[0] == plain[1] or len(plain[0]) == 1 or len(plain[1]) == 1:
        return None
    # channels to the end, channels to the front, then whatever fits
    orders = [(1, 2, 0), (2, 0, 1), *itertools.permutations(range(len(made)))]
    for order in orders:
        if len(order) == len(made) == len(row) and [made[axis] for axis in order] == list(row):
            return (0, *(axis + 1 for axis in order))
    raise ExportError(
        f"{where}: gives {list(made)} for rows of shape {list(row)}, and which axis is which is not plain"
    )


def _sigmoid_input(model: Foreign, output: str) -> str:
    """Return what the model's own last sigmoid reads."""
    for node in model.modern.graph.node:
        if output in node.output:
            return node.input[0] if node.op_type == "Sigmoid" else _sigmoid_input(model, node.input[0])
    return output


def settle_batch(models: Sequence[Foreign], wish: Wish, plan: Plan, rows: Array) -> Coders:
    """Make the cores with a free batch where they compute the same then, row by row, else with the model's own.

    Args:
        models: One autoencoder, or an encoder and a decoder.
        wish: What the cores shall be.
        plan: What the graphs around the cores shall do.
        rows: At least seven normalised rows, float32.

    Raises:
        ExportError: if neither way gives graphs that are allowed and agree with the model.
    """
    where = " and ".join(model.where for model in models)
    arithmetic: Arithmetic = min((model.arithmetic for model in models), key=("int8", "float16", "float32").index)
    tolerance = TOLERANCES[arithmetic]
    reason, alone = "", not all(_keeps_rows_apart(model, tolerance) for model in models)
    if alone:
        models = [replace(model, batch=1) for model in models]
        reason = "what a row gives depends on the others in its batch"
    else:
        network, reason = _try(models, wish, plan, rows, None, tolerance)
        if network is not None:
            declared = [model.declared for model in models if model.declared]
            if declared:
                _log.info("%s: its batch of %d is made free", where, declared[0])
            return Coders(network, None, arithmetic)
    fixed = [model.fixed_batch for model in models]
    if len(set(fixed)) > 1:
        raise ExportError(f"{where}: run in batches of {fixed[0]} and {fixed[1]}; export both with the same")
    network, problem = _try(models, wish, plan, rows, fixed[0], tolerance)
    if network is None:
        raise ExportError(f"{problem} ({reason})" if alone else problem)
    _log.info("%s: stays in batches of %d, over which the runtime loops: %s", where, fixed[0], reason)
    return Coders(network, fixed[0], arithmetic)


def _keeps_rows_apart(model: Foreign, tolerance: float) -> bool:
    """Whether a model of a free batch gives rows what it gives them alone."""
    if model.batch is not None:
        return True
    runner = model.runner(model.output)
    scale = 255 if model.source.dtype in ("uint8", "int32", "int64") else 1
    rows = np.random.default_rng(5).random((4, *model.source.sides)) * scale
    rows *= np.array([1, 0.1, 1, 0.5]).reshape(-1, *[1] * len(model.source.sides))
    together, alone = runner(rows), replace(runner, batch=1)(rows)
    return bool(np.abs(together - alone).max() <= tolerance * max(float(np.abs(alone).max()), 1e-6))


def _plain(reason: str, models: Sequence[Foreign]) -> str:
    """Say what the guard says without its advice, which is for those who were given a bundle."""
    role, found, rest = reason.partition(": a graph that edgeae does not run: ")
    if not found:
        return reason
    where = models[-1 if role.endswith("decoder") else 0].where
    return f"{where}: in {role}, {rest.partition('; export it with edgeae')[0]}; export/FORMAT.md lists what is allowed"


def _try(
    models: Sequence[Foreign], wish: Wish, plan: Plan, rows: Array, batch: int | None, tolerance: float
) -> tuple[OnnxNetwork | None, str]:
    """Return the network if its graphs are allowed and right with that batch, and the reason if not."""
    try:
        network = network_of(models, wish, symbolic=batch is None)
        plan = replace(plan, batch=batch, latent_dim=network.latent_dim, sigmoid=network.sigmoid)
        cores = Cores(*network.cores)
        graphs = {role: assemble(role, cores, plan, {}).SerializeToString() for role in GRAPHS}
        for role, graph in graphs.items():
            check_allowed(role, graph, plan)
        shift, scale = plan.normalisation.arrays(plan.input.shape, plan.input.layout)
        z, _ = network.encode(torch.from_numpy(rows))
        wanted = network.decode(z).numpy()
        if network.sigmoid:
            wanted = 1 / (1 + np.exp(-wanted))
        users = (rows * scale + shift).astype(plan.input.dtype)
        for count in (1, 2, 7):
            made = run_graph(graphs["encoder"], users[:count], batch=batch, chunk=count)
            x_hat = (run_graph(graphs["decoder"], made, batch=batch, chunk=count) - shift) / scale
            off = float(np.abs(x_hat - wanted[:count]).max()) / max(float(np.abs(wanted).max()), 1e-6)
            if not off <= 10 * tolerance:
                return None, f"with {count} rows its results are off by {off:.2g} of their size"
    except ExportError as problem:
        return None, _plain(str(problem), models)
    return network, ""
