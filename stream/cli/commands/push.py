"""`stream push`."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import attrs
import click

from stream.cli.connection import source_url
from stream.cli.exit_codes import FAILED, INTERRUPTED, REJECTED, USAGE, exit_code_of
from stream.cli.output import output_option, print_as, visible
from stream.cli.push import state as states
from stream.cli.push.inputs import FORMATS, Input
from stream.cli.push.records import (
    MAX_RECORD_BYTES,
    InputFault,
    Item,
    array_elements,
    csv_rows,
    ndjson_lines,
)
from stream.cli.push.sending import Pushed, Rejection, push_records
from stream.cli.push.shown import Shown
from stream.cli.push.state import State, StateFault
from stream.cli.terminal import is_terminal
from stream.client.batching import BATCH_BYTES, BATCH_RECORDS
from stream.client.errors import ClientError

__all__ = ["push"]

_TICK_SECONDS = 0.5
_KNOWN_SECONDS = 600.0
"""How long a service remembers keys by default."""


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("file", metavar="FILE")
@click.option(
    "--format",
    "format",
    type=click.Choice(FORMATS),
    help="Format of the input; detected by default.",
)
@click.option(
    "--state",
    "state_name",
    metavar="FILE",
    help="File that stores the progress; a later push resumes from it.",
)
@click.option(
    "--rejected",
    "rejected_name",
    metavar="FILE",
    help="File to which rejected records are written.",
)
@click.option(
    "--batch-records",
    type=click.IntRange(1, 10_000),
    help=f"Records per request.  [default: {BATCH_RECORDS}]",
)
@click.option(
    "--batch-bytes",
    type=click.IntRange(1, 16_000_000),
    help=f"Bytes per request.  [default: {BATCH_BYTES}]",
)
@click.option("--parallel", type=click.IntRange(1, 32), default=4, show_default=True)
@click.option("--retry-for", type=click.FloatRange(0), default=300, show_default=True, metavar="S")
@click.option("--max-rejected", type=click.IntRange(0), default=10_000, show_default=True)
@click.option(
    "--compress/--no-compress",
    default=None,
    help="Whether to compress requests; by default only if the source is on another machine.",
)
@click.option("--delimiter", default=",", show_default=True, help="Delimiter of CSV.")
@click.option("--quiet", is_flag=True, help="Don't show the progress.")
@output_option
def push(
    source: str,
    file: str,
    format: str | None,
    state_name: str | None,
    rejected_name: str | None,
    batch_records: int | None,
    batch_bytes: int | None,
    parallel: int,
    retry_for: float,
    max_rejected: int,
    compress: bool | None,
    delimiter: str,
    quiet: bool,
    output: str,
) -> int:
    """Send the records of FILE to a SOURCE, given by its id or URL.

    FILE, or - for the standard input, is NDJSON, a JSON array, or CSV with a header, uncompressed
    or compressed with gzip or zstd, of any size. The exit code is 7 if records were rejected.

    With --state an interrupted push can be repeated: it resumes where it stopped, and sends
    uncertain records again under the same idempotency keys. The service remembers keys for 10
    minutes by default. A push that resumes later says which records it may store twice.
    """
    from stream.client.delivery import Delivery, Stopped

    if len(delimiter) != 1:
        raise click.UsageError("--delimiter must be one character.")
    url = source_url(source)
    stop = threading.Event()
    state_path = Path(state_name) if state_name else None
    began = time.monotonic()
    try:
        given = Input(file)
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}.") from None
    is_resumed = state_path is not None and state_path.exists()
    try:
        pushed = Pushed(_state(state_path, given, url, format, batch_records, batch_bytes))
    except (StateFault, InputFault) as error:
        return _failed(str(error), USAGE)
    start, is_noted = pushed.state, True
    if is_resumed and start.in_doubt and time.time() - start.saved_at > _KNOWN_SECONDS:
        click.echo(_doubt(start), err=True)
    failure: tuple[str, int] | None = None
    delivery = None
    try:
        with _shown(given, pushed, quiet) as shown, _rejections(rejected_name) as on_rejected:
            delivery = Delivery(
                url,
                wait=stop.wait,
                patience=retry_for,
                compress=compress,
                notify=shown.notify,
                connections=parallel,
                has_fresh_keys=not is_resumed,
            )
            push_records(
                _items(given, pushed, delimiter, is_kept=state_path is not None),
                delivery,
                pushed,
                stop=stop,
                state_path=state_path,
                on_rejected=on_rejected,
                progress=shown.update,
                parallel=parallel,
                max_rejected=max_rejected,
            )
    except (KeyboardInterrupt, Stopped):
        failure = "Interrupted.", INTERRUPTED
    except InputFault as error:
        failure = f"{file}: {error}", USAGE
    except StateFault as error:
        failure, is_noted = (str(error), FAILED), False
    except OSError as error:
        failure = f"{error.filename or file}: {error.strerror or error}.", FAILED
    except ClientError as error:
        failure = str(error), exit_code_of(error)
    finally:
        if delivery is not None:
            delivery.close()
        with suppress(OSError):
            given.close()
    _print(pushed, start, time.monotonic() - began, output)
    if failure is None:
        return REJECTED if pushed.rejected else 0
    code = _failed(*failure)
    click.echo(_going_on(pushed.state, state_path is not None, is_noted), err=True)
    return code


def _failed(text: str, code: int) -> int:
    click.echo("Error: " + visible(text, lines=True), err=True)
    return code


def _going_on(state: State, is_kept: bool, is_noted: bool) -> str:
    """Return the summary of an interrupted push, with its progress and how to resume it."""
    place = _place(state)
    if not is_kept:
        return f"Everything before {place} was sent; with --state a push can be resumed from there."
    if not is_noted:
        return "The same command resends what was sent since then, with the same idempotency keys."
    return f"The same command continues from {place}."


def _doubt(state: State) -> str:
    """Return the warning that records may be stored twice, after the keys have expired."""
    age = round((time.time() - state.saved_at) / 60)
    return (
        f"The push was interrupted {age} minutes ago, so the service may have forgotten which "
        f"unanswered records it has stored: up to {state.in_doubt:,} records, starting at "
        f"{_place(state)}. These records may be stored twice."
    )


def _place(state: State) -> str:
    return f"{'element' if state.format == 'json' else 'line'} {state.place}"


def _state(
    path: Path | None,
    given: Input,
    url: str,
    format: str | None,
    batch_records: int | None,
    batch_bytes: int | None,
) -> State:
    """Return the initial state, which is the stored one or a new one."""
    kept = None if path is None else states.load(path)
    source = states.source_digest(url)
    if kept is None:
        format = format or given.format()
        return states.new_state(
            source=source,
            head=given.head,
            format=format,
            batch_records=batch_records or BATCH_RECORDS,
            batch_bytes=batch_bytes or BATCH_BYTES,
            place=0 if format == "json" else 1,
        )
    begin = f"Use another file than {path} for the state, or remove it to start from the beginning."
    if kept.source != source:
        raise StateFault(
            f"The state belongs to another source, or the secret of the source was changed. {begin}"
        )
    if not given.has_head(kept.head):
        raise StateFault(f"The state belongs to a file with a different beginning. {begin}")
    for name, wanted in (
        ("format", format),
        ("batch_records", batch_records),
        ("batch_bytes", batch_bytes),
    ):
        if wanted is not None and wanted != getattr(kept, name):
            option = name.replace("_", "-")
            raise StateFault(
                f"The push was started with --{option} {getattr(kept, name)}; another value would "
                f"store records twice. {begin}"
            )
    return kept


def _items(given: Input, pushed: Pushed, delimiter: str, *, is_kept: bool) -> Iterator[Item | None]:
    state = pushed.state
    # With a state file, only the records determine the batches, so that a repeated push has the
    # same batches.
    ticks = None if is_kept or state.format != "ndjson" else _TICK_SECONDS
    parts = given.parts(state.offset, ticks=ticks)
    limit = MAX_RECORD_BYTES
    if state.format == "json":
        yield from array_elements(
            parts,
            index=state.place,
            offset=state.offset,
            is_inside=state.place > 0,
            limit=limit,
        )
    elif state.format == "csv":

        def take_header(header: list[str]) -> None:
            pushed.state = attrs.evolve(pushed.state, header=tuple(header))

        yield from csv_rows(
            parts,
            header=state.header,
            take_header=take_header,
            line=state.place,
            offset=state.offset,
            delimiter=delimiter,
            limit=limit,
        )
    else:
        yield from ndjson_lines(parts, line=state.place, offset=state.offset, limit=limit)


@contextmanager
def _rejections(name: str | None) -> Iterator[Callable[[Rejection], None]]:
    """Write rejected records to the file *name*, one JSON document per line."""
    if name is None:
        yield lambda _: None
        return
    file: IO[str]
    with Path(name).open("a", encoding="utf-8") as file:

        def write(rejection: Rejection) -> None:
            members: dict[str, Any] = {
                "place": rejection.place,
                "error": rejection.name,
                "message": rejection.message,
                "sinkId": rejection.sink_id,
                "record": rejection.record.decode(errors="replace"),
            }
            file.write(json.dumps(members, ensure_ascii=False) + "\n")

        yield write


@contextmanager
def _shown(given: Input, pushed: Pushed, quiet: bool) -> Iterator[Shown]:
    """Show the progress, and handle a stop signal like Ctrl-C."""
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if quiet or not is_terminal(sys.stderr):
        yield Shown()
        return
    from stream.cli.push.progress import progress

    with progress(given, pushed) as shown:
        yield shown


def _print(pushed: Pushed, start: State, seconds: float, output: str) -> None:
    rate = pushed.sent / max(seconds, 0.001)
    if output != "table":
        print_as(
            output,
            {
                "accepted": pushed.accepted,
                "rejected": pushed.rejected,
                "seconds": round(seconds, 3),
                "recordsPerSecond": round(rate),
                "reasons": pushed.report.plain(),
            },
        )
        return
    place_name = "element" if start.format == "json" else "line"
    for line in pushed.report.lines(place_name):
        click.echo(visible(line), err=True)
    before = start.accepted + start.rejected
    earlier = f" {before:,} were sent before." if before else ""
    records = "record" if pushed.accepted == 1 else "records"
    click.echo(
        f"{pushed.accepted:,} {records} stored, {pushed.rejected:,} rejected, "
        f"in {seconds:.1f} s ({rate:,.0f} records/s).{earlier}"
    )
