"""The text of ``--help``."""

from __future__ import annotations

from collections.abc import Iterator

from stream.settings.declare import Leaf
from stream.settings.flags import SPECIAL_FLAGS
from stream.settings.tree import LEAVES
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration

__all__ = ["help_text", "type_name"]

_TYPE_NAMES: dict[type, str] = {
    str: "string",
    int: "int",
    bool: "",
    bytes: "base64",
    tuple: "strings",
    Duration: "duration",
    ByteSize: "size",
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


def help_text(program: str) -> str:
    """All flags, sorted, with type, usage and default, then how they are combined."""
    rows = sorted([*_settings(), *_special()])
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}   {usage}" for name, usage in rows]
    return "\n".join([f'Usage of "{program}":', *lines, "", _NOTES])


def type_name(leaf: Leaf) -> str:
    """How help calls the type of *leaf*; empty for a bool, whose flag needs no value."""
    return _TYPE_NAMES[leaf.type]


def _settings() -> Iterator[tuple[str, str]]:
    for leaf in LEAVES:
        yield f"      --{leaf.flag} {type_name(leaf)}".rstrip(), leaf.usage + _default(leaf)


def _special() -> Iterator[tuple[str, str]]:
    for flag in SPECIAL_FLAGS.values():
        kind = "" if flag.kind == "bool" else f" {flag.kind}"
        yield f"      --{flag.name}{kind}", flag.usage


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
