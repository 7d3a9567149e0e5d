"""Configuration files in YAML; a separate module because most processes read none."""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["YamlProblem", "load_yaml"]

_NULL_TAG = "tag:yaml.org,2002:null"
_MERGE_TAG = "tag:yaml.org,2002:merge"


class YamlProblem(ValueError):
    """The text isn't YAML. The message has the position but no part of a value."""


_QUOTED = re.compile(r"""\s*(['"])(?P<text>.*?)\1(?=[\s,;:.]|$)""", re.DOTALL)
_TOKEN = re.compile(r"<[a-z ]+>|[^\w\s]")
"""Text that PyYAML itself quotes in its description of a problem."""


class _TextLoader(yaml.SafeLoader):
    """A loader that reads each scalar as text; types come from the settings, not from YAML.

    So ``1.10`` isn't shortened and ``no`` remains text. Only null is recognized. A duplicate key is
    an error, because its author expects both values to apply.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in {_NULL_TAG, _MERGE_TAG}]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode) and name.tag != _MERGE_TAG:
                if name.value in seen:
                    problem = f'the key "{name.value}" occurs twice'
                    raise YamlProblem(f"{problem}{_place(name.start_mark)}")
                seen.add(name.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """Return the sections and keys of *text*. Raises YamlProblem."""
    try:
        return yaml.load(text, _TextLoader)
    except (YamlProblem, RecursionError):
        raise
    except yaml.MarkedYAMLError as error:
        problem = _QUOTED.sub(_without_value, error.problem or "not YAML")
        raise YamlProblem(f"{problem}{_place(error.problem_mark)}") from None
    except yaml.YAMLError as error:
        raise YamlProblem(type(error).__name__) from None
    except Exception:
        # PyYAML converts values with tags, and doesn't catch errors such as those of int().
        raise YamlProblem("a value doesn't fit its tag") from None


def _place(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"


def _without_value(quoted: re.Match[str]) -> str:
    return quoted[0] if _TOKEN.fullmatch(quoted["text"]) else ""
