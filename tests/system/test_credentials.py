"""
The files of TLS: what is said of wrong ones at start, and new ones in place of old ones while
clients stream.
"""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization

from harness.certificates import Authority, replace_file
from harness.process import assert_no_report, clean_environment, config_text
from harness.secure import (
    SERVED,
    TLS_LISTEN,
    BareTls,
    as_nobody,
    attempt,
    authority,
    client_context,
    dial,
    folder,
    server_tls,
    several,
    start_tls,
    tls_h2,
)
from harness.stocks import Chain
from harness.wait import wait_until

EXIT_CONFIGURATION = 78
EXPIRY = "stockd_tls_certificate_expiry_timestamp_seconds"
LOG = re.compile(r"^\S+ (\w+): (.*)$")


# --- Wrong at start ---------------------------------------------------------------------------


@pytest.fixture
def check(run_stockd, folder):
    """
    check(tls={...}) gives the lines that stockd writes about that configuration, which it must not
    start with, and the same when it is only to check it.
    """

    def run(**sections):
        config = folder / "stockd.conf"
        layers = {"grpc": {"listen": TLS_LISTEN}, "metrics": {"listen": "127.0.0.1:0"}}
        for section, keys in sections.items():
            layers.setdefault(section, {}).update(keys)
        config.write_text(config_text(layers))
        told = []
        for arguments in ([], ["--check-config"]):
            done = run_stockd("--config", config, *arguments)
            assert done.returncode == EXIT_CONFIGURATION, done
            assert done.stdout == ""
            lines = [LOG.match(line).groups() for line in done.stderr.splitlines()]
            assert {level for level, _ in lines} == {"error"}, done.stderr
            told.append([text for _, text in lines])
        assert told[0] == told[1]
        # What is to be printed needs no files.
        done = run_stockd("--config", config, "--dump-config")
        assert done.returncode == 0 and "tls=yes" in done.stdout, done
        return told[0]

    return run


def encrypted(identity, folder, traditional=False):
    key = serialization.load_pem_private_key(identity.key.read_bytes(), None)
    text = key.private_bytes(
        serialization.Encoding.PEM,
        (
            serialization.PrivateFormat.TraditionalOpenSSL
            if traditional
            else serialization.PrivateFormat.PKCS8
        ),
        serialization.BestAvailableEncryption(b"secret"),
    )
    path = folder / "encrypted.key"
    replace_file(path, text, 0o600)
    return path


def wrong_files(folder, authority):
    """{what is wrong: (the section [tls], the file that is to be named, words of what is said)}"""
    good = authority.server()
    other = authority.server("other")
    tls = server_tls(good)

    def made(name, content=b"", mode=0o600):
        path = folder / name
        replace_file(path, content, mode)
        return path

    key = good.key.read_bytes()
    certificate = good.certificate.read_bytes()
    missing = folder / "missing.pem"
    empty, text = made("empty.pem"), made("text.pem", b"Good morning\n")
    der = made("der.crt", ssl.PEM_cert_to_DER_cert(certificate.decode()))
    damaged = made("damaged.crt", certificate[:200] + b"\n-----END CERTIFICATE-----\n")
    key_damaged = made("damaged.key", key[:100] + b"\n-----END PRIVATE KEY-----\n")
    fifo = folder / "fifo"
    os.mkfifo(fifo, 0o600)
    cases = {
        "no certificate": ({**tls, "certificate": missing}, missing, "no such file"),
        "no key": ({**tls, "key": missing}, missing, "no such file"),
        "another's key": ({**tls, "key": other.key}, other.key, "does not belong"),
        "a directory": ({**tls, "certificate": folder}, folder, "directory"),
        "a directory as key": ({**tls, "key": folder}, folder, "directory"),
        "an empty certificate": ({**tls, "certificate": empty}, empty, "empty"),
        "an empty key": ({**tls, "key": empty}, empty, "empty"),
        "a text": ({**tls, "certificate": text}, text, "PEM"),
        "a text as key": ({**tls, "key": text}, text, "no private key"),
        "DER": ({**tls, "certificate": der}, der, "PEM"),
        "swapped": (
            {"certificate": good.key, "key": good.certificate},
            good.key,
            "swapped",
        ),
        "a damaged certificate": ({**tls, "certificate": damaged}, damaged, "damaged"),
        "a damaged key": ({**tls, "key": key_damaged}, key_damaged, "damaged"),
        "a FIFO": ({**tls, "key": fifo}, fifo, "regular file"),
        "no authority": (
            {**tls, "client_ca": missing, "client_certificate": "required"},
            missing,
            "no such file",
        ),
        "an empty authority": (
            {**tls, "client_ca": empty, "client_certificate": "optional"},
            empty,
            "empty",
        ),
        "a key as authority": ({**tls, "client_ca": good.key}, good.key, "no certificate"),
    }
    for mode in (0o644, 0o604, 0o666, 0o602):
        path = made(f"open-{mode:o}.key", key, mode)
        cases[f"a key of mode {mode:04o}"] = ({**tls, "key": path}, path, "every user")
    return cases


def test_wrong_files(check, folder, authority):
    """One line for each, which names the setting and the file and says what is wrong with it."""
    for what, (tls, path, words) in wrong_files(folder, authority).items():
        lines = check(tls=tls)
        assert len(lines) == 1, (what, lines)
        assert lines[0].startswith("grpc.listen: 127.0.0.1:0: "), (what, lines)
        assert str(path) in lines[0] and words in lines[0], (what, lines)


@pytest.mark.parametrize("traditional", [False, True], ids=["PKCS 8", "traditional"])
def test_an_encrypted_key(check, folder, authority, traditional):
    good = authority.server()
    path = encrypted(good, folder, traditional)
    (line,) = check(tls={**server_tls(good), "key": path})
    assert str(path) in line and "password" in line and "openssl pkey" in line


def test_a_key_that_its_group_reads_is_taken(start_stockd, authority):
    identity = authority.server()
    identity.key.chmod(0o640)
    stockd = start_stockd(grpc={"listen": TLS_LISTEN}, tls=server_tls(identity))
    assert attempt(stockd.port, client_context(authority)) == SERVED


def test_tls_without_files(check, authority):
    good = authority.server()
    for tls in ({}, {"certificate": good.certificate}, {"key": good.key}):
        (line,) = check(tls=tls)
        assert "tls.certificate" in line and "tls.key" in line
    for demand in ("optional", "required"):
        (line,) = check(tls=server_tls(good, client_certificate=demand))
        assert f"({demand})" in line and "authorities" in line


@pytest.mark.parametrize(
    "priorities, words",
    [
        ("NORMAL:+NOTHING", '"+NOTHING", at character 8'),
        ("RUBBISH", '"RUBBISH", at character 1'),
        ("NORMAL:-VERS-ALL:+VERS-TLS1.1", "leave nothing"),
        ("NORMAL:-CIPHER-ALL", "leave nothing"),
        ("NORMAL:-CIPHER-ALL:+AES-128-CBC", "leave nothing"),
    ],
)
def test_priorities_that_leave_nothing(check, authority, priorities, words):
    (line,) = check(tls=server_tls(authority.server(), priorities=priorities))
    assert priorities in line and words in line


def test_all_faults_in_one_go(check, folder, authority):
    """Of every listener, those for metrics too."""
    good, other = authority.server(), authority.server("other")
    missing = folder / "missing.pem"
    open_key = folder / "open.key"
    replace_file(open_key, good.key.read_bytes(), 0o644)
    password = folder / "password"
    replace_file(password, b"secret\n", 0o644)
    lines = check(
        grpc={
            "listen": several(
                f"127.0.0.1:11 tls=yes certificate={missing} key={good.key}",
                "127.0.0.1:12 tls=yes",
                f"127.0.0.1:13 tls=yes certificate={good.certificate} key={open_key}",
                "127.0.0.1:14 tls=yes client_certificate=required",
                "127.0.0.1:15",
            )
        },
        tls=server_tls(good),
        metrics={
            "listen": f"127.0.0.1:21 tls=yes certificate={good.certificate} key={other.key}",
            "user": "prometheus",
            "password_file": password,
        },
    )
    wanted = [
        ("grpc.listen: 127.0.0.1:11: ", missing),
        ("grpc.listen: 127.0.0.1:13: ", open_key),
        ("grpc.listen: 127.0.0.1:14: ", "authorities"),
        ("metrics.listen: 127.0.0.1:21: ", other.key),
        ("metrics.password_file: ", password),
    ]
    assert len(lines) == len(wanted), lines
    for line, (start, word) in zip(lines, wanted):
        assert line.startswith(start) and str(word) in line, lines


def test_files_that_this_user_may_not_read(stockd_program, folder, authority):
    """As root everything can be read, so stockd runs as nobody, from where nobody may run it."""
    program = folder / "stockd"
    shutil.copy(stockd_program, program)
    program.chmod(0o755)
    good = authority.server()
    config = folder / "stockd.conf"

    def run(certificate, key):
        config.write_text(
            config_text(
                {
                    "grpc": {"listen": TLS_LISTEN},
                    "metrics": {"listen": "127.0.0.1:0"},
                    "tls": {"certificate": certificate, "key": key},
                }
            )
        )
        done = subprocess.run(
            as_nobody([program, "--config", config, "--check-config"]),
            capture_output=True,
            text=True,
            timeout=30,
            env=clean_environment(),
        )
        assert_no_report(done.stderr, "stockd")
        return done

    closed = folder / "closed"
    closed.mkdir(0o700)
    hidden = closed / "server.crt"
    shutil.copy(good.certificate, hidden)
    for path in (good.certificate, good.key):
        path.chmod(0)
    key_text = "this process may not read the private key"
    try:
        if os.geteuid() != 0:
            closed.chmod(0)
        for certificate, key, path, words in (
            (good.certificate, good.key, good.certificate, "may not read the certificate"),
            (hidden, good.key, hidden, "enter the directories above"),
        ):
            done = run(certificate, key)
            assert done.returncode == EXIT_CONFIGURATION, done
            assert str(path) in done.stderr and words in done.stderr
            assert len(done.stderr.splitlines()) == 1
        good.certificate.chmod(0o644)
        done = run(good.certificate, good.key)
        assert done.returncode == EXIT_CONFIGURATION, done
        assert str(good.key) in done.stderr and key_text in done.stderr
    finally:
        closed.chmod(0o700)
    # And with the right to read both it is content.
    good.key.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(good.key, 65534, 65534)
    assert run(good.certificate, good.key).returncode == 0


def test_an_expired_certificate_is_a_warning(start_stockd, authority):
    """Clients that do not look are served, and a new one may come while stockd runs."""
    identity = authority.expired()
    stockd = start_stockd(grpc={"listen": TLS_LISTEN}, tls=server_tls(identity))
    stockd.wait_log(rf"warning: .*{identity.certificate}: the certificate expired on ")
    assert attempt(stockd.port, client_context(authority)) == "CERTIFICATE_VERIFY_FAILED"
    assert attempt(stockd.port, client_context()) == SERVED
    authority.server(identity.certificate.stem)
    reload(stockd)
    assert attempt(stockd.port, client_context(authority)) == SERVED


# --- New ones while it runs -------------------------------------------------------------------


def reload(stockd, listeners=1, times=1):
    stockd.send_signal(signal.SIGHUP)
    line = f"certificates read again for {listeners} listeners with TLS"
    wait_until(lambda: stockd.log().count(line) >= times, what=line)


def reload_fails(stockd, path, times=1):
    """It says which file is wrong, and keeps what it has."""
    stockd.send_signal(signal.SIGHUP)
    line = "error: not reloaded, everything stays as it was: the configuration is wrong"
    wait_until(lambda: stockd.log().count(line) >= times, what=line)
    assert re.search(rf"error: \S+: \S+: .*{re.escape(str(path))}", stockd.log())


def shown(port):
    """The certificate that a new connection sees."""
    sock = client_context(alpn=("h2", "http/1.1")).wrap_socket(dial(port))
    try:
        return sock.getpeercert(binary_form=True)
    finally:
        sock.close()


def der(identity):
    return ssl.PEM_cert_to_DER_cert(
        identity.certificate.read_text().partition("-----END")[0] + "-----END CERTIFICATE-----\n"
    )


def test_a_new_certificate_disturbs_nobody(start_stockd, authority):
    """Old connections stream on over ten reloads without a gap; new ones see the new one."""
    identity = authority.server(valid=(-1, 10))
    stockd = start_stockd(
        grpc={"listen": several(TLS_LISTEN, "127.0.0.1:0")},
        tls=server_tls(identity),
        metrics={"listen": several("127.0.0.1:0", TLS_LISTEN)},
        stream={"interval": "1ms"},
    )
    secure_metrics = stockd.metrics_ports[1]
    first_expiry = stockd.metric(EXPIRY)
    with tls_h2(stockd.port, client_context(authority)) as h2:
        stream, chain = h2.ready().call(), Chain()
        h2.auto_credit = True
        h2.wait_updates(stream, 20, chain)
        for times in range(1, 11):
            old = shown(stockd.port)
            assert old == der(identity) == shown(secure_metrics)
            authority.server(valid=(-1, 10 + times))
            # Not before it is asked to.
            assert shown(stockd.port) == old
            reload(stockd, 2, times)
            assert shown(stockd.port) == der(identity) == shown(secure_metrics) != old
            h2.wait_updates(stream, chain.count + 20, chain)
            assert attempt(stockd.port, client_context(authority)) == SERVED
        assert h2.goaway is None
        days = (stockd.metric(EXPIRY) - first_expiry) / 86400
        assert abs(days - 10) < 0.1, days
        h2.ping()
    metrics = stockd.wait_at_rest()
    assert metrics.sum("stockd_connections_closed_total", reason="peer_lost") == 1


def test_the_expiry_is_that_of_the_first_to_end(start_stockd, authority):
    long, short = authority.server("long"), authority.server("short", valid=(-1, 5))
    stockd = start_stockd(
        grpc={"listen": TLS_LISTEN},
        tls=server_tls(long),
        metrics={
            "listen": several(
                "127.0.0.1:0", f"{TLS_LISTEN} certificate={short.certificate} key={short.key}"
            )
        },
    )
    ends = ssl.cert_time_to_seconds(
        client_context(authority)
        .wrap_socket(dial(stockd.port), server_hostname="localhost")
        .getpeercert()["notAfter"]
    )
    assert abs(ends - stockd.metric(EXPIRY) - 25 * 86400) < 60
    authority.server("short", valid=(-1, 60))
    reload(stockd, 2)
    assert stockd.metric(EXPIRY) == ends


@pytest.mark.parametrize(
    "fault", ["certificate gone", "garbage", "the key alone is new", "readable by all", "no CA"]
)
def test_broken_new_files_keep_the_old_ones(start_stockd, authority, fault):
    identity = authority.server()
    stockd = start_stockd(
        grpc={"listen": TLS_LISTEN},
        tls=server_tls(identity, client_ca=authority.certificate, client_certificate="optional"),
        metrics={"listen": several("127.0.0.1:0", TLS_LISTEN)},
        stream={"interval": "1ms"},
    )
    old, expiry = shown(stockd.port), stockd.metric(EXPIRY)
    context = client_context(authority, authority.client("client"))
    with tls_h2(stockd.port, context) as h2:
        stream, chain = h2.ready().call(), Chain()
        h2.wait_updates(stream, 20, chain)
        path = identity.certificate
        saved = {one: one.read_bytes() for one in (*identity, authority.certificate)}
        if fault == "certificate gone":
            path.unlink()
        elif fault == "garbage":
            replace_file(path, b"-----BEGIN CERTIFICATE-----\nnothing\n", 0o644)
        elif fault == "the key alone is new":
            path = identity.key
            replace_file(path, authority.server("other").key.read_bytes(), 0o600)
        elif fault == "readable by all":
            path = identity.key
            path.chmod(0o644)
        else:
            path = authority.certificate
            path.unlink()
        for times in (1, 2):
            reload_fails(stockd, path, times)
        assert shown(stockd.port) == old == shown(stockd.metrics_ports[1])
        assert stockd.metric(EXPIRY) == expiry
        assert attempt(stockd.port, context) == SERVED
        h2.wait_updates(stream, chain.count + 20, chain)
        # Put right, it goes on with the new ones.
        for one, content in saved.items():
            replace_file(one, content, 0o600)
        authority.server()
        reload(stockd, 2)
        assert shown(stockd.port) == der(identity) != old
        h2.wait_updates(stream, chain.count + 20, chain)


def test_a_new_authority_counts_for_new_connections(start_stockd, folder, authority):
    """Who came by the old one stays; who comes anew needs the new one."""
    identity = authority.server()
    trusted = folder / "clients.pem"
    later = Authority(folder, "later")
    replace_file(trusted, authority.pem(), 0o644)
    stockd = start_stockd(
        grpc={"listen": TLS_LISTEN},
        tls=server_tls(identity, client_ca=trusted, client_certificate="required"),
        stream={"interval": "1ms"},
    )
    before = client_context(authority, authority.client("before"))
    after = client_context(authority, later.client("after"))
    assert "UNKNOWN_CA" in attempt(stockd.port, after)
    with tls_h2(stockd.port, before) as h2:
        stream, chain = h2.ready().call(), Chain()
        h2.wait_updates(stream, 10, chain)
        replace_file(trusted, later.pem(), 0o644)
        reload(stockd)
        assert "UNKNOWN_CA" in attempt(stockd.port, before)
        assert attempt(stockd.port, after) == SERVED
        h2.wait_updates(stream, chain.count + 20, chain)
        # Both at once is how one changes over.
        replace_file(trusted, authority.pem() + later.pem(), 0o644)
        reload(stockd, times=2)
        assert attempt(stockd.port, before) == SERVED
        assert attempt(stockd.port, after) == SERVED


def test_a_handshake_ends_as_it_began(start_tls, authority):
    """A reload in the middle of one does not break it."""
    stockd = start_tls()
    sock = dial(stockd.port)
    client = BareTls(sock, client_context(authority))
    hello = client.hello()
    sock.sendall(hello[:100])
    stockd.wait_metric("stockd_tls_pending_handshakes", 1)
    for times in (1, 2):
        authority.server()
        reload(stockd, 1, times)
    sock.sendall(hello[100:])
    client.handshake()
    stockd.wait_metric("stockd_tls_handshakes_total", 1, outcome="ok")
    sock.close()


def test_without_tls_a_reload_does_nothing(start_stockd):
    stockd = start_stockd()
    assert stockd.metric(EXPIRY) == 0
    stockd.send_signal(signal.SIGHUP)
    stockd.wait_log(r"info: configuration read again: no setting has changed$")
    with socket.create_connection(("127.0.0.1", stockd.port)):
        stockd.wait_metric("stockd_connections", 1)
