"""Export requests as flat records."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from stream import native
from stream.errors import UserError
from stream.record import go_json
from stream.record.jsontree import PIECE_BYTES
from stream.source.otlp import decode
from stream.source.otlp.decode import (
    _TYPES,
    FIELDS_AT_ONCE,
    MAX_JSON_VALUES,
    MAX_RECORD_VALUES,
    Encoding,
    Export,
    ExportTooLarge,
    Part,
    Signal,
    _message_parts,
    _wire_parts,
    decode_request,
    decode_steps,
    read_encoding,
)
from stream.source.otlp.flatten import (
    MAX_REPEATED_BYTES,
    Printer,
    check_repeated_steps,
    flatten,
    time_text,
    value_of,
)
from stream.source.otlp.wire import length_delimited

RESOURCE = {"attributes": [{"key": "service.name", "value": {"stringValue": "auth-service"}}]}
SCOPE = {"name": "github.com/my/auth", "version": "1.2.3"}
FLAT_RESOURCE = {"service.name": "auth-service"}
NOON = 1717243200 * 10**9


def decoded(signal: Signal, document: Any) -> Any:
    return decode_request(signal, Encoding.JSON, json.dumps(document).encode())


REQUESTS: dict[Signal, type[Message]] = {
    Signal.LOGS: ExportLogsServiceRequest,
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.TRACES: ExportTraceServiceRequest,
}


def as_protobuf(signal: Signal, document: Any) -> bytes:
    """Return *document*, a request in JSON, in protobuf."""

    def in_base64(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: base64.b64encode(bytes.fromhex(item)).decode()
                if name in ("traceId", "spanId", "parentSpanId")
                else in_base64(item)
                for name, item in value.items()
            }
        return [in_base64(item) for item in value] if isinstance(value, list) else value

    encoded: bytes = json_format.ParseDict(
        in_base64(document), REQUESTS[signal](), ignore_unknown_fields=True
    ).SerializeToString()
    return encoded


def logs(*records: dict[str, Any]) -> Any:
    scopes = [{"scope": SCOPE, "logRecords": list(records)}]
    return {"resourceLogs": [{"resource": RESOURCE, "scopeLogs": scopes}]}


def spans(*records: dict[str, Any]) -> Any:
    scopes = [{"scope": SCOPE, "spans": list(records)}]
    return {"resourceSpans": [{"resource": RESOURCE, "scopeSpans": scopes}]}


def points(**metric: Any) -> list[dict[str, Any]]:
    """Return the records of one metric."""
    scopes = [{"scope": SCOPE, "metrics": [{"name": "m", "unit": "By", **metric}]}]
    document = {"resourceMetrics": [{"resource": RESOURCE, "scopeMetrics": scopes}]}
    return list(flatten(decoded(Signal.METRICS, document)))


def test_log_record() -> None:
    """All keys are in order, and empty ids are omitted."""
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
    (flat,) = flatten(decoded(Signal.LOGS, logs(record)))
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
    """Ids are hexadecimal in JSON and in the records."""
    ids = {"traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "eee19b7ec3c1b174"}
    (flat,) = flatten(decoded(Signal.LOGS, logs(ids)))
    assert flat["trace_id"] == "5b8efff798038103d269b633813fc60c"
    assert flat["span_id"] == "eee19b7ec3c1b174"
    assert list(flat)[5:9] == ["flags", "trace_id", "span_id", "attributes"]


def test_a_span_has_its_events_and_links() -> None:
    """The record of a span has an event and a link, whose flags are a plain number."""
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
    (flat,) = flatten(decoded(Signal.TRACES, spans(span)))
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
    (flat,) = flatten(decoded(Signal.TRACES, spans(child)))
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
    """Each type adds its own keys after the common ones."""
    (flat,) = points(**metric)
    assert list(flat) == [*COMMON, *rest]
    assert flat["metric_type"] == kind
    assert {name: flat[name] for name in rest} == rest


def test_a_metric_without_data() -> None:
    """A metric without data has no records."""
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
    """Any value of an attribute keeps its type."""
    assert value_of(_any_value(value)) == _expected(value)


@given(nanoseconds=st.integers(0, 2**64 - 1))
def test_any_time(nanoseconds: int) -> None:
    """Invalid times are printed too, and no digit is lost."""
    text = time_text(nanoseconds)
    if not nanoseconds:
        assert text == ""
    elif text:
        assert text.endswith("Z")
        assert not text.endswith("0Z") or "." not in text


@given(body=st.binary(max_size=200))
@pytest.mark.filterwarnings("ignore")
def test_invalid_data_is_refused(body: bytes) -> None:
    """Random bytes are parsed as a request, or refused as the client's error."""
    for signal in Signal:
        for encoding in Encoding:
            try:
                list(flatten(decode_request(signal, encoding, body)))
            except UserError as error:
                assert error.status == 400
                assert str(error).startswith(f"cannot decode OTLP {signal.value} payload")


@given(signal=st.sampled_from(Signal), encoding=st.sampled_from(Encoding), data=st.data())
def test_damaged_exports(signal: Signal, encoding: Encoding, data: st.DataObject) -> None:
    """A real export with some bytes replaced, removed or added is parsed or refused."""
    body = bytearray(_encoded(signal, encoding))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body) - 1))
        body[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        flat = list(flatten(decode_request(signal, encoding, bytes(body))))
    except UserError as error:
        assert error.status == 400
    else:
        go_json.dumps(flat)


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
    return as_protobuf(signal, document)


def test_numbers_in_json() -> None:
    """64-bit integers are text or numbers, and enumerations are numbers or names."""
    found: list[dict[str, Any]] = []
    for time, severity in ((NOON, 17), (str(NOON), "SEVERITY_NUMBER_ERROR")):
        body = {"intValue": "-9223372036854775808"}
        record = {"timeUnixNano": time, "severityNumber": severity, "body": body}
        found += flatten(decoded(Signal.LOGS, logs(record)))
    assert found[0] == found[1]
    assert (found[0]["severity_number"], found[0]["body"]) == (17, -(2**63))
    assert found[0]["timestamp"] == "2024-06-01T12:00:00Z"


def test_unknown_enumeration_numbers_are_empty() -> None:
    """A later protocol may add them."""
    span = {"kind": 77, "status": {"code": 9}}
    (flat,) = flatten(decoded(Signal.TRACES, spans(span)))
    assert (flat["kind"], flat["status_code"]) == ("", "")
    (point,) = points(sum={"dataPoints": [{}], "aggregationTemporality": 5})
    assert point["aggregation_temporality"] == ""


_TEXTS = st.text(st.sampled_from('ab<>&\u2028\u2029\u20ac"\\\n'), max_size=8)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)
_MEMBERS = st.dictionaries(_TEXTS, _VALUES, max_size=3)


@given(st.lists(st.tuples(_MEMBERS, _VALUES, _MEMBERS, st.booleans()), max_size=4))
def test_records_are_printed_like_other_values(
    drawn: list[tuple[dict[str, Any], Any, dict[str, Any], bool]],
) -> None:
    """The output doesn't depend on the parts that a record shares with the previous one."""
    printer = Printer()
    for shared, body, attributes, is_last in drawn:
        own = {"timestamp": "", "body": body, "attributes": attributes}
        rest = {"resource": shared, "scope": {"name": "<s>", "version": ""}}
        for flat in ({**own, **rest}, {**own, "flags": 1, **rest}, {**rest, **own}):
            assert printer.print(flat) == go_json.dumps(flat).encode()
            if is_last:
                rest["scope"] = {"name": "other", "version": "1"}


def test_the_last_of_repeated_attributes_counts() -> None:
    """The last value has the position of the first; other names keep their order."""
    attributes = [
        {"key": key, "value": {"intValue": number}} for number, key in enumerate(("b", "a", "b"))
    ]
    (flat,) = flatten(decoded(Signal.LOGS, logs({"attributes": attributes})))
    assert list(flat["attributes"].items()) == [("b", 2), ("a", 1)]


def test_numbers_without_a_json_form() -> None:
    """NaN and infinities are present without a value."""
    (stale,) = points(gauge={"dataPoints": [{"asDouble": "NaN"}]})
    assert stale["value"] is None
    point = {"sum": "Infinity", "explicitBounds": [1, "Infinity"]}
    (flat,) = points(histogram={"dataPoints": [point]})
    assert (flat["sum"], flat["explicit_bounds"]) == (None, [1.0, None])


@pytest.mark.parametrize("name", ["traceId", "trace_id", "spanId"])
@pytest.mark.parametrize(
    "value", ["no hex", "ab cd", " ab", "abc", "0xab", "ab\n", "ａｂ", 12, [], {}]
)
def test_invalid_ids_are_refused(name: str, value: object) -> None:
    """Ids in JSON are pairs of hexadecimal digits without separators."""
    with pytest.raises(UserError, match="cannot decode OTLP logs payload"):
        decoded(Signal.LOGS, logs({name: value}))
    with pytest.raises(UserError, match="cannot decode OTLP traces payload"):
        decoded(Signal.TRACES, spans({"links": [{name: value}]}))


def test_ids_of_any_length() -> None:
    """Ids aren't changed; an empty one and null are no id."""
    ids = {"traceId": "AbCd", "spanId": ""}
    (flat,) = flatten(decoded(Signal.LOGS, logs(ids)))
    assert flat["trace_id"] == "abcd" and "span_id" not in flat
    (flat,) = flatten(decoded(Signal.TRACES, spans({"traceId": None, "links": [ids]})))
    assert (flat["trace_id"], flat["links"][0]["trace_id"]) == ("", "abcd")


_anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["traceId", "spanId", "links", "attributes", "exemplars", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from(Signal), st.sampled_from(["x", "traceid", "TRACE_ID", "links2"]), _anything)
def test_unknown_members_are_ignored(signal: Signal, name: str, value: object) -> None:
    """Unknown members are ignored at any position, with any name and content."""

    def with_unknown(plain: Any) -> Any:
        if isinstance(plain, dict):
            return {**{key: with_unknown(item) for key, item in plain.items()}, name: value}
        return [with_unknown(item) for item in plain] if isinstance(plain, list) else plain

    plain = json.loads(_encoded(signal, Encoding.JSON))
    known = list(flatten(decoded(signal, plain)))
    body = json.dumps(with_unknown(plain)).encode()
    assert list(flatten(decode_request(signal, Encoding.JSON, body))) == known


def test_lone_surrogates_and_byte_order_marks() -> None:
    """A lone surrogate is replaced by U+FFFD, also in names; a byte order mark is skipped."""
    record = {
        "body": {"stringValue": "a\ud83d"},
        "attributes": [{"key": "k\udc00", "value": {"stringValue": "\ud83d\ude00"}}],
    }
    body = "\ufeff".encode() + json.dumps(logs(record)).encode()
    (flat,) = flatten(decode_request(Signal.LOGS, Encoding.JSON, body))
    assert (flat["body"], flat["attributes"]) == ("a\ufffd", {"k\ufffd": "😀"})


def test_numbers_beyond_doubles() -> None:
    """Such numbers have no value, and don't affect others."""
    body = json.dumps(logs({"body": {"doubleValue": 7.5}, "x": 8.5}, {"severityText": "kept"}))
    for number in ("1e400", "-1e400", "1" * 400):
        text = body.replace("7.5", number).replace("8.5", number)
        first, second = flatten(decode_request(Signal.LOGS, Encoding.JSON, text.encode()))
        assert (first["body"], second["severity_text"]) == (None, "kept")


@pytest.mark.parametrize("signal", Signal)
@pytest.mark.parametrize("records", [1, 40, 200])
def test_large_exports_are_parsed_in_chunks(
    signal: Signal, records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records are those of an export that is parsed at once."""
    monkeypatch.setattr(decode, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(decode, "WHOLE_BYTES", 4096)
    document = json.loads(_encoded(signal, Encoding.JSON))
    (resource,) = next(iter(document.values()))
    (scope,) = resource[next(name for name in resource if name.startswith("scope"))]
    for name in ("logRecords", "spans"):
        if name in scope:
            scope[name] *= records
    for metric in scope.get("metrics", ()):
        for data in metric.values():
            data["dataPoints"] *= records
    next(iter(document.values())).append({})
    small = _flat_at_once(signal, as_protobuf(signal, document))
    for encoding in Encoding:
        body = (
            json.dumps(document).encode()
            if encoding is Encoding.JSON
            else as_protobuf(signal, document)
        )
        export = decode_request(signal, encoding, body)
        assert list(flatten(export)) == small
        assert sum(part.count for part in export.parts) == len(small)
        assert len(export.parts) > records // 100


def _flat_at_once(signal: Signal, body: bytes) -> list[Any]:
    request: Any = REQUESTS[signal]()
    request.ParseFromString(body)
    return list(flatten(Export(signal, list(_message_parts(_TYPES[signal], request)))))


@given(signal=st.sampled_from(Signal), data=st.data())
def test_chunks_and_the_whole_agree(signal: Signal, data: st.DataObject) -> None:
    """Both parsers accept the same input, also for damaged exports."""
    body = bytearray(_encoded(signal, Encoding.PROTOBUF))
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(body) - 1))
        body[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))

    def read(parts: Callable[[], Iterable[Part | None]]) -> Any:
        try:
            return repr(
                list(flatten(Export(signal, [part for part in parts() if part and part.count])))
            )
        except (ValueError, DecodeError):
            return "refused"

    def at_once() -> Iterable[Part]:
        request = REQUESTS[signal]()
        request.ParseFromString(bytes(body))
        return _message_parts(_TYPES[signal], request)

    in_chunks = read(lambda: _wire_parts(_TYPES[signal], bytes(body)))
    assert in_chunks == read(at_once)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (logs(*[{"severityText": "x" * 99}] * 1001), "more than 1000 records"),
        ({"resourceLogs": [{"schemaUrl": "x" * 99}] * 1001}, "more than 1000 records"),
        (
            {"resourceLogs": [{"scopeLogs": [{"schemaUrl": "x" * 99}] * 100}] * 11},
            "more than 1000 records",
        ),
        (logs({"attributes": [{"key": "k" * 10}] * MAX_RECORD_VALUES}), "than 10000 values"),
        ({"resourceLogs": [{"resource": {"attributes": [{}] * 50_000}}]}, "than 10000 values"),
        (logs({"body": {"stringValue": "x" * 1024 * 1024}}), "more than 1048576 bytes"),
    ],
)
def test_records_are_counted_before_they_are_created(
    document: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both encodings are counted; a long text in JSON doesn't count more."""
    monkeypatch.setattr(decode, "MAX_RECORDS", 1000)
    encoded = as_protobuf(Signal.LOGS, document)
    with pytest.raises(ExportTooLarge, match=message):
        decode_request(Signal.LOGS, Encoding.PROTOBUF, encoded)
    if "bytes" not in message:
        with pytest.raises(ExportTooLarge, match=message) as caught:
            decoded(Signal.LOGS, document)
        assert caught.value.status == 413


@pytest.mark.parametrize("signal", Signal)
def test_fields_of_groups_are_limited(signal: Signal) -> None:
    """A group is skipped as a whole, so megabytes of fields in it would take seconds."""
    group = b"\x0b" + b"\x08\x01" * 20_000 + b"\x0c"
    with pytest.raises(UserError, match="groups have more than 1000 fields"):
        decode_request(signal, Encoding.PROTOBUF, group)
    few = b"\x0b" + b"\x08\x01" * 900 + b"\x0c" + b"\x7a\x00" * 20_000
    assert not decode_request(signal, Encoding.PROTOBUF, few).parts


def test_fields_of_a_metric_are_limited() -> None:
    """Fields that are not the data of a metric are found in steps, and counted."""

    def steps(fields: int) -> list[None]:
        unknown = b"\x78\x01" * fields
        metric = length_delimited(2, unknown + length_delimited(1, b"n" * 70_000))
        body = length_delimited(1, length_delimited(2, metric))
        return list(decode_steps(Signal.METRICS, Encoding.PROTOBUF, body))

    assert len(steps(9_000)) > 10
    with pytest.raises(ExportTooLarge, match="a metric of the export has more than 10000 values"):
        steps(11_000)


@pytest.mark.parametrize("signal", Signal)
def test_json_is_decoded_a_few_values_at_a_time(signal: Signal) -> None:
    """Records with many values are decoded one by one, others together."""
    document = json.loads(_encoded(signal, Encoding.JSON))
    many = [{"key": f"k{number}", "value": {"intValue": 1}} for number in range(400)]
    (resource,) = next(iter(document.values()))
    (scope,) = resource[next(name for name in resource if name.startswith("scope"))]
    for records in [
        *(scope[name] for name in ("logRecords", "spans") if name in scope),
        *(data["dataPoints"] for metric in scope.get("metrics", ()) for data in metric.values()),
    ]:
        records[:] = [{**records[0], "attributes": many} for _ in range(5)]
    export = decoded(signal, document)
    assert {part.count for part in export.parts} == {1}
    assert list(flatten(export)) == _flat_at_once(signal, as_protobuf(signal, document))


def test_metrics_without_records_are_decoded_a_few_at_a_time() -> None:
    """Thousands of tiny metrics are several parts."""
    metric = length_delimited(2, length_delimited(5, length_delimited(1, b"")))
    body = length_delimited(1, length_delimited(2, metric * 5000))
    export = decode_request(Signal.METRICS, Encoding.PROTOBUF, body)
    assert max(part.count for part in export.parts) == FIELDS_AT_ONCE


@pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")
@pytest.mark.parametrize("place", [b"%b", b'{"resourceLogs":[%b]}', b'{"resourceLogs":[{"x":%b}]}'])
def test_json_with_many_keys_is_parsed_in_pieces(place: bytes) -> None:
    """Each step parses one of the pieces, wherever the keys are; unknown ones are ignored."""
    keys = b"{%b}" % b",".join(b'"%06d":1' % number for number in range(9000))
    body = place % keys
    steps = decode_steps(Signal.LOGS, Encoding.JSON, body)
    assert len(list(steps)) > len(body) // PIECE_BYTES
    assert list(flatten(decode_request(Signal.LOGS, Encoding.JSON, body))) == []


def test_values_of_json_are_counted_before_they_are_parsed() -> None:
    """The limit applies to the whole document."""
    body = b'{"resourceLogs":[' + b"{}," * MAX_JSON_VALUES + b"{}]}"
    with pytest.raises(UserError, match=f"more than {MAX_JSON_VALUES} values") as caught:
        decode_request(Signal.LOGS, Encoding.JSON, body)
    assert caught.value.status == 413


def test_shared_parts_are_counted_before_they_are_repeated() -> None:
    """A resource, a scope or the name of a metric counts once per record that has it."""
    text = "x" * 50_000
    resource = {"attributes": [{"key": "k", "value": {"stringValue": text}}]}
    allowed = MAX_REPEATED_BYTES // len(text) - 1

    def check(signal: Signal, document: Any) -> None:
        list(check_repeated_steps(decoded(signal, document)))

    def repeated(count: int) -> Any:
        scope: Any = {"logRecords": [{}] * count}
        return {"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]}

    check(Signal.LOGS, repeated(allowed - 1))
    for signal, document in [
        (Signal.LOGS, repeated(allowed + 2)),
        (
            Signal.TRACES,
            {
                "resourceSpans": [
                    {"scopeSpans": [{"scope": {"name": text}, "spans": [{}] * (allowed + 2)}]}
                ]
            },
        ),
        (
            Signal.METRICS,
            {
                "resourceMetrics": [
                    {
                        "scopeMetrics": [
                            {
                                "metrics": [
                                    {
                                        "description": text,
                                        "gauge": {"dataPoints": [{}] * (allowed + 2)},
                                    }
                                ]
                            }
                        ]
                    }
                ]
            },
        ),
    ]:
        with pytest.raises(ExportTooLarge, match="counted once for each record") as caught:
            check(signal, document)
        assert caught.value.status == 413


@pytest.mark.parametrize("body", [b"[]", b"1", b'{"resourceLogs":[{"resource":1}]}', b"[" * 5000])
def test_json_that_is_no_export_is_refused(body: bytes) -> None:
    """Valid JSON, but no export request."""
    with pytest.raises(UserError, match="cannot decode OTLP logs payload"):
        decode_request(Signal.LOGS, Encoding.JSON, body)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"timeUnixNano": "x"}, "timeUnixNano: expected an integer"),
        ({"timeUnixNano": 1.5}, "timeUnixNano: expected an integer"),
        ({"timeUnixNano": -1}, "timeUnixNano: the number is out of range"),
        ({"flags": "a"}, "flags: expected an integer"),
        ({"severityText": 5}, "severityText: expected text"),
        ({"body": 5}, "body: expected an object"),
        ({"body": {"boolValue": "x"}}, "body: expected true or false"),
        ({"body": {"doubleValue": "x"}}, "body: expected a number"),
        ({"body": {"stringValue": "a", "intValue": 1}}, "body: there are several values"),
        ({"body": {"arrayValue": {"values": 5}}}, "body.values: expected an array"),
        ({"attributes": 5}, "attributes: expected an array"),
        ({"attributes": [5]}, "attributes: expected an object"),
    ],
)
def test_members_of_wrong_types_are_named(record: Any, reason: str) -> None:
    """The message says where the member is and what is expected, without a type of Python."""
    with pytest.raises(UserError) as caught:
        decoded(Signal.LOGS, logs(record))
    assert str(caught.value) == f"cannot decode OTLP logs payload: log_records.{reason}"


_ANY_VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "stringValue",
                    "intValue",
                    "arrayValue",
                    "kvlistValue",
                    "values",
                    "key",
                    "value",
                    "x",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
_MEMBERS_OF_LOGS = ["timeUnixNano", "severityNumber", "severityText", "body", "attributes", "flags"]


@given(st.dictionaries(st.sampled_from(_MEMBERS_OF_LOGS), _ANY_VALUES))
def test_no_message_shows_python(record: Any) -> None:
    """Whatever is in a record: it is decoded, or the reason is one of this package."""
    try:
        decode_request(Signal.LOGS, Encoding.JSON, json.dumps(logs(record)).encode())
    except UserError as error:
        for word in ("int()", "object is", "bytes-like", "'", "opentelemetry", "Failed", ".."):
            assert word not in error.message


def test_damaged_protobuf_is_refused() -> None:
    """The reason names no type of a library."""
    with pytest.raises(UserError) as caught:
        decode_request(Signal.LOGS, Encoding.PROTOBUF, b"\xff\xff")
    assert str(caught.value) == ("cannot decode OTLP logs payload: the protobuf message is damaged")


def test_deep_values_are_refused() -> None:
    """Deep values are refused before they exhaust the stack."""
    value: Any = {"stringValue": "x"}
    for _ in range(300):
        value = {"arrayValue": {"values": [value]}}
    with pytest.raises(UserError, match="cannot decode OTLP logs payload"):
        decoded(Signal.LOGS, logs({"body": value}))


def test_content_types() -> None:
    """Parameters and case have no effect."""
    assert read_encoding("application/x-protobuf") is Encoding.PROTOBUF
    assert read_encoding("Application/Protobuf; a=b") is Encoding.PROTOBUF
    assert read_encoding("application/json;charset=utf-8") is Encoding.JSON
    with pytest.raises(UserError) as caught:
        read_encoding("text/plain")
    assert (caught.value.status, caught.value.name) == (415, "unsupportedMediaType")
