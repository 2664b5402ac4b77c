"""A trained network beside simple baselines on the rows of its run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from edgeae.bundle.manifest import Layout, Normalisation
from edgeae.data import denormalise, normalise
from edgeae.evaluation.baselines import Comparison, compare_with_baselines
from edgeae.models.autoencoder import Autoencoder

__all__ = ["compare_network"]

Array = np.ndarray[Any, Any]


def compare_network(
    model: Autoencoder,
    training: Array,
    validation: Array,
    anomalies: Array | None,
    normalisation: Normalisation,
    layout: Layout,
) -> Comparison | None:
    """Hold the plain reconstruction error of a network against baselines; see `compare_with_baselines`.

    Args:
        model: On the CPU, in eval mode.
        training: [n, *row] in the user's units.
        validation: [m, *row].
        anomalies: [k, *row], or None.
        normalisation: Fitted on the training rows.
        layout: What the axes of a row mean.
    """

    @torch.no_grad()
    def reconstruct(rows: Array) -> Array:
        parts = torch.split(torch.from_numpy(normalise(rows, normalisation, layout)), 256)
        made = [model.activate(model.decoder(model.encode(part))).numpy() for part in parts]
        return denormalise(np.concatenate(made), normalisation, layout)

    def score(rows: Array) -> Array:
        errors = normalise(rows, normalisation, layout) - normalise(reconstruct(rows), normalisation, layout)
        return np.asarray(np.square(errors).reshape(len(rows), -1).mean(axis=1))

    return compare_with_baselines(
        training,
        validation,
        anomalies,
        score=score,
        reconstruct=reconstruct,
        normalisation=normalisation,
        layout=layout,
        components=model.config.active_units or model.config.latent_dim,
        name="the reconstruction error",
    )
