"""
The rules of gRPC over HTTP/2 with real bytes on a real socket. The number in a test's name is the
rule's in the list of what a conforming gRPC server does (request headers 1 to 13, messages 14 to
20, answers 21 to 29, connection 30 to 35); a comment names the source. Rules 30 to 32 are in
test_keepalive.py, 33 is in test_drain.py, and what happens to hostile peers in test_hostile.py.
"""

import gzip
import re
import socket
import struct
import time
import urllib.parse
import zlib
from pathlib import Path

import pytest

from harness.h2 import (
    CONTINUATION,
    DATA,
    EMPTY_REQUEST,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    INTERNAL_ERROR,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    NO_ERROR,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    CANCEL,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    RawH2,
    frame,
    message,
    request_headers,
    settings_frame,
)
from harness.stocks import Chain
from harness.wait import wait_until

INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 3, 4, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14

PACED = {"interval": "5ms"}
RULES = 35


def test_every_rule_has_a_test():
    folder = Path(__file__).parent
    text = "".join(path.read_text() for path in sorted(folder.glob("test_*.py")))
    tested = {int(number) for number in re.findall(r"^def test_rule_(\d\d)_", text, re.MULTILINE)}
    assert tested == set(range(1, RULES + 1))


@pytest.fixture
def stockd(start_stockd):
    return start_stockd(stream=PACED)


@pytest.fixture
def h2(stockd):
    with RawH2(stockd.port) as connection:
        yield connection.ready()


def assert_refused(stream, http_status, grpc_status):
    """Trailers-Only: one HEADERS frame with END_STREAM (rule 22)."""
    assert stream.frames[0] == HEADERS and DATA not in stream.frames
    assert len(stream.blocks) == 1 and stream.end_blocks == [True]
    assert stream.http_status == http_status, stream.headers
    assert stream.status == grpc_status, stream.headers


def assert_served(h2, stream, count=3):
    """The call is taken: updates come."""
    chain = Chain()
    h2.wait_updates(stream, count, chain)
    assert stream.http_status == 200
    assert not stream.over
    stream.reset()


# --- Request headers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{"_authority": ["one", "two"]}, {"host": ["one", "two"]}],
    ids=["authority", "host"],
)
def test_rule_01_two_hosts_are_refused(stockd, h2, changes):
    # gRFC A41. HTTP/2 itself already calls it malformed (RFC 9113, 8.3), so a reset is right too.
    stream = h2.answer(request_headers(**changes))
    if stream.rst is not None and not stream.blocks:
        assert stream.rst == PROTOCOL_ERROR
    else:
        assert stream.http_status == 400 and stream.status == INTERNAL
    # It concerned that stream alone.
    assert_served(h2, h2.call())


def test_rule_02_connection_header_resets_the_stream(h2):
    # gRFC A41; RFC 9113, 8.2.2.
    stream = h2.answer(request_headers(connection="keep-alive"))
    assert stream.rst == PROTOCOL_ERROR and not stream.blocks
    assert_served(h2, h2.call())


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/grpc-web", "application/grpcx", "application/json", "", None],
)
def test_rule_03_other_content_types_are_415(h2, content_type):
    # PROTOCOL-HTTP2.md, Requests.
    assert_refused(h2.answer(request_headers(content_type=content_type)), 415, INVALID_ARGUMENT)


@pytest.mark.parametrize(
    "content_type",
    ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"],
)
def test_rule_03_grpc_content_types_are_taken(h2, content_type):
    assert_served(h2, h2.call(request_headers(content_type=content_type)))


@pytest.mark.parametrize("timeout", ["", "1", "123456789S", "+5S", "-1S", "5s", "5 S", "S", "1.5S"])
def test_rule_04_malformed_timeouts_are_400(h2, timeout):
    assert_refused(h2.answer(request_headers(grpc_timeout=timeout)), 400, INTERNAL)


@pytest.mark.parametrize("value", ["*", "AQI*", "A", "AAAAA", "AQID,A"])
def test_rule_04_malformed_binary_metadata_is_400(h2, value):
    assert_refused(h2.answer(request_headers(some_bin=value)), 400, INTERNAL)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "post"])
def test_rule_05_other_methods_than_post_are_405(h2, method):
    assert_refused(h2.answer(request_headers(_method=method)), 405, INTERNAL)


@pytest.mark.parametrize(
    "path",
    [
        "/stockservice.StockService/Nothing",
        "/no.Service/GetUpdates",
        "/stockservice.StockService/getupdates",
        "/stockservice.StockService/GetUpdates/",
        "/stockservice.StockService/",
        "/stockservice.StockService",
        "/",
        "//",
        "/" + "x" * 3000 + "/y",
    ],
    ids=lambda path: path[:40],
)
def test_rule_06_unknown_methods_are_unimplemented(stockd, h2, path):
    assert_refused(h2.answer(request_headers(path)), 200, UNIMPLEMENTED)
    # Paths are the attacker's choice: they share one label.
    metrics = stockd.metrics()
    assert metrics.sum("grpc_server_handled_total", grpc_code="Unimplemented") == 1
    assert "Nothing" not in {
        sample.labels["grpc_method"] for sample in metrics.find("grpc_server_handled_total")
    }


def test_rule_07_missing_te_is_accepted(h2):
    assert_served(h2, h2.call(request_headers(te=None)))


@pytest.mark.parametrize(
    "timeout", ["99999999H", "1H", "99999999M", "30S", "30000m", "30000000u", "99999999n"]
)
def test_rule_08_timeouts_are_understood(h2, timeout):
    stream = h2.call(request_headers(grpc_timeout=timeout))
    if timeout == "99999999n":  # 100 ms: long enough for some updates, then over
        h2.wait_over(stream)
        assert stream.status == DEADLINE_EXCEEDED
    else:
        assert_served(h2, stream)


@pytest.mark.parametrize("timeout", ["0n", "0S", "00000000H"])
def test_rule_08_a_timeout_of_zero_is_over_at_once(h2, timeout):
    assert_refused(h2.answer(request_headers(grpc_timeout=timeout)), 200, DEADLINE_EXCEEDED)


def test_rule_08_a_deadline_ends_the_stream(stockd, h2):
    began = time.monotonic()
    stream = h2.answer(request_headers(grpc_timeout="200m"))
    assert time.monotonic() - began >= 0.19
    assert stream.status == DEADLINE_EXCEEDED and stream.ended
    assert Chain().check_bytes(stream.take_bodies()) > 0
    assert stream.partial_bytes == 0
    assert stockd.metric("grpc_server_handled_total", grpc_code="DeadlineExceeded") == 1


@pytest.mark.parametrize("encoding", ["deflate", "snappy", "x", "GZIP", ""])
def test_rule_09_unknown_encodings_are_answered_with_the_known_ones(h2, encoding):
    # compression.md
    stream = h2.answer(request_headers(grpc_encoding=encoding))
    assert_refused(stream, 200, UNIMPLEMENTED)
    assert stream.headers["grpc-accept-encoding"] == "identity,gzip"


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_rule_09_known_encodings_are_taken(h2, encoding):
    assert_served(h2, h2.call(request_headers(grpc_encoding=encoding)))


@pytest.mark.parametrize("value", ["AQI=", "AQI", "AQID", "AQ==", "AQ", "", "AQI=,AQID", "AQI,AQ"])
def test_rule_10_binary_metadata_padded_or_not(h2, value):
    assert_served(h2, h2.call(request_headers(some_bin=value)))


def test_rule_11_unknown_grpc_headers_are_ignored_and_nothing_is_echoed(h2):
    sent = {
        "grpc_whatever": "1",
        "grpc_tags_bin": "AAAA",
        "grpc_trace_bin": "AAAA",
        "grpc_message": "no",
        "grpc_status": "5",
        "x_custom": "mine",
    }
    stream = h2.call(request_headers(**sent))
    h2.wait_updates(stream, 3, Chain())
    assert not {name.replace("_", "-") for name in sent} & set(stream.headers)


@pytest.mark.parametrize("agent", [None, "", "x" * 4000, 'odd "\\ \t agent'])
def test_rule_12_the_user_agent_is_free(h2, agent):
    assert_served(h2, h2.call(request_headers(user_agent=agent)))


def test_rule_12_the_user_agent_is_logged_and_cut(start_stockd):
    stockd = start_stockd(stream=PACED, log={"level": "debug"})
    with RawH2(stockd.port) as h2:
        h2.ready()
        assert_served(h2, h2.call(request_headers(user_agent="probe/1 " + "x" * 4000)))
    wait_until(lambda: "/stockservice.StockService/GetUpdates by probe/1 x" in stockd.log())
    assert "x" * 128 not in stockd.log()


def test_rule_08_goes_before_rule_09(h2):
    """A deadline that has passed is told even where the encoding is unknown."""
    answer = h2.answer(request_headers(grpc_timeout="0n", grpc_encoding="gzip"))
    assert answer.status == DEADLINE_EXCEEDED


def test_unfinished_requests_share_a_bound(start_stockd):
    """Messages that never become whole: a limit stands on all of them together."""
    stockd = start_stockd(stream=PACED, grpc={"max_streams": "2000"})
    before = stockd.private_bytes()
    part = b"\0" + struct.pack(">I", 4 << 20) + bytes(40000)
    with RawH2(stockd.port) as h2, RawH2(stockd.port) as other:
        h2.ready()
        streams = [h2.begin() for _ in range(1100)]  # each takes 64 KiB of 64 MiB
        for stream in streams:
            for at in range(0, len(part), 16384):
                stream.send(part[at : at + 16384])
            h2.ping()  # by then the connection has its credit back
        refused = [stream for stream in streams if stream.status == RESOURCE_EXHAUSTED]
        assert 70 <= len(refused) <= 110
        assert stockd.metric("stockd_queued_bytes", place="request") <= 64 << 20
        assert stockd.private_bytes() - before < 128 << 20
        assert_served(other.ready(), other.call())
    stockd.wait_at_rest()


def test_rule_13_headers_over_the_limit_are_resource_exhausted(stockd, h2):
    # Size as HTTP/2 counts it: name + value + 32 for each field (RFC 9113, 6.5.2).
    def size(headers):
        return sum(len(name) + len(value) + 32 for name, value in headers)

    base = size(request_headers(x_filler=""))
    assert_served(h2, h2.call(request_headers(x_filler="x" * (8192 - base))))
    assert_refused(
        h2.answer(request_headers(x_filler="x" * (8193 - base))), 200, RESOURCE_EXHAUSTED
    )
    # Many small fields count too.
    many = request_headers() + [(f"x-{i}", "v") for i in range(300)]
    assert size(many) > 8192
    assert_refused(h2.answer(many), 200, RESOURCE_EXHAUSTED)
    assert_served(h2, h2.call())


def test_rule_13_the_limit_is_a_setting(start_stockd):
    stockd = start_stockd(stream=PACED, grpc={"max_header_bytes": "1K"})
    with RawH2(stockd.port) as h2:
        h2.ready()
        assert h2.peer_settings[MAX_HEADER_LIST_SIZE] == 1024
        assert_served(h2, h2.call())
        stream = h2.answer(request_headers(x_filler="x" * 1024))
        assert_refused(stream, 200, RESOURCE_EXHAUSTED)


def test_rule_13_a_header_bomb_is_not_decoded(stockd, h2):
    """
    A small block that stands for many megabytes of header fields: one field in the dynamic table,
    referred to again and again.
    """
    before = stockd.cpu_seconds()
    big = h2.encoder.encode(request_headers() + [("x-bomb", "b" * 3000)])
    index = bytes([0x80 | 62])  # the newest entry of the dynamic table
    stream = h2.stream(h2.next_stream)
    h2.next_stream += 2
    h2.send(frame(HEADERS, END_HEADERS | END_STREAM, stream.id, big + index * 10000))
    try:
        h2.wait_over(stream)
    except AssertionError:
        assert h2.goaway, "neither the stream nor the connection was refused"
    else:
        if stream.rst is None or stream.blocks:
            assert stream.status == RESOURCE_EXHAUSTED
    assert stockd.cpu_seconds() - before < 0.5
    with RawH2(stockd.port) as other:
        assert_served(other.ready(), other.call())


def test_rule_13_endless_continuation_is_cut_off(stockd):
    with RawH2(stockd.port) as h2:
        h2.ready()
        h2.send(frame(HEADERS, 0, 1, h2.header_block(request_headers())))
        filler = b"\x00\x01x" + b"\x7f\x80\x01" + b"y" * 255  # a literal field of 255 bytes
        for _ in range(1000):
            if h2.eof or h2.goaway or not h2.send(frame(CONTINUATION, 0, 1, filler)):
                break
            h2.pump(0)
        h2.wait_closed()
    stockd.wait_metric("stockd_connections", 0)
    assert stockd.private_bytes() < 512 << 20
    assert sum(stockd.metrics().by("stockd_connections_closed_total", "reason").values()) == 1


def test_rule_13_headers_in_many_frames(h2):
    """HEADERS with padding and priority, and a CONTINUATION for every few bytes."""
    block = h2.header_block(request_headers(x_filler="f" * 500))
    pieces = [block[start : start + 100] for start in range(0, len(block), 100)]
    stream = h2.stream(h2.next_stream)
    h2.next_stream += 2
    priority = struct.pack(">IB", 0, 15)
    many = frame(HEADERS, 0x8 | 0x20, stream.id, b"\x03" + priority + pieces[0] + bytes(3))
    for piece in pieces[1:-1]:
        many += frame(CONTINUATION, 0, stream.id, piece)
    many += frame(CONTINUATION, END_HEADERS, stream.id, pieces[-1])
    assert len(pieces) > 3
    h2.send(many + frame(DATA, END_STREAM, stream.id, EMPTY_REQUEST))
    assert_served(h2, stream)


@pytest.mark.parametrize(
    "headers",
    [
        request_headers(_path=None),
        request_headers(_method=None),
        request_headers(_scheme=None),
        request_headers(_path=["/a/b", "/a/b"]),
        [*request_headers(), (":late", "x")],
        [*request_headers(), ("Upper", "x")],
        [*request_headers(), ("transfer-encoding", "chunked")],
        [*request_headers(te="gzip")],
        [*request_headers(), ("", "empty name")],
        [*request_headers(), ("x-bad", "line\nbreak")],
    ],
    ids=[
        "no path",
        "no method",
        "no scheme",
        "two paths",
        "late pseudo-header",
        "upper case",
        "transfer-encoding",
        "te",
        "empty name",
        "line break",
    ],
)
def test_malformed_requests_are_refused_alone(h2, headers):
    """RFC 9113, 8.1.1 and 8.3: an error of the stream, not of the connection."""
    beside = h2.call()
    stream = h2.answer(headers)
    if stream.rst is not None:
        assert stream.rst == PROTOCOL_ERROR and not stream.blocks
    else:
        assert stream.status not in (None, 0) and not stream.data_bytes
    assert_served(h2, beside)


# --- Messages ---------------------------------------------------------------------------------

# An EmptyRequest with a field that it does not know: valid, to be skipped.
UNKNOWN_FIELD = bytes([15 << 3 | 2, 10]) + b"0123456789"


def test_rule_14_a_request_byte_by_byte(h2):
    stream = h2.begin()
    request = message(UNKNOWN_FIELD)
    for i in range(len(request)):
        stream.send(request[i : i + 1], end=i == len(request) - 1)
    assert_served(h2, stream)


def test_rule_14_every_split_of_prefix_and_body(h2):
    request = message(UNKNOWN_FIELD)
    for cut in range(len(request) + 1):
        stream = h2.begin()
        stream.send(request[:cut])
        stream.send(request[cut:], end=True)
        assert_served(h2, stream, 1)


def test_rule_14_everything_in_one_segment(stockd):
    """Preface, SETTINGS, and five requests in one write."""
    with RawH2(stockd.port, preface=False) as h2:
        bytes_ = PREFACE + settings_frame({})
        for stream in (1, 3, 5, 7, 9):
            bytes_ += frame(HEADERS, END_HEADERS, stream, h2.header_block(request_headers()))
            bytes_ += frame(DATA, END_STREAM, stream, EMPTY_REQUEST)
        h2.send(bytes_)
        for stream in (1, 3, 5, 7, 9):
            assert_served(h2, h2.stream(stream), 2)


def test_rule_14_a_connection_byte_by_byte(stockd):
    with RawH2(stockd.port, preface=False) as h2:
        bytes_ = PREFACE + settings_frame({})
        bytes_ += frame(HEADERS, END_HEADERS, 1, h2.header_block(request_headers()))
        bytes_ += frame(DATA, END_STREAM, 1, EMPTY_REQUEST)
        for i in range(len(bytes_)):
            h2.send(bytes_[i : i + 1])
        assert_served(h2, h2.stream(1))


def test_rule_14_padded_data(h2):
    stream = h2.begin()
    h2.send(frame(DATA, END_STREAM | 0x8, stream.id, b"\x07" + EMPTY_REQUEST + bytes(7)))
    assert_served(h2, stream)


@pytest.mark.parametrize("length", [4 * 1024 * 1024 + 1, 2**32 - 1])
def test_rule_15_too_long_is_told_from_the_prefix(stockd, h2, length):
    before = stockd.private_bytes()
    stream = h2.begin()
    stream.send(message(b"", length=length))
    h2.wait_over(stream)
    assert stream.status == RESOURCE_EXHAUSTED
    assert stockd.private_bytes() - before < 2 << 20
    assert_served(h2, h2.call())


def test_rule_15_what_is_only_declared_is_not_allocated(stockd, h2):
    before = stockd.private_bytes()
    for _ in range(50):
        h2.begin().send(message(b"", length=4 * 1024 * 1024))
    h2.ping()
    assert stockd.private_bytes() - before < 8 << 20
    assert_served(h2, h2.call())


def test_rule_15_the_maximum_is_a_setting(start_stockd):
    stockd = start_stockd(stream=PACED, grpc={"max_message_bytes": "1K"})
    with RawH2(stockd.port) as h2:
        h2.ready()
        body = bytes([15 << 3 | 2, 0x80 | (1021 & 0x7F), 1021 >> 7]) + bytes(1021)
        assert len(body) == 1024
        assert_served(h2, h2.call(body=message(body)))
        stream = h2.answer(body=message(bytes(1025)))
        assert stream.status == RESOURCE_EXHAUSTED


def test_rule_15_the_longest_message_is_taken(h2):
    """4 MiB through a window that stockd must open as it reads."""
    size = 4 * 1024 * 1024
    length = size - 5
    varint = b""
    while length > 0x7F:
        varint += bytes([length & 0x7F | 0x80])
        length >>= 7
    varint += bytes([length])
    body = bytes([15 << 3 | 2]) + varint
    body += bytes(size - len(body))
    request = message(body)
    stream = h2.begin()
    window = {0: 65535, stream.id: h2.peer_settings.get(INITIAL_WINDOW_SIZE, 65535)}
    position = 0
    seen = 0
    while position < len(request):
        for where, size in h2.window_updates[seen:]:
            if where in window:
                window[where] += size
        seen = len(h2.window_updates)
        take = min(window[0], window[stream.id], 16384, len(request) - position)
        if take == 0:
            h2.wait(lambda: len(h2.window_updates) > seen, what="window for the request")
            continue
        end = position + take == len(request)
        stream.send(request[position : position + take], end=end)
        position += take
        window[0] -= take
        window[stream.id] -= take
    assert_served(h2, stream)


def test_rule_16_compressed_without_an_encoding(h2):
    assert h2.answer(body=message(b"", flag=1)).status == INTERNAL


@pytest.mark.parametrize("flag", [2, 3, 0x80, 255])
def test_rule_16_unknown_flags(h2, flag):
    assert h2.answer(body=message(b"", flag=flag)).status == INTERNAL


def test_rule_16_identity_with_the_compressed_flag(h2):
    stream = h2.answer(request_headers(grpc_encoding="identity"), message(b"", flag=1))
    assert stream.status == INTERNAL


GZIP = {"grpc_encoding": "gzip"}


@pytest.mark.parametrize("body", [b"", UNKNOWN_FIELD], ids=["empty", "a field"])
def test_rule_16_a_compressed_request(h2, body):
    request = message(gzip.compress(body), flag=1)
    assert_served(h2, h2.call(request_headers(**GZIP), request))
    # It may come in any pieces, as others may.
    stream = h2.begin(request_headers(**GZIP))
    for byte in request:
        stream.send(bytes([byte]))
    stream.send(b"", end=True)
    assert_served(h2, stream)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no gzip at all",
        gzip.compress(UNKNOWN_FIELD)[:-1],
        gzip.compress(UNKNOWN_FIELD) + b"x",
        gzip.compress(UNKNOWN_FIELD) * 2,
        gzip.compress(UNKNOWN_FIELD)[:-8] + bytes(8),
        zlib.compress(UNKNOWN_FIELD),
    ],
    ids=["nothing", "garbage", "cut", "more behind it", "twice", "checksum", "zlib"],
)
def test_rule_16_corrupt_gzip(h2, body):
    assert h2.answer(request_headers(**GZIP), message(body, flag=1)).status == INTERNAL
    assert_served(h2, h2.call())


def test_rule_16_a_gzip_bomb_stops_at_the_maximum(stockd, h2, sanitized):
    """A hundred times 12 MiB from 12 KiB each: none is held, and the next caller is served."""
    bomb = message(gzip.compress(bytes(12 << 20)), flag=1)
    before = stockd.private_bytes()
    for _ in range(100):
        assert h2.answer(request_headers(**GZIP), bomb).status == RESOURCE_EXHAUSTED
    assert sanitized or stockd.private_bytes() - before < 8 << 20
    assert_served(h2, h2.call())


def test_rule_16_the_maximum_counts_decompressed(start_stockd):
    stockd = start_stockd(stream=PACED, grpc={"max_message_bytes": "1K"})
    with RawH2(stockd.port) as h2:
        h2.ready()
        body = bytes([15 << 3 | 2, 0x80 | (1021 & 0x7F), 1021 >> 7]) + bytes(1021)
        assert_served(h2, h2.call(request_headers(**GZIP), message(gzip.compress(body), flag=1)))
        more = message(gzip.compress(body + bytes(1)), flag=1)
        assert h2.answer(request_headers(**GZIP), more).status == RESOURCE_EXHAUSTED


@pytest.mark.parametrize("body", [b"", EMPTY_REQUEST * 2, EMPTY_REQUEST * 3])
def test_rule_17_not_one_request(h2, body):
    # statuscodes.md says UNIMPLEMENTED, grpc-go INTERNAL.
    assert h2.answer(body=body).status in (UNIMPLEMENTED, INTERNAL)


def test_rule_17_no_request_at_all(h2):
    stream = h2.wait_over(h2.begin(end=True))
    assert stream.status in (UNIMPLEMENTED, INTERNAL)


@pytest.mark.parametrize("cut", range(1, 17))
def test_rule_18_the_end_inside_a_message(h2, cut):
    request = message(UNKNOWN_FIELD)
    assert cut < len(request)
    assert h2.answer(body=request[:cut]).status == INTERNAL


@pytest.mark.parametrize(
    "body",
    [b"\x07", b"\x00", b"\x0a\x05ab", b"\xff" * 11, b"\x08"],
    ids=["wire type", "field 0", "length", "varint", "no value"],
)
def test_rule_18_what_is_no_protobuf(h2, body):
    assert h2.answer(body=message(body)).status == INTERNAL


def test_rule_19_nothing_happens_before_the_half_close(h2):
    stream = h2.begin()
    stream.send(EMPTY_REQUEST)
    h2.ping()
    h2.ping()
    assert not stream.frames
    stream.send(b"", end=True)
    assert_served(h2, stream)


def test_rule_19_the_half_close_must_come_in_time(start_stockd):
    stockd = start_stockd(stream=PACED, grpc={"request_timeout": "300ms"})
    with RawH2(stockd.port) as h2:
        h2.ready()
        slow = h2.begin()
        slow.send(EMPTY_REQUEST)
        served = h2.call()
        h2.wait_over(slow)
        assert slow.rst is not None or slow.status not in (None, 0)
        # Those whose request is whole have no such limit.
        assert_served(h2, served, 80)


def test_rule_20_request_trailers_are_a_half_close(h2):
    stream = h2.begin()
    stream.send(EMPTY_REQUEST)
    h2.send_headers(stream.id, [("x-trailer", "1")], end=True)
    assert_served(h2, stream)


# --- Answers ----------------------------------------------------------------------------------


def test_rule_21_response_headers(h2):
    stream = h2.call(request_headers(grpc_timeout="200m"))
    h2.wait_over(stream)
    assert stream.frames[0] == HEADERS
    assert stream.headers[":status"] == "200"
    assert stream.headers["content-type"].startswith("application/grpc")
    assert "grpc-status" not in stream.headers
    assert stream.headers.get("grpc-encoding", "identity") == "identity"
    # Trailers: no pseudo-header, the status, the end.
    assert stream.end_blocks == [False, True]
    assert stream.trailers["grpc-status"] == str(DEADLINE_EXCEEDED)
    assert not any(name.startswith(":") for name in stream.trailers)
    # Field names are in lower case (RFC 9113, 8.2).
    assert all(name == name.lower() for block in stream.blocks for name, _ in block)


def test_rule_22_an_immediate_error_is_one_frame(h2):
    stream = h2.answer(request_headers("/no.Service/Method"))
    assert_refused(stream, 200, UNIMPLEMENTED)
    assert stream.headers["content-type"].startswith("application/grpc")


def test_rule_23_trailers_before_the_half_close_are_followed_by_a_reset(h2):
    stream = h2.begin(request_headers("/no.Service/Method"))
    h2.wait(lambda: stream.rst is not None, what="RST_STREAM")
    assert_refused(stream, 200, UNIMPLEMENTED)
    assert stream.rst == NO_ERROR
    assert stream.frames == [HEADERS, RST_STREAM]


def test_rule_23_no_reset_after_the_half_close(h2):
    stream = h2.answer(request_headers("/no.Service/Method"))
    h2.ping()
    assert stream.frames == [HEADERS]


@pytest.mark.parametrize(
    "path", ["/no.Service/100%", "/no.Service/é", "/no.Service/ü%ZZ", "/no.Service/日本"]
)
def test_rule_24_grpc_message_is_percent_encoded(h2, path):
    stream = h2.answer(request_headers(path))
    assert stream.status == UNIMPLEMENTED
    text = stream.trailers["grpc-message"]
    assert re.fullmatch(r"(?:[ -$&-~]|%[0-9A-F]{2})*", text), text
    decoded = urllib.parse.unquote(text, errors="strict")
    assert decoded


@pytest.mark.parametrize("accepted", ["gzip", "identity,gzip,deflate", "snappy", None])
def test_rule_25_nothing_is_compressed_unasked_and_flags_say_so(h2, accepted):
    stream = h2.call(request_headers(grpc_accept_encoding=accepted))
    h2.wait(lambda: stream.data_bytes > 300, what="updates")
    assert all(flag == 0 for flag, _ in stream.take_messages())
    assert stream.headers.get("grpc-encoding", "identity") == "identity"


@pytest.mark.parametrize(
    "accepted, compressed",
    [
        ("gzip", True),
        ("identity, deflate,gzip", True),
        ("identity", False),
        ("deflate", False),
        (None, False),
    ],
)
def test_rule_25_updates_are_compressed_for_those_who_take_it(start_stockd, accepted, compressed):
    """The setting is on: each message says by its flag what it is, and is never longer for it."""
    stockd = start_stockd(stream=PACED, grpc={"compress_updates": "yes"})
    chain = Chain()
    with RawH2(stockd.port) as h2:
        h2.ready()
        stream = h2.call(request_headers(grpc_accept_encoding=accepted))

        def enough():
            for flag, body in stream.take_messages():
                assert flag in ((0, 1) if compressed else (0,))
                if flag:
                    assert len(body) < len(gzip.decompress(body))
                    body = gzip.decompress(body)
                chain.check_bytes([body])
            return chain.count >= 20

        h2.wait(enough, what="updates")
        assert stream.headers.get("grpc-encoding") == ("gzip" if compressed else None)


def test_rule_26_headers_that_the_peer_will_not_take(stockd):
    with RawH2(stockd.port, settings={MAX_HEADER_LIST_SIZE: 16}) as h2:
        h2.ready()
        stream = h2.answer()
        assert not stream.blocks and stream.rst == INTERNAL_ERROR


def test_rule_27_a_deadline_ends_a_stream_whose_window_is_zero(stockd):
    """Trailers are not flow-controlled: they go out whatever the window."""
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 0}) as h2:
        h2.ready()
        stream = h2.answer(request_headers(grpc_timeout="200m"))
        assert stream.data_bytes == 0
        assert stream.ended and stream.status == DEADLINE_EXCEEDED


def test_rule_27_a_deadline_in_the_middle_of_a_message(stockd):
    """Trailers would cut a message in two: the stream is reset instead."""
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 50}) as h2:
        h2.ready()
        stream = h2.answer(request_headers(grpc_timeout="200m"))
        assert stream.data_bytes == 50
        assert stream.rst == CANCEL and not stream.ended
    stockd.wait_metric("grpc_server_handled_total", 1, grpc_code="DeadlineExceeded")


def stalling(start_stockd, timeout="600ms", interval="5ms"):
    return start_stockd(stream={"interval": interval}, grpc={"stall_timeout": timeout})


@pytest.mark.parametrize("interval", ["0", "5ms"])
def test_rule_28_put_out_at_a_message_boundary(start_stockd, interval):
    """Nothing of the message that waits has gone: trailers with 8 say why, and are not a reset."""
    stockd = stalling(start_stockd, interval=interval)
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 0}) as h2:
        h2.ready()
        began = time.monotonic()
        stream = h2.answer()
        assert time.monotonic() - began >= 0.6
        assert stream.ended and stream.rst is None and stream.data_bytes == 0
        assert stream.status == RESOURCE_EXHAUSTED
        assert "stall_timeout" in stream.trailers["grpc-message"]
        # It was that stream's window: the connection is as good as before.
        again = h2.call()
        again.give(10_000)
        assert_served(h2, again)
    metrics = stockd.metrics()
    assert metrics.sum("stockd_streams_stalled_total") == 1
    assert metrics.sum("grpc_server_handled_total", grpc_code="ResourceExhausted") == 1


@pytest.mark.parametrize("window", [1, 50, 150])
def test_rule_28_put_out_in_the_middle_of_a_message(start_stockd, window):
    """Trailers would cut a message in two: a reset, with the code that clients read as 8."""
    stockd = stalling(start_stockd)
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: window}) as h2:
        h2.ready()
        stream = h2.answer()
        assert stream.data_bytes == window and stream.partial_bytes > 0
        assert stream.rst == ENHANCE_YOUR_CALM and not stream.ended
        again = h2.call()
        again.give(10_000)
        assert_served(h2, again)
    stockd.wait_metric("grpc_server_handled_total", 1, grpc_code="ResourceExhausted")


def test_rule_28_the_window_of_the_connection_counts_too(start_stockd):
    """All calls of a client that gives no credit at all are put out; another's are not."""
    stockd = stalling(start_stockd, interval="0")
    with RawH2(stockd.port) as h2, RawH2(stockd.port) as other:
        other.auto_credit = True
        beside = other.ready().call()
        chain = Chain()
        h2.ready()
        streams = [h2.call() for _ in range(5)]
        while not all(stream.over for stream in streams):
            h2.pump(0.01)
            other.wait_updates(beside, chain.count + 1, chain)
        for stream in streams:
            assert stream.status == RESOURCE_EXHAUSTED or stream.rst == ENHANCE_YOUR_CALM
        assert sum(stream.data_bytes for stream in streams) == 65535
        assert not beside.over


def test_rule_28_who_takes_something_now_and_then_is_never_put_out(start_stockd):
    """
    One byte at a time, beside calls that take nothing and are put out: twice, so that the slow one
    has lived longer than any stalled one may.
    """
    stockd = stalling(start_stockd, "1s")
    for _ in range(5):
        with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 0}) as h2:
            h2.ready()
            slow = h2.call()
            longest, last, given = 0, time.monotonic(), 0
            for _ in range(2):
                dead = h2.call()
                while not dead.over:
                    slow.give(1)
                    given += 1
                    h2.wait(lambda: slow.data_bytes == given or slow.over, what="a byte")
                    longest = max(longest, time.monotonic() - last)
                    last = time.monotonic()
                    h2.pump(0.05)
            if longest > 0.7:
                continue  # this process stood still, and was itself the one that took nothing
            assert dead.status == RESOURCE_EXHAUSTED
            assert not slow.over and slow.data_bytes == given
            slow.give(10_000)
            h2.wait_updates(slow, 20, Chain())
            return
    raise AssertionError("this process stood still again and again")


def test_rule_28_no_policy_puts_nobody_out(start_stockd):
    stockd = stalling(start_stockd, "0")
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 50}) as h2:
        h2.ready()
        stream = h2.call()
        stockd.wait_metric(
            "stockd_blocked_seconds_total", lambda seconds: seconds > 1, reason="stream_window"
        )
        h2.ping()
        assert not stream.over and stream.data_bytes == 50
        stream.give(1000)
        h2.wait_updates(stream, 5, Chain())


def test_rule_28_who_has_nothing_to_take_is_not_stalled(start_stockd):
    """A window of zero, and no update for it: nothing waits, so nobody is to blame."""
    stockd = start_stockd(
        stream={"interval": "1h", "initial_delay": "1h"}, grpc={"stall_timeout": "200ms"}
    )
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 0}) as h2, RawH2(
        stockd.port, settings={INITIAL_WINDOW_SIZE: 0}
    ) as watching:
        stream = h2.ready().call()
        # Its answer waits, and so it is the clock for the other.
        watch = watching.ready().answer(request_headers("/grpc.health.v1.Health/Watch"))
        again = watching.answer(request_headers("/grpc.health.v1.Health/Watch"))
        assert watch.status == again.status == RESOURCE_EXHAUSTED
        h2.ping()
        assert not stream.over


def test_rule_29_a_reset_frees_the_call(stockd, h2):
    stream = h2.call()
    h2.wait_updates(stream, 3, Chain())
    stream.reset(CANCEL)
    h2.ping()
    # One turn later it is gone, and nothing more comes.
    metrics = stockd.metrics()
    assert metrics.sum("stockd_streams") == 0
    assert metrics.sum("grpc_server_handled_total", grpc_code="Canceled") == 1
    received = stream.data_bytes
    sent = metrics.sum("stock_updates_sent_total")
    for _ in range(3):
        h2.ping()
    assert stream.data_bytes == received
    assert stockd.metric("stock_updates_sent_total") == sent


@pytest.mark.parametrize("when", ["headers", "half request", "request", "blocked"])
def test_rule_29_a_reset_at_any_time(stockd, when):
    settings = {INITIAL_WINDOW_SIZE: 10} if when == "blocked" else {}
    with RawH2(stockd.port, settings=settings) as h2:
        h2.ready()
        for _ in range(30):
            if when in ("headers", "half request"):
                stream = h2.begin()
                if when == "half request":
                    stream.send(EMPTY_REQUEST[:3])
            else:
                stream = h2.call()
                if when == "blocked":
                    h2.wait(lambda s=stream: s.data_bytes == 10, what="10 bytes")
            stream.reset()
        h2.ping()
        assert stockd.metric("stockd_streams") == 0
        assert stockd.metric("stockd_blocked_streams") == 0
        if when == "blocked":
            h2.settings_acks = 0
            h2.send(settings_frame({INITIAL_WINDOW_SIZE: 65535}))
            h2.wait(lambda: h2.settings_acks, what="SETTINGS")
        assert_served(h2, h2.call())


# --- Connection -------------------------------------------------------------------------------


def read_to_end(sock, timeout=20):
    sock.settimeout(timeout)
    data = b""
    try:
        while True:
            more = sock.recv(65536)
            if not more:
                return data
            data += more
    except ConnectionResetError:
        return data


def closed_by(stockd, reason, count=1):
    stockd.wait_metric("stockd_connections_closed_total", count, reason=reason)
    assert stockd.metric("stockd_connections") == 0


BREACHES = [
    (frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
    (frame(PING, 0, 0, b"short"), 6),
    (frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)), FLOW_CONTROL_ERROR),
    (frame(DATA, 0, 1) * 11, ENHANCE_YOUR_CALM),
]
BREACH_NAMES = ["DATA on 0", "short PING", "window overflow", "empty DATA"]


@pytest.mark.parametrize("breach, code", BREACHES, ids=BREACH_NAMES)
def test_rule_34_goaway_reaches_a_client_that_goes_on_sending(stockd, breach, code):
    """What it still sends is read, so that no TCP reset destroys the GOAWAY before it is read."""
    with RawH2(stockd.port) as h2:
        h2.ready()
        h2.begin()
        h2.send(breach)
        # Not one byte is read until much has been sent: as a client would that uploads.
        filler = frame(DATA, 0, 1, bytes(1000)) * 20
        h2.socket.setblocking(True)
        h2.socket.settimeout(20)
        for _ in range(50):
            h2.socket.sendall(filler)
        h2.socket.setblocking(False)
        # It ends like any connection: everything that was said, and the end of file.
        while not h2.eof:
            assert h2.send(frame(PING, 0, 0, bytes(8))), "a reset came before the end"
            h2.pump(0.05)
        assert h2.goaway and h2.goaway[1] == code
        assert not h2.reset_by_peer
    stockd.wait_metric("stockd_connections", 0)
    assert sum(stockd.metrics().by("stockd_connections_closed_total", "reason").values()) == 1


@pytest.mark.parametrize("breach, code", BREACHES, ids=BREACH_NAMES)
def test_rule_34_the_connection_ends_in_about_a_second(stockd, breach, code):
    """Whatever the client does: one that neither reads nor closes is left behind."""
    with RawH2(stockd.port) as h2:
        h2.ready()
        h2.begin()
        began = time.monotonic()
        h2.send(breach)
        stockd.wait_metric("stockd_connections", 0)
        seconds = time.monotonic() - began
        # It had its second, and not ten of them, however busy this machine is.
        assert 0.9 <= seconds < 10
        h2.wait_closed()
        assert h2.goaway and h2.goaway[1] == code


def test_rule_34_a_client_that_closes_too_is_gone_at_once(stockd):
    """The second is for those who need it."""
    began = time.monotonic()
    for _ in range(20):
        with RawH2(stockd.port) as h2:
            h2.ready()
            h2.send(BREACHES[0][0])
            h2.wait_closed()
        stockd.wait_metric("stockd_connections", 0)
    assert time.monotonic() - began < 15


def test_rule_34_a_client_whose_socket_is_full(start_stockd):
    """The GOAWAY cannot be sent at all: the connection ends all the same."""
    stockd = start_stockd(stream={"interval": "0"}, grpc={"stall_timeout": "0"})
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 2**31 - 1}, receive_buffer=4096) as h2:
        h2.ready()
        h2.open_connection_window()
        h2.call()
        stockd.wait_metric("stockd_blocked_streams", 1, reason="socket")
        h2.send(frame(DATA, 0, 0, b"x"))
        stockd.wait_metric("stockd_connections", 0, 15)
    reasons = stockd.metrics().by("stockd_connections_closed_total", "reason")
    assert reasons["protocol_error"] == 1, reasons
    stockd.wait_at_rest()


@pytest.mark.parametrize(
    "sent", [b"", PREFACE[:10], PREFACE], ids=["nothing", "half", "no SETTINGS"]
)
def test_rule_35_no_preface_in_time(start_stockd, sent):
    stockd = start_stockd(grpc={"preface_timeout": "400ms"})
    with socket.create_connection(("127.0.0.1", stockd.port)) as sock:
        began = time.monotonic()
        sock.sendall(sent)
        read_to_end(sock)
        assert time.monotonic() - began >= 0.35
    closed_by(stockd, "preface_timeout")


def test_rule_35_with_a_preface_there_is_no_limit(start_stockd):
    stockd = start_stockd(stream=PACED, grpc={"preface_timeout": "300ms"})
    with RawH2(stockd.port) as h2:
        h2.ready()
        wait_until(
            lambda: time.time() - stockd.started_at > 1.5, what="more than the preface's time"
        )
        assert_served(h2, h2.call())


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /stockservice.StockService/GetUpdates HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"PRI * HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
    ],
    ids=["get", "post", "pri", "1.0"],
)
def test_rule_35_http_1_is_told_so(stockd, request_line):
    with socket.create_connection(("127.0.0.1", stockd.port)) as sock:
        sock.sendall(request_line)
        answer = read_to_end(sock)
    assert answer.startswith(b"HTTP/1.1 505 "), answer
    assert b"\r\n\r\n" in answer
    assert b"gRPC" in answer or b"HTTP/2" in answer
    closed_by(stockd, "bad_preface")


def test_rule_35_a_tls_hello_is_closed_and_counted(stockd):
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200))
    with socket.create_connection(("127.0.0.1", stockd.port)) as sock:
        sock.sendall(hello)
        read_to_end(sock)
    closed_by(stockd, "bad_preface")


@pytest.mark.parametrize(
    "garbage",
    [b"\x00", b"\n\n\n\n", b"\xff" * 10000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxxxxxxxxxxxxxx"],
    ids=["zero", "newlines", "ones", "after the preface"],
)
def test_rule_35_garbage_is_closed_and_counted(stockd, garbage):
    with socket.create_connection(("127.0.0.1", stockd.port)) as sock:
        sock.sendall(garbage)
        read_to_end(sock)
    stockd.wait_metric("stockd_connections", 0)
    reasons = stockd.metrics().by("stockd_connections_closed_total", "reason")
    assert reasons["bad_preface"] + reasons["protocol_error"] == 1


def test_the_first_frame_must_be_settings(stockd):
    with RawH2(stockd.port, preface=False) as h2:
        h2.send(PREFACE + frame(PING, 0, 0, bytes(8)))
        h2.wait_closed()
        assert h2.goaway and h2.goaway[1] == PROTOCOL_ERROR
    stockd.wait_metric("stockd_connections", 0)


@pytest.mark.parametrize(
    "bytes_, codes",
    [
        (frame(DATA, 0, 0, b"x"), {PROTOCOL_ERROR}),
        (frame(HEADERS, END_HEADERS, 2, b""), {PROTOCOL_ERROR}),
        (frame(SETTINGS, 0, 1), {PROTOCOL_ERROR}),
        (frame(SETTINGS, 0, 0, b"12345"), {6}),
        (frame(PING, 0, 0, b"short"), {6}),
        (frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0)), {PROTOCOL_ERROR}),
        (frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)), {FLOW_CONTROL_ERROR}),
        (frame(CONTINUATION, END_HEADERS, 1, b""), {PROTOCOL_ERROR}),
        (frame(DATA, 0, 0, b"")[:3] + b"\xff\xff\xff", {6, PROTOCOL_ERROR}),
        (b"\xff\xff\xff" + bytes(6), {6}),
        (frame(HEADERS, END_HEADERS, 1, b"\x80"), {9}),
    ],
    ids=[
        "DATA on 0",
        "even stream",
        "SETTINGS on 1",
        "odd SETTINGS",
        "short PING",
        "credit 0",
        "window overflow",
        "CONTINUATION alone",
        "cut frame",
        "too long a frame",
        "bad HPACK",
    ],
)
def test_protocol_errors_end_the_connection_with_goaway(stockd, bytes_, codes):
    with RawH2(stockd.port) as h2, RawH2(stockd.port) as other:
        h2.ready()
        beside = other.ready().call()
        h2.send(bytes_ + bytes(64))
        h2.wait_closed()
        assert h2.goaway, "no GOAWAY: a reset overtook it"
        assert h2.goaway[1] in codes, h2.goaway
        # Nobody else notices.
        assert_served(other, beside, 10)
    stockd.wait_metric("stockd_connections", 0)
    reasons = stockd.metrics().by("stockd_connections_closed_total", "reason")
    assert reasons["protocol_error"] == 1, reasons


def test_what_is_unknown_is_ignored(h2):
    """Unknown frames, flags and settings, and PRIORITY (RFC 9113, 4.1, 5.5 and 6.5.2)."""
    h2.send(frame(0xFA, 0xFF, 0, b"whatever") + frame(0xFA, 0, 77, b""))
    h2.send(frame(2, 0, 9, struct.pack(">IB", 7, 3)))
    h2.send(settings_frame({0xFFFF: 1, 0x10: 2**32 - 1}))
    stream = h2.call()
    h2.send(frame(0xFA, 0, stream.id, b"whatever"))
    assert_served(h2, stream)


def test_goaway_from_the_client_lets_its_streams_go_on(stockd, h2):
    stream = h2.call()
    h2.wait_updates(stream, 2, chain := Chain())
    h2.send(frame(GOAWAY, 0, 0, struct.pack(">II", 0, NO_ERROR)))
    h2.wait_updates(stream, 20, chain)
    stream.reset()
    h2.close()
    stockd.wait_at_rest()


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_client_that_goes_without_a_word(stockd, how):
    h2 = RawH2(stockd.port).ready()
    stream = h2.call()
    h2.wait_updates(stream, 2, Chain())
    getattr(h2, how)()
    metrics = stockd.wait_at_rest()
    reasons = metrics.by("stockd_connections_closed_total", "reason")
    assert reasons["peer_lost"] == 1, reasons
    assert metrics.sum("grpc_server_handled_total", grpc_code="Canceled") == 1


def test_a_client_that_closes_at_rest(stockd):
    h2 = RawH2(stockd.port).ready()
    h2.close()
    stockd.wait_metric("stockd_connections_closed_total", 1, reason="peer_closed")


def test_half_closed_tcp_is_the_end(stockd, h2):
    """A client that shuts its writing side down can give no more credit: its calls end."""
    stream = h2.call()
    h2.wait_updates(stream, 2, Chain())
    h2.socket.shutdown(socket.SHUT_WR)
    stockd.wait_at_rest()


def test_connections_over_the_cap_are_closed_and_counted(start_stockd):
    stockd = start_stockd(stream=PACED, grpc={"max_connections": "3"})
    taken = [RawH2(stockd.port).ready() for _ in range(3)]
    for _ in range(4):
        with socket.create_connection(("127.0.0.1", stockd.port)) as sock:
            assert read_to_end(sock) == b""
    assert sum(stockd.metrics().by("stockd_refused_total", "reason").values()) == 4
    assert stockd.metric("stockd_connections") == 3
    # Those that are in are served, and a place that becomes free can be taken.
    for h2 in taken:
        assert_served(h2, h2.call())
    taken.pop().close()
    stockd.wait_metric("stockd_connections", 2)
    with RawH2(stockd.port) as h2:
        assert_served(h2.ready(), h2.call())
    for h2 in taken:
        h2.close()


def test_streams_over_the_cap_are_refused(start_stockd):
    stockd = start_stockd(stream=PACED, grpc={"max_streams": "4"})
    with RawH2(stockd.port) as h2:
        h2.ready()
        assert h2.peer_settings[MAX_CONCURRENT_STREAMS] == 4
        for _ in range(3):  # a place that becomes free can be taken
            taken = [h2.call() for _ in range(4)]
            for stream in taken:
                h2.wait_updates(stream, 2, Chain())
            for stream in taken:
                stream.reset()
    stockd.wait_metric("stockd_streams", 0)
    # A client that does not know the limit yet may run into it: its other calls live on.
    with RawH2(stockd.port, preface=False) as h2:
        h2.auto_ack = False
        h2.send(PREFACE + settings_frame({}))
        taken = [h2.call() for _ in range(4)]
        over = h2.answer()
        assert over.rst == REFUSED_STREAM and not over.blocks
        for stream in taken:
            h2.wait_updates(stream, 5, Chain())
    assert stockd.metric("stockd_refused_total", reason="max_streams") == 1
    assert "refused: a call: grpc.max_streams is reached" in stockd.log()
    # One that has acknowledged it and goes beyond is refused, the call or all of it.
    with RawH2(stockd.port) as h2:
        h2.ready()
        taken = [h2.call() for _ in range(4)]
        over = h2.call()
        h2.wait(lambda: over.rst is not None or h2.goaway, what="a refusal")
        assert not over.blocks
        assert over.rst == REFUSED_STREAM if over.over else h2.goaway[1] == PROTOCOL_ERROR


def test_streams_over_the_cap_of_all_connections_are_refused(start_stockd):
    stockd = start_stockd(stream=PACED, grpc={"max_streams_total": "5"})
    with RawH2(stockd.port) as one, RawH2(stockd.port) as two:
        first = [one.ready().call() for _ in range(3)]
        for stream in first:
            one.wait_updates(stream, 1, Chain())
        second = [two.ready().call() for _ in range(2)]
        for stream in second:
            two.wait_updates(stream, 1, Chain())
        over = two.answer()
        assert over.rst == REFUSED_STREAM
        assert sum(stockd.metrics().by("stockd_refused_total", "reason").values()) == 1
        first[0].reset()
        one.ping()
        assert_served(two, two.call())


def test_a_ping_is_answered_while_a_stream_floods(start_stockd):
    stockd = start_stockd(stream={"interval": "0"})
    with RawH2(stockd.port) as h2:
        h2.auto_credit = True
        stream = h2.ready().call()
        for _ in range(5):
            h2.ping()
        Chain().check_bytes(stream.take_bodies())


def test_streams_of_a_connection_get_equal_shares(start_stockd):
    """Four streams that always have more to send, and a connection's window that they share."""
    stockd = start_stockd(stream={"interval": "0"})
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 2**31 - 1}) as h2:
        h2.ready()
        streams = [h2.begin() for _ in range(4)]
        h2.send(b"".join(frame(DATA, END_STREAM, s.id, EMPTY_REQUEST) for s in streams))
        chains = [Chain() for _ in streams]
        credited = 0
        goal = 4_000_000

        def total():
            return sum(stream.data_bytes for stream in streams)

        while total() < goal:
            h2.wait(lambda: total() > credited, what="data")
            now = total()
            h2.window_update(0, now - credited)
            credited = now
            for stream, chain in zip(streams, chains):
                chain.check_bytes(stream.take_bodies())
        shares = [stream.data_bytes / total() for stream in streams]
        assert max(shares) - min(shares) < 0.1, shares


def test_one_connection_does_not_keep_the_loop(start_stockd):
    """A client that takes all it can get, beside one that asks for little."""
    stockd = start_stockd(stream={"interval": "0"})
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 2**31 - 1}) as greedy:
        greedy.open_connection_window()
        greedy.ready()
        for _ in range(20):
            greedy.call()
        with RawH2(stockd.port) as modest:
            modest.ready()
            for _ in range(20):
                greedy.pump(0.05)
                modest.ping()
                stream = modest.call()
                modest.wait(lambda s=stream: s.data_bytes >= 2000, what="updates")
                stream.reset()
                modest.window_update(0, 65535)
