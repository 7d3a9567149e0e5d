"""The JSON body of a request."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from stream.api.schema import DecodeError, Object, Problem, problems_error
from stream.errors import UserError

__all__ = ["decode_json", "read_body"]

_BLANKS = " \t\r\n"


def read_body(schema: Object, data: bytes, content_type: str) -> dict[str, Any]:
    """The checked value of the first JSON document in *data*.

    :param content_type: of the request; none means JSON.

    Raises UserError: there is none, it can't be read, or it isn't as it must be.
    """
    essence = content_type.partition(";")[0].strip().lower()
    if essence and essence != "application/json" and not essence.endswith("+json"):
        raise UserError(f"unsupported media type {essence}", name="unsupportedMediaType")
    text = data.decode("utf-8", "replace").lstrip(_BLANKS)
    if not text:
        raise UserError("missing required payload", name="missingPayload")
    value = decode_json(text)
    read: dict[str, Any] = schema.read({} if value is None else value, schema.name)
    problems: list[Problem] = list(schema.check(read, "body"))
    if problems:
        raise problems_error(problems)
    return read


def decode_json(text: str) -> Any:
    """The first JSON document in *text*, which starts with it. Raises `DecodeError`."""
    try:
        value, _ = _decoder.raw_decode(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip(_BLANKS)) or error.msg.startswith("Unterminated"):
            raise DecodeError("unexpected EOF") from None
        place = f"line {error.lineno} column {error.colno}"
        raise DecodeError(
            f"invalid character '{text[error.pos]}' at {place}: {error.msg}"
        ) from None
    except RecursionError:
        raise DecodeError("exceeded max depth") from None
    except ValueError as error:
        # Integers of thousands of digits.
        raise DecodeError(str(error)) from None
    return _without_surrogates(value) if "\\u" in text else value


def _refuse_constant(name: str) -> NoReturn:
    raise DecodeError(f"invalid character '{name[0]}' looking for beginning of value")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def _without_surrogates(value: Any) -> Any:
    """*value* with a replacement character for each half of a pair: UTF-8 can't have them."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {
            _without_surrogates(name): _without_surrogates(item) for name, item in value.items()
        }
    return value
