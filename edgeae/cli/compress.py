"""Commands that write and read latent files: compress, decompress."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from edgeae.cli.options import bundle_argument, data_argument, data_options, force_option, model_options
from edgeae.cli.output import number, print_json, print_table, size, status, table

__all__ = ["compress_command", "decompress_command"]


class _Rows(click.ParamType[tuple[int, "int | None"]]):
    """Rows A to before B."""

    name = "A:B"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int | None]:
        first, colon, last = str(value).partition(":")
        if not colon or not all(not text or text.isdecimal() for text in (first, last)):
            self.fail(f"{value!r} is not like 100:200, 100: or :200", param, ctx)
        return int(first or 0), int(last) if last else None


@click.command("compress")
@bundle_argument
@data_argument
@click.option("-o", "--output", "out", required=True, help="The latent file (.eae), or - for standard output.")
@click.option(
    "--dtype", metavar="TYPE", help="Of the stored latents: float32, float16, int8, ... int2.  [default: int8]"
)
@click.option("--max-error", type=float, metavar="E", help="No value is off by more, in the units of the rows.")
@click.option("--target-psnr", type=float, metavar="DB", help="No chunk of rows has a lower signal-to-noise ratio.")
@click.option("--lossless", is_flag=True, help="Whole numbers come out as they were.")
@click.option("--append", is_flag=True, help="Go on with an existing file; a torn tail is cut off.")
@click.option("--report", is_flag=True, help="Print how small and how exact, beside zstd.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@data_options
@model_options
@force_option
def compress_command(
    bundle: Path,
    data: str,
    out: str,
    dtype: str | None,
    max_error: float | None,
    target_psnr: float | None,
    lossless: bool,
    append: bool,
    report: bool,
    as_json: bool,
    label_column: str | None,
    columns: tuple[str, ...] | None,
    data_dir: str | None,
    device: str,
    precision: str,
    force: bool,
) -> None:
    """Compress the rows of DATA into a latent file, on request with a bound on the error of every value.

    DATA may also be "-" with an .npy file on standard input; that and CSV are read as they come.

    \b
    Example:
        edgeae compress bundle sensors.csv -o sensors.eae --max-error 0.05
        cat rows.npy | edgeae compress bundle - -o - > rows.eae
    """
    import edgeae
    from edgeae.codec import LatentWriter
    from edgeae.codec.streams import begins_npy, npy_blocks
    from edgeae.data.load import row_blocks

    if out == "-" and (report or as_json):
        raise click.UsageError("with -o - the file itself goes to standard output; give -o FILE for a report")
    target = sys.stdout.buffer if out == "-" else out
    with edgeae.load(bundle, device=device, precision=precision) as model:
        piped = data == "-" and begins_npy(sys.stdin.buffer)
        blocks = npy_blocks(sys.stdin.buffer) if piped else iter([data])
        with (
            status("compressing"),
            LatentWriter(
                target,
                model,
                dtype=dtype,
                max_error=max_error,
                target_psnr=target_psnr,
                lossless=lossless,
                append=append,
                force=force,
                compare=report or as_json,
            ) as writer,
        ):
            wanted = model.manifest.input
            for block in blocks:
                for rows in row_blocks(block, wanted, label_column=label_column, columns=columns, data_dir=data_dir):
                    writer.write(rows.x)
        done = writer.report()
    if as_json:
        print_json(done)
    elif report:
        made = table("", "", ">")
        for name, value in (
            ("rows", f"{done.rows}"),
            ("raw", size(done.raw_bytes)),
            ("compressed", f"{size(done.coded_bytes)}, {number(done.ratio)} times smaller"),
            ("zstd", f"{size(done.zstd_bytes or 0)}, {number(done.raw_bytes / max(1, done.zstd_bytes or 0))} times"),
            ("latents", done.dtype),
            ("bound", done.bound if done.bound in ("none", "lossless") else f"{done.bound} {done.value:.6g}"),
            ("largest error", f"{number(done.largest_error)}{'' if done.bound != 'none' else ' (first rows)'}"),
            ("PSNR in dB", f"{number(done.psnr)}{'' if done.bound != 'none' else ' (first rows)'}"),
            ("values corrected", f"{done.corrected_values}"),
            ("rows that are anomalies", "-" if done.unknown_rows is None else f"{done.unknown_rows}"),
            ("corrections in them", f"{done.corrected_in_unknown}"),
        ):
            made.add_row(name, value)
        print_table(made)
    logging.getLogger("edgeae").info(
        "%d rows, %d bytes, in %d bytes: %.3g times smaller%s",
        done.rows,
        done.raw_bytes,
        done.coded_bytes,
        done.ratio,
        f"; {done.unknown_rows} are anomalies" if done.unknown_rows else "",
    )


@click.command("decompress")
@bundle_argument
@click.argument("file")
@click.option("-o", "--output", "out", required=True, help=".npy, .csv for vectors, .raw, or - for standard output.")
@click.option("--rows", type=_Rows(), default="0:", help="Only these, counted from 0, B not among them.")
@click.option("--recover", is_flag=True, help="Of a damaged or torn file, take what is whole from its start.")
@click.option("--format", "kind", type=click.Choice(["npy", "csv", "raw"]), help="Whatever the name of the output.")
@click.option("--latents", is_flag=True, help="Write the latents instead of the rows.")
@model_options
@force_option
def decompress_command(
    bundle: Path,
    file: str,
    out: str,
    rows: tuple[int, int | None],
    recover: bool,
    kind: str | None,
    latents: bool,
    device: str,
    precision: str,
    force: bool,
) -> None:
    """Turn a latent FILE ("-" for standard input) back into rows, with the bundle that wrote it.

    \b
    Example:
        edgeae decompress bundle sensors.eae -o sensors.npy --rows 1000:2000
        cat torn.eae | edgeae decompress bundle - -o rows.npy --recover
    """
    import edgeae
    from edgeae.codec import LatentReader
    from edgeae.codec.streams import RowsOut

    start, stop = rows
    source = sys.stdin.buffer if file == "-" else file
    with (
        edgeae.load(bundle, device=device, precision=precision) as model,
        LatentReader(source, model, recover=recover) as reader,
    ):
        header = reader.header
        target = sys.stdout.buffer if out == "-" else out
        last = reader.rows if stop is None else stop
        names = [f"z{index}" for index in range(model.latent_dim)] if latents else model.feature_names
        shape = (header.latent_dim,) if latents else header.shape
        with (
            status("decompressing"),
            RowsOut(
                target,
                shape,
                "float32" if latents else reader.dtype,
                rows=None if last is None else max(0, last - start),
                kind=kind,
                names=names,
                force=force,
            ) as sink,
        ):
            for block in reader.latent_blocks(start, stop) if latents else reader.blocks(start, stop):
                sink.write(block)
