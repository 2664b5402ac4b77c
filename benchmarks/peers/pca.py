"""The cheap baseline: the reconstruction error of scikit-learn's PCA of as many components as the latent has values."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from sklearn.decomposition import PCA

from benchmarks.cases import Case
from benchmarks.peers import Array, Setup, Way, mean_square

__all__ = ["ways"]


def ways(case: Case, setup: Setup) -> Iterator[Way]:
    """`transform`, `inverse_transform` and the error."""
    fitted = _fitted(case)

    def score(rows: Array) -> Array:
        flat = rows.reshape(len(rows), -1)
        return mean_square(flat, fitted.inverse_transform(fitted.transform(flat)))

    yield Way("scikit-learn PCA", score, same=False)


@cache
def _fitted(case: Case) -> PCA:
    config = case.model.config
    components = min(config.active_units or config.latent_dim, 64)
    return PCA(n_components=components, random_state=0).fit(case.training.reshape(len(case.training), -1))
