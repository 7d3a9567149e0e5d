"""What may be seen of a body or a text."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from stream.keboola.masking import hide_secrets, masked

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


@given(NAMES, BODIES, st.sampled_from(["{}", "x{}y", "a={}&b"]))
def test_a_secret_that_is_quoted_elsewhere(name: str, body: object, quoted: str) -> None:
    """What stands under the name of a secret shows nowhere in the body, however it is quoted."""
    value = [{"a": body, name: SECRET}, {"error": quoted.format(SECRET), SECRET: body}]
    text = orjson.dumps(masked(value, ()), option=orjson.OPT_NON_STR_KEYS).decode()
    assert SECRET not in text


@given(NAMES, BODIES)
def test_everything_below_the_name_of_a_secret(name: str, body: object) -> None:
    """An object under such a name shows no text at all."""
    shown = masked({name: {"a": [SECRET, {"b": SECRET}], "c": 1}, "d": body}, ())
    assert shown[name] == {"a": ["***", {"b": "***"}], "c": 1}


def test_what_is_no_secret_stays() -> None:
    """Names, numbers and flags are shown as they are."""
    body = {"id": 1001, "name": "a_b", "isSliced": True, "columns": ["a"], "results": None}
    assert masked(body, ["other"]) == body


def test_known_secrets_and_forms() -> None:
    """A known secret, something in the form of a token, and a signature are masked in any text."""
    text = "kn0wn-1; 123-456-abcdefghijklmnopqrstuvwxyz; https://h/o?se=1&sig=ab%2Bc&x=1"
    assert hide_secrets(text, ["kn0wn-1", "", "a"]) == "***; ***; https://h/o?se=1&sig=***&x=1"


def test_one_secret_inside_another() -> None:
    """The longer of two secrets leaves no rest."""
    assert hide_secrets("abcdef-more", ["abcdef", "abcdef-more"]) == "***"
