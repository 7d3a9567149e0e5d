"""Configuration files in YAML; a separate module because most processes read none."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["YamlProblem", "load_yaml"]

_NULL_TAG = "tag:yaml.org,2002:null"
_MERGE_TAG = "tag:yaml.org,2002:merge"


class YamlProblem(ValueError):
    """The text isn't YAML. The message has the position but no excerpt, which may be secret."""


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
                    raise yaml.constructor.ConstructorError(None, None, problem, name.start_mark)
                seen.add(name.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """Return the sections and keys of *text*. Raises YamlProblem."""
    try:
        return yaml.load(text, _TextLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise YamlProblem(f"{error.problem}{place}") from error
    except yaml.YAMLError as error:
        raise YamlProblem(type(error).__name__) from error
