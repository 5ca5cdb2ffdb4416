"""Ids that a caller gives: found in the log where they are well-formed, and nowhere where they are not."""

import pytest

from service.http.observe import caller_ids

TRACE = b"0af7651916cd43dd8448eb211c80319c"


def test_well_formed_ids_are_taken():
    headers = [
        (b"host", b"a"),
        (b"x-request-id", b"feed-7.a_B"),
        (b"traceparent", b"00-%s-b7ad6b7169203331-01" % TRACE),
    ]
    assert caller_ids(headers) == {"caller_request_id": "feed-7.a_B", "trace_id": TRACE.decode()}


@pytest.mark.parametrize("value", [b"", b"a" * 65, b"a b", b'a","user":"u', b"a\xff", b"a\nb", "é".encode()])
def test_other_ids_are_left_out(value):
    assert caller_ids([(b"x-request-id", value)]) == {}


@pytest.mark.parametrize(
    "value", [TRACE, b"00-%s-01" % TRACE, b"ff-%s-b7ad6b7169203331-01" % TRACE, b"00-%s-x-01" % TRACE]
)
def test_other_traces_are_left_out(value):
    assert caller_ids([(b"traceparent", value)]) == {}


def test_answers_are_not_to_be_sniffed(client):
    assert client.get("/health").headers["x-content-type-options"] == "nosniff"
