"""Declaration of settings; one attrs field has all metadata of a setting.

`setting` creates the field of a leaf, and `group` creates that of a section. `leaves_of` walks a
settings class and returns the flat table, which flags, environment variables, files, dumps, help
and the settings of sources and sinks use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, cast, get_type_hints

import attrs

from stream.settings.rules import Rule
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration

__all__ = [
    "Leaf",
    "Override",
    "duration",
    "env_name",
    "flag_name",
    "group",
    "leaves_of",
    "setting",
    "size",
    "with_values",
]

T = TypeVar("T")
Override = Literal["user", "unlisted", "protected"]

ENV_PREFIX = "STREAM_"
_DECLARATION = "stream.setting"
_SECTION = "stream.section"
_CAPITALS = re.compile(r"[A-Z]+")
_SEPARATORS = re.compile(r"[. -]+")

duration = Duration.parse
size = ByteSize.parse


@attrs.frozen
class _Declaration:
    usage: str
    rule: str
    key: str | None
    secret: bool
    override: Override | None
    published_rule: str | None
    unsigned: bool
    shown_default: str | None
    former: str


@attrs.frozen
class Leaf:
    """One setting.

    :ivar key: path in a configuration file, for example ``source.http.maxConnections``.
    :ivar path: names of the attributes that lead to the value.
    :ivar flag: name on the command line, without the leading dashes.
    :ivar env: name of the environment variable.
    :ivar type: ``str``, ``int``, ``bool``, ``bytes``, ``tuple``, `Duration`, `ByteSize` or
        `Connections`.
    :ivar usage: a sentence that describes the setting to people.
    :ivar rule: constraints on the value.
    :ivar published_rule: the rule as the API publishes it; it differs if this service allows more
        than the clients of the original know.
    :ivar secret: whether the value is never shown.
    :ivar override: who may override the value for a source or sink. ``user``: users who may change
        the source. ``unlisted``: the same users, but the API lists the setting only if it is
        overridden, because of clients that know the original's list. ``protected``: no API user.
        ``None``: nobody, and the setting isn't listed.
    :ivar unsigned: whether the API shows the integer's type as ``uint64``.
    :ivar former: the setting's old key, which is still accepted; empty if there is none.
    """

    key: str
    path: tuple[str, ...]
    flag: str
    env: str
    type: type
    default: Any = attrs.field(repr=False)
    shown_default: str | None
    usage: str
    rule: Rule
    published_rule: str
    secret: bool
    override: Override | None
    unsigned: bool
    former: str

    @property
    def is_bool(self) -> bool:
        """Return whether the setting is a boolean."""
        return self.type is bool

    @property
    def is_list(self) -> bool:
        """Return whether the setting is a list."""
        return self.type is tuple

    def get(self, settings: object) -> Any:
        """Return the value of this leaf in *settings*."""
        value = settings
        for name in self.path:
            value = getattr(value, name)
        return value


def setting(
    default: Any,
    usage: str,
    *,
    rule: str = "",
    key: str | None = None,
    secret: bool = False,
    override: Override | None = None,
    published_rule: str | None = None,
    unsigned: bool = False,
    shown_default: str | None = None,
    former: str = "",
) -> Any:
    """Return the attrs field of one leaf.

    :param default: built-in value, of the annotated type.
    :param usage: a sentence that describes the setting to people.
    :param rule: comma-separated conditions; see `stream.settings.rules`.
    :param key: last segment of the path, if it isn't the attribute's name in lowerCamelCase.
    :param shown_default: text that the help shows for a default that depends on the machine.

    The other parameters are those of `Leaf`.
    """
    declaration = _Declaration(
        usage, rule, key, secret, override, published_rule, unsigned, shown_default, former
    )
    return attrs.field(default=default, repr=not secret, metadata={_DECLARATION: declaration})


def group(cls: type[T], *, key: str | None = None) -> T:
    """Return the attrs field of a section.

    :param key: segment of the path, if it isn't the attribute's name in lowerCamelCase.
    """
    return attrs.field(factory=cls, metadata={_SECTION: key})


def env_name(key: str) -> str:
    """Return the environment variable of the setting with this *key*."""
    return ENV_PREFIX + flag_name(key).upper().replace("-", "_")


def flag_name(key: str) -> str:
    """Return ``storage.statistics.cache.L2.enabled`` as ``storage-statistics-cache-l2-enabled``.

    A run of capitals is one word: ``debugHTTPClient`` becomes ``debug-httpclient``.
    """
    return _SEPARATORS.sub("-", _CAPITALS.sub(r"-\g<0>", key)).strip("-").lower()


def leaves_of(cls: type) -> tuple[Leaf, ...]:
    """Return the leaves of *cls* in the order of their declaration."""
    return tuple(_walk(cls, "", ()))


def _walk(cls: type, prefix: str, path: tuple[str, ...]) -> Iterator[Leaf]:
    hints = get_type_hints(cls)
    for attribute in attrs.fields(cast(Any, cls)):
        here = (*path, attribute.name)
        if _SECTION in attribute.metadata:
            segment = attribute.metadata[_SECTION] or _camel(attribute.name)
            yield from _walk(hints[attribute.name], f"{prefix}{segment}.", here)
        else:
            declaration: _Declaration = attribute.metadata[_DECLARATION]
            yield _leaf(
                declaration,
                prefix + (declaration.key or _camel(attribute.name)),
                here,
                hints[attribute.name],
                attribute.default,
            )


def _leaf(
    declaration: _Declaration, key: str, path: tuple[str, ...], hint: Any, default: Any
) -> Leaf:
    published = declaration.published_rule
    return Leaf(
        key=key,
        path=path,
        flag=flag_name(key),
        env=env_name(key),
        type=getattr(hint, "__origin__", hint),
        default=default,
        shown_default=declaration.shown_default,
        usage=declaration.usage,
        rule=Rule.parse(declaration.rule),
        published_rule=declaration.rule if published is None else published,
        secret=declaration.secret,
        override=declaration.override,
        unsigned=declaration.unsigned,
        former=declaration.former,
    )


def _camel(name: str) -> str:
    head, *rest = name.strip("_").split("_")
    return head + "".join(part.capitalize() for part in rest)


def with_values(tree: T, values: Mapping[tuple[str, ...], Any]) -> T:
    """Return *tree*, a settings instance, with the values at the given paths replaced."""
    here: dict[str, Any] = {}
    below: dict[str, dict[tuple[str, ...], Any]] = {}
    for path, value in values.items():
        if len(path) == 1:
            here[path[0]] = value
        else:
            below.setdefault(path[0], {})[path[1:]] = value
    for name, part in below.items():
        here[name] = with_values(getattr(tree, name), part)
    return attrs.evolve(cast(Any, tree), **here)  # type: ignore[no-any-return]
