"""planner profiles import: what others measured, into the store."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planner.commands.output import note, print_json, print_table
from planner.commands.profiles_store import MB, megabytes, opened_store, store_options

if TYPE_CHECKING:
    from planner.inputs.profile_files import Imported


@click.command("import", short_help="Import a CSV, Parquet, Model Analyzer or perf_analyzer file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--csv", "csv_folder", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Also write the tables that Model Analyzer prints from its checkpoint.")  # fmt: skip
@click.option("--model", help="Of a perf_analyzer report: the model's name.")
@click.option("--device", help="… the device type, e.g. L4 or cpu-1.")
@click.option("--instances", type=click.IntRange(min=1), help="… the number of instances.")
@click.option("--max-batch-size", type=click.IntRange(min=0), help="… max_batch_size of the model.")
@click.option("--request-batch-size", type=click.IntRange(min=1), help="… the batch size of a request (-b).")
@click.option("--queue-delay", metavar="off|MICROSECONDS", help="… dynamic batching: off, or its queue delay.")
@store_options
def command(store: str, as_json: bool, file: Path, csv_folder: Path | None, **told: Any) -> None:
    """Import FILE, told apart by its content: profiles as CSV or Parquet, a Triton Model Analyzer checkpoint, or
    a perf_analyzer report (-f), which does not say what ran. The same points are replaced.
    """
    from planner.files import write_all
    from planner.inputs.catalogue import canonical_name
    from planner.inputs.profile_files import Told, as_measurements, read_profile_file

    if told["device"] is not None:
        told["device"] = canonical_name(told["device"])
    found = read_profile_file(file, Told(**told), with_tables=csv_folder is not None)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with opened_store(store, must_exist=False) as opened:
        opened.add(as_measurements(found.points, origin=file.name, imported_at=now))
    tables = {} if csv_folder is None else {csv_folder / name: text for name, text in found.tables.items()}
    write_all(tables)
    _print(found, file, store, [str(path) for path in tables], as_json)


def _print(found: Imported, file: Path, store: str, written: list[str], as_json: bool) -> None:
    from planner.profile_views.tables import counts

    per_model = counts(found.rows)
    if as_json:
        listed = [{"model": m, "device": d, "rows": n} for (m, d), n in per_model.items()]
        print_json({"form": found.form, "rows": len(found.rows), "counts": listed, "laws": found.laws,
                    "overheads": found.overheads, "notes": found.notes, "written": written})  # fmt: skip
        return
    click.echo(f"imported {len(found.rows)} rows from {file} ({found.form}) into {store}")
    print_table("Rows", ["model", "device", "rows"], ((m, d, n) for (m, d), n in per_model.items()))
    _print_law(found)
    for text in found.notes:
        note(text)
    if written:
        click.echo(f"written: {', '.join(written)}")


def _print_law(found: Imported) -> None:
    if not found.laws:
        return
    base = megabytes(round(found.laws[0].base_bytes))
    cells = (
        (law.model, law.backend, megabytes(round(law.shared_bytes)), megabytes(round(law.per_instance_bytes)),
         f"{law.worst_residual_bytes / MB:.1f}")
        for law in found.laws
    )  # fmt: skip
    heads = ["model", "backend", "shared MB", "per instance MB", "worst residual MB"]
    print_table(f"Memory law: used = {base} MB of the server + shared + instances x per instance", heads, cells)
    for overhead in found.overheads:
        if overhead.inferred_from:
            amount, models = megabytes(overhead.overhead_bytes), " and ".join(overhead.inferred_from)
            click.echo(f"backend {overhead.backend}: {amount} MB once per server, inferred from {models}")
        else:
            click.echo(f"backend {overhead.backend}: overhead not known, it stays in each replica (safe)")
