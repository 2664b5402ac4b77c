"""Commands that run a bundle: encode, decode, reconstruct, score, sample."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from edgeae.cli.options import (
    SectionCommand,
    bundle_argument,
    data_argument,
    data_options,
    force_option,
    model_options,
    trust_option,
)
from edgeae.cli.output import print_json, status
from edgeae.cli.stream import score_stream, stream_options

__all__ = ["decode_command", "encode_command", "reconstruct_command", "sample_command", "score_command"]

_array_option = click.option(
    "-o", "--output", "out", required=True, type=click.Path(path_type=Path), help=".npy, or .csv for vectors."
)
_FIGURE_ROWS = 10


@click.command("encode")
@bundle_argument
@data_argument
@_array_option
@data_options
@model_options
@trust_option
@force_option
def encode_command(
    bundle: Path,
    data: str,
    out: Path,
    label_column: str | None,
    columns: tuple[str, ...] | None,
    data_dir: str | None,
    device: str,
    precision: str,
    trust: bool,
    force: bool,
) -> None:
    """Compress the rows of DATA to latents, float32 [n, latent].

    \b
    Example:
        edgeae encode bundle mnist-5k -o z.npy
    """
    import edgeae
    from edgeae.data import load_rows
    from edgeae.data.writers import ARRAY_FORMATS, check_output, create_array

    check_output(out, ARRAY_FORMATS, force=force)
    with edgeae.load(bundle, device=device, precision=precision, trust=trust) as model:
        rows = load_rows(data, model.manifest.input, label_column=label_column, columns=columns, data_dir=data_dir).x
        latents = [f"z{index}" for index in range(model.latent_dim)]
        with status("encoding"), create_array(out, (len(rows), model.latent_dim), latents) as z:
            model.encode(rows, out=z)


@click.command("decode")
@bundle_argument
@click.argument("latents")
@_array_option
@model_options
@trust_option
@force_option
def decode_command(
    bundle: Path, latents: str, out: Path, device: str, precision: str, trust: bool, force: bool
) -> None:
    """Turn LATENTS (.npy or .csv, as `encode` writes them) back into rows, float32 in the user's units.

    \b
    Example:
        edgeae decode bundle z.npy -o x_hat.npy
    """
    import edgeae
    from edgeae.data import load_data
    from edgeae.data.writers import ARRAY_FORMATS, check_output, create_array

    check_output(out, ARRAY_FORMATS, force=force)
    with edgeae.load(bundle, device=device, precision=precision, trust=trust) as model:
        z = load_data(latents).x
        with status("decoding"), create_array(out, (len(z), *model.input_shape), model.feature_names) as x_hat:
            model.decode(z, out=x_hat)


@click.command("reconstruct")
@bundle_argument
@data_argument
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help=".npy, or .csv for vectors.")
@click.option(
    "--figure", type=click.Path(path_type=Path), help="Draw originals over reconstructions (.png, .svg, .pdf)."
)
@click.option("--rows", default=_FIGURE_ROWS, show_default=True, metavar="N", help="How many rows to draw.")
@data_options
@model_options
@trust_option
@force_option
def reconstruct_command(
    bundle: Path,
    data: str,
    out: Path | None,
    figure: Path | None,
    rows: int,
    label_column: str | None,
    columns: tuple[str, ...] | None,
    data_dir: str | None,
    device: str,
    precision: str,
    trust: bool,
    force: bool,
) -> None:
    """Encode and decode the rows of DATA; write the reconstructions, draw them under their originals, or both.

    \b
    Example:
        edgeae reconstruct bundle mnist-5k -o x_hat.npy --figure out.png
    """
    import edgeae
    from edgeae.data import load_rows
    from edgeae.data.writers import ARRAY_FORMATS, check_output, create_array

    if out is None and figure is None:
        raise click.UsageError("nothing to do: give -o FILE, --figure FILE or both")
    if rows < 1:
        raise click.BadParameter("must be at least 1", param_hint="--rows")
    if out is not None:
        check_output(out, ARRAY_FORMATS, force=force)
    if figure is not None:
        from edgeae.report import FORMATS, check_figure_path, draw_reconstructions

        check_output(check_figure_path(figure), FORMATS, force=force)
    with edgeae.load(bundle, device=device, precision=precision, trust=trust) as model:
        dataset = load_rows(data, model.manifest.input, label_column=label_column, columns=columns, data_dir=data_dir)
        if out is not None:
            with (
                status("reconstructing"),
                create_array(out, (len(dataset.x), *model.input_shape), model.feature_names) as x_hat,
            ):
                model.reconstruct(dataset.x, out=x_hat)
        if figure is not None:
            x = dataset.x[:rows]
            draw_reconstructions(
                figure,
                x,
                model.reconstruct(x),
                layout=dataset.layout,
                normalisation=model.manifest.normalisation,
                scores=model.score(x),
                feature_names=model.feature_names,
            )


@click.command("score", cls=SectionCommand)
@bundle_argument
@data_argument
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path),
    help=".csv, .npy or .parquet; CSV to the screen if left out.",
)
@click.option(
    "--on-invalid",
    type=click.Choice(["raise", "flag"]),
    default="raise",
    show_default=True,
    help="Rows with missing or infinite values: stop, or score NaN and call them anomalies.",
)
@click.option(
    "--calibrated",
    is_flag=True,
    help="Add the column calibrated: about the share of normal rows that score lower (1 - conformal p-value).",
)
@click.option(
    "--explain",
    type=click.IntRange(min=1),
    metavar="K",
    help="Name the K values of each row that contribute most: feature, contribution, value, expected value.",
)
@data_options
@model_options
@trust_option
@force_option
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
@stream_options
def score_command(
    bundle: Path,
    data: str,
    out: Path | None,
    on_invalid: str,
    calibrated: bool,
    explain: int | None,
    label_column: str | None,
    columns: tuple[str, ...] | None,
    data_dir: str | None,
    device: str,
    precision: str,
    trust: bool,
    force: bool,
    as_json: bool,
    stream: bool,
    **stream_settings: Any,
) -> None:
    """Score the rows of DATA. Higher is more anomalous.

    An anomaly is a row whose score exceeds the threshold or is no number.

    Writes the columns row, score, anomaly; with --explain K also feature_1, contribution_1, value_1, expected_1 and so
    on for the K values of the row that contribute most. Tables are matched by the names of their columns.

    Of a series, a bundle for windows scores the window that ends with each step; row is that step's number. With
    --stream each line of DATA is answered before the next is read, with a column alarm; the score is empty until a
    window is full.

    \b
    Example:
        edgeae score bundle sensors.csv -o scores.csv --explain 3
        cat sensors.csv | edgeae score bundle -
        tail -f log.csv | edgeae score bundle - --stream --alarm 3,5
    """
    import edgeae
    from edgeae.data import load_rows
    from edgeae.data.writers import SCORE_FORMATS, TABLE_FORMATS, check_output, score_lines, write_scores

    if out is not None:
        check_output(out, TABLE_FORMATS if explain or calibrated else SCORE_FORMATS, force=force)
    elif as_json:
        raise click.UsageError("--json prints a summary; give -o FILE for the scores themselves")
    if stream:
        if out is not None or explain or calibrated or columns or label_column:
            raise click.UsageError("--stream prints scores; it goes without -o, --explain, --calibrated, --columns")
        with edgeae.load(
            bundle, device=device, precision=precision, profile="latency", trust=trust, on_invalid=on_invalid
        ) as model:
            score_stream(model, data, **stream_settings)
        return
    if any(value is not None for value in stream_settings.values()):
        raise click.UsageError("--alarm, --clear, --cooldown, --adaptive, --drift, --time and --state need --stream")
    with edgeae.load(bundle, device=device, precision=precision, trust=trust, on_invalid=on_invalid) as model:
        dataset = load_rows(
            data,
            model.manifest.input,
            label_column=label_column,
            columns=columns,
            data_dir=data_dir,
            missing="keep" if on_invalid == "flag" else "refuse",
        )
        rows = dataset.x
        with status("scoring"):
            scores = model.score(rows)
            more = {"calibrated": model.calibrate(scores)} if calibrated else {}
            more |= model.reasons(rows, explain) if explain else {}
        anomalies = ~(scores <= model.threshold)
        summary = {"rows": len(scores), "anomalies": int(anomalies.sum()), "threshold": model.threshold}
    if out is None:
        for text in score_lines(scores, anomalies, more, dataset.steps):
            click.echo(text, nl=False)
    else:
        write_scores(out, scores, anomalies, more, dataset.steps)
    if as_json:
        print_json(summary)
    else:
        message = "%(anomalies)d of %(rows)d rows are anomalies (threshold %(threshold).6g)"
        logging.getLogger("edgeae").info(message, summary)


@click.command("sample")
@bundle_argument
@_array_option
@click.option("-n", "--rows", default=16, show_default=True, metavar="N", help="How many rows to generate.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="The same seed gives the same rows.")
@click.option("--figure", type=click.Path(path_type=Path), help="Draw them too (.png, .svg, .pdf).")
@model_options
@trust_option
@force_option
def sample_command(
    bundle: Path,
    out: Path,
    rows: int,
    seed: int,
    figure: Path | None,
    device: str,
    precision: str,
    trust: bool,
    force: bool,
) -> None:
    """Generate rows by decoding latents drawn from a variational model's prior.

    \b
    Example:
        edgeae sample bundle -n 64 -o samples.npy --figure samples.png
    """
    import edgeae
    from edgeae.data.writers import ARRAY_FORMATS, check_output, create_array

    check_output(out, ARRAY_FORMATS, force=force)
    if figure is not None:
        from edgeae.report import FORMATS, check_figure_path, draw_rows

        check_output(check_figure_path(figure), FORMATS, force=force)
    with edgeae.load(bundle, device=device, precision=precision, trust=trust) as model:
        generated = model.sample(rows, seed=seed)
        with create_array(out, generated.shape, model.feature_names) as array:
            array[:] = generated
        if figure is not None:
            draw_rows(figure, generated, layout=model.manifest.input.layout, feature_names=model.feature_names)
