"""The text of ``--help``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from textwrap import TextWrapper

from stream.settings.connections import Connections
from stream.settings.declare import Leaf
from stream.settings.flags import SPECIAL_FLAGS
from stream.settings.tree import LEAVES
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration

__all__ = ["GENERAL", "help_text", "section_of", "type_name"]

_TYPE_NAMES: dict[type, str] = {
    str: "string",
    int: "int",
    bool: "",
    bytes: "base64",
    tuple: "strings",
    Duration: "duration",
    ByteSize: "size",
    Connections: "YAML",
}
_NOTES = """\
Settings are taken from, the first one wins:
  1. command-line flags
  2. environment variables
  3. configuration files, a later file before an earlier one
  4. defaults
Each flag is also an environment variable: "--foo-bar" becomes the "STREAM_FOO_BAR" ENV.
Use "--config-file" to read a JSON or YAML file, it may be given several times; "STREAM_CONFIG_FILE"
adds one more.
Use "--dump-config" with "json" or "yaml" to see the settings in force.
"""
GENERAL = "general"
_INDENT = " " * 8
_MIN_WIDTH, _MAX_WIDTH = 60, 100


def help_text(program: str, introduction: str, width: int = _MAX_WIDTH) -> str:
    """Return the introduction, how settings are combined, and all flags by section.

    :param introduction: purpose, usage and examples of the program; ``{program}`` is replaced.
    :param width: number of columns of the terminal.
    """
    wrap = TextWrapper(
        width=max(_MIN_WIDTH, min(width, _MAX_WIDTH)),
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = [introduction.format(program=program), "Options:"]
    for flag, usage in _special():
        lines += [f"  {flag}", *wrap.wrap(usage)]
    lines += ["", _NOTES]
    for section, leaves in groupby(LEAVES, section_of):
        lines.append(f"Settings, {section}:")
        for leaf in leaves:
            flag = f"  --{leaf.flag} {type_name(leaf)}".rstrip()
            lines += [flag, *wrap.wrap(leaf.usage + _default(leaf))]
        lines.append("")
    return "\n".join(lines).rstrip("\n")


def section_of(leaf: Leaf) -> str:
    """Return the section of a key: its first part, or more parts under ``storage.level``."""
    names = leaf.key.split(".")[:-1]
    if not names:
        return GENERAL
    if names[:2] != ["storage", "level"]:
        return names[0]
    return ".".join(names[: 4 if names[2:3] == ["local"] else 3])


def type_name(leaf: Leaf) -> str:
    """Return the help's type name of *leaf*; empty for a bool, whose flag needs no value."""
    return _TYPE_NAMES[leaf.type]


def _special() -> Iterator[tuple[str, str]]:
    for flag in SPECIAL_FLAGS.values():
        kind = "" if flag.kind == "bool" else f" {flag.kind}"
        yield f"--{flag.name}{kind}", flag.usage


def _default(leaf: Leaf) -> str:
    if leaf.shown_default:
        return f" (default {leaf.shown_default})"
    if leaf.secret or not leaf.default:
        return ""
    if leaf.is_list:
        return f" (default [{','.join(leaf.default)}])"
    if leaf.is_bool:
        return " (default true)"
    return f' (default "{leaf.default}")' if leaf.type is str else f" (default {leaf.default})"
