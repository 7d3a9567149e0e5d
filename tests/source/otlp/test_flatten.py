"""Export requests as flat records."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from stream.errors import UserError
from stream.record.printing import print_json
from stream.source.otlp.decode import Encoding, Signal, decode_request, read_encoding
from stream.source.otlp.flatten import flatten, time_text, value_of

RESOURCE = {"attributes": [{"key": "service.name", "value": {"stringValue": "auth-service"}}]}
SCOPE = {"name": "github.com/my/auth", "version": "1.2.3"}
FLAT_RESOURCE = {"service.name": "auth-service"}
NOON = 1717243200 * 10**9


def decoded(signal: Signal, document: Any) -> Any:
    return decode_request(signal, Encoding.JSON, json.dumps(document).encode())


def logs(*records: dict[str, Any]) -> Any:
    scopes = [{"scope": SCOPE, "logRecords": list(records)}]
    return {"resourceLogs": [{"resource": RESOURCE, "scopeLogs": scopes}]}


def spans(*records: dict[str, Any]) -> Any:
    scopes = [{"scope": SCOPE, "spans": list(records)}]
    return {"resourceSpans": [{"resource": RESOURCE, "scopeSpans": scopes}]}


def points(**metric: Any) -> list[dict[str, Any]]:
    """The records of one metric."""
    scopes = [{"scope": SCOPE, "metrics": [{"name": "m", "unit": "By", **metric}]}]
    document = {"resourceMetrics": [{"resource": RESOURCE, "scopeMetrics": scopes}]}
    return list(flatten(Signal.METRICS, decoded(Signal.METRICS, document)))


def test_log_record() -> None:
    """All keys in their order; empty ids are left out."""
    record = {
        "timeUnixNano": str(NOON),
        "severityNumber": "SEVERITY_NUMBER_INFO",
        "severityText": "INFO",
        "body": {"stringValue": "User login successful"},
        "attributes": [
            {"key": "user.id", "value": {"stringValue": "u-42"}},
            {"key": "request.id", "value": {"stringValue": "req-abc123"}},
        ],
        "unknown": 1,
    }
    (flat,) = flatten(Signal.LOGS, decoded(Signal.LOGS, logs(record)))
    assert list(flat.items()) == [
        ("timestamp", "2024-06-01T12:00:00Z"),
        ("observed_timestamp", ""),
        ("severity_number", 9),
        ("severity_text", "INFO"),
        ("body", "User login successful"),
        ("flags", 0),
        ("attributes", {"user.id": "u-42", "request.id": "req-abc123"}),
        ("resource", FLAT_RESOURCE),
        ("scope", SCOPE),
    ]


def test_ids_of_a_log_record() -> None:
    """Hexadecimal in JSON, and in what comes out."""
    ids = {"traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "eee19b7ec3c1b174"}
    (flat,) = flatten(Signal.LOGS, decoded(Signal.LOGS, logs(ids)))
    assert flat["trace_id"] == "5b8efff798038103d269b633813fc60c"
    assert flat["span_id"] == "eee19b7ec3c1b174"
    assert list(flat)[5:9] == ["flags", "trace_id", "span_id", "attributes"]


def test_span() -> None:
    """With an event and a link, whose flags are a plain number."""
    span = {
        "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": "eee19b7ec3c1b174",
        "name": "login",
        "kind": 2,
        "startTimeUnixNano": NOON,
        "endTimeUnixNano": NOON + 50_000_000,
        "status": {"code": "STATUS_CODE_ERROR", "message": "no"},
        "events": [{"timeUnixNano": NOON, "name": "e"}],
        "links": [{"traceId": "5b8efff798038103d269b633813fc60c", "flags": 257}],
    }
    (flat,) = flatten(Signal.TRACES, decoded(Signal.TRACES, spans(span)))
    assert list(flat) == [
        "timestamp",
        "end_timestamp",
        "trace_id",
        "span_id",
        "trace_state",
        "name",
        "kind",
        "flags",
        "status_code",
        "status_message",
        "attributes",
        "events",
        "links",
        "resource",
        "scope",
    ]
    assert flat["end_timestamp"] == "2024-06-01T12:00:00.05Z"
    assert (flat["kind"], flat["status_code"], flat["status_message"]) == ("Server", "Error", "no")
    assert flat["events"] == [{"timestamp": "2024-06-01T12:00:00Z", "name": "e", "attributes": {}}]
    assert flat["links"][0]["flags"] == 257
    child = {**span, "parentSpanId": "eee19b7ec3c1b174"}
    (flat,) = flatten(Signal.TRACES, decoded(Signal.TRACES, spans(child)))
    assert flat["parent_span_id"] == "eee19b7ec3c1b174"


COMMON = [
    "metric_name",
    "metric_description",
    "metric_unit",
    "metric_type",
    "resource",
    "scope",
    "start_timestamp",
    "timestamp",
    "attributes",
]


@pytest.mark.parametrize(
    ("metric", "kind", "rest"),
    [
        ({"gauge": {"dataPoints": [{"asInt": "7"}]}}, "gauge", {"value": 7}),
        ({"gauge": {"dataPoints": [{}]}}, "gauge", {"value": None}),
        (
            {"sum": {"dataPoints": [{"asDouble": 0.5}], "isMonotonic": True}},
            "sum",
            {"value": 0.5, "is_monotonic": True, "aggregation_temporality": "Unspecified"},
        ),
        (
            {
                "histogram": {
                    "aggregationTemporality": 2,
                    "dataPoints": [
                        {
                            "count": "18446744073709551615",
                            "sum": 3.5,
                            "bucketCounts": ["1", "2"],
                            "explicitBounds": [1.5],
                        }
                    ],
                }
            },
            "histogram",
            {
                "count": 2**63 - 1,
                "sum": 3.5,
                "bucket_counts": [1, 2],
                "explicit_bounds": [1.5],
                "aggregation_temporality": "Cumulative",
            },
        ),
        (
            {
                "exponentialHistogram": {
                    "aggregationTemporality": 1,
                    "dataPoints": [{"count": "3", "min": 0, "scale": -1, "zeroCount": "1"}],
                }
            },
            "exponential_histogram",
            {
                "count": 3,
                "min": 0.0,
                "scale": -1,
                "zero_count": 1,
                "aggregation_temporality": "Delta",
            },
        ),
        (
            {
                "summary": {
                    "dataPoints": [{"count": 1, "quantileValues": [{"quantile": 0.5, "value": 2}]}]
                }
            },
            "summary",
            {"count": 1, "sum": 0.0, "quantile_values": [{"quantile": 0.5, "value": 2.0}]},
        ),
    ],
)
def test_data_points(metric: dict[str, Any], kind: str, rest: dict[str, Any]) -> None:
    """Each type adds its own keys behind those that all have."""
    (flat,) = points(**metric)
    assert list(flat) == [*COMMON, *rest]
    assert flat["metric_type"] == kind
    assert {name: flat[name] for name in rest} == rest


def test_metric_without_data() -> None:
    """It makes no record."""
    assert points() == []


ANY_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=8,
)


def _any_value(value: Any) -> AnyValue:
    made = AnyValue()
    match value:
        case None:
            pass
        case bool():
            made.bool_value = value
        case int():
            made.int_value = value
        case float():
            made.double_value = value
        case str():
            made.string_value = value
        case bytes():
            made.bytes_value = value
        case list():
            made.array_value.values.extend(_any_value(item) for item in value)
            made.array_value.SetInParent()
        case dict():
            made.kvlist_value.values.extend(
                KeyValue(key=key, value=_any_value(item)) for key, item in value.items()
            )
            made.kvlist_value.SetInParent()
    return made


def _expected(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list):
        return [_expected(item) for item in value]
    if isinstance(value, dict):
        return {key: _expected(item) for key, item in value.items()}
    return value


@given(value=ANY_VALUES)
def test_values_keep_their_type(value: Any) -> None:
    """Whatever an attribute holds."""
    assert value_of(_any_value(value)) == _expected(value)


@given(nanoseconds=st.integers(0, 2**64 - 1))
def test_times_never_fail(nanoseconds: int) -> None:
    """Also those that are no date; and no digit is lost."""
    text = time_text(nanoseconds)
    if not nanoseconds:
        assert text == ""
    elif text:
        assert text.endswith("Z")
        assert not text.endswith("0Z") or "." not in text


@given(body=st.binary(max_size=200))
@pytest.mark.filterwarnings("ignore")
def test_garbage_is_refused(body: bytes) -> None:
    """Random bytes are a request, or a client's mistake."""
    for signal in Signal:
        for encoding in Encoding:
            try:
                list(flatten(signal, decode_request(signal, encoding, body)))
            except UserError as error:
                assert error.status == 400
                assert str(error).startswith(f"cannot decode OTLP {signal.value} payload")


@given(signal=st.sampled_from(Signal), encoding=st.sampled_from(Encoding), data=st.data())
def test_damaged_exports_never_crash(
    signal: Signal, encoding: Encoding, data: st.DataObject
) -> None:
    """Some bytes of a real export replaced, left out or added: read, or refused."""
    body = bytearray(_encoded(signal, encoding))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body) - 1))
        body[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        flat = list(flatten(signal, decode_request(signal, encoding, bytes(body))))
    except UserError as error:
        assert error.status == 400
    else:
        print_json(flat)


def _encoded(signal: Signal, encoding: Encoding) -> bytes:
    record = {
        "traceId": "5b8efff798038103d269b633813fc60c",
        "timeUnixNano": "1717243200000000000",
        "attributes": [
            {"key": "a", "value": {"arrayValue": {"values": [{"doubleValue": 1.5}]}}},
            {"key": "b", "value": {"kvlistValue": {"values": [{"key": "c"}]}}},
            {"key": "d", "value": {"bytesValue": "AAE="}},
        ],
    }
    point = {"asInt": "7", "count": "3", "bucketCounts": ["1"], "sum": 1, **record}
    metrics = [{"sum": {"dataPoints": [point]}}, {"histogram": {"dataPoints": [point]}}]
    document = {
        Signal.LOGS: logs({**record, "severityNumber": 9}),
        Signal.TRACES: spans({**record, "links": [record], "kind": 2}),
        Signal.METRICS: {"resourceMetrics": [{"scopeMetrics": [{"metrics": metrics}]}]},
    }[signal]
    if encoding is Encoding.JSON:
        return json.dumps(document).encode()
    encoded: bytes = decoded(signal, document).SerializeToString()
    return encoded


def test_numbers_in_json() -> None:
    """64-bit integers as text or number, enumerations by number or name."""
    found: list[dict[str, Any]] = []
    for time, severity in ((NOON, 17), (str(NOON), "SEVERITY_NUMBER_ERROR")):
        body = {"intValue": "-9223372036854775808"}
        record = {"timeUnixNano": time, "severityNumber": severity, "body": body}
        found += flatten(Signal.LOGS, decoded(Signal.LOGS, logs(record)))
    assert found[0] == found[1]
    assert (found[0]["severity_number"], found[0]["body"]) == (17, -(2**63))
    assert found[0]["timestamp"] == "2024-06-01T12:00:00Z"


def test_unknown_enumeration_numbers_are_empty() -> None:
    """Of what a later protocol may add."""
    span = {"kind": 77, "status": {"code": 9}}
    (flat,) = flatten(Signal.TRACES, decoded(Signal.TRACES, spans(span)))
    assert (flat["kind"], flat["status_code"]) == ("", "")
    (point,) = points(sum={"dataPoints": [{}], "aggregationTemporality": 5})
    assert point["aggregation_temporality"] == ""


def test_last_of_repeated_attributes_wins() -> None:
    """In the place of the first; other names keep the order of arrival."""
    attributes = [
        {"key": key, "value": {"intValue": number}} for number, key in enumerate(("b", "a", "b"))
    ]
    (flat,) = flatten(Signal.LOGS, decoded(Signal.LOGS, logs({"attributes": attributes})))
    assert list(flat["attributes"].items()) == [("b", 2), ("a", 1)]


def test_numbers_that_json_cannot_have() -> None:
    """They are there, without a value."""
    (stale,) = points(gauge={"dataPoints": [{"asDouble": "NaN"}]})
    assert stale["value"] is None
    point = {"sum": "Infinity", "explicitBounds": [1, "Infinity"]}
    (flat,) = points(histogram={"dataPoints": [point]})
    assert (flat["sum"], flat["explicit_bounds"]) == (None, [1.0, None])


def test_invalid_ids_are_refused() -> None:
    """Those of JSON are hexadecimal."""
    with pytest.raises(UserError, match="cannot decode OTLP logs payload"):
        decoded(Signal.LOGS, logs({"traceId": "no hex"}))


@pytest.mark.parametrize("body", [b"[]", b"1", b'{"resourceLogs":[{"resource":1}]}', b"[" * 5000])
def test_json_of_another_shape_is_refused(body: bytes) -> None:
    """Valid JSON, but no export request."""
    with pytest.raises(UserError, match="cannot decode OTLP logs payload"):
        decode_request(Signal.LOGS, Encoding.JSON, body)


def test_deep_values_are_refused() -> None:
    """Instead of exhausting the stack."""
    value: Any = {"stringValue": "x"}
    for _ in range(300):
        value = {"arrayValue": {"values": [value]}}
    with pytest.raises(UserError, match="cannot decode OTLP logs payload"):
        decoded(Signal.LOGS, logs({"body": value}))


def test_content_types() -> None:
    """Parameters and case don't matter."""
    assert read_encoding("application/x-protobuf") is Encoding.PROTOBUF
    assert read_encoding("Application/Protobuf; a=b") is Encoding.PROTOBUF
    assert read_encoding("application/json;charset=utf-8") is Encoding.JSON
    with pytest.raises(UserError) as caught:
        read_encoding("text/plain")
    assert (caught.value.status, caught.value.name) == (415, "unsupportedMediaType")
