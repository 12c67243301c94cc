"""Metrics behind TLS, a password and client certificates, for clients that we did not write."""

import base64
import http.client
import json
import os
import socket
import ssl
import subprocess
import urllib.request

import pytest

from harness.certificates import Authority, replace_file
from harness.metrics import Metrics
from harness.process import config_text
from harness.secure import (
    TLS_1_2,
    TLS_1_3,
    TLS_LISTEN,
    authority,
    client_context,
    dial,
    folder,
    server_tls,
    several,
)
from harness.stock_client import free_port
from harness.wait import wait_until

EXIT_CONFIGURATION = 78
USER, PASSWORD = "prometheus", "pass:wörd, with more"
REFUSED = "stockd_metrics_refused_total"


def basic(user=USER, password=PASSWORD):
    """The header of HTTP's basic authentication; bytes are taken as they are."""
    parts = [part if isinstance(part, bytes) else part.encode() for part in (user, password)]
    return {"Authorization": "Basic " + base64.b64encode(b":".join(parts)).decode()}


def request(port, path="/metrics", context=None, headers=None, method="GET"):
    if context:
        connection = http.client.HTTPSConnection("localhost", port, timeout=20, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def https_context(authority, identity=None, **more):
    return client_context(authority, identity, alpn=("http/1.1",), **more)


def secret_file(folder, content, mode=0o600, name="password"):
    path = folder / name
    replace_file(path, content if isinstance(content, bytes) else content.encode(), mode)
    return path


def login(folder, password=PASSWORD, **more):
    return {"user": USER, "password_file": secret_file(folder, password + "\n"), **more}


# --- TLS --------------------------------------------------------------------------------------


@pytest.fixture
def start_secure(start_stockd, authority):
    """A stockd whose metrics come without TLS, and then with it, on two ports."""

    def start(options="", tls=None, **metrics):
        listen = several("127.0.0.1:0", TLS_LISTEN + options)
        return start_stockd(
            tls=server_tls(authority.server(), **(tls or {})),
            metrics={"listen": listen, **metrics},
        )

    return start


def test_curl_and_promtool(start_secure, authority):
    stockd = start_secure()
    port = stockd.metrics_ports[1]
    for option in ("--tlsv1.3", "--tls-max=1.2"):
        done = subprocess.run(
            [
                *("curl", "-sS", "--fail", "--compressed", "--cacert", authority.certificate),
                *(option.split("=")[0], *option.split("=")[1:]),
                f"https://localhost:{port}/metrics",
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done
        assert Metrics(done.stdout).sum("stockd_build_info") == 1
        checked = subprocess.run(
            ["promtool", "check", "metrics"],
            input=done.stdout,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_versions(start_secure, authority):
    """As for gRPC: nothing below TLS 1.2; and no HTTP/2, which is not spoken here."""
    stockd = start_secure(tls={"priorities": "NORMAL:+VERS-ALL:+CIPHER-ALL:%COMPAT"})
    port = stockd.metrics_ports[1]
    for version in (TLS_1_2, TLS_1_3):
        status, _, body = request(
            port, context=https_context(authority, least=version, most=version)
        )
        assert status == 200 and Metrics(body.decode()).sum("stockd_build_info") == 1
    weak = {"most": TLS_1_2, "ciphers": "ECDHE-ECDSA-AES128-SHA"}
    with pytest.raises((ssl.SSLError, ConnectionError)):
        request(port, context=https_context(authority, **weak))
    # Without ALPN, and with a stranger's authority.
    assert request(port, context=client_context(authority, alpn=()))[0] == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        request(port, context=https_context(Authority(authority.folder, "stranger")))


def test_what_is_no_tls(start_secure, authority):
    """HTTP in clear, noise, and the end: closed, and the next one is served."""
    stockd = start_secure()
    port = stockd.metrics_ports[1]
    for noise in (
        b"GET /metrics HTTP/1.1\r\n\r\n",
        bytes(500),
        b"\x16\x03\x01\xff\xff" + b"x" * 600,
    ):
        sock = dial(port)
        answer = b""
        try:
            sock.sendall(noise)
            sock.shutdown(socket.SHUT_WR)
            while more := sock.recv(1 << 16):
                answer += more
        except OSError:
            # It was faster.
            pass
        sock.close()
        assert b"stockd_" not in answer and len(answer) < 100
        assert request(port, context=https_context(authority))[0] == 200


def test_silent_clients_lock_nobody_out(start_secure, authority):
    """More of them than there are places, in the middle of their handshakes."""
    stockd = start_secure()
    port = stockd.metrics_ports[1]
    silent = []
    for number in range(100):
        sock = dial(port)
        sock.sendall(b"\x16\x03\x01" if number % 2 else b"")
        silent.append(sock)
    for _ in range(3):
        assert request(port, context=https_context(authority))[0] == 200
    assert stockd.metric("stockd_build_info") == 1
    for sock in silent:
        sock.close()


@pytest.mark.parametrize("demand", ["required", "optional"])
def test_client_certificates(start_secure, folder, authority, demand):
    stockd = start_secure(f" client_certificate={demand}", {"client_ca": authority.certificate})
    port = stockd.metrics_ports[1]
    stranger = Authority(folder, "stranger")
    cases = {
        "none": (None, demand == "optional"),
        "good": (authority.client("scraper"), True),
        "expired": (authority.client("late", valid=(-30, -1)), False),
        "a server's": (authority.server("server-alone"), False),
        "another authority's": (stranger.client("other"), False),
    }
    for what, (identity, good) in cases.items():
        for version in (TLS_1_2, TLS_1_3):
            context = https_context(authority, identity, least=version, most=version)
            try:
                status = request(port, context=context)[0]
            except (ssl.SSLError, ConnectionError, http.client.HTTPException):
                status = None
            assert (status == 200) == good, (what, version, status)


# --- The password -----------------------------------------------------------------------------


def test_basic_authentication(start_stockd, folder):
    stockd = start_stockd(metrics=login(folder))
    port = stockd.metrics_port
    refused = 0
    wrong = [
        {},
        basic(password="wrong"),
        basic(password=""),
        basic(password=PASSWORD[:-1]),
        basic(password=PASSWORD + "x"),
        basic(password=PASSWORD.upper()),
        basic(user="Prometheus"),
        basic(user=""),
        basic(password=PASSWORD.encode("latin-1")),
        basic(password=b"\xff\xfe\x00\x80"),
        basic(password=PASSWORD + "\n"),
        basic(password="x" * 6000),
        basic(user="x" * 6000),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(b"no colon").decode()},
        {"Authorization": "Bearer " + basic()["Authorization"].split()[1]},
    ]
    for headers in wrong:
        for path in ("/metrics", "/", "/no-such-page"):
            status, answer, body = request(port, path, headers=headers)
            assert status == 401, (headers, path, status)
            assert answer["WWW-Authenticate"] == 'Basic realm="stockd", charset="UTF-8"'
            assert b"stockd_" not in body
            refused += 1
    for method in ("HEAD", "POST"):
        assert request(port, method=method)[0] == 401
        refused += 1
    # Longer than any header may be: no matter by what, it is refused.
    assert request(port, headers=basic(password="x" * 100_000))[0] in (400, 413, 431)
    status, _, body = request(port, headers=basic())
    assert status == 200
    assert Metrics(body.decode()).sum(REFUSED) == refused
    assert request(port, "/no-such-page", headers=basic())[0] == 404
    # Probes have no password.
    for path in ("/-/healthy", "/-/ready"):
        assert request(port, path)[0] == 200
        assert request(port, path, headers=basic(password="wrong"))[0] == 200
    assert Metrics(request(port, headers=basic())[2].decode()).sum(REFUSED) == refused


@pytest.mark.parametrize(
    "content, password",
    [
        (b"sesame", "sesame"),
        (b"sesame\n", "sesame"),
        (b"sesame\r\n", "sesame"),
        (b"sesame\nanother line\n", "sesame"),
        (b" sesame, open \n", " sesame, open "),
        (b"sesame" * 42 + b"open\n", "sesame" * 42 + "open"),
        (b"sesame\xff\xfe\n", b"sesame\xff\xfe"),
    ],
    ids=["bare", "LF", "CR LF", "two lines", "blanks", "256 bytes", "no UTF-8"],
)
def test_password_files(start_stockd, folder, content, password):
    path = secret_file(folder, content, 0o640)
    stockd = start_stockd(metrics={"user": USER, "password_file": path}, log={"level": "debug"})
    port = stockd.metrics_port
    assert request(port, headers=basic(password=password))[0] == 200
    assert request(port, headers=basic(password="another"))[0] == 401
    # It stays a secret.
    assert "sesame" not in stockd.log()


def test_wrong_password_files(run_stockd, folder):
    """One line each, which names the setting and the file."""
    missing = folder / "missing"
    directory = folder / "directory"
    directory.mkdir()
    fifo = folder / "fifo"
    os.mkfifo(fifo, 0o600)
    cases = [
        (missing, "No such file"),
        (directory, "not a regular file"),
        (fifo, "not a regular file"),
        (secret_file(folder, "", name="empty"), "no password"),
        (secret_file(folder, "\nsecret\n", name="empty-line"), "no password"),
        (secret_file(folder, "x" * 257, name="long"), "no password"),
        (secret_file(folder, "secret\n", 0o644, "open"), "read by others"),
        (secret_file(folder, "secret\n", 0o604, "open-too"), "read by others"),
    ]
    config = folder / "stockd.conf"

    def run(**metrics):
        layers = {
            "grpc": {"listen": "127.0.0.1:0"},
            "metrics": {"listen": "127.0.0.1:0", **metrics},
        }
        config.write_text(config_text(layers))
        told = []
        for arguments in ([], ["--check-config"]):
            done = run_stockd("--config", config, *arguments)
            assert done.returncode == EXIT_CONFIGURATION, done
            told.append(done.stderr.splitlines())
            assert len(told[-1]) == 1, done.stderr
        return told[-1][0]

    for path, words in cases:
        line = run(user=USER, password_file=path)
        assert f"metrics.password_file: {path}: " in line and words in line, line
    good = secret_file(folder, "secret\n")
    for section in ({"user": USER}, {"password_file": good}):
        line = run(**section)
        assert "metrics.user and metrics.password_file" in line, line


def test_prometheus_itself(start_stockd, folder, authority, start_program):
    """It scrapes with TLS, a client certificate and a password, and says that all is well."""
    stockd = start_stockd(
        tls=server_tls(authority.server(), client_ca=authority.certificate),
        metrics=login(folder, listen=f"{TLS_LISTEN} client_certificate=required"),
    )
    client = authority.client("scraper")
    # The same target once more with a wrong password, to see that there is a difference.
    wrong = secret_file(folder, "wrong", name="wrong")
    jobs = "".join(f"""
- job_name: {name}
  scrape_interval: 200ms
  scrape_timeout: 200ms
  scheme: https
  basic_auth: {{username: {USER}, password_file: {path}}}
  tls_config:
    ca_file: {authority.certificate}
    cert_file: {client.certificate}
    key_file: {client.key}
    server_name: localhost
  static_configs: [{{targets: ['127.0.0.1:{stockd.metrics_port}']}}]
""" for name, path in (("good", secret_file(folder, PASSWORD, name="right")), ("bad", wrong)))
    config = folder / "prometheus.yml"
    config.write_text("scrape_configs:" + jobs)
    port = free_port()
    start_program(
        [
            *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"),
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        "prometheus",
    )

    def targets():
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/api/v1/targets", timeout=5
            ) as got:
                found = json.load(got)["data"]["activeTargets"]
        except OSError:
            return None
        return {one["labels"]["job"]: (one["health"], one["lastError"]) for one in found}

    seen = wait_until(
        lambda: (now := targets()) and all(h != "unknown" for h, _ in now.values()) and now, 60
    )
    assert seen["good"] == ("up", ""), seen
    assert seen["bad"][0] == "down" and "401" in seen["bad"][1], seen
