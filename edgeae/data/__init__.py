"""Files and names in, arrays, splits and statistics out (NumPy; other packages only when such a file is read)."""

from edgeae.data.dataset import Dataset, describe_dataset, digest_rows, split_rows
from edgeae.data.load import load_data, load_rows
from edgeae.data.normalisation import denormalise, fit_normalisation, normalise
from edgeae.data.series import Windowing

__all__ = [
    "Dataset",
    "Windowing",
    "denormalise",
    "describe_dataset",
    "digest_rows",
    "fit_normalisation",
    "load_data",
    "load_rows",
    "normalise",
    "split_rows",
]
