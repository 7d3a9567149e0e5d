"""Parsing of values by type, and their printed form."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import native
from stream.errors import UserError
from stream.mapping import types
from stream.mapping.types import ValueMisfit, check_data_type, decimal_size, fitting


@pytest.mark.parametrize(
    ("data_type", "value", "written"),
    [
        ("string", "", ""),
        ("string", "\\N", "\\N"),
        ("string", "ünïcode 🙂", "ünïcode 🙂"),
        ("boolean", "true", "true"),
        ("boolean", "False", "false"),
        ("boolean", "1", "true"),
        ("boolean", "0", "false"),
        ("integer", "9223372036854775807", "9223372036854775807"),
        ("integer", "-9223372036854775808", "-9223372036854775808"),
        ("integer", "007", "7"),
        ("integer", "5.0", "5"),
        ("double", "1e300", "1e+300"),
        ("double", "-0.5", "-0.5"),
        ("double", "1e-400", "0.0"),
        ("decimal(5,2)", "123.45", "123.45"),
        ("decimal(5,2)", "-123.4500", "-123.4500"),
        ("decimal(5,2)", "1.2e2", "120"),
        ("decimal(5,2)", "0e999999", "0"),
        ("decimal(2,2)", ".25", "0.25"),
        ("decimal(38,0)", "9" * 38, "9" * 38),
        ("timestamp", "2026-11-28T01:02:03Z", "2026-11-28T01:02:03.000000Z"),
        ("timestamp", "2026-11-28 01:02:03.1234567+02:00", "2026-11-27T23:02:03.123456Z"),
        ("timestamp", "1700000000", "2023-11-14T22:13:20.000000Z"),
        ("timestamp", "1700000000.5", "2023-11-14T22:13:20.500000Z"),
        ("timestamp", "1700000000123", "2023-11-14T22:13:20.123000Z"),
        ("timestamp", "1700000000123456", "2023-11-14T22:13:20.123456Z"),
        ("timestamp", "-1", "1969-12-31T23:59:59.000000Z"),
        ("date", "2024-02-29", "2024-02-29"),
        ("json", '{"a": [1, "\\ud83d\\ude42"]}', '{"a": [1, "\\ud83d\\ude42"]}'),
        ("json", '"\\\\u0000"', '"\\\\u0000"'),
        (
            "uuid",
            "0190A1B2-0000-7000-8000-00000000ABCD",
            "0190a1b2-0000-7000-8000-00000000abcd",
        ),
    ],
)
def test_valid_values_have_one_form(data_type: str, value: str, written: str) -> None:
    assert fitting(data_type)(value.encode()).decode() == written


@pytest.mark.parametrize(
    ("data_type", "value"),
    [
        ("string", b"a\0b"),
        ("string", b"\xff"),
        ("string", "\ud800".encode("utf-8", "surrogatepass")),
        ("boolean", b"yes"),
        ("boolean", b""),
        ("integer", b"9223372036854775808"),
        ("integer", b"-9223372036854775809"),
        ("integer", b"1.5"),
        ("integer", b"0x10"),
        ("integer", "١".encode()),
        ("double", b"NaN"),
        ("double", b"Infinity"),
        ("double", b"1e999"),
        ("double", b"1_000"),
        ("decimal(5,2)", b"1234"),
        ("decimal(5,2)", b"1.234"),
        ("decimal(5,2)", b"1e999999"),
        ("decimal(5,2)", b"NaN"),
        ("decimal(2,2)", b"1"),
        ("timestamp", b"2026-11-28T01:02:03"),
        ("timestamp", b"2026-02-29T01:02:03Z"),
        ("timestamp", b"10000-01-01T00:00:00Z"),
        ("timestamp", b"0001-01-01T00:00:00+10:00"),
        ("timestamp", b"2026-11-28T01:02:03+99:00"),
        ("timestamp", b"999999999999999999"),
        ("timestamp", b"now"),
        ("date", b"10000-01-01"),
        ("date", b"2026-02-29"),
        ("date", b"20260228"),
        ("json", b"{a: 1}"),
        ("json", b""),
        ("json", b'"\\u0000"'),
        ("json", b'"\\\\\\u0000"'),
        ("json", b'"\\ud800"'),
        ("json", b'{"\\udc00": 1}'),
        ("json", b"1e999"),
        ("json", b"1e-200000"),
        ("json", b'"\xff"'),
        ("uuid", b"0190a1b2"),
        ("uuid", b"{0190a1b2-0000-7000-8000-00000000abcd}"),
    ],
)
def test_invalid_values(data_type: str, value: bytes) -> None:
    """The message has the beginning of the value, and the expected form."""
    with pytest.raises(ValueMisfit, match=r"^the value .* is not ") as raised:
        fitting(data_type)(value)
    assert raised.value.status == 400


def test_the_message_shows_the_first_100_characters() -> None:
    with pytest.raises(ValueMisfit) as raised:
        fitting("integer")(b"x" * 2_000_000)
    assert f'"{"x" * 100}…"' in str(raised.value)
    assert len(str(raised.value)) < 200


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_integer_is_valid(number: int) -> None:
    assert int(fitting("integer")(b"%d" % number)) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_is_parsed_exactly(number: float) -> None:
    assert float(fitting("double")(repr(number).encode())) == number


@given(st.integers(1, 38), st.data())
def test_decimals_are_exact(digits: int, data: st.DataObject) -> None:
    """A valid decimal is the same number, and one with a digit too many is refused."""
    behind = data.draw(st.integers(0, digits))
    figures = data.draw(st.integers(-(10**digits) + 1, 10**digits - 1))
    number = Decimal(f"{figures}e-{behind}")
    fit = fitting(f"decimal({digits},{behind})")
    assert Decimal(fit(str(number).encode()).decode()) == number
    for larger in (Decimal(10) ** (digits - behind), Decimal(1).scaleb(-behind - 1)):
        with pytest.raises(ValueMisfit):
            fit(str(larger).encode())


@given(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)),
    st.integers(-14 * 60, 14 * 60),
)
def test_times_are_in_utc(moment: datetime, minutes: int) -> None:
    """Times are converted to UTC from any offset."""
    utc = moment.replace(tzinfo=UTC)
    sign, offset = "-" if minutes < 0 else "+", abs(minutes)
    local = (utc + timedelta(minutes=minutes)).replace(tzinfo=None)
    text = f"{local.isoformat(timespec='microseconds')}{sign}{offset // 60:02}:{offset % 60:02}"
    assert datetime.fromisoformat(fitting("timestamp")(text.encode()).decode()) == utc


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(_JSON, st.booleans())
def test_json_is_kept_verbatim(value: object, ascii: bool) -> None:
    try:
        text = json.dumps(value, ensure_ascii=ascii).encode()
    except UnicodeEncodeError:
        return
    if b"\\u0000" in text.replace(b"\\\\", b""):
        return
    try:
        assert fitting("json")(text) == text
    except ValueMisfit:
        assert b"\\ud" in text


_NUMBERS = [
    *("1", "-0.5e10", "1e308", "1e309", "1e-308", "1e-999", "1e-1000", "1e-1001", "0e-1001"),
    *("9" * 300, "9" * 309, "0." + "1" * 998, "-0." + "1" * 998, "0." + "1" * 999),
    "1" * 250 + "e99",
]


def _is_valid(value: bytes) -> bool:
    """Return whether *value* is JSON that a column may have, as a parser sees it."""

    def number(text: str) -> None:
        if len(text) > 1000 or abs(Decimal(text).adjusted()) > 1000:
            raise ArithmeticError

    try:
        orjson.loads(value)
        text = json.dumps(json.loads(value, object_pairs_hook=list), ensure_ascii=False)
        json.loads(value, parse_float=number, parse_int=number)
    except (ValueError, ArithmeticError):
        return False
    return "\\u0000" not in text.replace("\\\\", "")


_TEXTS = [
    *(
        '"\\u0000"',
        '"\\\\u0000"',
        '"\\ud83d\\ude42"',
        '"\\ud83d"',
        '"\\ude42\\ud83d"',
        '"1e999, 2"',
    ),
    *('"\\"1e999"', "+1", "null", *(f'"{number}"' for number in _NUMBERS)),
]
_SPELLED_NUMBERS = st.builds(
    lambda sign, whole, point, after, exponent: (
        f"{sign}{whole}{point}{after if point else ''}{exponent}"
    ),
    st.sampled_from(["", "-"]),
    st.sampled_from(["0", "7", "120", "9" * 299, "9" * 305, "5" * 999]),
    st.sampled_from(["", "."]),
    st.sampled_from(["0", "5", "000", "0001", "0" * 301, "0" * 700 + "1", "1" * 300]),
    st.just("")
    | st.builds(
        lambda sign, size: f"e{sign}{size}",
        st.sampled_from(["", "-", "+", "-0"]),
        st.integers(0, 1400) | st.sampled_from([1, 300, 699, 700, 701, 999, 1000, 1001, 10**30]),
    ),
)
_SPELLED_JSON = st.recursive(
    st.sampled_from(_NUMBERS) | st.sampled_from(_TEXTS) | _SPELLED_NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: "[" + ", ".join(items) + "]")
        | st.lists(inner, max_size=3).map(
            lambda items: "{" + ",".join(f'"1e-5555\\u0061":{item}' for item in items) + "}"
        )
    ),
    max_leaves=8,
)


@given(_SPELLED_JSON)
def test_json_with_any_spelling(spelling: str) -> None:
    """Large numbers, NUL and unpaired surrogates are refused, but not texts like them."""
    value = spelling.encode()
    is_valid = _is_valid(value)
    for is_built in {False, native.is_built}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "is_built", is_built)
            try:
                found = fitting("json")(value)
            except ValueMisfit:
                assert not is_valid
            else:
                assert found == value and is_valid


@pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")
def test_checking_json_parses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code checks usual JSON, and finds NUL and unpaired surrogates."""
    monkeypatch.setattr(types, "_check_json", None)
    value = b'{"a":[%b1],"b":"\\u00e9\\ud83d\\ude42"}' % (b"[1.5e3]," * 1000)
    assert fitting("json")(value) == value
    for text in (b'"\\u0000"', b'"\\ud83d"'):
        with pytest.raises(ValueMisfit):
            fitting("json")(text)


@pytest.mark.parametrize("is_built", {False, native.is_built})
def test_long_numbers_in_json(is_built: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only long numbers are read, wherever they are; an exponent may have any number of digits."""
    monkeypatch.setattr(native, "is_built", is_built)
    read: list[str] = []
    is_too_large = types._is_too_large

    def counted(number: str) -> bool:
        read.append(number)
        return is_too_large(number)

    monkeypatch.setattr(types, "_is_too_large", counted)
    value = b'[%b1e-500,"1e-999",{"1e-999":-1e-600}]' % (b"1.5," * 1000)
    assert fitting("json")(value) == value
    assert read == ([] if is_built else ["1e-500", "-1e-600"])
    with pytest.raises(ValueMisfit, match="numbers of at most 1000 digits"):
        fitting("json")(b"[1e-99999999999999999999999]")


@pytest.mark.parametrize(
    "data_type",
    ["text", "decimal", "decimal(0,0)", "decimal(39,2)", "decimal(2,3)", "decimal(p,s)"],
)
def test_unknown_types(data_type: str) -> None:
    with pytest.raises(UserError):
        check_data_type(data_type)
    assert decimal_size("decimal(18, 2)") == (18, 2)
