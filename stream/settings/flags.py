"""The command-line parser, compatible with that of the original.

It accepts ``--name value`` and ``--name=value``, booleans without a value, and flags and components
in any order. ``--`` ends the flags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from stream.errors import sentence
from stream.settings.declare import flag_name
from stream.settings.errors import SettingsError
from stream.settings.nearest import close
from stream.settings.tree import LEAVES, LEAVES_BY_FORMER_KEY

__all__ = ["SPECIAL_FLAGS", "CommandLine", "SpecialFlag", "parse_argv"]


@attrs.frozen
class SpecialFlag:
    """A flag that isn't a setting.

    :ivar kind: ``bool``, ``int``, ``string``, or ``strings`` for a flag that may be repeated.
    """

    name: str
    kind: str
    usage: str


SPECIAL_FLAGS: Mapping[str, SpecialFlag] = {
    flag.name: flag
    for flag in (
        SpecialFlag("config-file", "strings", "Path to a configuration file, may be repeated."),
        SpecialFlag(
            "dump-config",
            "string",
            'Dump the effective configuration to STDOUT, "json" or "yaml".',
        ),
        SpecialFlag("help", "bool", "Print this text."),
        SpecialFlag(
            "port-offset",
            "int",
            "Number added to each default port, for a second instance on one machine; "
            "with dev the data is in ./var/NUMBER.",
        ),
        SpecialFlag(
            "target",
            "string",
            "With dev: store rows in postgres, iceberg or parquet instead of the sandbox.",
        ),
        SpecialFlag("version", "bool", "Print the version."),
        SpecialFlag("worker", "bool", "For child processes: exit when standard input is closed."),
        SpecialFlag("workers", "int", "Short form of --source-http-workers."),
    )
}
_LEAVES = {leaf.flag: leaf for leaf in LEAVES} | {
    flag_name(key): leaf for key, leaf in LEAVES_BY_FORMER_KEY.items()
}
_BOOLS = {name for name, leaf in _LEAVES.items() if leaf.is_bool} | {
    flag.name for flag in SPECIAL_FLAGS.values() if flag.kind == "bool"
}
_LISTS = {name for name, leaf in _LEAVES.items() if leaf.is_list} | {
    flag.name for flag in SPECIAL_FLAGS.values() if flag.kind == "strings"
}
_KNOWN = set(_LEAVES) | set(SPECIAL_FLAGS)


@attrs.frozen
class CommandLine:
    """The flags and arguments of a command line.

    :ivar flags: values of settings by flag name, for `stream.settings.load`.
    :ivar special: the values of `SPECIAL_FLAGS` that were given; ``config-file`` is a list.
    :ivar arguments: all arguments that aren't flags, which are the components.
    """

    flags: dict[str, str | list[str]] = attrs.field(repr=False)
    special: dict[str, str | list[str]]
    arguments: tuple[str, ...]

    @property
    def config_files(self) -> tuple[str, ...]:
        """The files given by ``--config-file``, in order."""
        paths = self.special.get("config-file", [])
        return tuple(path.strip() for text in paths for path in text.split(",") if path.strip())


def parse_argv(argv: Sequence[str]) -> CommandLine:
    """Parse a command line (without the program's name).

    Raises SettingsError: a flag is unknown or lacks its value.
    """
    flags: dict[str, str | list[str]] = {}
    arguments: list[str] = []
    rest = list(argv)
    while rest:
        item = rest.pop(0)
        if item == "--":
            arguments += rest
            break
        if item == "-h":
            item = "--help"
        if not item.startswith("-") or item == "-":
            arguments.append(item)
            continue
        name, equals, value = item.removeprefix("--").partition("=")
        if not item.startswith("--") or name not in _KNOWN:
            raise unknown_flag(item.partition("=")[0])
        if not equals:
            value = _value_after(name, rest)
        if name in _LISTS:
            earlier = flags.setdefault(name, [])
            assert isinstance(earlier, list)
            earlier.append(value)
        else:
            flags[name] = value
    special = {name: flags.pop(name) for name in SPECIAL_FLAGS if name in flags}
    return CommandLine(flags, special, tuple(arguments))


def unknown_flag(flag: str) -> SettingsError:
    """Return the error for *flag*, written with its dashes."""
    special = [f"--{name}" for name in (*SPECIAL_FLAGS, "components")]
    meant = close(flag, special) if flag.startswith("--") else None
    hint = f", did you mean {meant}?" if meant else ""
    return _unparsable(f"unknown flag: {flag}{hint}")


def _unparsable(reason: str) -> SettingsError:
    return SettingsError([sentence(f"cannot parse flags: {reason}")])


def _value_after(name: str, rest: list[str]) -> str:
    if name in _BOOLS:
        return "true"
    if not rest:
        raise _unparsable(f"flag needs an argument: --{name}")
    return rest.pop(0)
