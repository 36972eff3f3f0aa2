"""What every benchmark writes: `{"meta": ..., "rows": [...]}`, in one stroke."""

import datetime
import functools
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from symjax_gn.data.files import in_one_stroke, open_folder
from symjax_gn.report.records import versions


@functools.cache
def commit(checkout=Path(__file__).parent):
    """The commit of a checkout when first asked: what comes later is not what was imported."""
    return subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        cwd=checkout,
    ).stdout.strip()


def meta():
    """The command, commit, device, versions and date of a run."""
    import jax

    device = jax.devices()[0]
    return dict(
        command=" ".join(["python", *map(os.path.relpath, sys.argv[:1]), *sys.argv[1:]]),
        commit=commit(),
        device=f"{device.device_kind} ({platform.machine()}, {os.cpu_count()} cores)",
        versions=versions(),
        date=datetime.date.today().isoformat(),
    )


def open_out(path):
    """Make the folder of an output file, or fail before anything runs."""
    commit()
    if path:
        open_folder(Path(path).parent)


def save(path, rows):
    """Write the circumstances and the rows, one to a line, to a JSON file if a path is given."""
    if path:
        lines = ",\n".join(map(json.dumps, rows))
        with in_one_stroke(path) as part:
            part.write_text(f'{{"meta": {json.dumps(meta())}, "rows": [\n{lines}\n]}}\n')


def load_rows(out, merge):
    """Rows of the output file, if there is one yet, and of others; of equal ones the first.

    Rows are equal if their names and budgets are. One without an error goes before one with.
    """
    rows = {}
    for path in [*([out] if out and Path(out).exists() else []), *merge]:
        for row in json.loads(Path(path).read_text())["rows"]:
            name = row["name"], row.get("budget")
            if name not in rows or ("error" in rows[name] and "error" not in row):
                rows[name] = row
    return list(rows.values())


def form_of(row):
    """What the verdict says of the form of a law; "not compared" in rows of before it did."""
    return row.get("form_verdict") or "not compared"


def recovered(rows):
    """How many laws are near and of the true form, of those of which both were judged."""
    judged = [row for row in rows if row.get("form_verdict")]
    return f"{sum(bool(row['recovered']) for row in judged)} of {len(judged)}"
