"""A dump of the effective settings, as JSON for machines or commented YAML for people.

Secrets are masked, inapplicable sections are omitted, and the order is that of declaration.
"""

from __future__ import annotations

import json
from typing import Any

from stream.settings.declare import Leaf
from stream.settings.errors import SettingsError
from stream.settings.sources import MASK
from stream.settings.tree import LEAVES, Settings
from stream.settings.validate import applies
from stream.values.redaction import hide_secrets

__all__ = ["dump", "masked"]

_INDENT = "    "


def masked(settings: Settings) -> dict[str, Any]:
    """Return *settings* as nested dicts of plain values without secrets, for the log at startup."""
    tree: dict[str, Any] = {}
    for leaf in LEAVES:
        if applies(leaf, settings):
            *sections, name = leaf.key.split(".")
            part = tree
            for section in sections:
                part = part.setdefault(section, {})
            part[name] = _plain(leaf, settings)
    return tree


def dump(settings: Settings, form: str) -> str:
    """Return *settings* as text, without a final newline.

    :param form: ``json``, ``yaml`` or ``yml``; any other raises SettingsError.
    """
    if form == "json":
        return json.dumps(masked(settings), indent=2, ensure_ascii=False)
    if form in {"yaml", "yml"}:
        return _yaml(settings)
    raise SettingsError([f'Unexpected dump format "{form}": expected "json", "yml" or "yaml".'])


def _plain(leaf: Leaf, settings: Settings) -> Any:
    value = leaf.get(settings)
    if leaf.secret:
        return MASK
    if leaf.is_list:
        return [hide_secrets(item) if isinstance(item, str) else item for item in value]
    if value == "" and leaf.rule.argument("url") is not None:
        return None
    if isinstance(value, str):
        return hide_secrets(value)
    # A ByteSize is an int, but sizes and durations are written as text.
    return value if type(value) in {bool, int} else str(value)


def _yaml(settings: Settings) -> str:
    lines: list[str] = []
    open_sections: list[str] = []
    for leaf in LEAVES:
        if not applies(leaf, settings):
            continue
        *sections, name = leaf.key.split(".")
        same = 0
        while open_sections[same : same + 1] == sections[same : same + 1] and same < len(sections):
            same += 1
        lines += [f"{_INDENT * depth}{sections[depth]}:" for depth in range(same, len(sections))]
        open_sections = sections
        indent = _INDENT * len(sections)
        value = _plain(leaf, settings)
        lines.append(f"{indent}# {_comment(leaf, value)}")
        lines += _yaml_value(indent, name, value)
    return "\n".join(lines)


def _comment(leaf: Leaf, value: Any) -> str:
    sentence = leaf.usage if leaf.usage.endswith(".") else f"{leaf.usage}."
    if not leaf.rule.text or leaf.secret or value is None:
        return sentence
    return f"{sentence} Validation rules: {leaf.rule.text}"


def _yaml_value(indent: str, name: str, value: Any) -> list[str]:
    if isinstance(value, list) and value:
        return [f"{indent}{name}:", *(f"{indent}{_INDENT}- {_scalar(item)}" for item in value)]
    return [f"{indent}{name}: {'[]' if value == [] else _scalar(value)}"]


def _scalar(value: Any) -> str:
    # Imported here, because a running service dumps nothing.
    import yaml

    # Some characters are line breaks in YAML, and would be read as spaces.
    is_odd = isinstance(value, str) and not value.isprintable()
    style = '"' if is_odd else None
    text: str = yaml.safe_dump(value, allow_unicode=not is_odd, default_style=style, width=2**31)
    return text.removesuffix("...\n").rstrip("\n")
