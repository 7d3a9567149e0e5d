"""The output of commands: tables for people, JSON and YAML for programs.

Control characters in records and in messages of the service are escaped, because a terminal would
interpret them.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

from stream.cli.terminal import is_terminal

__all__ = [
    "FORMATS",
    "Column",
    "age_text",
    "bytes_text",
    "dump_json",
    "dump_yaml",
    "number_text",
    "one_line",
    "output_option",
    "print_as",
    "print_table",
    "visible",
]

FORMATS = ("table", "json", "yaml")

F = TypeVar("F", bound=Callable[..., Any])

Column = tuple[str, Callable[[Any], Any]]
"""The title of a column, and its value for a row."""

_NESTED = re.compile(r"\s*\n[\s-]*")
# Includes unpaired surrogates, which can't be printed.
_OTHERS = "\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_CONTROLS = re.compile(f"[\x00-\x1f{_OTHERS}]")
_CONTROLS_IN_LINES = re.compile(f"[\x00-\x09\x0b-\x1f{_OTHERS}]")
_UNESCAPED = re.compile(f"[{_OTHERS}]")
"""Control characters that JSON and YAML don't escape."""


def output_option(function: F) -> F:
    """Add the option ``--output`` to a command; `stream --output …` sets its default."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        default=_default_format,
        show_default=FORMATS[0],
        help="Format of the output.",
    )(function)


def _default_format() -> str:
    context = click.get_current_context(silent=True)
    given = context.find_root().params.get("output") if context is not None else None
    return str(given or FORMATS[0])


def visible(text: str, *, lines: bool = False) -> str:
    """Return *text* with its control characters escaped.

    :param lines: keep line breaks.
    """
    pattern = _CONTROLS_IN_LINES if lines else _CONTROLS
    return pattern.sub(lambda match: repr(match[0])[1:-1], text)


def dump_json(value: Any, *, indent: int | None = None) -> str:
    """Return *value* as JSON, in which control characters for terminals are escaped."""
    return _escaped(json.dumps(value, indent=indent, ensure_ascii=False))


def _escaped(text: str) -> str:
    """Escape control characters in JSON, or in YAML that double-quotes strings with them."""
    return _UNESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str | None) -> str:
    """Return *text*, a message of the service with nested parts, without line breaks."""
    return _NESTED.sub(" ", text or "")


def dump_yaml(value: Any) -> str:
    """Return *value* as YAML, with members in order and long strings on one line."""
    import yaml

    return _escaped(
        yaml.dump(
            value,
            Dumper=_dumper(),
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=False,
            width=1_000_000,
        )
    )


def _dumper() -> type[Any]:
    import yaml

    class Dumper(yaml.SafeDumper):
        """A YAML dumper that indents lists below their key; multi-line strings become blocks."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        if _CONTROLS_IN_LINES.search(value):
            style = '"'  # other line breaks than \n would be folded into spaces
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return Dumper


def print_as(output: str, value: Any, columns: Sequence[Column] | None = None) -> None:
    """Print *value* in the format *output*.

    :param columns: columns of the table for a list; an object is shown as a table of its members.
    """
    if output == "json":
        click.echo(dump_json(value, indent=2))
    elif output == "yaml":
        click.echo(dump_yaml(value), nl=False)
    elif isinstance(value, list):
        print_table(value, columns or _columns_of(value))
    else:
        rows = list(_flat(value))
        print_table(rows, (("", lambda row: row[0]), ("", lambda row: row[1])))


def _columns_of(rows: Iterable[Any]) -> Sequence[Column]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [(name.upper(), _member(name)) for name in names]


def _member(name: str) -> Callable[[Any], Any]:
    return lambda row: row.get(name)


def _flat(value: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    for name, member in value.items():
        if isinstance(member, Mapping):
            yield from _flat(member, f"{before}{name}.")
        elif isinstance(member, list):
            for index, item in enumerate(member):
                if isinstance(item, Mapping):
                    text = "  ".join(f"{key}={_cell(x)}" for key, x in item.items())
                else:
                    text = _cell(item)
                yield f"{before}{name}[{index}]", text
        else:
            yield f"{before}{name}", _cell(member)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping | list):
        return visible(json.dumps(value, ensure_ascii=False))
    return visible(str(value))


def print_table(rows: Sequence[Any], columns: Sequence[Column]) -> None:
    """Print *rows* with aligned columns; in a file or a pipe, cells are never shortened."""
    from rich.cells import cell_len

    cells = [[_cell(value(row)) for _, value in columns] for row in rows]
    heads = [head for head, _ in columns]
    shown = [heads, *cells] if any(heads) else cells
    widths = [max((cell_len(row[i]) for row in shown), default=0) for i in range(len(columns))]
    limit = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None
    for row in shown:
        parts = [
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        ]
        click.echo(_cut("  ".join(parts).rstrip(), limit))


def _cut(line: str, limit: int | None) -> str:
    from rich.cells import cell_len, set_cell_size

    if limit is None or cell_len(line) <= limit:
        return line
    return set_cell_size(line, limit - 1).rstrip() + "…"


def number_text(number: float | None) -> str:
    """Return *number* with thousands separators."""
    return "" if number is None else f"{number:,.0f}"


def bytes_text(size: float | None) -> str:
    """Return *size* bytes with a suitable unit."""
    if size is None:
        return ""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"


def age_text(seconds: float | None) -> str:
    """Return *seconds* as ``12 s``, ``3 min``, ``5 h`` or ``2 d``."""
    if seconds is None:
        return ""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
