"""
HTTP/2 with bare hands: sends any bytes that a test wants on the wire and shows every frame that
comes back. Nothing is validated, nothing is sent by itself but the acknowledgement of SETTINGS and
PING (which can be switched off), and flow-control credit is given only when a test says so.
"""

import ctypes
import select
import socket
import struct
import time
from typing import NamedTuple

import hpack

from harness.stocks import GET_UPDATES

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9

END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 0x1, 0x1, 0x4, 0x8, 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 4, 5, 6

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 7, 8, 11

WINDOW_MAX = 2**31 - 1
WINDOW_INITIAL = 65535

SO_ATTACH_FILTER = 26

# An EmptyRequest as a gRPC message.
EMPTY_REQUEST = bytes(5)


class Frame(NamedTuple):
    type: int
    flags: int
    stream: int
    payload: bytes


def frame(kind, flags=0, stream=0, payload=b""):
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def settings_frame(settings):
    """`settings` is a dictionary, or a list of pairs where one may stand more than once."""
    pairs = settings.items() if isinstance(settings, dict) else settings
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", k, v) for k, v in pairs))


def reset_frame(stream, code=CANCEL):
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def credit_frame(stream, size):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def message(body, flag=0, length=None):
    """A gRPC message: prefix and body. `length` lies about the body's length."""
    return struct.pack(">BI", flag, len(body) if length is None else length) + body


def request_headers(path=GET_UPDATES, **changes):
    """
    The headers of a gRPC request. A change replaces a field (underscores stand for hyphens, a
    leading one for a colon); None leaves it out; a list repeats it.
    """
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        "user-agent": "raw-h2/1",
    }
    for name, value in changes.items():
        name = ":" + name[1:] if name.startswith("_") else name
        fields[name.replace("_", "-")] = value
    headers = []
    for name, value in fields.items():
        values = value if isinstance(value, list) else [value]
        headers += [(name, one) for one in values if one is not None]
    return headers


class Stream:
    """What was received on one stream."""

    def __init__(self, connection, number):
        self.connection = connection
        self.id = number
        self.blocks = []  # header blocks: lists of (name, value)
        self.end_blocks = []  # for each, did it end the stream?
        self.data_bytes = 0  # flow-controlled bytes received
        self.frames = []  # types of the frames, in order
        self.ended = False  # END_STREAM came
        self.rst = None  # error code of RST_STREAM
        self._tail = bytearray()

    @property
    def headers(self):
        return dict(self.blocks[0]) if self.blocks else None

    @property
    def trailers(self):
        return dict(self.blocks[-1]) if self.ended and self.blocks else None

    @property
    def http_status(self):
        return int(self.headers[":status"])

    @property
    def status(self):
        """grpc-status, or None if there are no trailers."""
        trailers = self.trailers
        return None if trailers is None else int(trailers["grpc-status"])

    @property
    def over(self):
        return self.ended or self.rst is not None

    @property
    def partial_bytes(self):
        """Bytes of a message that is not whole yet."""
        self._measure()
        return len(self._tail) - self._whole

    def _measure(self):
        position = 0
        tail = self._tail
        while len(tail) - position >= 5:
            size = 5 + struct.unpack_from(">I", tail, position + 1)[0]
            if len(tail) - position < size:
                break
            position += size
        self._whole = position

    def take_messages(self):
        """The whole messages received since the last call, as (flag, body)."""
        messages = []
        position = 0
        tail = self._tail
        while len(tail) - position >= 5:
            flag, length = struct.unpack_from(">BI", tail, position)
            if len(tail) - position < 5 + length:
                break
            messages.append((flag, bytes(tail[position + 5 : position + 5 + length])))
            position += 5 + length
        del tail[:position]
        return messages

    def take_bodies(self):
        messages = self.take_messages()
        assert all(flag == 0 for flag, _ in messages)
        return [body for _, body in messages]

    def give(self, size):
        """Flow-control credit for this stream alone."""
        self.connection.window_update(self.id, size)

    def send(self, data, end=False):
        self.connection.send(frame(DATA, END_STREAM if end else 0, self.id, data))

    def reset(self, code=CANCEL):
        self.connection.send(reset_frame(self.id, code))


class Endpoint:
    """One side of an HTTP/2 connection over a connected socket."""

    def __init__(self, sock):
        self.socket = sock
        self.socket.setblocking(False)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder(max_header_list_size=1 << 20)
        self.streams = {}
        self.frames = []  # every frame but DATA
        self.peer_settings = None
        self.settings_acks = 0
        self.pings = []  # payloads of PING acknowledgements
        self.goaway = None  # (last stream, error code, debug data)
        self.goaways = []  # all of them, in order
        self.eof = False
        self.reset_by_peer = False
        self.auto_ack = True
        self.auto_credit = False
        self.window_updates = []  # (stream, increment)
        self._buffer = bytearray()
        self._block = None  # header block that CONTINUATION goes on with
        self.received_bytes = 0

    # Sending.

    def send(self, data, timeout=20):
        """Sends all of it, reading meanwhile what comes, so that no deadlock can happen."""
        view = memoryview(data)
        deadline = time.monotonic() + timeout
        while view:
            try:
                view = view[self.socket.send(view) :]
            except BlockingIOError:
                readable, _, _ = select.select([self.socket], [self.socket], [], 1)
                if readable:
                    self.pump(0)
            except (BrokenPipeError, ConnectionResetError):
                self.eof = True
                return False
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(view)} bytes could not be sent")
        return True

    def header_block(self, headers):
        return self.encoder.encode(headers)

    def send_headers(self, stream, headers, end=False):
        self.send(
            frame(
                HEADERS,
                END_HEADERS | (END_STREAM if end else 0),
                stream,
                self.header_block(headers),
            )
        )

    def window_update(self, stream, size):
        self.send(credit_frame(stream, size))

    def ping(self, payload=b"01234567", timeout=20):
        """Sends a PING and waits for its acknowledgement: the peer has read all before it."""
        before = len(self.pings)
        self.send(frame(PING, 0, 0, payload))
        self.wait(lambda: len(self.pings) > before, timeout, "the PING's acknowledgement")
        assert self.pings[-1] == payload

    # Receiving.

    def stream(self, number):
        if number not in self.streams:
            self.streams[number] = Stream(self, number)
        return self.streams[number]

    def pump(self, timeout):
        """Reads what is there, waiting at most `timeout` seconds. False: nothing came."""
        if self.eof:
            return False
        if timeout:
            readable, _, _ = select.select([self.socket], [], [], timeout)
            if not readable:
                return False
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return False
        except OSError:
            self.eof = self.reset_by_peer = True
            return True
        if not data:
            self.eof = True
            return True
        self.received_bytes += len(data)
        self._buffer += data
        self._parse()
        return True

    def _parse(self):
        buffer = self._buffer
        position = 0
        credit = {}
        while len(buffer) - position >= 9:
            size = int.from_bytes(buffer[position : position + 3], "big")
            if len(buffer) - position < 9 + size:
                break
            one = Frame(
                buffer[position + 3],
                buffer[position + 4],
                int.from_bytes(buffer[position + 5 : position + 9], "big") & WINDOW_MAX,
                bytes(buffer[position + 9 : position + 9 + size]),
            )
            position += 9 + size
            if one.type == DATA:
                self._data(one, credit)
            else:
                self.frames.append(one)
                self._control(one)
        del buffer[:position]
        if credit and self.auto_credit:
            self.give(credit)

    def give(self, credit):
        """Credit for {stream: bytes}, and as much in sum for the connection."""
        updates = b"".join(
            frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))
            for stream, size in credit.items()
        )
        total = struct.pack(">I", sum(credit.values()))
        self.send(updates + frame(WINDOW_UPDATE, 0, 0, total))

    def _data(self, one, credit):
        stream = self.stream(one.stream)
        body = one.payload
        if one.flags & PADDED:
            body = body[1 : len(body) - body[0]]
        stream.frames.append(DATA)
        stream.data_bytes += len(one.payload)
        stream._tail += body
        if one.payload and not stream.over:
            credit[one.stream] = credit.get(one.stream, 0) + len(one.payload)
        if one.flags & END_STREAM:
            stream.ended = True
            credit.pop(one.stream, None)

    def _control(self, one):
        if one.type == HEADERS:
            payload = one.payload
            padding = payload[0] if one.flags & PADDED else 0
            start = (1 if one.flags & PADDED else 0) + (5 if one.flags & PRIORITY_FLAG else 0)
            self._block = (one, bytearray(payload[start : len(payload) - padding]))
            if one.flags & END_HEADERS:
                self._block_whole()
        elif one.type == CONTINUATION:
            self._block[1].extend(one.payload)
            if one.flags & END_HEADERS:
                self._block_whole()
        elif one.type == SETTINGS:
            if one.flags & ACK:
                self.settings_acks += 1
            else:
                self.peer_settings = dict(struct.iter_unpack(">HI", one.payload))
                if self.auto_ack:
                    self.send(frame(SETTINGS, ACK))
        elif one.type == PING:
            if one.flags & ACK:
                self.pings.append(one.payload)
            elif self.auto_ack:
                self.send(frame(PING, ACK, 0, one.payload))
        elif one.type == RST_STREAM:
            stream = self.stream(one.stream)
            stream.rst = struct.unpack(">I", one.payload)[0]
            stream.frames.append(RST_STREAM)
        elif one.type == GOAWAY:
            last, code = struct.unpack_from(">II", one.payload)
            self.goaway = (last & WINDOW_MAX, code, one.payload[8:])
            self.goaways.append(self.goaway)
        elif one.type == WINDOW_UPDATE:
            increment = struct.unpack(">I", one.payload)[0] & WINDOW_MAX
            self.window_updates.append((one.stream, increment))

    def _block_whole(self):
        first, block = self._block
        self._block = None
        stream = self.stream(first.stream)
        stream.blocks.append(self.decoder.decode(bytes(block)))
        stream.end_blocks.append(bool(first.flags & END_STREAM))
        stream.frames.append(HEADERS)
        if first.flags & END_STREAM:
            stream.ended = True

    def wait(self, condition, timeout=20, what="what was expected"):
        """Reads until condition() is true; AssertionError after `timeout` s or at the end."""
        deadline = time.monotonic() + timeout
        while True:
            value = condition()
            if value:
                return value
            if self.eof:
                raise AssertionError(f"the connection ended before {what}; GOAWAY {self.goaway}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(
                    f"{what} did not come within {timeout} s; streams: "
                    f"{[(s.id, s.frames[-6:], s.rst, s.blocks) for s in self.first_streams(4)]}"
                )
            self.pump(min(left, 0.5))

    def first_streams(self, count):
        return list(self.streams.values())[:count]

    def wait_over(self, stream, timeout=20):
        self.wait(lambda: stream.over, timeout, f"the end of stream {stream.id}")
        return stream

    def wait_closed(self, timeout=20):
        """Waits until the peer has closed the connection."""
        deadline = time.monotonic() + timeout
        while not self.eof:
            if time.monotonic() > deadline:
                raise AssertionError(f"the peer did not close the connection in {timeout} s")
            self.pump(0.5)

    @property
    def peer_pings(self):
        """The peer's own PINGs, without its answers to ours."""
        return [
            one.payload for one in self.frames if one.type == PING and not one.flags & ACK
        ]

    def vanish(self):
        """
        As if this host were gone: whatever comes is dropped before TCP sees it, so that nothing is
        acknowledged and nothing answered, not even with a reset. For that a filter that takes no
        packet is attached to the socket.
        """
        program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # return 0
        filter_ = struct.pack("HL", 1, ctypes.addressof(program))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)

    def close(self):
        self.socket.close()

    def abort(self):
        """Closes with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class RawH2(Endpoint):
    """A client. Without `preface` it has sent nothing yet."""

    def __init__(self, port, settings=None, preface=True, receive_buffer=None, host="127.0.0.1"):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(20)
        sock.connect((host, port))
        super().__init__(sock)
        self.next_stream = 1
        if preface:
            self.send(PREFACE + settings_frame(settings or {}))

    def ready(self, timeout=20):
        """Waits until both sides' SETTINGS are acknowledged."""
        self.wait(
            lambda: self.peer_settings is not None and self.settings_acks, timeout, "SETTINGS"
        )
        return self

    def open_connection_window(self, size=WINDOW_MAX):
        self.window_update(0, size - WINDOW_INITIAL)

    def begin(self, headers=None, end=False):
        """Sends request headers on a new stream."""
        number = self.next_stream
        self.next_stream += 2
        self.send_headers(number, headers or request_headers(), end)
        return self.stream(number)

    def call(self, headers=None, body=EMPTY_REQUEST):
        """A whole request on a new stream, in one piece."""
        number = self.next_stream
        self.next_stream += 2
        block = self.header_block(headers or request_headers())
        self.send(
            frame(HEADERS, END_HEADERS, number, block) + frame(DATA, END_STREAM, number, body)
        )
        return self.stream(number)

    def answer(self, headers=None, body=EMPTY_REQUEST, timeout=20):
        """A whole request; returns its stream when that is over."""
        return self.wait_over(self.call(headers, body), timeout)

    def wait_updates(self, stream, count, chain, timeout=20):
        """Reads until `chain` has checked `count` updates of this stream."""

        def enough():
            chain.check_bytes(stream.take_bodies())
            return chain.count >= count

        self.wait(enough, timeout, f"{count} updates")


class RawServer:
    """A listening socket; each accepted client is an Endpoint that the test answers by hand."""

    def __init__(self, settings=None):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.settings = settings or {}

    def accept(self, timeout=20, answer=True):
        self.listener.settimeout(timeout)
        sock, _ = self.listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(timeout)
        preface = b""
        while len(preface) < len(PREFACE):
            more = sock.recv(len(PREFACE) - len(preface))
            assert more, f"the client closed after {preface!r}"
            preface += more
        assert preface == PREFACE, preface
        endpoint = Endpoint(sock)
        if answer:
            endpoint.send(settings_frame(self.settings))
        return endpoint

    def close(self):
        self.listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
