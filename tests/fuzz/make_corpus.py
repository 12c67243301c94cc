#!/usr/bin/python3
"""Writes the seed corpus: make_corpus.py [FOLDER], by default the folder corpus/ beside it.

A seed is the smallest input that leads to something of its own; what lies around it is found by
the fuzzer. Files that are there and not made here stay: inputs that once found a fault are added
by hand.
"""

import gzip
import struct
import sys
import zlib
from pathlib import Path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# The actions of target_grpc.c, by their numbers.
(BYTES, START, REQUEST, MESSAGE, FRAME, RESET, GRANT, PING, SETTINGS, GOAWAY, TURN, TIME, ACCEPT,
 RELEASE, FAIL, DRAIN, STOP, CLOSE, END, HEALTH, ANSWER, LINK) = range(22)

# Its methods.
(GET_UPDATES, CHECK, WATCH, LIST, REFLECT, REFLECT_ALPHA, UNARY, DOWN, UP, CHAT) = range(10)

NEW, LAST = 0, 1  # streams
END_STREAM, GZIP, TAKES_GZIP, PARTS, NO_GRPC, GET, PIECES, INDEXED = (1 << n for n in range(8))
ZIPPED, FLAGGED, LYING, PADDED, SPLIT, LONG, BARE = (1 << n for n in range(1, 8))
SECOND, MINUTE, HOUR = 3, 6, 7


def action(number, *arguments):
    """An action; arguments are bytes, or numbers of one byte."""
    body = b"".join(a if isinstance(a, bytes) else bytes([a]) for a in arguments)
    return struct.pack(">BH", number, len(body)) + body


def program(*actions, limits=0, times=0, more=1):
    return bytes([limits, times, more, 0]) + b"".join(actions)


def request(method, flags=0, timeout=0, fields=b"", stream=NEW):
    return action(REQUEST, stream, method, flags, timeout, fields)


def message(body=b"", flags=END_STREAM, extra=0, stream=LAST):
    return action(MESSAGE, stream, flags, extra, body)


def call(method, body=b"", flags=0, **kwargs):
    return request(method, flags, **kwargs) + message(body)


def field(name, value):
    return bytes([len(name)]) + name + bytes([len(value)]) + value


def order(how, status=0, count=0, size=0, text=b""):
    """A request of the bed's own methods."""
    return struct.pack(">BBBH", how, status, count, size) + text


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def entry(number, value):
    return struct.pack(">BI", number, value)


def proto(number, value):
    """A field of a protobuf message that is a string, or a number."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def prefixed(body, flag=0):
    return struct.pack(">BI", flag, len(body)) + body


RAW_REQUEST = b"".join(literal(*f) for f in [
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/grpc.health.v1.Health/Check"),
    (b":authority", b"x"), (b"content-type", b"application/grpc+proto"), (b"te", b"trailers")])


def grpc_seeds():
    """Conversations with the server."""
    start, turn, answer = action(START), action(TURN, 1), action(ANSWER)
    settled = turn + answer + turn
    second, minute = action(TIME, SECOND, 3), action(TIME, MINUTE, 2)
    blocked, open_ = action(ACCEPT, 0, 0, 0, 0, 1), action(ACCEPT, b"\xff" * 4)
    services = [b"", b"stockservice.StockService", b"none"]
    asks = [proto(7, b"*"), proto(3, b"stockservice.proto"), proto(3, b"none.proto"),
            proto(4, b"stockservice.StockService.GetUpdates"), proto(4, b"none"),
            proto(5, proto(1, b"stockservice.StockUpdate") + proto(2, 1)),
            proto(6, b"stockservice.StockUpdate"), proto(6, b"none"),
            proto(1, b"host") + proto(7, b"")]

    yield "get-updates-unpaced", program(start, call(GET_UPDATES), settled * 4, more=0)
    yield "get-updates-paced", program(start, call(GET_UPDATES), second, settled, more=2)
    yield "get-updates-gzip", program(start, call(GET_UPDATES, flags=TAKES_GZIP), settled * 3,
                                      more=8)
    yield "get-updates-deadline", program(start, call(GET_UPDATES, timeout=3), second, second,
                                          settled, more=5)
    yield "get-updates-no-room", program(blocked, start, call(GET_UPDATES), turn * 3,
                                         action(RELEASE), turn, open_, action(RELEASE), settled,
                                         more=0)
    yield "get-updates-stalled", program(start, call(GET_UPDATES), settled, turn, minute, minute,
                                         times=64, more=0)
    yield "get-updates-reset", program(start, call(GET_UPDATES), settled, action(RESET, LAST, 8),
                                       settled, more=0)
    yield "many-streams", program(start, (call(GET_UPDATES, timeout=2) + call(WATCH)) * 4, settled,
                                  minute, settled, limits=1)
    yield "many-calls", program(start, settled, call(GET_UPDATES) * 4, settled, limits=32)
    for i, name in enumerate(services):
        yield f"check-{i}", program(start, call(CHECK, proto(1, name)), settled)
        yield f"watch-{i}", program(start, call(WATCH, proto(1, name)), settled,
                                    action(HEALTH, i, 0), settled, action(HEALTH, 0, 255), settled)
    yield "list", program(start, call(LIST), settled)
    yield "watch-blocked", program(start, call(WATCH), settled, blocked,
                                   (action(HEALTH, 0, 0) + turn + action(HEALTH, 0, 1)) * 2, open_,
                                   settled)
    for method in REFLECT, REFLECT_ALPHA:
        yield f"reflect-{method}", program(
            start, request(method), *(message(ask, 0) + turn for ask in asks), settled,
            message(b"", END_STREAM | BARE), settled)
    yield "reflect-nothing", program(start, request(REFLECT), message(b"", 0), settled)
    yield "reflect-not-utf8", program(start, request(REFLECT), message(proto(4, b"\xff"), 0),
                                      settled)
    yield "reflect-gzip", program(start, request(REFLECT, GZIP | TAKES_GZIP),
                                  *(message(ask, ZIPPED) for ask in asks), settled)
    yield "reflect-one-window", program(start, action(SETTINGS, 0, entry(4, 10)), request(REFLECT),
                                        message(asks[1], 0) * 5, settled * 3)
    yield "gzip-broken", program(start, request(UNARY, GZIP), message(order(1), ZIPPED | LYING, 9),
                                 settled)
    yield "gzip-not", program(start, request(UNARY, GZIP), message(order(1), FLAGGED), settled)
    yield "gzip-not-offered", program(start, request(UNARY), message(order(1), ZIPPED | 1), settled)
    yield "gzip-bomb", program(start, request(UP, GZIP), message(b"", ZIPPED | LONG, 255), settled,
                               limits=8)
    yield "flag-unknown", program(start, request(UNARY), message(order(1), FLAGGED, 7), settled)
    yield "unary", program(start, call(UNARY, order(1, 5, 1, 10, b"not %found\n\xff")), settled)
    yield "metadata", program(start, request(CHAT, INDEXED, fields=field(b"a-bin", b"AAE=,AQ==") +
                                             field(b"b", b"c")), message(order(4, 0, 2, 3)),
                              settled)
    yield "metadata-much", program(start, request(CHAT, PARTS | PIECES, fields=b"".join(
        field(b"x%d" % i, b"y" * 60) for i in range(70))), message(order(4, 0, 2, 3)), settled)
    yield "headers-long", program(start, request(UNARY, fields=field(b"a", b"b" * 200) * 4),
                                  settled, limits=2)
    yield "down-queue", program(start, call(DOWN, order(4, 0, 200, 1000)), settled * 8)
    yield "down-abort", program(start, action(SETTINGS, 0, entry(4, 100)),
                                call(DOWN, order(2, 14, 9, 1000)), settled)
    yield "down-shutdown", program(start, call(DOWN, order(3, 14, 9, 15000)), settled)
    yield "up", program(start, request(UP), message(order(0), 0) * 3, turn,
                        message(order(0, 0, 1, 5), END_STREAM | PADDED | SPLIT, 4), settled)
    yield "up-slow", program(start, request(UP), message(order(0), SPLIT, 3), second, turn,
                             action(TIME, 5, 3), settled, times=128)
    yield "up-half", program(start, request(UNARY), message(b"1234", LYING, 1), settled)
    yield "up-empty", program(start, request(UNARY, END_STREAM), settled)
    yield "up-too-long", program(start, request(UP), message(order(0), LONG, 250), settled,
                                 limits=8)
    yield "input-full", program(start, (request(UP) + message(b"", LYING | LONG, 30)) * 8, settled,
                                limits=16)
    yield "chat", program(start, request(CHAT, TAKES_GZIP), (message(order(8, 0, 2, 500), 0) +
                                                            turn) * 3,
                          message(order(1, 10, 0, 0, b"bye")), settled)
    yield "chat-full", program(start, request(CHAT), message(order(0, 0, 9, 19999), 0) * 9,
                               settled * 9)
    yield "chat-early-end", program(start, request(CHAT), message(order(1), 0) * 3, settled)
    yield "trailers-of-request", program(start, request(CHAT), message(order(0), 0), settled,
                                         request(CHAT, END_STREAM, stream=LAST), settled)
    for name, flags in ("no-grpc", NO_GRPC), ("get", GET):
        yield f"request-{name}", program(start, request(UNARY, flags), settled)
    yield "request-unknown", program(start, call(255), settled)
    yield "request-timeouts", program(start, *(call(UNARY, timeout=n) for n in range(9)), settled)
    for i, pair in enumerate([(b"grpc-encoding", b"deflate"), (b"grpc-encoding", b"identity"),
                              (b"user-agent", b"grpc-c/1"), (b"te", b"gzip"), (b"A", b"b"),
                              (b"content-length", b"3"), (b":late", b""), (b"a-bin", b"!"),
                              (b"grpc-accept-encoding", b"deflate , gzip"), (b"connection", b"x")]):
        yield f"request-field-{i}", program(start, request(UNARY, fields=field(*pair)),
                                            message(order(1)), settled)
    yield "empty-data", program(start, request(CHAT), message(b"", BARE) * 120, settled)
    yield "headers-bomb", program(start, request(UNARY, fields=field(b"a", b"b" * 250) * 9),
                                  settled, limits=2)
    yield "connect-twice", program(start, call(CHECK), action(LINK, 1), start,
                                   call(GET_UPDATES), settled, action(LINK, 0), call(WATCH),
                                   settled, action(STOP), settled, second, settled)
    yield "raw", program(action(BYTES, 0, PREFACE + frame(4, 0, 0) + frame(1, 4, 1, RAW_REQUEST) +
                                frame(0, 1, 1, prefixed(b""))), settled)
    yield "raw-pieces", program(action(BYTES, 1, PREFACE + frame(4, 0, 0) +
                                       frame(1, 0, 1, RAW_REQUEST[:30]) +
                                       frame(9, 4, 1, RAW_REQUEST[30:]) +
                                       frame(0, 9, 1, b"\2" + prefixed(b"") + b"\0\0")), settled)
    yield "raw-huffman", program(start, action(FRAME, NEW + 2, 1, 5, bytes.fromhex(
        "8386449560c2a0a3d3a7f1e6a07641d35fd0c0f75b418aa0e41d139d09b8f01e07")), settled)
    yield "http1", program(action(BYTES, 0, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), settled, second)
    yield "preface-late", program(action(BYTES, 0, PREFACE[:10]), settled, minute)
    yield "settings", program(start, action(SETTINGS, 0, *(entry(n, 70000) for n in range(1, 9))),
                              action(SETTINGS, 1), settled)
    yield "windows", program(start, call(GET_UPDATES), settled, action(GRANT, 255, b"\0\1\0\0"),
                             action(GRANT, LAST, b"\x7f\xff\xff\xff"), settled, more=0)
    yield "pings", program(start, (action(PING, 0) + turn) * 9, times=4)
    yield "ping-flood", program(blocked, start, action(PING, 0) * 120, turn)
    yield "reset-flood", program(start, settled, (request(CHECK) + action(RESET, LAST, 8)) * 120)
    yield "reset-made", program(start, settled, call(GET_UPDATES), settled,
                                action(GRANT, LAST, b"\0\0\0\0"), settled, more=0)
    yield "settings-flood", program(blocked, start, action(SETTINGS, 0, entry(4, 9)) * 150, turn)
    yield "keepalive", program(start, call(WATCH), settled, action(TIME, 4, 1), answer,
                               action(TIME, 4, 1), turn, action(TIME, 4, 3), times=2)
    yield "idle", program(start, call(CHECK), settled, minute, settled, second, times=8)
    yield "age", program(start, call(WATCH), settled, minute, answer, settled, second, second,
                         settled, times=16 | 32)
    yield "drain", program(start, call(GET_UPDATES), settled, action(DRAIN), turn, call(CHECK),
                           answer, settled, action(RESET, 2, 8), settled, more=2)
    yield "drain-unanswered", program(start, call(WATCH), settled, action(DRAIN), settled[:3],
                                      action(TIME, 4, 1), settled)
    yield "stop", program(start, call(GET_UPDATES), call(WATCH), request(CHAT), settled,
                          action(STOP), call(CHECK), settled, second, more=0)
    yield "close", program(start, call(GET_UPDATES), turn, action(CLOSE), turn, more=0)
    yield "end", program(start, call(GET_UPDATES), turn, action(END, 11), turn, second, more=0)
    yield "goaway", program(start, call(WATCH), settled, action(GOAWAY), settled,
                            action(RESET, LAST, 8), settled)
    for kind in range(4):
        yield f"socket-{kind}", program(start, call(GET_UPDATES), blocked, turn, action(FAIL, kind),
                                        turn, action(RELEASE, 1), turn, second, more=0)
    yield "half-open", program(start, call(WATCH), settled, action(FAIL, 2), settled)


# The actions of target_client.c.
(C_BYTES, C_CONNECT, C_SETTINGS, C_HEADERS, C_UPDATES, C_MESSAGE, C_FRAME, C_RESET, C_GRANT, C_PING,
 C_GOAWAY, C_TURN, C_TIME, C_ACCEPT, C_RELEASE, C_FAIL, C_READ, C_STOP) = range(18)

# What :status, content-type and grpc-status can be there.
H_NONE, H_OK, H_NOT_FOUND, H_UNAVAILABLE, H_CONTINUE = range(5)
S_NONE, S_OK, S_UNAVAILABLE, S_INTERNAL = range(4)


def headers(http=H_OK, kind=0, status=S_NONE, flags=0, fields=b""):
    return action(C_HEADERS, 0, flags, http, kind, status, fields)


def client_seeds():
    """Conversations of the client with a server."""
    turn = action(C_TURN, 1)
    start = action(C_CONNECT) + action(C_SETTINGS, 0) + action(C_SETTINGS, 1) + turn
    second, minute = action(C_TIME, SECOND, 1), action(C_TIME, MINUTE, 1)
    updates = action(C_UPDATES, 0, 5, 0, 8, b"AAPL")
    trailers = headers(H_NONE, 0, S_OK, 1)
    reconnect = 32

    for name, form in ("text", 1), ("json", 2), ("csv", 3), ("quiet", 4):
        yield f"updates-{name}", program(start, headers(), updates, turn, trailers, turn,
                                         limits=form, more=0)
    yield "updates-pieces", program(start, headers(), action(C_UPDATES, 8, 3, 3, 8, b"A"), turn,
                                    trailers, turn, limits=8, more=0)
    yield "updates-count", program(start, headers(), updates, turn, more=3)
    yield "updates-gap", program(start, headers(), action(C_UPDATES, 2, 5, 0, 8, b"\"\xff\n"),
                                 turn, more=0, limits=2)
    yield "updates-slow", program(start, headers(), updates, second, second, trailers, second,
                                  times=3, more=0)
    yield "updates-broken", program(start, headers(), action(C_UPDATES, 4, 5, 0, 8, b"AAPL"), turn,
                                    more=0)
    yield "output-full", program(start, headers(), action(C_UPDATES, 0, 31, 0, 8, b"A" * 200), turn,
                                 action(C_READ, 9), turn, trailers, turn, limits=2, more=0)
    yield "output-closed", program(start, headers(), action(C_READ, 255), updates, turn, more=0)
    yield "message-long", program(start, headers(), action(C_MESSAGE, 4, 0, 1, b"abc"), turn,
                                  more=0)
    yield "message-compressed", program(start, headers(), action(C_MESSAGE, 2, 1, b"abc"), turn,
                                        more=0)
    yield "message-flag", program(start, headers(), action(C_MESSAGE, 2, 9, b"abc"), turn, more=0)
    yield "message-half", program(start, headers(), action(C_MESSAGE, 8, b"\0\0\0"), turn,
                                  trailers, turn, more=0)
    yield "no-update", program(start, headers(), action(C_MESSAGE, 0, b"\xff"), turn, more=0)
    for http in range(8):
        yield f"http-{http}", program(start, headers(http, 2, S_NONE, 1), turn, more=0)
    for status in range(8):
        yield f"status-{status}", program(start, headers(H_OK, 0, status, 1 | 4), turn, more=0)
    yield "early-hints", program(start, headers(H_CONTINUE), headers(), updates, trailers, turn,
                                 more=0)
    yield "reset", program(start, headers(), updates, action(C_RESET, 0, 7), turn, limits=reconnect)
    yield "goaway", program(start, headers(), updates, action(C_GOAWAY, 0, 0), turn, trailers, turn,
                            more=0)
    yield "goaway-unprocessed", program(start, action(C_GOAWAY, 1, 0), turn, second, start, turn,
                                        limits=reconnect, more=0)
    yield "calm-down", program(start, action(C_GOAWAY, 0, 11), action(C_FAIL, 2), turn, minute,
                               start, turn, limits=reconnect | 64, more=0)
    yield "refused", program(action(C_CONNECT, 1), turn, second, action(C_CONNECT, 1), second,
                             start, headers(), updates, trailers, turn, limits=reconnect, more=0)
    yield "no-http2", program(action(C_CONNECT), action(C_BYTES, 0, b"HTTP/1.1 400 Bad\r\n\r\n"),
                              turn, more=0)
    yield "silent", program(action(C_CONNECT), turn, minute, turn, more=0)
    yield "lost", program(start, headers(), updates, action(C_FAIL, 3), turn, minute, start, turn,
                          limits=reconnect, more=0)
    yield "keepalive", program(start, headers(), updates, action(C_TIME, 5, 1), turn, minute,
                               limits=64, more=0)
    yield "time-over", program(start, headers(), action(C_TIME, 4, 1), turn, limits=16, more=0)
    yield "stop", program(start, headers(), updates, action(C_STOP), turn, second, more=0)
    yield "no-streams", program(action(C_CONNECT), action(C_SETTINGS, 0, entry(3, 0)), turn,
                                action(C_SETTINGS, 0, entry(3, 1)), turn, more=0)
    yield "push", program(start, action(C_FRAME, 0, 5, 4, b"\0\0\0\2"), turn, more=0)
    yield "blocked", program(action(C_ACCEPT, 1), start, action(C_PING, 0) * 5, turn,
                             action(C_RELEASE), turn, action(C_ACCEPT, 255), turn, more=0)


# The actions of target_tls.c.
(T_PUMP, T_BYTES, T_CHANGE, T_DROP, T_WRITE, T_TURN, T_TIME, T_ACCEPT, T_RELEASE, T_END, T_SHUTDOWN,
 T_CLOSE, T_CREDENTIALS) = range(13)


def tls_seeds():
    """Two sessions, and what happens to the bytes between them; the server is side 0."""
    both = (action(T_TURN) + action(T_PUMP, 1) + action(T_TURN) + action(T_PUMP, 0)) * 2
    words = action(T_WRITE, 0, 0, 0, b"hello") + action(T_WRITE, 1, 0, 0, b"hi")
    for versions in range(16):
        yield f"versions-{versions}", program(both, words, both, action(T_SHUTDOWN, 0), both,
                                              action(T_END, 1), limits=versions)
    yield "pieces", program(action(T_PUMP, 1, 0, 0, 1), action(T_PUMP, 0, 0, 9, 1), both, words,
                            action(T_PUMP, 0, 0, 0, 3), both)
    yield "large", program(both, action(T_ACCEPT, 0, 200), action(T_WRITE, 0, b"\x60\0"), both,
                           action(T_RELEASE, 0), both)
    yield "blocked", program(action(T_ACCEPT, 0, 0, 1), both, action(T_RELEASE, 0), both,
                             action(T_ACCEPT, 0, 255), both, words, both)
    for flags in 2, 4:
        broken = action(T_ACCEPT, 0, 1, flags)
        yield f"socket-{flags}", program(both, broken, words, both)
        yield f"socket-{flags}-early", program(broken, both)
    yield "changed-hello", program(action(T_CHANGE, 1, 0, 99, 1), both)
    yield "changed-record", program(both, words, action(T_CHANGE, 0, 0, 20, 1), both)
    yield "changed-after-end", program(both, words, action(T_SHUTDOWN, 0), action(T_CHANGE, 1, 0, 20,
                                                                                1), both)
    yield "dropped", program(action(T_PUMP, 1), action(T_TURN), action(T_DROP, 0, 1, 0), both)
    yield "silent", program(action(T_PUMP, 1, 0, 50), action(T_TIME, 0, b"\xff\xff"))
    yield "http2-without-tls", program(action(T_BYTES, 0, 0, PREFACE))
    yield "no-tls", program(action(T_BYTES, 0, 0, b"GET / HTTP/1.1\r\n\r\n"))
    yield "alert", program(both, action(T_BYTES, 0, 0, b"\x15\3\3\0\2\2\x28"), both)
    yield "half-record", program(both, action(T_BYTES, 0, 0, b"\x17\3\3\x40\0abc"),
                                 action(T_END, 0))
    yield "closed", program(both, words, action(T_CLOSE, 0), both)
    for which in range(3):
        yield f"file-{which}", program(action(T_CREDENTIALS, which, (
            b"-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n"
            b"-----BEGIN PRIVATE KEY-----\nMAo=\n-----END PRIVATE KEY-----\n")))
    yield "file-encrypted", program(action(T_CREDENTIALS, 1, (
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAo=\n-----END ENCRYPTED PRIVATE KEY-----\n")))


def protobuf_seeds():
    """A byte that chooses the method, or what else is tried; then a message, or lines."""
    service = b"stockservice.StockService"
    yield "updates", bytes([GET_UPDATES])
    for name, asked in ("known", service), ("unknown", b"none"), ("not-utf8", b"\xff"):
        yield f"check-{name}", bytes([CHECK]) + proto(1, asked)
        yield f"watch-{name}", bytes([WATCH]) + proto(1, asked)
    yield "list", bytes([LIST])
    for method in REFLECT, REFLECT_ALPHA:
        yield f"reflect-{method}", bytes([method]) + b"\n".join([
            proto(7, b""), proto(3, b"stockservice.proto"), proto(4, service + b".GetUpdates"),
            proto(6, b"stockservice.StockUpdate"), proto(5, proto(1, b"A") + proto(2, 1)),
            proto(4, b"none"), proto(1, b"host"), b""])
    yield "names", b"\x40" + b"\n".join([
        service, service + b".GetUpdates", b"stockservice.StockUpdate.ticker",
        b"grpc.health.v1.HealthCheckResponse.SERVING", b"grpc.health.v1", b".", b"a..b", b""])
    field_ = proto(1, b"b") + proto(3, 1) + proto(4, 1) + proto(5, 9)
    extension = field_ + proto(2, b".a.A")
    kind = proto(1, b"E") + proto(2, proto(1, b"ONE") + proto(2, 0))
    message_ = proto(1, b"A") + proto(2, field_) + proto(4, kind) + proto(8, proto(1, b"o"))
    services = proto(1, b"S") + proto(2, proto(1, b"M") + proto(2, b".a.A") + proto(3, b".a.A"))
    one = (proto(1, b"one") + proto(2, b"a") + proto(4, message_) + proto(5, kind) +
           proto(6, services) + proto(7, extension))
    two = proto(1, b"two") + proto(3, b"one") + proto(4, proto(1, b"B") + proto(3, message_))
    yield "set", b"\x80" + proto(1, one) + proto(1, two)
    yield "set-missing", b"\x80" + proto(1, two)
    yield "set-circle", b"\x80" + proto(1, proto(1, b"x") + proto(3, b"y")) + proto(
        1, proto(1, b"y") + proto(3, b"x"))
    yield "set-twice", b"\x80" + proto(1, one) * 2


def deflated(body, flags):
    """A gzip member with the optional parts of its header."""
    raw = zlib.compressobj(9, zlib.DEFLATED, -15)
    extra = (b"\2\0ab" if flags & 4 else b"") + (b"name\0" if flags & 8 else b"")
    return (b"\x1f\x8b\x08" + bytes([flags]) + b"\0" * 6 + extra + raw.compress(body) +
            raw.flush() + struct.pack("<II", zlib.crc32(body), len(body)))


def gzip_seeds():
    """Two bytes of the most that is allowed, then the compressed bytes."""
    body = b"stock " * 40
    yield "member", b"\x10\0" + gzip.compress(body, mtime=0)
    yield "empty", b"\0\0" + gzip.compress(b"", mtime=0)
    yield "too-long", b"\0\x10" + gzip.compress(body, mtime=0)
    yield "just-fits", b"\0\xf0" + gzip.compress(body, mtime=0)
    yield "stored", b"\x10\0" + gzip.compress(bytes(range(256)), 0, mtime=0)
    yield "two-members", b"\x10\0" + gzip.compress(body, mtime=0) + gzip.compress(b"x", mtime=0)
    yield "cut-off", b"\x10\0" + gzip.compress(body, mtime=0)[:-5]
    yield "checksum", b"\x10\0" + gzip.compress(body, mtime=0)[:-8] + b"\0" * 8
    yield "name-and-extra", b"\x10\0" + deflated(body, 12)
    yield "zlib", b"\x10\0" + zlib.compress(body)
    yield "accepts", b"\0\4identity , gzip,deflate"


def wire_seeds():
    """A byte of room, then what every function reads."""
    texts = [b"0", b"16", b"0000014", b"17", b"99999999H", b"1S", b"20m", b"3u", b"4n", b"5M",
             b"application/grpc", b"Application/GRPC+proto", b"application/grpc;a=b", b"AAEC/w==",
             b"AAEC/w", b"AA=", b"%41%e2%82%ac%2", "\u20ac \U0001f4c8 %".encode(),
             b"\xed\xa0\x80\xf4\x90\xf0\x9f\x92", struct.pack("<d", 0.1), struct.pack("<d", 5e-324),
             prefixed(b"abc") + prefixed(b"") + b"\0\xff\xff\xff\xff"]
    for i, text in enumerate(texts):
        yield f"text-{i:02}", b"\x0c" + text


def http_seeds():
    yield "prometheus", (b"application/openmetrics-text;version=1.0.0;q=0.5,"
                         b"text/plain;version=0.0.4;q=0.3,*/*;q=0.1\ngzip\n")
    yield "quoted", b"text/plain; version=\"0.0.4\"; a=\"\\\"b,c\\\\\";q=1.000\n*;q=0.001,gzip;q=0"
    yield "any", b"*/*\ntext/*;q=0\nidentity;q=0.5, x-gzip"


def config_seeds():
    """A byte that chooses what is tried, then its text."""
    texts = [b"[::]:4444", b"127.0.0.1:0 tls=yes client_certificate=required",
             b"[::ffff:1.2.3.4]:80 tls=yes certificate=/a key=/b client_ca=/c",
             b"unix:/run/stockd/grpc.sock mode=0660 owner=root group=0", b"10.0.0.0/8",
             b"2001:db8::/32", b"unix", b"::1", b"[fe80::1%lo]:1", b":2112", b"localhost:4444"]
    values = [b"1", b"64M", b"1.5s", b"0.5", b"yes", b"required", b"debug", b"random",
              b"a.example, spiffe://b/c", b"10.0.0.0/8, ::1", b"[::]:1, unix:/a mode=0600",
              b"/a path/with spaces", b"18446744073709551615", b"-1", b"4444", b"[::]"]
    for i, text in enumerate(texts):
        yield f"address-{i:02}", b"\0" + text
    for i, value in enumerate(values):
        yield f"value-{i:02}", b"\1" + value
    yield "port", b"\2" + b"4444"
    yield "file", b"\3" + (b"\xef\xbb\xbf# a comment\n[grpc]\nlisten = [::]:1\nlisten = :2\r\n"
                           b"max_header_bytes = 2K ; why\n\n[access]\nallow = 10.0.0.0/8, ::1\n"
                           b"[stream]\nstart_price = 1e3\nseed = 7\nticker = A\n")
    yield "file-tickers", b"\3" + (b"[ticker AAPL]\nstart_price = 187.4\ninterval = 500ms\n"
                                   b"[market]\nfeed = none\ntickers = A, B\n[ticker BRK.A] ; x\n"
                                   b"[ticker AAPL]\nvolatility = 0\ninterval = 1d\n[ticker ]]\n")
    yield "file-tickers-wrong", b"\3" + (b"[ticker]\n[ticker A B]\n[tickers A]\n[ticker " + b"A" * 40
                                         + b"]\n[ticker A]\nintervall = 1s\nvolatility = 2\n")
    yield "file-wrong", b"\3" + (b"key = 1\n[none]\na = b\n[grpc\n[log] x\n[log]\nlevel: info\n"
                                 b"  level = loud\nlevel\n[tls]\ncertificate = " + b"a" * 250)
    yield "template", b"\4" + (b"a: {{.IP}} {{- .Port -}} {{/* why */}}\r\n{{- /* \n */ -}}\n"
                               b"b: {{ .IP }}")
    yield "template-wrong", b"\4" + b"{{.None}}{{if .IP}}{{end}}{{/* a */ }}{{.IP"
    yield "env-file", b"\5" + (b"# x\nA=1 # y\nexport B_1: 'a $b'\nC=\"x\ny\"\r\nA = \"\\$1\\\"\"")
    yield "env-file-wrong", b"\5" + b"A=$B\nwhat\nB_1='x'y\nB_1=\"\\n\"\nA='x"


def csv_seeds():
    """A byte that is the size of the pieces, then a file."""
    yield "trades", b"\x10" + (b"\xef\xbb\xbftime,ticker,price\r\n2026-01-31T09:30:00.5+01:00,A,1.5"
                              b"\r\n\r\n2016-12-31 23:59:60z,B,1e3")
    yield "quoted", b"\x03" + b"\"time\",\"a\"\"b\",\"c,\nd\"\n , \"\",x \r\n"
    yield "wrong", b"\x07" + (b"time,Time,price\na\"b\n\"a\"b\n\"a\"\rb\nx,\0y\n\"open\nz,1\n")
    yield "numbers", b"\x20" + (b"1769851800.25,1769851800250,1769851800250500.5\n"
                               b"1769851800250500123,-1.5,1e-5,+.5,nan,0x10,9223372036854775807,9223372036\n"
                               b"1700-03-01T00:00:00Z,2262-04-11T23:47:16.854775807Z,2026-02-29\n")
    yield "long", b"\xff" + b"a" * 16384 + b"\nb\n"


def json_seeds():
    yield "least", b'{"ticker":"A","price":1.5}'
    yield "most", (b' {"ticker": "BRK.B", "price": 150, "volume": 9007199254740993, "high": 151, '
                   b'"low": 1.4e2, "marketCap": 5, "time": "2026-01-31T09:30:00.5Z", '
                   b'"x": [null]}\r\n')
    yield "client", (b'{"symbol":"S","price":"99.5","volume":"12","highPrice":100,"lowPrice":99,'
                     b'"timestamp":1769851800.25}')
    yield "integer-time", b'{"ticker":"A","price":1,"time":1769851800250,"volume":0.4}'
    yield "wrong-members", b'{"ticker":7,"price":true,"volume":-1,"time":null,"high":"x"}'
    yield "wrong-syntax", b'{"ticker":"A\xff","price":1,"price":NaN,"a":"\\u0000\\ud800"} x'
    yield "deep", b'{"a":' + b"[" * 2500


CORPUS = {"client": client_seeds, "config": config_seeds, "csv": csv_seeds, "grpc": grpc_seeds,
          "gzip": gzip_seeds, "http": http_seeds, "json": json_seeds, "protobuf": protobuf_seeds,
          "tls": tls_seeds, "wire": wire_seeds}


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "corpus"
    for target, seeds in CORPUS.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, content in seeds():
            (folder / target / name).write_bytes(content)


if __name__ == "__main__":
    main()
