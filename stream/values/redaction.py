"""Redaction of secrets in logs, spans, live tails and rejected records. Pure.

A secret is recognized by its name (of a header, parameter, member or field), by its format (tokens
in a known format, long random text), or by its position (credentials before a host, the end of a
URL that producers push to). In case of doubt, the text is masked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

__all__ = ["MASK", "hide_secrets", "is_secret_name", "masked", "shown_url", "shown_value"]

MASK = "***"
"""The text that replaces a secret."""

_MAX_NAME_CHARS = 256
"""Number of characters of a name that are checked; the rest is ignored."""
_SHORTEST = 6
"""Minimum length of a known secret; masking a shorter one would only damage other words."""
_MAX_ESCAPES = 4
"""Maximum number of percent-encoding layers in a URL; each proxy may add one."""

_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W_]+")
_SECRET_WORDS = frozenset(
    {
        *("pass", "pwd", "pw", "sig", "sid", "sas", "cred", "creds", "otp", "totp", "pin"),
        "dpop",
    }
)
_HARMLESS_KEYS = frozenset(
    {
        *(
            "authorized",
            "cache",
            "candidate",
            "cluster",
            "clustered",
            "clustering",
            "column",
            "composite",
        ),
        *("correlation", "dedup", "deduplication", "distribution", "etcd", "event", "file"),
        *("foreign", "group", "hash", "host", "idempotency", "index", "issue", "item", "job"),
        *(
            "lock",
            "map",
            "max",
            "message",
            "metric",
            "natural",
            "node",
            "object",
            "order",
            "partition",
        ),
        *("path", "primary", "public", "range", "record", "request", "routing", "row", "schema"),
        *("sink", "slice", "sort", "source", "span", "surrogate", "table", "task", "trace"),
        *("socket", "unique", "volume", "websocket"),
    }
)
"""Words before ``key`` in the names of keys that aren't secret."""
_KEYS = frozenset({"key", "keys"})
_ABOUT = frozenset({"path", "file", "type", "length", "count"})
"""Last words of names that only describe a secret, such as the path of its file."""
_SENT_NAMES = frozenset({"key", "xkey", "code", "xcode"})
"""Names of headers and parameters that contain a key; elsewhere, these names are harmless."""
_SECRET_PART = re.compile(
    r"passw|passphrase|passcode|passkey|pwd|(?:user|db|login|root|admin|smtp|ftp|my)pass$"
    r"|secret|token(?!i[sz]|ids?$)|credential|cookie|signature|session|sessid|jwt|hmac|bearer|saml|oidc"
    r"|assertion|codeverifier|csrf|xsrf|connectionstring|otpcode"
    # Don't match "author" and "authority".
    r"|auth(?!or(?!i[sz])|orizedkeys$)"
    r"|(?:api|app|application|access|account|admin|client|encryption|functions|insert|integration"
    r"|license|master|private|project|server|service|shared|signing|ssh|storage|subscription"
    r"|user|webhook|write)keys?(?:$|\d|id$|value$|header$)"
)
"""Parts of lower-case names without separators that indicate a secret."""

_RUN = re.compile(r"[A-Za-z0-9]{32,}")
_LONG_RUN = 48
"""Length of a source's secret."""
_RANDOM = re.compile(
    r"(?<![A-Za-z0-9])(?=[A-Z0-9]*[a-z])(?=[a-z0-9]*[A-Z])[A-Za-z0-9]{40,}(?![A-Za-z0-9])"
)
"""Random text within other text. A digest doesn't match, since its letters have the same case."""
_FORMS = re.compile(
    r"\b\d+-\d+-[0-9A-Za-z_-]{16,}"  # a token of the Storage API
    r"|\bkbc_(?:at|pat)_[0-9A-Za-z_-]{6,}"  # a token of a program
    r"|\beyJ[0-9A-Za-z_-]{5,}\.[0-9A-Za-z_-]{5,}(?:\.[0-9A-Za-z_-]*)?"  # a JSON Web Token
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[0-9A-Za-z]{20,}|\bxox[abeprs]-[0-9A-Za-z-]{10,}"
    r"|\b(?:sk|rk|pk|whsec)_(?:live_|test_)?[0-9A-Za-z]{16,}|\bAIza[0-9A-Za-z_-]{30,}"
)
_SCHEME = re.compile(r"(?i)\b(bearer|basic|negotiate|digest|apikey|token)(\s+)([^\s\"',;]{6,})")
"""Credentials in the form of the header ``Authorization``."""
_ASSIGNED = re.compile(
    r"(?<![\w.%\[\]-])([\w.%\[\]-]{2,128})(=|[\"']\s*[:=]\s*)"
    r"(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
    r"|[\[{][^\[\]{}]*[\]}]|[\[{]*[^\s&;,\"'<>)}\]\[{][^\s&;,\"'<>)}\]]*)"
)
"""``name=value``, or ``"name": value`` as printed by JSON and Python; a list or an object that
isn't nested is one value.
"""
_URL_IN_TEXT = re.compile(r"(?i)\b[a-z][a-z0-9+.-]{1,20}://[^\s\"'<>\\^`{}|]+")
_USER = re.compile(r"(//|\\\\)[^/?#\s\\]*@")
_SEPARATOR = re.compile(r"(?i)(/|\\|%(?:25){0,3}2f|%(?:25){0,3}5c)")
_PARAMETER = re.compile(r"([^=&;]*)(?:(=)([^&;]*))?")
_INGEST = frozenset({"stream", "otlp"})
_KNOWN_BEHIND = frozenset({"v1", "logs", "metrics", "traces"})
_LINE_BREAKS = {ord("\r"): "\\r", ord("\n"): "\\n"}


def is_secret_name(name: str) -> bool:
    """Return whether *name* is the name of a secret, ignoring case and separators."""
    return _judge_name(name[:_MAX_NAME_CHARS])[0]


def _is_sent_secret(name: str) -> bool:
    """Return whether *name* is the name of a header or parameter that contains a secret."""
    return _judge_name(name[:_MAX_NAME_CHARS])[1]


@lru_cache(maxsize=2048)
def _judge_name(name: str) -> tuple[bool, bool]:
    """Return whether *name* is the name of a secret anywhere, and whether it is in a request."""
    words = _words(name)
    joined = "".join(words)
    is_secret = not (words and words[-1] in _ABOUT) and (
        not _SECRET_WORDS.isdisjoint(words)
        or _SECRET_PART.search(joined) is not None
        or (len(words) > 1 and words[-1] in _KEYS and words[-2] not in _HARMLESS_KEYS | {"x"})
    )
    return is_secret, is_secret or joined in _SENT_NAMES


def _words(name: str) -> list[str]:
    plain = name if name.isascii() else unicodedata.normalize("NFKC", name)
    return [word.lower() for word in _WORD.findall(_CAPITAL.sub(" ", plain))]


def shown_url(url: str) -> str:
    """Return *url*, which may begin after the host, on one line and without secrets.

    It masks credentials before the host, parameters whose names indicate a secret, the secret in
    the path that producers push to, and any part in the format of a secret, however it is escaped.
    """
    url, has_fragment, fragment = url.partition("#")
    address, has_query, query = url.partition("?")
    shown = _path(_USER.sub(rf"\1{MASK}@", address))
    if has_query:
        shown += "?" + _parameters(query)
    if has_fragment:
        shown += "#" + _parameters(fragment)
    return shown.translate(_LINE_BREAKS)


def _path(path: str) -> str:
    pieces = _SEPARATOR.split(path)
    parts_behind: int | None = None
    for at in range(0, len(pieces), 2):
        part = _unescaped(pieces[at])
        if not part:
            continue
        if parts_behind is not None:
            parts_behind += 1
        is_behind = parts_behind is not None and parts_behind > 2
        if (is_behind and part.lower() not in _KNOWN_BEHIND) or _looks_secret(part):
            pieces[at] = MASK
        elif ";" in part or "=" in part:
            pieces[at] = _parameters(pieces[at])
        elif part.lower() in _INGEST and parts_behind is None:
            parts_behind = 0
    return "".join(pieces)


def _parameters(query: str) -> str:
    def parameter(match: re.Match[str]) -> str:
        name, sign, value = match[1], match[2] or "", match[3] or ""
        shown_name = _unescaped(name)
        shown_value = _unescaped(value)
        if _looks_secret(shown_name):
            name = MASK
        if value and (
            _is_sent_secret(shown_name)
            or _looks_secret(shown_value)
            or hide_secrets(shown_value) != shown_value
        ):
            value = MASK
        return f"{name}{sign}{value}"

    return _PARAMETER.sub(parameter, query)


def _unescaped(text: str) -> str:
    """Return *text* without percent-encoding, even if it was applied several times."""
    for _ in range(_MAX_ESCAPES):
        if "%" not in text:
            break
        text = unquote(text)
    return text


def _looks_secret(part: str) -> bool:
    """Return whether a part of a URL looks like a secret: long, and not made of words."""
    for run in _RUN.findall(part):
        is_mixed = not (run.isalpha() or run.isdigit()) or not (run.islower() or run.isupper())
        if len(run) >= _LONG_RUN or is_mixed:
            return True
    return _FORMS.search(part) is not None


def hide_secrets(text: str, known: Iterable[str] = ()) -> str:
    """Return *text* of any kind without secrets.

    :param known: secrets that the caller knows, which are masked wherever they occur.
    """
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, MASK)
    if "://" in text:
        text = _URL_IN_TEXT.sub(lambda match: shown_url(match[0]), text)
    if "=" in text or '":' in text or "':" in text:
        text = _ASSIGNED.sub(_assigned, text)
    text = _SCHEME.sub(_credentials, text)
    return _RANDOM.sub(MASK, _FORMS.sub(MASK, text))


def _assigned(match: re.Match[str]) -> str:
    name, sign, value = match.groups()
    if not is_secret_name(_unescaped(name)):
        return match[0]
    quote = next((mark for mark in (value[0], sign[0]) if mark in "\"'"), "")
    return f"{name}{sign}{quote}{MASK}{quote}"


def _credentials(match: re.Match[str]) -> str:
    scheme, blank, value = match.groups()
    is_word = value.isalpha() and (value.islower() or value.istitle())
    return match[0] if is_word else f"{scheme}{blank}{MASK}"


def shown_value(name: str, value: str) -> str:
    """Return the *value* of a header without secrets; `MASK` if *name* indicates a secret."""
    if _is_sent_secret(name):
        return MASK
    return shown_url(value) if value.startswith("/") else hide_secrets(value)


def masked(value: Any, known: Iterable[str] = ()) -> Any:
    """Return decoded JSON with every secret masked; numbers and booleans are unchanged.

    The value of a secret member is masked in other places as well, since an API may quote it in any
    text.
    """
    return _masked(value, {*known, *_secrets(value, False)}, False)


def _secrets(value: Any, is_secret: bool) -> Iterator[str]:
    """Return the strings that are values of secret members."""
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _secrets(member, is_secret or is_secret_name(str(name)))
    elif isinstance(value, list):
        for item in value:
            yield from _secrets(item, is_secret)
    elif is_secret and isinstance(value, str):
        yield value


def _masked(value: Any, known: set[str], is_secret: bool) -> Any:
    if isinstance(value, Mapping):
        return {
            hide_secrets(str(name), known): _masked(
                member, known, is_secret or is_secret_name(str(name))
            )
            for name, member in value.items()
        }
    if isinstance(value, list):
        return [_masked(item, known, is_secret) for item in value]
    if isinstance(value, str):
        return MASK if is_secret else hide_secrets(value, known)
    return value
