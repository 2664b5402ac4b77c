"""Every command, through click's runner and once for real; right input and the everyday mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeae.cli import main
from edgeae.cli.group import SECTIONS
from tests.make_golden import GOLDEN, sensor_table

COMMANDS = [name for commands in SECTIONS.values() for name in commands]
Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a command in a temporary folder and check how it ends."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, code: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = sensor_table(50)
    path = tmp_path / "sensors.csv"
    header = ",".join(f"sensor_{index}" for index in range(10))
    np.savetxt(path, rows, delimiter=",", header=header, comments="", fmt="%.7g")
    return path


def read_scores(text: str) -> list[list[str]]:
    return [line.split(",") for line in text.splitlines()]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_ends_in_an_example(name: str, invoke: Invoke) -> None:
    text = invoke(name, "--help").stdout
    assert "Example:" in text and f"edgeae {name}" in text.split("Example:")[1]


def test_the_group_lists_every_command_once(invoke: Invoke) -> None:
    text = invoke("--help").stdout
    for name in COMMANDS:
        assert text.count(f"\n  {name} ") == 1


def test_train_export_verify_inspect_score(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "options.toml").write_text('variant = "denoising"\nepochs = 1\nhidden = [16]\n')
    trained = invoke("train", "digits", "-o", "run", "--config", "options.toml", "--latent-dim", 8, "--json")
    assert json.loads(trained.stdout)["epochs"] == 1
    assert (tmp_path / "run" / "model.safetensors").is_file()
    invoke("export", "run", "-o", "bundle", "--precision", "fp32,fp16", "--score", "mae")
    assert "ok" in invoke("verify", "bundle").stdout
    assert all(check["passed"] for check in json.loads(invoke("verify", "bundle", "--json").stdout))
    card = invoke("inspect", "bundle").stdout
    for word in ("denoising", "mae", "digits", "fp16", "sha256:"):
        assert word in card
    assert json.loads(invoke("inspect", "bundle", "--json").stdout)["manifest"]["latent_dim"] == 8
    invoke("export", "run", "-o", "bundle.zip")
    invoke("verify", "bundle.zip")
    result = invoke("score", "bundle", "digits", "-o", "scores.csv", "--json")
    summary = json.loads(result.stdout)
    lines = read_scores((tmp_path / "scores.csv").read_text())
    assert lines[0] == ["row", "score", "anomaly"] and len(lines) == summary["rows"] + 1
    assert sum(int(line[2]) for line in lines[1:]) == summary["anomalies"]


def test_the_formats_of_scores_hold_the_same_numbers(invoke: Invoke, table: Path) -> None:
    import pandas

    for name in ("s.csv", "s.npy", "s.parquet"):
        invoke("score", GOLDEN / "table", table, "-o", name)
    scores = np.load("s.npy")
    np.testing.assert_array_equal(pandas.read_csv("s.csv")["score"].to_numpy(np.float32), scores)
    frame = pandas.read_parquet("s.parquet")
    np.testing.assert_array_equal(frame["score"], scores)
    assert list(frame.columns) == ["row", "score", "anomaly"]


def test_scores_go_to_the_screen_and_come_from_a_pipe(invoke: Invoke, table: Path) -> None:
    from_file = invoke("score", GOLDEN / "table", table)
    from_pipe = invoke("score", GOLDEN / "table", "-", stdin=table.read_text())
    assert from_file.stdout == from_pipe.stdout
    assert "rows are anomalies" in from_file.stderr


def test_scores_come_with_reasons(invoke: Invoke, table: Path) -> None:
    import pandas

    invoke("score", GOLDEN / "table", table, "-o", "s.csv", "--explain", 2)
    invoke("score", GOLDEN / "table", table, "-o", "s.parquet", "--explain", 2)
    frame = pandas.read_csv("s.csv", dtype={"anomaly": bool})
    assert list(frame.columns)[3:7] == ["feature_1", "contribution_1", "value_1", "expected_1"]
    assert set(frame["feature_1"]) <= set(pandas.read_csv(table).columns)
    assert (frame["contribution_1"] >= frame["contribution_2"]).all()
    pandas.testing.assert_frame_equal(frame, pandas.read_parquet("s.parquet"), check_dtype=False)
    assert ".csv, .parquet" in invoke("score", GOLDEN / "table", table, "-o", "s.npy", "--explain", 2, code=1).stderr


def test_columns_are_matched_by_name(invoke: Invoke, table: Path) -> None:
    import pandas

    frame = pandas.read_csv(table)
    shuffled = frame[frame.columns[::-1]].assign(comment=0.0)
    shuffled.to_csv("shuffled.csv", index=False)
    assert invoke("score", GOLDEN / "table", table).stdout == invoke("score", GOLDEN / "table", "shuffled.csv").stdout
    frame.drop(columns="sensor_3").to_csv("short.csv", index=False)
    assert "sensor_3" in invoke("score", GOLDEN / "table", "short.csv", code=1).stderr


def test_encode_decode_reconstruct_agree(invoke: Invoke, tmp_path: Path) -> None:
    bundle = GOLDEN / "dense"
    invoke("encode", bundle, "digits", "-o", "z.npy")
    invoke("decode", bundle, "z.npy", "-o", "decoded.npy")
    invoke("reconstruct", bundle, "digits", "-o", "x_hat.npy", "--figure", "out.png", "--rows", 4)
    assert np.load("z.npy").shape == (1797, 8)
    np.testing.assert_array_equal(np.load("decoded.npy"), np.load("x_hat.npy"))
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    invoke("encode", bundle, "digits", "-o", "z.csv")
    np.testing.assert_array_equal(np.loadtxt("z.csv", delimiter=",", dtype=np.float32, skiprows=1), np.load("z.npy"))


def test_sample_generates_the_same_rows_from_the_same_seed(invoke: Invoke) -> None:
    for name in ("one.npy", "other.npy"):
        invoke("sample", GOLDEN / "variational", "-n", 5, "--seed", 3, "-o", name)
    np.testing.assert_array_equal(np.load("one.npy"), np.load("other.npy"))
    invoke("sample", GOLDEN / "variational", "-n", 5, "--seed", 4, "-o", "third.npy", "--figure", "third.png")
    assert not np.array_equal(np.load("one.npy"), np.load("third.npy"))
    assert "variational" in invoke("sample", GOLDEN / "dense", "-o", "no.npy", code=1).stderr


def test_bench_measures(invoke: Invoke) -> None:
    result = invoke("bench", GOLDEN / "dense", "--seconds", 0.1, "--json", "bench.json")
    assert "p99.9" in result.stdout
    assert json.loads(Path("bench.json").read_text())["bundle"]


def test_bench_compares(invoke: Invoke) -> None:
    arguments = ("--device", "cpu", "--batches", "1", "--seconds", 0.05, "--json", "bench.json")
    result = invoke("bench", GOLDEN / "dense", "--against", GOLDEN / "sparse", *arguments)
    assert "takes: time over that of the first one" in result.stdout
    assert [one["bundle"] for one in json.loads(Path("bench.json").read_text())["contenders"]] == [
        "golden dense",
        "golden sparse",
    ]


def test_demo_runs_offline(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = json.loads(invoke("demo", "-o", "demo", "--json").stdout)
    assert result["auroc"]["noisy digits"] > 0.98 and result["auroc"]["photographs"] > 0.9
    assert result["reconstruction_mse"] < 0.012
    for name in ("reconstructions.png", "scores.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 10_000
    assert "--force" in invoke("demo", "-o", "demo", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nowhere.npy", "-o", "run"], ["nowhere.npy", "no such file"]),
        (["train", "mnits", "-o", "run"], ["did you mean mnist"]),
        (["train", "text.csv", "-o", "run"], ["text.csv", "name"]),
        (["train", "nan.npy", "-o", "run"], ["nan.npy", "missing"]),
        (["train", "file.xyz", "-o", "run"], ["file.xyz"]),
        (["train", "empty.csv", "-o", "run"], ["empty.csv", "empty"]),
        (["train", "digits", "-o", "there"], ["there", "--force"]),
        (["train", "digits", "-o", "no/where"], ["no/where", "does not exist"]),
        (["train", "digits", "-o", "run", "--config", "bad.toml"], ["bad.toml", "epoch"]),
        (["train", "digits", "-o", "run", "--device", "cuda"], ["cuda"]),
        (["train", "table.npy", "-o", "run", "--loss", "bce", "--normalise", "standard"], ["bce", "minmax"]),
        (["export", "nowhere", "-o", "bundle"], ["nowhere"]),
        (["export", "there", "-o", "bundle"], ["there"]),
        (["inspect", "nowhere"], ["nowhere", "no such bundle"]),
        (["verify", "there"], ["there", "manifest.json"]),
        (["score", "BUNDLE", "nowhere.csv"], ["nowhere.csv"]),
        (["score", "BUNDLE", "table.npy"], ["10", "8"]),
        (["score", "BUNDLE", "digits", "-o", "scores.txt"], ["scores.txt", ".csv"]),
        (["score", "BUNDLE", "digits", "-o", "there/x/scores.csv"], ["does not exist"]),
        (["score", "BUNDLE", "digits", "-o", "table.npy"], ["table.npy", "--force"]),
        (["score", "BUNDLE", "digits", "--device", "cuda"], ["cuda", "onnxruntime"]),
        (["score", "BUNDLE", "digits", "--precision", "fp16"], ["fp16", "fp32"]),
        (["encode", "BUNDLE", "digits", "-o", "z.png"], ["z.png"]),
        (["decode", "BUNDLE", "table.npy", "-o", "x.npy"], ["10", "8"]),
        (["reconstruct", "BUNDLE", "digits", "--figure", "out.gif"], ["out.gif", ".png"]),
    ],
)
def test_everyday_mistakes_get_one_clear_line(
    invoke: Invoke, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "text.csv").write_text("name,value\nanna,1\nbert,2\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "file.xyz").write_text("?")
    (tmp_path / "bad.toml").write_text("epoch = 3\n")
    (tmp_path / "there").mkdir()
    np.save("table.npy", sensor_table(20))
    np.save("nan.npy", np.full((20, 3), np.nan, np.float32))
    before = sorted(tmp_path.rglob("*"))
    filled = [str(GOLDEN / "dense") if argument == "BUNDLE" else argument for argument in arguments]
    result = invoke(*filled, code=1)
    assert result.stdout == ""
    *notes, line = result.stderr.splitlines()
    assert line.startswith("edgeae: ") and all(note.startswith("edgeae: ") for note in notes), result.stderr
    for word in words:
        assert word in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["train"],
        ["train", "digits"],
        ["train", "digits", "-o", "run", "--epochs", "many"],
        ["train", "digits", "-o", "run", "--hidden", "3,x"],
        ["train", "digits", "-o", "run", "--variant", "magic"],
        ["export", "run", "-o", "bundle", "--score", "best"],
        ["reconstruct", "bundle", "digits"],
        ["score", "bundle", "digits", "--json"],
    ],
)
def test_wrong_usage_ends_with_two(invoke: Invoke, arguments: list[str]) -> None:
    assert "Usage:" in invoke(*arguments, code=2).stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "no permission" in invoke("score", GOLDEN / "dense", "digits", "-o", "locked/s.csv", code=1).stderr


def test_debug_shows_the_traceback(invoke: Invoke) -> None:
    from edgeae.errors import BundleError

    with pytest.raises(BundleError):
        invoke("--debug", "inspect", "nowhere", code=1)


def test_nan_rows_are_flagged_on_request(invoke: Invoke, table: Path) -> None:
    lines = table.read_text().splitlines()
    lines[3] = "," + lines[3].split(",", 1)[1]
    table.write_text("\n".join(lines) + "\n")
    assert "row" in invoke("score", GOLDEN / "table", table, code=1).stderr
    scored = read_scores(invoke("score", GOLDEN / "table", table, "--on-invalid", "flag").stdout)
    assert scored[3] == ["2", "nan", "1"]
    assert all(line[1] != "nan" for line in [*scored[1:3], *scored[4:]])


def edgeae_process(*arguments: object, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgeae", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_the_commands_for_real(tmp_path: Path) -> None:
    for arguments in (
        ("train", "digits", "-o", "run", "--epochs", 1),
        ("export", "run", "-o", "bundle"),
        ("verify", "bundle"),
        ("inspect", "bundle"),
        ("encode", "bundle", "digits", "-o", "z.npy"),
        ("decode", "bundle", "z.npy", "-o", "x_hat.npy"),
        ("reconstruct", "bundle", "digits", "--figure", "out.svg"),
        ("score", "bundle", "digits", "-o", "scores.npy"),
        ("bench", "bundle", "--seconds", 0.05),
    ):
        process = edgeae_process(*arguments, cwd=tmp_path)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "Traceback" not in errors and "Warning" not in errors


def test_interrupting_a_training_keeps_what_it_has(tmp_path: Path) -> None:
    process = edgeae_process("train", "mnist-5k", "-o", "run", "--epochs", 10_000, cwd=tmp_path)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (tmp_path / "run.resume.pt").exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "interrupted" in errors and "Traceback" not in errors
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    process = edgeae_process("score", GOLDEN / "dense", "mnist-5k", cwd=tmp_path)
    process.communicate()
    many = edgeae_process("score", GOLDEN / "dense", "digits", cwd=tmp_path)
    assert many.stdout is not None and many.stderr is not None
    many.stdout.readline()
    many.stdout.close()
    errors = many.stderr.read()
    many.stderr.close()
    many.wait()
    assert "Traceback" not in errors and "Exception ignored" not in errors


def test_every_command_is_a_click_command() -> None:
    context = click.Context(main)
    assert all(isinstance(main.get_command(context, name), click.Command) for name in COMMANDS)
