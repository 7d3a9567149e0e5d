"""Redaction of names, URLs, bodies and texts."""

from __future__ import annotations

import string
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.definition.secret import new_secret
from stream.values.redaction import (
    MASK,
    hide_secrets,
    is_secret_name,
    masked,
    shown_url,
    shown_value,
)

SECRET = "s3cret-of-somebody"
NAMES = st.sampled_from(
    [
        *("token", "SecretAccessKey", "AccessKeyId", "SessionToken", "access_token", "password"),
        *("SASConnectionString", "SharedAccessSignature", "X-StorageApi-Token", "Authorization"),
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(codec="utf-8"))
)
BODIES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner), max_leaves=10
)
SECRET_WORDS = st.sampled_from(
    [
        *(("authorization",), ("proxy", "authorization"), ("x", "auth"), ("x", "auth", "token")),
        *(("cookie",), ("set", "cookie"), ("api", "key"), ("x", "api", "key"), ("apikey",)),
        *(("x", "functions", "key"), ("subscription", "key"), ("x", "webhook", "key")),
        *(("access", "token"), ("refresh", "tokens"), ("id", "token"), ("token",)),
        *(("x", "hub", "signature", "256"), ("signature",), ("x", "shopify", "hmac", "sha256")),
        *(("password",), ("passwd",), ("db", "passphrase"), ("client", "secret"), ("secret",)),
        *(("session",), ("session", "id"), ("credentials",), ("private", "key"), ("jwt",)),
        *(("csrf", "token"), ("connection", "string"), ("oauth",), ("bearer",)),
    ]
)
HARMLESS = [
    *("Content-Type", "Content-Length", "User-Agent", "Host", "Accept", "Date", "Author", "author"),
    *("authority", "tokenize", "Traceparent", "X-Request-Id", "X-Forwarded-For", "X-GitHub-Event"),
    *("key", "lock_key", "primaryKey", "distributionKey", "Idempotency-Key", "Sec-WebSocket-Key"),
    *(
        "passenger",
        "bypass",
        "token_id",
        "design",
        "assignment",
        "signal",
        "monkey",
        "tokenPath",
        "",
        "-",
    ),
    *("kubernetesTokenPath", "authorizedKeys", "project_id", "stream.branch.id", "http_status"),
]
FORMS = st.sampled_from(
    [
        "-".join,
        "_".join,
        ".".join,
        "".join,
        " ".join,
        lambda words: words[0] + "".join(word.title() for word in words[1:]),
        lambda words: "-".join(word.title() for word in words),
    ]
)
CASES = st.sampled_from([str, str.upper, str.lower])


@given(SECRET_WORDS, FORMS, CASES)
def test_names_of_secrets(words, form, case) -> None:  # type: ignore[no-untyped-def]
    """Names match in any case, with or without separators."""
    assert is_secret_name(case(form(words)))


@pytest.mark.parametrize("name", HARMLESS)
def test_other_names(name: str) -> None:
    """Words that contain the name of a secret, and names of its metadata, aren't secrets."""
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/v1/branches/default/sources?limit=2", "/v1/branches/default/sources?limit=2"),
        ("/stream/123/my-source/hunter2", "/stream/123/my-source/***"),
        ("/stream/123/my-source/hunter2?batch=true", "/stream/123/my-source/***?batch=true"),
        ("/stream/123/my-source/hunter2/logs", "/stream/123/my-source/***/logs"),
        ("//stream//123///my-source//hunter2//", "//stream//123///my-source//***//"),
        ("/%73tream/123/my-source/hunter2", "/%73tream/123/my-source/***"),
        ("/STREAM/123/my-source/hunter2", "/STREAM/123/my-source/***"),
        ("/x/stream/123/my-source/hunter2/x/y", "/x/stream/123/my-source/***/***/***"),
        ("/x%2Fstream%2f123%252Fmy-source%5Chunter2", "/x%2Fstream%2f123%252Fmy-source%5C***"),
        ("/otlp/123/my-source/hunter2/v1/logs", "/otlp/123/my-source/***/v1/logs"),
        ("/otlp/123/my-source/v1/logs", "/otlp/123/my-source/v1/logs"),
        ("/v1?X-StorageApi-Token=hunter2&a=b", "/v1?X-StorageApi-Token=***&a=b"),
        ("/v1?x_storageapi%5Ftoken=hunter2&a=b", "/v1?x_storageapi%5Ftoken=***&a=b"),
        ("/v1?a=b&token=hunter2", "/v1?a=b&token=***"),
        ("/v1?a=b;key=hunter2", "/v1?a=b;key=***"),
        ("/v1/a;jsessionid=hunter2/b", "/v1/a;jsessionid=***/b"),
        ("/v1?api_key=hunter2#x", "/v1?api_key=***#x"),
        ("/v1#access_token=hunter2&x=1", "/v1#access_token=***&x=1"),
        ("http://user:hunter2@host/v1/traces", "http://***@host/v1/traces"),
        ("http://user:hun@ter2@host/v1/traces", "http://***@host/v1/traces"),
        ("/v1?next=http%3A%2F%2Fuser:hunter2@host", "/v1?next=***"),
        ("/v1/a\r\nb", "/v1/a\\r\\nb"),
        ("/v1?tokenize=yes", "/v1?tokenize=yes"),
        (
            "/v1/branches/1/tasks/api.create.source/1/my-source/2024-01-02T03:04:05.000Z_abcde",
            "/v1/branches/1/tasks/api.create.source/1/my-source/2024-01-02T03:04:05.000Z_abcde",
        ),
    ],
)
def test_secrets_in_urls(url: str, shown: str) -> None:
    """The secret of a source, credentials and parameters with names of secrets are masked."""
    assert shown_url(url) == shown


PARTS = st.lists(
    st.sampled_from(
        ["stream", "otlp", "", "v1", "logs", "123", "my-source", "x;y=1", "a=b", "%2e", "..", "ä"]
    ),
    max_size=6,
)
SLASH = st.sampled_from(["/", "//", "%2F", "%2f", "%252F", "\\"])
ESCAPED = st.sampled_from(
    [
        str,
        lambda text: "".join(f"%{ord(char):02x}" for char in text),
        lambda text: quote(quote("".join(f"%{ord(char):02X}" for char in text), safe=""), safe=""),
        lambda text: text[:20] + f"%{ord(text[20]):02x}" + text[21:],
    ]
)
AROUND = st.sampled_from(
    ["{}", "{}.", "({})", "~{}", "a={}", "{}=", "x{}", "{};v=1", "'{}'", "%20{}"]
)


@given(
    PARTS, PARTS, SLASH, ESCAPED, AROUND, CASES, st.sampled_from(["", "?", "?a=", "?x&url=", "#"])
)
def test_the_secret_of_a_source_in_any_url(  # type: ignore[no-untyped-def]
    before, behind, slash, escaped, around, case, mark
) -> None:
    """The secret is masked in any route, with any escaping and any surrounding text."""
    secret = new_secret()
    part = around.format(escaped(case(secret)))
    url = slash.join(["", *before, mark + part, *behind])
    shown = shown_url(url)
    assert escaped(case(secret)) not in shown
    assert case(secret) not in shown


@given(st.text())
def test_any_url_is_shown(url: str) -> None:
    """Any URL is shown on one line."""
    assert not {"\r", "\n"} & set(shown_url(url))


@given(st.text(string.printable, max_size=30), st.text(string.printable, max_size=30))
def test_the_secret_of_a_source_in_a_text(before: str, behind: str) -> None:
    """The secret is masked wherever it is a separate word."""
    secret = new_secret()
    assert secret not in hide_secrets(f"{before}/{secret}/{behind}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("etcd: http://u:hunter2@h:2379: refused", "etcd: http://***@h:2379: refused"),
        ('GET "https://x/y?token=hunter2" 500', 'GET "https://x/y?token=***" 500'),
        ("Authorization: Bearer hunter2x", "Authorization: Bearer ***"),
        ("basic information, token expired", "basic information, token expired"),
        ('{"password": "hunter 2", "a":1}', '{"password": "***", "a":1}'),
        ("HttpSource(secret='hunter2', a='b')", "HttpSource(secret='***', a='b')"),
        ('{"auth": {"file": ""}, "n": 1}', '{"auth": "***", "n": 1}'),
        ('{"tokens": ["a", "b"], "maxKeys": 2}', '{"tokens": "***", "maxKeys": 2}'),
        ('{"token": 12, "n": 1}', '{"token": "***", "n": 1}'),
        ('{"credentials": {"a": {"pass": "x"}}}', '{"credentials": {"a": {"pass": "***"}}}'),
        ("password={abc token=[a,b] n", "password=*** token=*** n"),
        ("lost the session: timeout", "lost the session: timeout"),
        ("a eyJhbGciOi.eyJzdWIiOiIx.c2ln b", "a *** b"),
        ("a kbc_pat_1-abcDEF_x b, kbc_at_abcdef", "a *** b, ***"),
        ("sha256 " + "ab12" * 16, "sha256 " + "ab12" * 16),
        ("/tmp/stream/volumes/hdd/my-volume/x", "/tmp/stream/volumes/hdd/my-volume/x"),
    ],
)
def test_secrets_in_texts(text: str, shown: str) -> None:
    """URLs, assignments and credentials are masked; words and digests aren't."""
    assert hide_secrets(text) == shown


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("X-Auth-Token", "hunter2", MASK),
        ("Api_Key", "hunter2", MASK),
        ("Key", "hunter2", MASK),
        ("Referer", "https://u:hunter2@host/a?token=hunter2", "https://***@host/a?token=***"),
        ("X-Original-Uri", "/stream/123/my-source/hunter2", "/stream/123/my-source/***"),
        ("Content-Type", "text/html; charset=utf-8", "text/html; charset=utf-8"),
    ],
)
def test_values_of_headers(name: str, value: str, shown: str) -> None:
    """Headers of other systems are masked too."""
    assert shown_value(name, value) == shown


def test_the_search_is_linear() -> None:
    """A quadratic search of these texts would take hours."""
    for piece in (
        "a",
        "://",
        "a=",
        "http://",
        "eyJ",
        "1-",
        "'a':",
        '":"\\',
        "%25",
        "//",
        "a1B",
        "a=[",
    ):
        text = piece * (2**16 // len(piece))
        hide_secrets(text)
        shown_url(text)


@given(NAMES, BODIES, st.sampled_from(["{}", "x{}y", "a={}&b"]))
def test_a_secret_that_is_repeated(name: str, body: object, quoted: str) -> None:
    """The value of a secret is masked everywhere in the body, with any quoting."""
    value = [{"a": body, name: SECRET}, {"error": quoted.format(SECRET), SECRET: body}]
    text = orjson.dumps(masked(value, ()), option=orjson.OPT_NON_STR_KEYS).decode()
    assert SECRET not in text


@given(NAMES, BODIES)
def test_an_object_with_the_name_of_a_secret(name: str, body: object) -> None:
    """No text in such an object is shown."""
    shown = masked({name: {"a": [SECRET, {"b": SECRET}], "c": 1}, "d": body}, ())
    assert shown[name] == {"a": [MASK, {"b": MASK}], "c": 1}


def test_other_values_are_shown() -> None:
    """Names, numbers and flags are shown unchanged."""
    body = {"id": 1001, "name": "a_b", "isSliced": True, "columns": ["a"], "results": None}
    assert masked(body, ["other"]) == body


def test_known_secrets_and_formats() -> None:
    """A known secret, a string in the format of a token, and a signature are masked in any text."""
    text = "kn0wn-1; 123-456-abcdefghijklmnopqrstuvwxyz; https://h/o?se=1&sig=ab%2Bc&x=1"
    assert hide_secrets(text, ["kn0wn-1", "", "a"]) == "***; ***; https://h/o?se=1&sig=***&x=1"


def test_a_secret_that_contains_another() -> None:
    """The longer of the two secrets is masked completely."""
    assert hide_secrets("abcdef-more", ["abcdef", "abcdef-more"]) == MASK
