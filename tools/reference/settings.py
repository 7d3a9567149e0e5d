"""The page with all settings, made from their declarations.

``make docs-settings`` writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from stream.settings.declare import Leaf
from stream.settings.flags import SPECIAL_FLAGS
from stream.settings.ignored import IGNORED_SETTINGS
from stream.settings.tree import LEAVES
from stream.settings.usage import GENERAL, section_of, type_name

__all__ = ["main", "reference"]

_INTRO = """\
# Settings

<!-- Written by `make docs-settings` from the declarations in stream/settings. -->

This page lists all {count} settings, in the order of `stream-service --dump-config=yaml`. You can
set each of them by a key in a configuration file, by an environment variable or by a flag:

| | |
|---|---|
| key | `source.http.maxConnections` |
| variable | `STREAM_SOURCE_HTTP_MAX_CONNECTIONS` |
| flag | `--source-http-max-connections` |

Flags override environment variables, environment variables override configuration files, later
files override earlier ones, and files override defaults. Files are YAML or JSON. Name them with
`--config-file` (repeatable, or separated by commas) or `STREAM_CONFIG_FILE`. They are merged key by
key. A variable that exists but is empty counts as set.

If settings are wrong, the process prints all errors together on stderr, and exits with code 1.
Unknown keys, flags and `STREAM_…` variables are also errors. The message suggests the most similar
name:

```text
Error:
- Value error:
  - Unknown environment variable STREAM_METRICS_LISTEN_ADDRESS, did you mean STREAM_METRICS_LISTEN?
- Configuration is not valid:
  - "nodeID" is a required field: set STREAM_NODE_ID or --node-id
```

## Values

| type | how to write it |
|---|---|
| duration | `300ms`, `1m30s`, `168h` |
| size | `123`, `64KB`, `1MB`; multiples are binary: 1 KB is 1024 bytes |
| list | a list in a file; `a,b,c` in a variable or a flag; you can also repeat a flag |
| base64 | bytes, encoded as standard base64 |
| bool | `true`, `false`; a flag without a value means `true` |

*Required* means that the value can't be empty or zero. A **secret** is printed as `*****`. Settings
marked *source, sink* can be overridden for a source or sink through the
[API](api.md#settings-of-one-source-or-sink). The API also lists *protected* settings, but only the
operator can change them.

## Other flags

| flag | |
|---|---|
{special}
"""
_OVERRIDES = {
    "user": "source, sink",
    "unlisted": "source, sink",
    "protected": "protected",
}
_RULE_WORDS = {
    "url": "an http(s) URL",
    "host_or_url": "a host or an http(s) URL",
    "hostname_port": "host:port",
    "networks": "IP addresses or networks",
}


def reference() -> str:
    """Return the page in Markdown, with a final newline."""
    special = "\n".join(
        f"| `--{flag.name}` | {_cell(flag.usage)} |" for flag in SPECIAL_FLAGS.values()
    )
    parts = [_INTRO.format(count=len(LEAVES), special=special)]
    for section, leaves in groupby(LEAVES, section_of):
        heading = section.capitalize() if section == GENERAL else f"`{section}`"
        parts.append(f"## {heading}\n\n" + "\n".join(_table(list(leaves))) + "\n")
    return "\n".join(parts)


def _table(leaves: Sequence[Leaf]) -> Iterator[str]:
    yield "| key, variable | type | default | allowed | |"
    yield "|---|---|---|---|---|"
    for leaf in leaves:
        yield (
            f"| `{leaf.key}`<br>`{leaf.env}` | {type_name(leaf) or 'bool'} | {_default(leaf)} "
            f"| {_allowed(leaf)} | {_description(leaf)} |"
        )


def _default(leaf: Leaf) -> str:
    if leaf.shown_default:
        return leaf.shown_default
    if leaf.secret and leaf.default:
        return "(secret)"
    if leaf.is_bool:
        return "`true`" if leaf.default else "`false`"
    if leaf.is_list:
        return f"`[{','.join(leaf.default)}]`" if leaf.default else ""
    text = leaf.default.decode() if isinstance(leaf.default, bytes) else str(leaf.default)
    return f"`{text}`" if text else ""


def _allowed(leaf: Leaf) -> str:
    """Return the rule as text."""
    words = ["required"] if leaf.rule.required else []
    lowest = _bound(leaf, "min")
    if leaf.rule.required and lowest == "0":
        lowest = "1"  # zero counts as missing
    highest = _bound(leaf, "max")
    if lowest and highest:
        words.append(f"{lowest} … {highest}")
    elif highest:
        words.append(f"at most {highest}")
    elif lowest:
        words.append(f"at least {lowest}")
    for name, argument in leaf.rule.conditions:
        if name == "oneof":
            words.append(", ".join(f"`{word}`" for word in argument.split(" ")))
        elif name == "len":
            words.append(f"{argument} bytes")
        elif name == "gtefield":
            words.append(f"not less than `{argument}`")
        elif name in _RULE_WORDS:
            words.append(_RULE_WORDS[name])
    return "; ".join(words)


def _bound(leaf: Leaf, which: str) -> str:
    for suffix in ("", "Bytes", "Duration"):
        argument = leaf.rule.argument(which + suffix)
        if argument is not None:
            return f"{argument} items" if leaf.is_list else argument
    return ""


def _description(leaf: Leaf) -> str:
    marks = []
    if leaf.secret:
        marks.append("**Secret.**")
    if leaf.override is not None:
        marks.append(f"*{_OVERRIDES[leaf.override]}*")
    if leaf.key in IGNORED_SETTINGS:
        marks.append(f"*No effect: {IGNORED_SETTINGS[leaf.key]}*")
    return " ".join([_cell(leaf.usage), *marks])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main(path: str) -> None:
    """Write the page to *path*."""
    Path(path).write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
