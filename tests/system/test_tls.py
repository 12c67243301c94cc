"""
TLS on the wire: what is spoken, what is refused and how that is counted, handshakes that are
broken, slow and stuck, sessions that break, and how they end.
"""

import hashlib
import ssl
import struct
import subprocess
import time

import grpc
import hpack
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from harness.clients import get_updates, open_channel
from harness.h2 import (
    DATA,
    EMPTY_REQUEST,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RawH2,
    frame,
    request_headers,
    settings_frame,
)
from harness.secure import (
    SERVED,
    TLS_1_2,
    TLS_1_3,
    TLS_LISTEN,
    BareTls,
    SocketH2,
    TlsSocket,
    attempt,
    authority,
    client_context,
    dial,
    folder,
    read_updates,
    secure_channel,
    several,
    start_tls,
    tls_h2,
    wait_handshakes,
)
from harness.stocks import Chain

INADEQUATE_SECURITY = 12
HANDSHAKE, ALERT, APPLICATION = 22, 21, 23

# Old versions are what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")


def record(kind, payload, version=0x0303, length=None):
    return struct.pack(">BHH", kind, version, len(payload) if length is None else length) + payload


def read_to_end(sock):
    """What came, and whether a reset ended it."""
    data = b""
    while True:
        try:
            more = sock.recv(1 << 16)
        except ConnectionResetError:
            return data
        if not more:
            return data
        data += more


# --- What is spoken ---------------------------------------------------------------------------


def test_official_clients(start_tls, authority, js_client, start_program, client_program):
    """grpcio, grpc-js and stock-client, each with a certificate of its own."""
    stockd = start_tls(
        tls={"client_ca": authority.certificate, "client_certificate": "required"},
        stream={"interval": "0"},
    )
    client = authority.client("trader")
    with secure_channel(stockd.port, authority, client) as channel:
        read_updates(channel, 3000)
    program = """
        const grpc = require('@grpc/grpc-js'), fs = require('fs');
        const [proto, port, ca, key, certificate] = process.argv.slice(1);
        const types = require('@grpc/proto-loader').loadSync(proto, {longs: Number});
        const {StockService} = grpc.loadPackageDefinition(types).stockservice;
        const files = [ca, key, certificate].map(name => fs.readFileSync(name));
        const client = new StockService('localhost:' + port, grpc.credentials.createSsl(...files));
        const call = client.GetUpdates({});
        let price = null, count = 0;
        call.on('data', update => {
            if (price !== null && price + update.change !== update.price) process.exit(4);
            price = update.price;
            if (++count === 3000) { call.cancel(); client.close(); }
        });
        call.on('error', error => process.exitCode = error.code === 1 ? 0 : 3);
        call.on('end', () => process.exitCode = count >= 3000 ? process.exitCode : 5);
    """
    done = subprocess.run(
        [
            *("node", "-e", program, "--", js_client.argv[2], str(stockd.port)),
            *map(str, (authority.certificate, client.key, client.certificate)),
        ],
        cwd=js_client.argv[1].rpartition("/")[0],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done
    ours = start_program(
        [
            *(client_program, f"localhost:{stockd.port}", "--cacert", authority.certificate),
            *("--cert", client.certificate, "--key", client.key),
            *("--count", 3000, "--output", "json", "--no-metrics"),
        ],
        "stock-client",
    )
    assert ours.wait() == 0, ours.log()
    assert len(ours.output().splitlines()) == 3000
    # Where "localhost" is ::1 too, it is dialled and nobody is there.
    metrics = stockd.wait_at_rest()
    assert metrics.by("stockd_tls_handshakes_total", "outcome")["ok"] == 3
    assert metrics.sum("grpc_server_started_total", grpc_method="GetUpdates") == 3


def test_programs_that_look_at_tls(start_tls, authority):
    """openssl s_client, gnutls-cli and curl, none of them of ours."""
    stockd = start_tls()
    ca = str(authority.certificate)

    def run(*argv, stdin="", ok=True):
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60)
        assert (done.returncode == 0) == ok, done
        return done.stdout + done.stderr

    openssl = ["openssl", "s_client", "-connect", f"127.0.0.1:{stockd.port}", "-CAfile", ca]
    for option, version in (("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")):
        text = run(*openssl, option, "-alpn", "h2")
        assert f"New, {version}" in text and "ALPN protocol: h2" in text, text
        assert "Verify return code: 0 (ok)" in text
        assert "Secure Renegotiation IS supported" in text or version == "TLSv1.3"
        assert "no application protocol" in run(*openssl, option, "-alpn", "http/1.1", ok=False)
        assert "no application protocol" in run(*openssl, option, ok=False)
    gnutls = ["gnutls-cli", f"--x509cafile={ca}", "-p", str(stockd.port), "localhost"]
    text = run(*gnutls, "--alpn=h2")
    assert "Handshake was completed" in text and "Application protocol: h2" in text, text
    text = run(*gnutls, "--alpn=http/1.1", ok=False)
    assert "No common application protocol" in text or "application protocol" in text, text
    curl = ["curl", "-sS", "--cacert", ca, "--max-time", "30", "-o", "/dev/null"]
    curl += ["-w", "%{http_version} %{response_code} %header{grpc-status}"]
    url = f"https://localhost:{stockd.port}/stockservice.StockService/GetUpdates"
    grpc_headers = ["-H", "Content-Type: application/grpc", "-H", "TE: trailers"]
    assert run(*curl, "--http2", "-X", "POST", "-H", "Content-Type: text/plain", url) == "2 415 3"
    assert run(*curl, "--http2", *grpc_headers, url) == "2 405 13"
    run(*curl, "--http1.1", url, ok=False)
    wait_handshakes(stockd, ok=5, no_alpn=6)


def local_server(identity):
    """A server of Python's that takes what it gets, however old."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    return context


def can_speak(context, server):
    """Can a client with this context shake hands with that server at all?"""
    ends = []
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends.append(context.wrap_bio(down, up, server_hostname="localhost"))
    ends.append(server.wrap_bio(up, down, server_side=True))
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass
        if not ends:
            return True
    return False


@pytest.mark.parametrize(
    "priorities",
    [
        None,
        "NORMAL:+VERS-ALL:+CIPHER-ALL:+KX-ALL:+MAC-ALL:+SIGN-ALL:%COMPAT",
        "LEGACY:+VERS-TLS1.0:+VERS-TLS1.1:+3DES-CBC:+ARCFOUR-128:+RSA",
        "PERFORMANCE:+VERS-TLS1.1:+AES-128-CBC:+RSA:+SHA1",
    ],
)
def test_old_versions_and_weak_ciphers_are_refused(start_tls, authority, priorities):
    """Whatever the priorities say. Each client is one that a careless server does speak with."""
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    rsa_server = authority.server("rsa", key=rsa_key)
    careless = {"ECDSA": local_server(authority.server("ec")), "RSA": local_server(rsa_server)}
    stockd = start_tls(
        several(
            TLS_LISTEN, f"{TLS_LISTEN} certificate={rsa_server.certificate} key={rsa_server.key}"
        ),
        {"priorities": priorities} if priorities else None,
    )
    ports = dict(zip(careless, stockd.grpc_ports))
    refused = served = 0

    def check(kind, wanted, **client):
        nonlocal refused, served
        context = client_context(authority, **client)
        assert can_speak(context, careless[kind]), f"this machine's OpenSSL cannot: {client}"
        seen = attempt(ports[kind], context)
        assert (seen == SERVED) if wanted is None else (wanted in seen), (kind, client, seen)
        served += wanted is None
        refused += wanted is not None

    for kind in ports:
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            check(kind, "PROTOCOL_VERSION", least=version, most=version)
        for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"):
            check(kind, None, most=TLS_1_2, ciphers=f"ECDHE-{kind}-{cipher}")
        for cipher in ("AES128-SHA", "AES256-SHA", "AES128-SHA256", "AES256-SHA384", "NULL-SHA"):
            check(kind, "HANDSHAKE_FAILURE", most=TLS_1_2, ciphers=f"ECDHE-{kind}-{cipher}")
        check(kind, None, least=TLS_1_3)
    for cipher in ("AES128-GCM-SHA256", "AES256-SHA", "NULL-SHA256"):
        # The key exchange of RSA gives no forward secrecy.
        check("RSA", "HANDSHAKE_FAILURE", most=TLS_1_2, ciphers=cipher)
    wait_handshakes(stockd, ok=served, failed=refused)


@pytest.mark.parametrize("only, version", [("TLS1.2", TLS_1_2), ("TLS1.3", TLS_1_3)])
def test_priorities_can_demand_a_version(start_tls, authority, only, version):
    stockd = start_tls(tls={"priorities": f"NORMAL:-VERS-ALL:+VERS-{only}"})
    for tried in (TLS_1_2, TLS_1_3):
        seen = attempt(stockd.port, client_context(authority, least=tried, most=tried))
        if tried == version:
            assert seen == SERVED
        else:
            assert "PROTOCOL_VERSION" in seen or "HANDSHAKE_FAILURE" in seen, seen
    wait_handshakes(stockd, ok=1, failed=1)


def test_alpn_must_say_h2(start_tls, authority):
    stockd = start_tls()
    good = [("h2",), ("http/1.1", "h2"), ("h2", "http/1.1"), ("grpc-exp", "h2")]
    bad = [(), ("http/1.1",), ("h2c",), ("h",), ("H2",), ("h22", "http/1.0")]
    for version in (TLS_1_2, TLS_1_3):
        for alpn in good:
            context = client_context(authority, alpn=alpn, least=version, most=version)
            with tls_h2(stockd.port, context) as h2:
                assert h2.socket.selected_alpn_protocol() == "h2"
                h2.ready().ping()
        for alpn in bad:
            context = client_context(authority, alpn=alpn, least=version, most=version)
            assert "NO_APPLICATION_PROTOCOL" in attempt(stockd.port, context), alpn
    wait_handshakes(stockd, ok=2 * len(good), no_alpn=2 * len(bad))
    stockd.wait_at_rest()


def test_a_handshake_takes_no_more_trips_than_it_must(start_tls, authority):
    """
    The server takes the group that the client has sent a key for unasked, and does not ask for
    another: its first message is no HelloRetryRequest, whose mark is its random (RFC 8446, 4.1.3).
    """
    stockd = start_tls()
    sock = dial(stockd.port)
    sock.sendall(BareTls(None, client_context(authority)).hello())
    answer = b""
    while len(answer) < 43:
        answer += sock.recv(43 - len(answer))
    assert answer[0] == HANDSHAKE and answer[5] == 2
    assert answer[11:43] != hashlib.sha256(b"HelloRetryRequest").digest()
    sock.close()


def test_no_session_is_resumed(start_tls, authority):
    """Each connection is judged by the certificates of today."""
    stockd = start_tls()
    for version in (TLS_1_2, TLS_1_3):
        context = client_context(authority, least=version, most=version)
        with tls_h2(stockd.port, context) as h2:
            h2.ready().ping()
            session = h2.socket.session
        assert not session or not session.has_ticket
        again = context.wrap_socket(
            dial(stockd.port), server_hostname="localhost", session=session if session else None
        )
        assert not again.session_reused
        again.close()


# --- What is no TLS ---------------------------------------------------------------------------


def test_plaintext_on_a_tls_port(start_tls):
    """HTTP/2, HTTP/1 and gRPC learn in their own words why they are not served."""
    stockd = start_tls()
    with RawH2(stockd.port) as h2:
        h2.wait_closed()
        assert h2.goaway[1] == INADEQUATE_SECURITY and b"TLS" in h2.goaway[2]
        # SETTINGS before it would tell gRPC clients that they are connected: after that they would
        # try again at once, without a pause, as often as they can.
        assert [one.type for one in h2.frames] == [GOAWAY]
    sock = dial(stockd.port)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = read_to_end(sock)
    sock.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"TLS" in body
    assert f"content-length: {len(body)}".encode() in head.lower()
    wait_handshakes(stockd, failed=2)
    with open_channel(stockd.port) as channel:
        with pytest.raises(grpc.RpcError) as error:
            next(get_updates(channel, timeout=30))
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    wait_handshakes(stockd, failed=3)
    assert stockd.metric("stockd_connections_accepted_total") == 0


def test_tls_on_a_plaintext_port(start_stockd, authority):
    stockd = start_stockd()
    for most in (TLS_1_2, TLS_1_3):
        assert attempt(stockd.port, client_context(authority, most=most)) != SERVED
    stockd.wait_metric("stockd_connections_closed_total", 2, reason="bad_preface")
    with secure_channel(stockd.port, authority) as channel:
        with pytest.raises(grpc.RpcError) as error:
            next(get_updates(channel, timeout=30))
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    metrics = stockd.wait_at_rest()
    assert metrics.sum("stockd_tls_handshakes_total") == 0


def test_both_at_once(start_tls, authority):
    """Listeners with and without, and each client at the right one."""
    stockd = start_tls(several("127.0.0.1:0", TLS_LISTEN, "[::1]:0 tls=yes"))
    plain, secure, v6 = stockd.grpc_ports
    assert attempt(plain) == SERVED
    assert attempt(secure, client_context(authority)) == SERVED
    assert attempt(v6, client_context(authority), host="::1") == SERVED
    wait_handshakes(stockd, ok=2)


# What comes first, and what is wrong with it.
BAD_HELLOS = {
    "nothing": b"",
    "zeroes": bytes(200),
    "noise": bytes(range(256)) * 8,
    "an alert": record(ALERT, b"\x02\x28"),
    "a warning, and no more": record(ALERT, b"\x01\x00"),
    "application data": record(APPLICATION, bytes(32)),
    "the head of a record": b"\x16\x03\x01",
    "an empty record": record(HANDSHAKE, b""),
    "a record that is too long": record(HANDSHAKE, b"\x01" + bytes(99), length=0xFFFF),
    "a hello of noise": record(HANDSHAKE, b"\x01\x00\x00\x40" + bytes(range(64))),
    "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(37),
    "another message": record(HANDSHAKE, b"\x02\x00\x00\x10" + bytes(16)),
}


@pytest.mark.parametrize("what", BAD_HELLOS)
def test_what_is_no_handshake(start_tls, authority, what):
    """Closed at the end of it, counted once; and others do not notice."""
    stockd = start_tls()
    sock = dial(stockd.port)
    sock.sendall(BAD_HELLOS[what])
    sock.shutdown(1)
    # No more than an alert comes back.
    assert len(read_to_end(sock)) <= 7
    sock.close()
    wait_handshakes(stockd, failed=1)
    assert stockd.metric("stockd_tls_pending_handshakes") == 0
    assert attempt(stockd.port, client_context(authority)) == SERVED
    stockd.wait_at_rest()


# --- Handshakes that come in pieces, or not to an end -----------------------------------------


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=lambda v: v.name)
def test_byte_by_byte(start_tls, authority, version):
    """The handshake, and then a whole call."""
    stockd = start_tls(stream={"interval": "0"})
    context = client_context(authority, least=version, most=version)
    client = BareTls(dial(stockd.port), context).handshake(piece=1)
    assert client.tls.version().replace(".", "_") == version.name
    client.send(PREFACE + settings_frame({}), piece=1)
    assert client.recv()[3] == 4
    client.socket.close()
    wait_handshakes(stockd, ok=1)
    stockd.wait_at_rest()


@pytest.mark.parametrize("protocols", [60, 150])
def test_a_large_hello(start_tls, authority, protocols):
    """Of 12 KB, which is one record, and of 30 KB, which is two."""
    stockd = start_tls()
    alpn = [f"{i:0200}" for i in range(protocols)] + ["h2"]
    for version in (TLS_1_2, TLS_1_3):
        context = client_context(authority, alpn=alpn, least=version, most=version)
        assert attempt(stockd.port, context) == SERVED
    wait_handshakes(stockd, ok=2)


def test_a_hello_without_end(start_tls, sanitized):
    """A message of 16 MiB, as it says: it is not taken in, and its sender is put out."""
    stockd = start_tls()
    before = stockd.private_bytes()
    sock = dial(stockd.port)
    sock.sendall(record(HANDSHAKE, b"\x01\xff\xff\xff" + bytes(16380)))
    more = record(HANDSHAKE, bytes(16384))
    deadline = time.monotonic() + 20
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        while time.monotonic() < deadline:
            sock.sendall(more)
    sock.close()
    wait_handshakes(stockd, failed=1)
    # AddressSanitizer keeps what was freed.
    assert sanitized or stockd.private_bytes() - before < 1 << 20


def test_a_slow_handshake_times_out(start_tls, authority):
    """Each byte in time for itself does not help."""
    stockd = start_tls(tls={"handshake_timeout": "400ms"})
    hello = BareTls(None, client_context(authority)).hello()
    sock = dial(stockd.port)
    sock.settimeout(0.02)
    began = time.monotonic()
    closed = False
    for byte in hello:
        try:
            sock.sendall(bytes([byte]))
            closed = sock.recv(100) == b""
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            closed = True
        if closed:
            break
    assert closed and time.monotonic() - began >= 0.35
    sock.close()
    wait_handshakes(stockd, timeout=1)
    # One that ends in time has all the time of the world.
    with tls_h2(stockd.port, client_context(authority)) as h2:
        stream = h2.ready().call()
        h2.wait_updates(stream, 8, Chain())
    wait_handshakes(stockd, timeout=1, ok=1)


@pytest.mark.parametrize("kind", ["silent", "half a hello", "after the server's answer"])
def test_stuck_handshakes_time_out(start_tls, authority, kind):
    stockd = start_tls(tls={"handshake_timeout": "300ms"})
    sock = dial(stockd.port)
    hello = BareTls(None, client_context(authority)).hello()
    began = time.monotonic()
    if kind != "silent":
        sock.sendall(hello[: len(hello) // 2] if kind == "half a hello" else hello)
    answer = read_to_end(sock)
    assert time.monotonic() - began >= 0.25
    assert bool(answer) == (kind == "after the server's answer")
    sock.close()
    wait_handshakes(stockd, timeout=1)
    assert stockd.metric("stockd_tls_pending_handshakes") == 0


STUCK = 1000


@pytest.mark.parametrize("kind", ["silent", "half", "answered"])
def test_a_thousand_stuck_handshakes(start_tls, authority, sanitized, kind):
    """They are bounded in number and in memory, and others are served meanwhile."""
    stockd = start_tls(
        tls={"handshake_timeout": "1h"},
        grpc={"max_connections": STUCK + 1},
        stream={"interval": "0"},
    )
    context = client_context(authority)
    assert attempt(stockd.port, context) == SERVED
    stockd.wait_at_rest()
    before = stockd.private_bytes()
    hello = BareTls(None, context).hello()
    stuck = []
    for _ in range(STUCK):
        sock = dial(stockd.port)
        sock.sendall({"silent": b"", "half": hello[:-7], "answered": hello}[kind])
        stuck.append(sock)
    stockd.wait_metric("stockd_tls_pending_handshakes", STUCK)
    if kind == "answered":
        for sock in stuck:
            assert sock.recv(1 << 16)
    each = (stockd.private_bytes() - before) / STUCK
    # A session of GnuTLS, and keys where there are some.
    assert each <= (48 << 10 if not sanitized else 256 << 10), f"{each:.0f} bytes each"
    # One more is served; with that the places are taken.
    with tls_h2(stockd.port, context) as h2:
        h2.wait_updates(h2.ready().call(), 500, Chain())
        assert attempt(stockd.port, context) != SERVED
        assert stockd.metric("stockd_refused_total", reason="max_connections") == 1
        stuck.pop().close()
        stockd.wait_metric("stockd_tls_pending_handshakes", STUCK - 1)
        assert attempt(stockd.port, context) == SERVED
    for sock in stuck:
        sock.close()
    wait_handshakes(stockd, ok=3, failed=STUCK)
    stockd.wait_metric("stockd_tls_pending_handshakes", 0)
    stockd.wait_at_rest()


def test_the_end_does_not_wait_for_handshakes_for_ever(start_tls):
    """Whoever is in one when the program stops has as much time as others have for the end."""
    stockd = start_tls(tls={"handshake_timeout": "1h"}, grpc={"shutdown_timeout": "300ms"})
    sock = dial(stockd.port)
    stockd.wait_metric("stockd_tls_pending_handshakes", 1)
    assert stockd.stop() == 0
    assert read_to_end(sock) == b""
    sock.close()


# --- Broken sessions --------------------------------------------------------------------------


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=lambda v: v.name)
@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 64,
        record(APPLICATION, b"\x55" * 64),
        record(APPLICATION, bytes(16), length=0xFFFF),
        record(HANDSHAKE, b"\x01\x00\x00\x00"),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["noise", "a false record", "a record too long", "a hello in clear", "HTTP/1"],
)
def test_garbage_in_the_middle(start_tls, authority, version, garbage):
    """The session ends with a fatal alert, its calls with it, and nobody else's."""
    stockd = start_tls(stream={"interval": "10ms"})
    with tls_h2(stockd.port, client_context(authority)) as other:
        stream, chain = other.ready().call(), Chain()
        context = client_context(authority, least=version, most=version)
        client = BareTls(dial(stockd.port), context).handshake()
        client.send(PREFACE + settings_frame({}))
        client.recv()
        client.socket.sendall(garbage)
        with pytest.raises(ssl.SSLError) as error:
            while client.recv():
                pass
        assert "ALERT" in error.value.reason, error.value
        client.socket.close()
        stockd.wait_metric("stockd_connections", 1)
        other.wait_updates(stream, chain.count + 20, chain)
    metrics = stockd.wait_at_rest()
    assert metrics.sum("stockd_connections_closed_total", reason="peer_lost") == 2
    wait_handshakes(stockd, ok=2)


def test_half_a_record_and_the_end(start_tls, authority):
    """TCP's end in the middle of a record, with a call open: the call is cancelled."""
    stockd = start_tls(stream={"interval": "0"})
    client = BareTls(dial(stockd.port), client_context(authority)).handshake()
    client.send(PREFACE + settings_frame({}))
    client.recv()
    client.tls.write(settings_frame({4: 1}))
    client.socket.sendall(client.outgoing.read()[:-3])
    client.socket.shutdown(1)
    read_to_end(client.socket)
    client.socket.close()
    metrics = stockd.wait_at_rest()
    assert metrics.sum("stockd_connections_closed_total") == 1


def test_no_renegotiation(start_tls, authority):
    """openssl s_client asks for it with TLS 1.2, and is put out (RFC 9113, 9.2.1)."""
    stockd = start_tls()
    client = subprocess.Popen(
        [
            *("openssl", "s_client", "-connect", f"127.0.0.1:{stockd.port}", "-tls1_2"),
            *("-alpn", "h2", "-CAfile", str(authority.certificate)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_handshakes(stockd, ok=1)
        client.stdin.write(b"R\n")
        client.stdin.flush()
        stockd.wait_metric("stockd_connections", 0)
        text = client.communicate(timeout=20)[0]
    finally:
        client.kill()
        client.wait()
    assert b"RENEGOTIATING" in text and b"no renegotiation" in text, text[-2000:]
    wait_handshakes(stockd, ok=1)


def test_new_keys_in_the_middle(start_tls, authority):
    """KeyUpdate of TLS 1.3 (RFC 8446, 4.6.3), asked for by openssl: the call goes on."""
    stockd = start_tls(stream={"interval": "5ms"})
    client = subprocess.Popen(
        [
            *("openssl", "s_client", "-connect", f"127.0.0.1:{stockd.port}", "-tls1_3"),
            *("-alpn", "h2", "-CAfile", str(authority.certificate)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_handshakes(stockd, ok=1)
        block = hpack.Encoder().encode(request_headers(), huffman=False)
        request = frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, END_STREAM, 1, EMPTY_REQUEST)
        client.stdin.write(PREFACE + settings_frame({}) + request)
        client.stdin.flush()
        sent = stockd.wait_metric("stock_updates_sent_total", lambda n: n >= 5)
        for _ in range(2):
            # A line of its own is a command: new keys for both directions.
            client.stdin.write(b"K\n")
            client.stdin.flush()
            sent = stockd.wait_metric(
                "stock_updates_sent_total", lambda n, before=sent: n >= before + 20
            )
        client.stdin.close()
        text = client.stdout.read()
    finally:
        client.kill()
        client.wait()
        client.stdout.close()
    assert text.count(b"KEYUPDATE") == 2
    # And it could read all of them.
    assert text.count(b"AAPL") >= 45
    stockd.wait_at_rest()


# --- The end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=lambda v: v.name)
def test_a_stop_ends_calls_and_then_tls(start_tls, authority, version):
    """Status, GOAWAY, and TLS's own end: nobody could have cut it short unseen."""
    stockd = start_tls(stream={"interval": "5ms"})
    context = client_context(authority, least=version, most=version)
    sock = TlsSocket(dial(stockd.port), context, whole=True)
    with SocketH2(sock) as h2:
        stream, chain = h2.ready().call(), Chain()
        h2.wait_updates(stream, 5, chain)
        stockd.send_signal(15)
        h2.wait_over(stream)
        chain.check_bytes(stream.take_bodies())
        assert stream.status == 14 and h2.goaway is not None
        h2.wait_closed()
        # A TCP end without close_notify would be an error.
        assert not h2.reset_by_peer
    assert stockd.wait() == 0


def test_a_client_may_say_goodbye(start_tls, authority):
    """Its close_notify is an end like any other, with a call open or without one."""
    stockd = start_tls(stream={"interval": "5ms"})
    for calls in (0, 1):
        h2 = tls_h2(stockd.port, client_context(authority)).ready()
        for _ in range(calls):
            h2.wait_updates(h2.call(), 2, Chain())
        h2.socket.settimeout(20)
        try:
            h2.socket.unwrap().close()
        except ssl.SSLError as error:
            # Updates were on their way.
            assert "APPLICATION_DATA_AFTER_CLOSE_NOTIFY" in error.reason, error
        stockd.wait_metric("stockd_connections", 0)
        h2.close()
    metrics = stockd.wait_at_rest()
    assert metrics.sum("stockd_connections_closed_total", reason="peer_closed") == 1
    assert metrics.sum("stockd_connections_closed_total", reason="peer_lost") == 1
    assert metrics.sum("grpc_server_handled_total", grpc_code="Canceled") == 1
