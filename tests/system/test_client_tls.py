"""
stock-client over TLS and over Unix sockets: against grpcio, against servers of Python's ssl module
and of openssl that have one thing wrong, and against stockd.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time

import grpc
import pytest

from harness.certificates import Authority, self_signed
from harness.h2 import PREFACE, Endpoint, settings_frame
from harness.process import SANITIZER
from harness.server import ReferenceServer
from harness.stock_client import (  # noqa: F401  (some are fixtures)
    DONE,
    INTERRUPTED,
    MESSAGE_BYTES_MIN,
    NO_CONNECTION,
    USAGE,
    check_json,
    free_port,
    run_client,
    start_client,
    summary_of,
)
from harness.wait import wait_stable, wait_until


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def identity(authority):
    """A good server's, for localhost, 127.0.0.1 and ::1."""
    return authority.server()


def grpcio_credentials(identity, client_authority=None):
    return grpc.ssl_server_credentials(
        [identity.pems()],
        root_certificates=client_authority.pem() if client_authority else None,
        require_client_auth=client_authority is not None,
    )


def stockd_tls(identity, **more):
    return {"certificate": identity.certificate, "key": identity.key, **more}


# --- Against grpcio ---------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_updates_from_grpcio_over_tls(run_client, authority, identity, host):
    with ReferenceServer(credentials=grpcio_credentials(identity)) as server:
        done = run_client(
            f"{host}:{server.port}",
            *("--cacert", authority.certificate, "--count", 3000, "--output", "json"),
        )
    assert done.returncode == DONE, done.stderr
    assert check_json(done.stdout.splitlines()) == 3000
    summary = summary_of(done.stderr)
    assert summary["gaps"] == summary["reconnects"] == 0
    assert re.search(r"connected to .*, TLS1\.3, ", done.stderr)


def test_a_chain_with_an_authority_between(run_client, authority):
    identity = authority.intermediate().server("between")
    with ReferenceServer(credentials=grpcio_credentials(identity)) as server:
        done = run_client(
            f"127.0.0.1:{server.port}", "--cacert", authority.certificate, "--count", 5
        )
    assert done.returncode == DONE, done.stderr


def test_mutual_tls_with_grpcio(run_client, start_client, authority, identity, tmp_path):
    client = authority.client("trader-7")
    stranger = Authority(tmp_path, "stranger").client("trader-8")
    names = []

    def plan(call, context):
        if not call.sent:
            names.append(context.auth_context()["x509_common_name"])

    credentials = grpcio_credentials(identity, authority)
    with ReferenceServer(credentials=credentials, plan=plan) as server:
        address = f"127.0.0.1:{server.port}"
        trust = ("--cacert", authority.certificate, "--no-reconnect", "--count", 50)
        done = run_client(address, *trust, "--cert", client.certificate, "--key", client.key)
        assert done.returncode == DONE, done.stderr
        assert len(done.stdout.splitlines()) == 50
        assert names == [[b"trader-7"]]

        for arguments in ([], ["--cert", stranger.certificate, "--key", stranger.key]):
            done = run_client(address, *trust, *arguments)
            assert done.returncode == NO_CONNECTION, done.stderr
            assert "not accept this client's certificate, or wants one" in done.stderr
            assert address in done.stderr and done.stdout == ""

        running = start_client(address, "--cacert", authority.certificate)
        running.program.wait_log("trying again")
        assert running.metric("stock_client_connects_total", outcome="tls_failed") >= 1
        assert running.stop() == INTERRUPTED
        assert len(names) == 1


WRONG = {
    "wrong name": (lambda a, _: a.wrong_name(), 'for another name than "127.0.0.1"'),
    "expired": (lambda a, _: a.expired(), "has expired"),
    "not yet": (lambda a, _: a.not_yet_valid(), "is not valid yet"),
    "self-signed": (lambda _, folder: self_signed(folder), "is not trusted"),
    "stranger": (lambda _, folder: Authority(folder, "stranger").server("s"), "is not trusted"),
    "a client's": (lambda a, _: a.client("c", names=["127.0.0.1"]), "for another purpose"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_certificate_that_is_not_good(run_client, start_client, authority, tmp_path, wrong):
    """Named in words, counted, tried again; and taken by who asks for that."""
    make, words = WRONG[wrong]
    with ReferenceServer(credentials=grpcio_credentials(make(authority, tmp_path))) as server:
        address = f"127.0.0.1:{server.port}"
        done = run_client(address, "--cacert", authority.certificate, "--no-reconnect")
        assert done.returncode == NO_CONNECTION
        assert re.search(
            f'cannot connect to {address}: TLS with "127.0.0.1" failed: .*{words}', done.stderr
        ), done.stderr
        assert done.stdout == "" and summary_of(done.stderr)["received"] == 0

        client = start_client(address, "--cacert", authority.certificate)
        client.program.wait_log(r"trying again in \d+\.\d s")
        assert client.metric("stock_client_connects_total", outcome="tls_failed") >= 1
        assert client.metric("stock_client_connects_total", outcome="established") == 0
        assert client.metric("grpc_client_started_total") == 0
        assert client.stop() == INTERRUPTED
        assert not server.calls

        done = run_client(address, "--insecure", "--count", 5, "--no-reconnect")
        assert done.returncode == DONE, done.stderr
        assert "--insecure" in done.stderr


def test_the_authorities_of_the_system_do_not_know_ours(run_client, identity):
    with ReferenceServer(credentials=grpcio_credentials(identity)) as server:
        done = run_client(f"127.0.0.1:{server.port}", "--tls", "--no-reconnect")
    assert done.returncode == NO_CONNECTION
    assert "is not trusted" in done.stderr


def test_a_server_by_another_name(run_client, authority):
    identity = authority.wrong_name()
    with ReferenceServer(credentials=grpcio_credentials(identity)) as server:
        arguments = (f"127.0.0.1:{server.port}", "--cacert", authority.certificate)
        done = run_client(*arguments, "--server-name", "elsewhere.example", "--count", 5)
        assert done.returncode == DONE, done.stderr
        done = run_client(*arguments, "--server-name", "nowhere.example", "--no-reconnect")
        assert done.returncode == NO_CONNECTION
        assert 'TLS with "nowhere.example" failed' in done.stderr


def test_a_certificate_is_renewed_while_the_client_tries(
    start_stockd, start_client, authority, tmp_path
):
    """Why a bad certificate is no reason to give up."""
    stockd = start_stockd(
        grpc={"listen": "127.0.0.1:0 tls=yes"}, tls=stockd_tls(authority.expired("server"))
    )
    client = start_client(
        f"127.0.0.1:{stockd.port}", "--cacert", authority.certificate, "--count", 10
    )
    client.program.wait_log("has expired.*trying again")
    authority.server("server")
    stockd.send_signal(signal.SIGHUP)
    assert client.program.wait(60) == DONE
    assert len(client.lines()) == 10
    assert client.summary()["reconnects"] == 0


def test_with_and_without_tls_do_not_mix(run_client, authority, identity):
    with ReferenceServer() as server:
        done = run_client(
            f"127.0.0.1:{server.port}", "--cacert", authority.certificate, "--no-reconnect"
        )
        assert done.returncode == NO_CONNECTION
        assert 'TLS with "127.0.0.1" failed' in done.stderr
        assert not server.calls
    with ReferenceServer(credentials=grpcio_credentials(identity)) as server:
        done = run_client(f"127.0.0.1:{server.port}", "--no-reconnect")
        assert done.returncode == NO_CONNECTION
        assert "got no HTTP/2" in done.stderr and "(--tls)" in done.stderr
        assert not server.calls


def test_a_slow_client_holds_grpcio_back_over_tls(start_client, authority, identity):
    """grpcio as the judge: it sends no more than the window and a few messages of its own."""
    with ReferenceServer(credentials=grpcio_credentials(identity)) as server:
        client = start_client(
            f"127.0.0.1:{server.port}",
            *("--cacert", authority.certificate, "--delay", "50ms", "--window", "2K"),
        )
        client.wait_lines(10)
        assert client.metric("stock_client_unprocessed_bytes") <= 2048
        assert server.sent - len(client.lines()) <= 2048 / MESSAGE_BYTES_MIN + 200
        client.wait_lines(20)
        assert server.sent - len(client.lines()) <= 2048 / MESSAGE_BYTES_MIN + 200
        assert client.stop() == INTERRUPTED
        wait_until(lambda: server.calls[0].over, what="the end of the call at the server")


# --- Against a server of Python's ssl module --------------------------------------------------


class TlsSocket:
    """An SSLSocket with the manners of a plain one, as far as Endpoint needs them."""

    def __init__(self, sock):
        self._sock = sock

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def send(self, data):
        try:
            return self._sock.send(data)
        except ssl.SSLWantWriteError:
            raise BlockingIOError from None

    def recv(self, size):
        """All that is there: select() does not see what is decrypted already."""
        data = b""
        while len(data) < size:
            try:
                more = self._sock.recv(size - len(data))
            except ssl.SSLWantReadError:
                if data:
                    break
                raise BlockingIOError from None
            if not more:
                break
            data += more
        return data


class TlsServer:
    """Accepts one client after the other; `seen` is the name that the last one asked for."""

    def __init__(self, identity, alpn=("h2",), client_authority=None, newest=None):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(identity.certificate, identity.key)
        if alpn:
            self.context.set_alpn_protocols(alpn)
        if client_authority:
            self.context.load_verify_locations(client_authority.certificate)
            self.context.verify_mode = ssl.CERT_REQUIRED
        if newest:
            self.context.maximum_version = newest
        self.seen = None
        self.context.sni_callback = self._on_name
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(20)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"

    def _on_name(self, _sock, name, _context):
        self.seen = name

    def accept(self):
        sock, _ = self.listener.accept()
        sock.settimeout(20)
        return self.context.wrap_socket(sock, server_side=True)

    def accept_call(self):
        """The connection of a client that has begun its call, and the call's stream."""
        sock = self.accept()
        preface = b""
        while len(preface) < len(PREFACE):
            preface += sock.recv(len(PREFACE) - len(preface))
        assert preface == PREFACE
        h2 = Endpoint(TlsSocket(sock))
        h2.send(settings_frame({}))
        h2.wait(lambda: h2.streams and h2.stream(1).blocks, what="the request")
        return h2, h2.stream(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_request_over_tls(client_program, start_program, authority, newest):
    """The scheme, and the name: in the certificate, in TLS, and in HTTP/2."""
    identity = authority.server("named", names=["stocks.example"])
    with TlsServer(identity, newest=newest) as server:
        program = start_program(
            [
                client_program,
                server.address,
                *("--cacert", authority.certificate, "--server-name", "stocks.example"),
                *("--no-metrics", "--no-reconnect"),
            ],
            "stock-client",
        )
        h2, stream = server.accept_call()
        headers = dict(stream.blocks[0])
        assert headers[":scheme"] == "https"
        assert headers[":authority"] == "stocks.example"
        assert headers["grpc-accept-encoding"] == "identity"
        assert server.seen == "stocks.example"
        version = "TLS1.2" if newest == ssl.TLSVersion.TLSv1_2 else "TLS1.3"
        program.wait_log(rf"connected to {server.address} \({server.address}, {version}, ")
        assert program.stop(signal.SIGINT) == INTERRUPTED
        h2.close()


def test_an_address_is_no_name_for_tls(client_program, start_program, authority, identity):
    """RFC 6066, 3: no literal addresses in the server name indication."""
    with TlsServer(identity) as server:
        program = start_program(
            [client_program, server.address, "--cacert", authority.certificate, "--no-metrics"],
            "stock-client",
        )
        h2, stream = server.accept_call()
        assert dict(stream.blocks[0])[":authority"] == server.address
        assert server.seen is None
        assert program.stop(signal.SIGINT) == INTERRUPTED
        h2.close()


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_that_shows_no_certificate(
    client_program, start_program, authority, identity, newest
):
    """With TLS 1.2 the handshake fails; with 1.3 it has succeeded when the client is told."""
    with TlsServer(identity, client_authority=authority, newest=newest) as server:
        program = start_program(
            [
                client_program,
                server.address,
                *("--cacert", authority.certificate, "--no-metrics", "--no-reconnect"),
            ],
            "stock-client",
        )
        with pytest.raises(ssl.SSLError):
            server.accept()
        assert program.wait() == NO_CONNECTION
        log = program.log()
        if newest == ssl.TLSVersion.TLSv1_2:
            assert "ended the handshake with the alert" in log
        else:  # its alert may be lost, since it closes at once
            assert "this client's certificate, or wants one (--cert and --key)" in log


def test_a_handshake_that_gets_no_answer(client_program, start_program, run_client):
    """Neither a signal nor the client's own end wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        program = start_program([client_program, address, "--tls", "--no-metrics"], "stock-client")
        sock, _ = listener.accept()
        assert sock.recv(1) == b"\x16"  # the beginning of a handshake
        begun = time.monotonic()
        assert program.stop(signal.SIGINT) == INTERRUPTED
        assert time.monotonic() - begun < 10
        done = run_client(address, "--tls", "--max-time", "500ms")
        assert done.returncode == NO_CONNECTION
        sock.close()


# --- Against openssl s_server -----------------------------------------------------------------


@contextlib.contextmanager
def openssl_server(start_program, identity, *arguments):
    port = free_port()
    program = start_program(
        [
            *("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-www"),
            *("-cert", identity.certificate, "-key", identity.key, *arguments),
        ],
        "openssl",
    )

    def listening():
        assert program.running(), program.log()
        return "ACCEPT" in program.output()

    wait_until(listening, what="openssl s_server")
    yield f"127.0.0.1:{port}"
    program.send_signal(signal.SIGKILL)
    program.wait()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "HTTP/2"),
        (["-alpn", "http/1.1"], "(HTTP/2|alert: .*protocol)"),
        (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "(TLS 1.2|alert: .*version)"),
    ],
    ids=["no ALPN", "http/1.1", "TLS 1.1"],
)
def test_servers_that_speak_something_else(
    start_program, run_client, authority, identity, arguments, words
):
    with openssl_server(start_program, identity, *arguments) as address:
        for trust in (["--cacert", authority.certificate], ["--insecure"]):
            done = run_client(address, *trust, "--no-reconnect")
            assert done.returncode == NO_CONNECTION
            assert re.search(f'TLS with "127.0.0.1" failed: .*{words}', done.stderr, re.I)
            assert done.stdout == ""


def test_http2_of_openssl_is_told_from_none(start_program, run_client, authority, identity):
    """ALPN agrees, and then what comes is no HTTP/2."""
    with openssl_server(start_program, identity, "-alpn", "h2") as address:
        done = run_client(address, "--cacert", authority.certificate, "--no-reconnect")
    assert done.returncode == NO_CONNECTION
    assert "connected, but got no HTTP/2" in done.stderr


# --- Files ------------------------------------------------------------------------------------


def wrong_files(authority, folder):
    """What is wrong: arguments, and the file that must be named."""
    client = authority.client("me")
    other = authority.client("other")
    old = authority.client("old", valid=(-30, -1))
    text = folder / "text.pem"
    text.write_text("nothing of use\n")
    shown = folder / "shown.key"
    shutil.copy(client.key, shown)
    os.chmod(shown, 0o644)
    missing = folder / "missing.pem"
    return {
        "no ca": (["--cacert", missing], missing),
        "ca is text": (["--cacert", text], text),
        "ca is a folder": (["--cacert", folder], folder),
        "no certificate": (["--cert", missing, "--key", client.key], missing),
        "no key": (["--cert", client.certificate, "--key", missing], missing),
        "key is text": (["--cert", client.certificate, "--key", text], text),
        "swapped": (["--cert", client.key, "--key", client.certificate], client.key),
        "of another": (["--cert", client.certificate, "--key", other.key], other.key),
        "readable key": (["--cert", client.certificate, "--key", shown], shown),
        "expired": (["--cert", old.certificate, "--key", old.key], old.certificate),
    }


WRONG_FILES = (
    "no ca,ca is text,ca is a folder,no certificate,no key,key is text,swapped,of another,"
    "readable key,expired"
).split(",")


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_wrong_files_are_wrong_usage(run_client, authority, tmp_path, wrong):
    """Told before anything is connected."""
    arguments, file = wrong_files(authority, tmp_path)[wrong]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = run_client(f"127.0.0.1:{listener.getsockname()[1]}", "--tls", *arguments)
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert done.returncode == USAGE
    assert str(file) in done.stderr and done.stdout == ""


# --- Unix sockets -----------------------------------------------------------------------------


def test_grpcio_on_a_unix_socket(run_client, tmp_path):
    """An absolute path, in both ways to write it, and a relative one."""
    path = tmp_path / "grpc.sock"
    with ReferenceServer(path=path) as server:
        for target in (f"unix:{path}", f"unix://{path}", "unix:grpc.sock"):
            done = run_client(target, "--count", 1000, "--output", "json", folder=tmp_path)
            assert done.returncode == DONE, done.stderr
            assert check_json(done.stdout.splitlines()) == 1000
        assert len(server.calls) == 3


def test_the_request_on_a_unix_socket(client_program, start_program, tmp_path):
    path = tmp_path / "grpc.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(20)
        program = start_program([client_program, f"unix:{path}", "--no-metrics"], "stock-client")
        sock, _ = listener.accept()
        sock.settimeout(20)
        assert sock.recv(len(PREFACE), socket.MSG_WAITALL) == PREFACE
        h2 = Endpoint(sock)
        h2.send(settings_frame({}))
        h2.wait(lambda: h2.streams and h2.stream(1).blocks, what="the request")
        headers = dict(h2.stream(1).blocks[0])
        assert headers[":authority"] == "localhost" and headers[":scheme"] == "http"
        assert program.stop(signal.SIGINT) == INTERRUPTED
        h2.close()


def test_nobody_on_the_unix_socket(run_client, tmp_path):
    missing = tmp_path / "missing.sock"
    done = run_client(f"unix:{missing}", "--no-reconnect")
    assert done.returncode == NO_CONNECTION
    assert f"cannot connect to unix:{missing}: no such file" in done.stderr
    left = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(left))
    done = run_client(f"unix:{left}", "--no-reconnect")
    assert done.returncode == NO_CONNECTION
    assert "refused" in done.stderr


def test_a_server_that_comes_later_to_its_unix_socket(start_client, tmp_path):
    path = tmp_path / "grpc.sock"
    client = start_client(f"unix:{path}", "--count", 20, "--output", "json")
    client.program.wait_log("trying again")
    with ReferenceServer(path=path):
        assert client.program.wait() == DONE
    assert check_json(client.lines()) == 20


# --- Against stockd ---------------------------------------------------------------------------


@pytest.fixture
def secure_targets(start_stockd, authority, identity, tmp_path):
    """A stockd, and how to reach it over TCP and TLS, a Unix socket, and a Unix socket with TLS."""
    listen = f"127.0.0.1:0 tls=yes, unix:{tmp_path}/plain.sock, unix:{tmp_path}/tls.sock tls=yes"

    def start(**sections):
        stockd = start_stockd(grpc={"listen": listen}, tls=stockd_tls(identity), **sections)
        trust = ["--cacert", authority.certificate]
        return stockd, {
            "tcp-tls": [f"127.0.0.1:{stockd.port}", *trust],
            "unix": [f"unix:{tmp_path}/plain.sock"],
            "unix-tls": [f"unix:{tmp_path}/tls.sock", *trust],
        }

    return start


@pytest.mark.parametrize("how", ["tcp-tls", "unix", "unix-tls"])
def test_thousands_of_updates_from_stockd(secure_targets, run_client, how):
    stockd, targets = secure_targets(stream={"interval": "0"})
    done = run_client(*targets[how], "--count", 20000, "--output", "json")
    assert done.returncode == DONE, done.stderr
    assert check_json(done.stdout.splitlines()) == 20000
    assert summary_of(done.stderr)["gaps"] == 0
    stockd.wait_at_rest()


@pytest.mark.parametrize("how", ["tcp-tls", "unix", "unix-tls"])
@pytest.mark.parametrize("window", [1024, 65535])
def test_sent_and_received_in_steady_state(secure_targets, start_client, how, window, sanitized):
    """
    A client that is slower than the server's pace: sent follows received, a window ahead, by both
    programs' own counters; and the client's memory does not grow with what it could have got.
    """
    stockd, targets = secure_targets(stream={"interval": "1ms"})
    client = start_client(
        *targets[how], "--delay", "3ms:6ms", "--window", window, "--output", "json"
    )
    ahead_most = window // MESSAGE_BYTES_MIN + 1

    def both():
        received = client.metric("stock_updates_received_total")
        sent = stockd.metric("stock_updates_sent_total")
        received_later = client.metric("stock_updates_received_total")
        assert received <= sent <= received_later + ahead_most
        assert client.metric("stock_client_unprocessed_bytes") <= window
        return received_later

    wait_until(lambda: both() >= 50, 60, "50 updates")
    memory = client.program.private_bytes()
    wait_until(lambda: both() >= 250, 60, "250 updates")
    if window == 1024:
        assert stockd.metric("stockd_blocked_episodes_total", reason="stream_window") > 5
    if not sanitized:
        assert client.program.private_bytes() - memory < 256 * 1024 + 2 * window
    assert client.stop() == INTERRUPTED
    assert check_json(client.lines()) >= 250
    assert client.summary()["gaps"] == 0
    stockd.wait_at_rest()


def test_sent_and_received_with_r_over_tls(secure_targets, start_client):
    """-r: the server fills the window and stands still but for what is processed."""
    stockd, targets = secure_targets(stream={"interval": "0"})
    client = start_client(*targets["tcp-tls"], "-r", "--window", "2K")
    sent = wait_stable(lambda: stockd.metric("stock_updates_sent_total"), what="sent")
    assert 2048 // 115 <= sent <= 2048 // MESSAGE_BYTES_MIN + 1
    client.wait_metric("stock_updates_received_total", lambda count: count >= 2)
    received = client.metric("stock_updates_received_total")
    sent = stockd.metric("stock_updates_sent_total")
    assert received <= sent <= client.metric("stock_updates_received_total") + 25
    assert stockd.metric("stockd_blocked_streams", reason="stream_window") == 1
    assert client.stop() == INTERRUPTED
    assert stockd.wait_at_rest().sum("grpc_server_handled_total", grpc_code="Canceled") == 1


def test_output_that_nobody_reads_presses_back_over_tls(secure_targets, client_program, tmp_path):
    """What reads the client's output stands still: so does the server, and nothing piles up."""
    stockd, targets = secure_targets(stream={"interval": "0"})
    with open(tmp_path / "stderr", "wb") as log:
        process = subprocess.Popen(
            [str(word) for word in (client_program, *targets["tcp-tls"], "--no-metrics")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        stopped = wait_until(
            lambda: stockd.metric("stock_updates_sent_total") > 100
            and wait_stable(lambda: stockd.metric("stock_updates_sent_total"), what="sent"),
            what="sent",
        )
        assert stopped < 20000
        assert stockd.metric("stockd_blocked_streams") == 1
        for _ in range(int(stopped) + 5000):
            assert process.stdout.readline().startswith(b"ticker:")
        process.stdout.close()
        assert process.wait(20) == DONE
        assert not SANITIZER.search((tmp_path / "stderr").read_text())
    finally:
        process.kill()
        process.wait()


def test_mutual_tls_with_stockd(start_stockd, run_client, authority, identity):
    client = authority.client("trader-7")
    stockd = start_stockd(
        grpc={"listen": "127.0.0.1:0 tls=yes"},
        tls=stockd_tls(
            identity, client_certificate="required", client_ca=authority.certificate
        ),
    )
    arguments = (f"127.0.0.1:{stockd.port}", "--cacert", authority.certificate, "--no-reconnect")
    done = run_client(
        *arguments, "--cert", client.certificate, "--key", client.key, "--count", 100
    )
    assert done.returncode == DONE, done.stderr
    done = run_client(*arguments)
    assert done.returncode == NO_CONNECTION
    assert "wants one (--cert and --key)" in done.stderr


def test_without_tls_there_is_a_hint(secure_targets, run_client):
    """A server with TLS has no way to say so that a client of HTTP/2 could take for an answer."""
    stockd, targets = secure_targets()
    done = run_client(targets["tcp-tls"][0], "--no-reconnect")
    assert done.returncode == NO_CONNECTION
    assert "got no HTTP/2" in done.stderr
    assert "perhaps the server wants TLS (--tls)" in done.stderr
    assert stockd.metric("grpc_server_started_total") == 0


def test_stockd_restarts_under_the_client_with_tls(start_stockd, start_client, authority, identity):
    address = f"127.0.0.1:{free_port()}"
    sections = dict(
        grpc={"listen": f"{address} tls=yes"},
        tls=stockd_tls(identity),
        stream={"interval": "5ms"},
    )
    stockd = start_stockd(**sections)
    client = start_client(address, "--cacert", authority.certificate, "--output", "json")
    client.wait_lines(10)
    assert stockd.stop() == 0
    client.program.wait_log("code = Unavailable desc = .*trying again")
    first = len(client.lines())
    start_stockd(**sections)
    client.wait_lines(first + 10)
    assert client.stop() == INTERRUPTED
    assert client.summary()["reconnects"] == 1 and client.summary()["gaps"] == 0
    check_json(client.lines()[:first])
    check_json(client.lines()[first:])
