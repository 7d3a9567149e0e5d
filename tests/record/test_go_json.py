"""JSON of values in body maps."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.record import go_json


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (1.0, "1"),
        (-0.0, "-0"),
        (0.1, "0.1"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1e-6, "0.000001"),
        (1.5e-7, "1.5e-7"),
        (-2.5e300, "-2.5e+300"),
        (float("inf"), "null"),
        (2**63 - 1, "9223372036854775807"),
        ({"b": [1.0, "<&>"], "a": None}, '{"b":[1,"\\u003c\\u0026\\u003e"],"a":null}'),
        ({"b": True, "a": "\u2028"}, '{"b":true,"a":"\\u2028"}'),
    ],
)
def test_the_form_of_values(value: Any, printed: str) -> None:
    """Doubles have the shortest form, keys keep their order, and HTML is escaped."""
    assert go_json.dumps(value) == printed


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_doubles_are_parsed_exactly(number: float) -> None:
    """No digit is lost."""
    assert float(json.loads(go_json.dumps(number))) == number
