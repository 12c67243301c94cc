"""
Clients by TLS, by Unix sockets and from other addresses of the loopback, for raw HTTP/2 and for
bytes that no library would send. The fixtures are for test files to import.
"""

import os
import shutil
import socket
import ssl
import tempfile
from pathlib import Path

import grpc
import pytest

from harness.certificates import Authority
from harness.clients import CHANNEL_OPTIONS, get_updates
from harness.h2 import PREFACE, Endpoint, RawH2, settings_frame
from harness.stocks import Chain
from harness.wait import wait_until

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
TLS_LISTEN = "127.0.0.1:0 tls=yes"
SERVED = "served"
NOBODY = 65534
OUTCOMES = ("ok", "failed", "timeout", "no_alpn", "certificate", "no_memory")


@pytest.fixture
def folder():
    """A folder that every user may enter, with a path short enough for Unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="stockd-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def authority(folder):
    return Authority(folder)


@pytest.fixture
def start_tls(start_stockd, authority):
    """A stockd with a certificate of `authority`; `tls` and the others are sections as ever."""

    def start(grpc_listen=TLS_LISTEN, tls=None, **sections):
        identity = authority.server()
        sections.setdefault("grpc", {})["listen"] = grpc_listen
        return start_stockd(tls=server_tls(identity, **(tls or {})), **sections)

    return start


def as_nobody(argv):
    """The command line that runs another as nobody; as ourselves, if we have no such right."""
    argv = [str(word) for word in argv]
    if os.geteuid() != 0:
        return argv
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *argv]


def server_tls(identity, **more):
    """The section [tls] with that certificate."""
    return {"certificate": identity.certificate, "key": identity.key, **more}


def several(*endpoints):
    """The value of `listen` with an endpoint a line, since a line has an end."""
    return "\nlisten = ".join(endpoints)


def dial(port=None, path=None, host="127.0.0.1", source=None, receive_buffer=None):
    """A socket, connected: to a port, from the address `source`, or to a Unix socket."""
    family = socket.AF_UNIX if path else socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if not path:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(20)
    if source:
        sock.bind((source, 0))
    sock.connect(str(path) if path else (host, port))
    return sock


def client_context(
    authority=None, identity=None, alpn=("h2",), least=TLS_1_2, most=TLS_1_3, ciphers=None
):
    """Without an authority every server is good enough. `ciphers` are those up to TLS 1.2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority:
        context.load_verify_locations(authority.certificate)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # The library's own idea of what is too weak must not come before the server's.
    context.set_ciphers(f"{ciphers or 'ALL:COMPLEMENTOFALL'}:@SECLEVEL=0")
    context.minimum_version = least
    context.maximum_version = most
    if identity:
        context.load_cert_chain(identity.certificate, identity.key)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class TlsSocket:
    """
    A TLS socket that says like any other that it would have to wait. `whole`: an end of TCP without
    TLS's own is an error.
    """

    def __init__(self, sock, context, whole=False):
        self.tls = context.wrap_socket(
            sock, server_hostname="localhost", suppress_ragged_eofs=not whole
        )

    def recv(self, size):
        try:
            return self.tls.recv(size)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def recv_into(self, buffer):
        return self.tls.recv_into(buffer)

    def send(self, data):
        try:
            return self.tls.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        except ssl.SSLError as error:
            raise BrokenPipeError from error

    def __getattr__(self, name):
        return getattr(self.tls, name)


class SocketH2(RawH2):
    """An HTTP/2 client over a socket that is connected already."""

    def __init__(self, sock, settings=None):
        Endpoint.__init__(self, sock)
        self.next_stream = 1
        self.send(PREFACE + settings_frame(settings or {}))


def tls_h2(port, context, settings=None, **where):
    return SocketH2(TlsSocket(dial(port, **where), context), settings)


def attempt(port=None, context=None, **where):
    """
    SERVED, if a client with this context (without one: no TLS) gets HTTP/2 from the server; else
    what it gets: the reason of the alert, "closed", "reset", or other bytes than SETTINGS.
    """
    sock = dial(port, **where)
    try:
        if context:
            sock = context.wrap_socket(sock, server_hostname="localhost")
        sock.sendall(PREFACE + settings_frame({}))
        # With TLS 1.3 the server judges the client's certificate when that thinks to be done.
        answer = sock.recv(9)
        return SERVED if answer[3:4] == b"\x04" else repr(answer) if answer else "closed"
    except ssl.SSLError as error:
        # Python has no name for some of them.
        return (error.reason or str(error)).upper().replace(" ", "_")
    except (ConnectionResetError, BrokenPipeError):
        return "reset"
    finally:
        sock.close()


class BareTls:
    """TLS whose bytes a test can cut, spoil and keep back."""

    def __init__(self, sock, context):
        self.socket = sock
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def hello(self):
        """The bytes of the ClientHello."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    def flush(self, piece=None):
        """Sends what TLS has to say, in pieces of so many bytes."""
        data = self.outgoing.read()
        for start in range(0, len(data), piece or max(len(data), 1)):
            self.socket.sendall(data[start : start + (piece or len(data))])

    def read(self):
        """Hands TLS what comes; False at the end."""
        data = self.socket.recv(1 << 16)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()
        return bool(data)

    def run(self, step, piece=None):
        """step(), as often as it wants to read more."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self.flush(piece)
                assert self.read(), "the server closed"
                continue
            self.flush(piece)
            return result

    def handshake(self, piece=None):
        self.run(self.tls.do_handshake, piece)
        return self

    def send(self, data, piece=None):
        self.tls.write(data)
        self.flush(piece)

    def recv(self, size=1 << 16):
        return self.run(lambda: self.tls.read(size))


def wait_handshakes(stockd, **counts):
    """Waits until so many handshakes have ended so, and none in another way."""
    wanted = {outcome: counts.get(outcome, 0) for outcome in OUTCOMES}
    seen = [None]

    def look():
        seen[0] = stockd.metrics().by("stockd_tls_handshakes_total", "outcome")
        return seen[0] == wanted

    try:
        wait_until(look)
    except AssertionError:
        raise AssertionError(f"handshakes: {seen[0]}, wanted {wanted}") from None


def secure_channel(port, authority, identity=None):
    key, certificate = identity.pems() if identity else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.pem(), key, certificate)
    return grpc.secure_channel(f"localhost:{port}", credentials, options=CHANNEL_OPTIONS)


def read_updates(channel, count):
    chain = Chain()
    call = get_updates(channel, timeout=60)
    while chain.count < count:
        chain.check(next(call))
    call.cancel()
