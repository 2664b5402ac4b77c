"""Arrays and scores out to files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeae.data.writers import check_output, create_array, score_lines, write_scores
from edgeae.errors import InputError

SCORES = np.array([0.1, np.nan, 3.4028235e38, 1e-45], np.float32)
ANOMALIES = np.array([False, True, True, False])


@pytest.mark.parametrize("name", ["z.npy", "z.csv"])
def test_an_array_comes_back_to_the_bit(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    with create_array(tmp_path / name, values.shape) as array:
        array[:] = values
    if name.endswith(".npy"):
        read = np.load(tmp_path / name)
    else:
        read = np.loadtxt(tmp_path / name, delimiter=",", dtype=np.float32)
    np.testing.assert_array_equal(read, values)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["z.npy", "z.csv"])
def test_an_empty_array_is_a_file_too(tmp_path: Path, name: str) -> None:
    with create_array(tmp_path / name, (0, 3)) as array:
        assert array.shape == (0, 3)
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["z.npy", "z.csv"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(RuntimeError, match="halfway"), create_array(tmp_path / name, (4, 3)) as array:
        array[:2] = 1
        raise RuntimeError("halfway")
    assert (tmp_path / name).read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_csv_gets_the_names_as_its_header(tmp_path: Path) -> None:
    with create_array(tmp_path / "z.csv", (2, 2), ["a", 'say "b", please']) as array:
        array[:] = 1
    lines = (tmp_path / "z.csv").read_text().splitlines()
    assert lines == ['a,"say ""b"", please"', "1,1", "1,1"]


def test_rows_that_are_no_vectors_do_not_fit_a_csv(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.npy"), create_array(tmp_path / "x.csv", (2, 3, 3)):
        pass


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"), create_array(tmp_path / "nowhere" / "z.npy", (2, 3)):
        pass
    with pytest.raises(InputError, match="does not exist"):
        check_output(tmp_path / "nowhere" / "z.npy", (".npy",), force=False)


def test_outputs_are_checked_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "there.npy").write_bytes(b"")
    (tmp_path / "folder.npy").mkdir()
    for name, words in (("z.txt", "must end in"), ("there.npy", "--force"), ("folder.npy", "is a folder")):
        with pytest.raises(InputError, match=words):
            check_output(tmp_path / name, (".npy",), force=False)
    assert check_output(tmp_path / "there.npy", (".npy",), force=True) == tmp_path / "there.npy"


def test_scores_keep_every_bit_in_every_format(tmp_path: Path) -> None:
    import pandas

    for name in ("s.csv", "s.npy", "s.parquet"):
        write_scores(tmp_path / name, SCORES, ANOMALIES)
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), SCORES)
    csv = pandas.read_csv(tmp_path / "s.csv")
    np.testing.assert_array_equal(csv["score"].to_numpy(np.float32), SCORES)
    assert csv["anomaly"].tolist() == [0, 1, 1, 0] and csv["row"].tolist() == [0, 1, 2, 3]
    parquet = pandas.read_parquet(tmp_path / "s.parquet")
    np.testing.assert_array_equal(parquet["score"].to_numpy(), SCORES)


def test_score_lines_count_on_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeae.data.writers._BLOCK", 3)
    text = "".join(score_lines(np.arange(8, dtype=np.float32), np.zeros(8, bool)))
    assert [line.split(",")[0] for line in text.splitlines()] == ["row", *map(str, range(8))]
