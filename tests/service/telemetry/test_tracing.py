"""Traces: spans as a collector gets them, the caller's trace continued, and a collector that is away."""

import asyncio
import time

import httpx
import pytest

from service.errors import ConfigurationError
from service.settings import load_settings
from service.telemetry.tracing import Tracing, open_tracing
from tests.waiting import wait_for

pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")
from benchmarks.collector import collecting

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STEPS = {"total": 20.0, "history": 4.0, "find": 12.0, "queue": 2.0, "encode": 5.0, "search": 3.0, "merge": 1.0}


def parent(flags="01", trace_id=TRACE_ID):
    return [(b"host", b"a"), (b"traceparent", f"00-{trace_id}-{SPAN_ID}-{flags}".encode())]


def traced(share, headers, count=1):
    """The spans of so many requests, as the collector got them."""
    with collecting() as (url, spans):
        tracing = Tracing(url, share)
        for number in range(count):
            if trace := tracing.begin(headers):
                trace.note_steps(STEPS)
                trace.end("/recall", "POST", 200, f"r{number}")
        asyncio.run(tracing.close())
    return spans


def test_a_span_a_step_under_that_of_the_request():
    spans = {span.name: span for span in traced(1.0, [])}
    root, engine = spans["POST /recall"], spans["engine"]
    assert {*spans} == {"POST /recall", "history", "engine", "queue", "encode", "search", "merge"}
    assert (root.parent_span_id, engine.parent_span_id, spans["encode"].parent_span_id) == (
        b"",
        root.span_id,
        engine.span_id,
    )
    took_ms = {name: (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6 for name, span in spans.items()}
    assert {name: took_ms[name] for name in ("history", "encode", "engine")} == pytest.approx(
        {"history": 4.0, "encode": 5.0, "engine": 12.0}
    )
    # one behind the other, the last ends with the engine
    ends = [spans[name].end_time_unix_nano for name in ("queue", "encode", "search", "merge")]
    assert ends == sorted(ends)
    assert ends[-1] == engine.end_time_unix_nano <= root.end_time_unix_nano
    told = {attribute.key: attribute.value.string_value or attribute.value.int_value for attribute in root.attributes}
    assert told == {
        "http.request.method": "POST",
        "http.route": "/recall",
        "http.response.status_code": 200,
        "recall.request_id": "r0",
    }


def test_the_callers_trace_goes_on_and_the_caller_decides():
    root = next(span for span in traced(0.0, parent()) if span.name == "POST /recall")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE_ID, SPAN_ID)
    assert traced(1.0, parent("00")) == []


@pytest.mark.parametrize("headers", [parent(trace_id="0" * 32), [(b"traceparent", b"01-x")], []])
def test_without_a_callers_trace_the_share_decides(headers):
    assert traced(0.0, headers) == []
    assert len({span.trace_id for span in traced(1.0, headers, 3)}) == 3


def test_about_the_share_is_traced():
    assert 20 < len({span.trace_id for span in traced(0.1, [], 500)}) < 100


def test_a_collector_that_is_away_holds_nobody_up(capfd):
    tracing = Tracing("http://127.0.0.1:9/v1/traces", 1.0)
    began = time.monotonic()
    for _ in range(100):
        tracing.begin([]).end("/recall", "POST", 200, None)
    assert time.monotonic() - began < 10
    asyncio.run(tracing.close())
    assert "Traceback" not in capfd.readouterr().err


def test_settings_that_mean_nothing_are_refused():
    assert open_tracing(load_settings()) is None
    for wrong in (
        {"traces_share": 0.5},
        {"traces_url": "collector:4318"},
        {"traces_url": "http://a", "traces_share": 2},
    ):
        with pytest.raises(ConfigurationError, match="traces_"):
            load_settings(**wrong)


def test_a_service_sends_its_requests_and_no_ids(launch, arm_options, known):
    options = (*arm_options, "--redis-url", "memory", "--request-timeout-ms", "30000")
    with collecting() as (url, spans), launch(*options, "--traces-url", url, "--traces-share", "0") as served:
        body = {"user_id": "user-of-nobody", "history": known[:3], "top_n": 3}
        headers = {"traceparent": parent()[1][1].decode()}
        assert httpx.post(f"{served.url}/recall", json=body, headers=headers, timeout=60).status_code == 200
        assert httpx.post(f"{served.url}/recall", json=body, timeout=60).status_code == 200
        assert served.stop() == 0
        wait_for(lambda: spans)
    assert {span.trace_id.hex() for span in spans} == {TRACE_ID}
    assert {"POST /recall", "engine", "encode"} <= {span.name for span in spans}
    text = "".join(map(str, spans))
    assert "user-of-nobody" not in text
    assert str(known[0]) not in text
