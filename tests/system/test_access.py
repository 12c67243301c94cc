"""
Who may use the service: client certificates and their names, ranges of addresses, connections per
address. What is refused is closed, counted by its reason and logged.
"""

import subprocess

import grpc
import pytest

from harness.certificates import Authority, self_signed
from harness.clients import get_updates, open_channel
from harness.h2 import RawH2
from harness.metrics import http_request
from harness.secure import (
    SERVED,
    TLS_1_2,
    TLS_1_3,
    TLS_LISTEN,
    attempt,
    authority,
    client_context,
    dial,
    folder,
    read_updates,
    secure_channel,
    several,
    start_tls,
    wait_handshakes,
)
from harness.stocks import Chain
from harness.wait import wait_until

REFUSED = "stockd_refused_total"
VERSIONS = (TLS_1_2, TLS_1_3)


# --- Client certificates ----------------------------------------------------------------------


@pytest.fixture
def identities(folder, authority):
    """What a client may show, by what is right or wrong with it."""
    stranger = Authority(folder, "stranger")
    below = authority.intermediate()
    return {
        "none": None,
        "good": authority.client("good"),
        "by an intermediate": below.client("below"),
        "expired": authority.client("late", valid=(-30, -1)),
        "not yet valid": authority.client("early", valid=(1, 30)),
        "a server's": authority.server("server-alone"),
        "self-signed": self_signed(folder, "self"),
        "another authority's": stranger.client("stranger-client"),
    }


# What each is told; OpenSSL's words for the alerts of RFC 8446, 6.2.
ALERTS = {
    "none": ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE"),
    "expired": ("CERTIFICATE_EXPIRED",),
    "not yet valid": ("CERTIFICATE_EXPIRED",),
    "a server's": ("UNSUPPORTED_CERTIFICATE",),
    "self-signed": ("UNKNOWN_CA",),
    "another authority's": ("UNKNOWN_CA",),
}


def test_client_certificates(start_tls, authority, identities):
    """Three listeners with the three demands, and every kind of certificate at each."""
    stockd = start_tls(
        several(
            f"{TLS_LISTEN} client_certificate=required",
            f"{TLS_LISTEN} client_certificate=optional",
            TLS_LISTEN,
        ),
        {"client_ca": authority.certificate},
    )
    required, optional, no = stockd.grpc_ports
    ok = bad = 0
    for what, identity in identities.items():
        for version in VERSIONS:
            context = client_context(authority, identity, least=version, most=version)
            # Not asked for one, a client shows none, and so it cannot be wrong.
            assert attempt(no, context) == SERVED, what
            ok += 1
            for port in (required, optional):
                seen = attempt(port, context)
                if what not in ALERTS or (port == optional and what == "none"):
                    assert seen == SERVED, what
                    ok += 1
                else:
                    assert any(alert in seen for alert in ALERTS[what]), (what, seen)
                    bad += 1
    wait_handshakes(stockd, ok=ok, certificate=bad)
    stockd.wait_at_rest()


def test_grpcio_without_a_good_certificate(start_tls, authority, identities):
    """It learns at once that it is not served, and does not wait for its deadline."""
    stockd = start_tls(
        tls={"client_ca": authority.certificate, "client_certificate": "required"},
        access={"allow_names": "good"},
    )
    for what in ("none", "expired", "another authority's"):
        with secure_channel(stockd.port, authority, identities[what]) as channel:
            with pytest.raises(grpc.RpcError) as error:
                next(get_updates(channel, timeout=60))
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE, (what, error.value)
    # A good one of somebody who is not listed is told apart only after the handshake.
    with secure_channel(stockd.port, authority, authority.client("unlisted")) as channel:
        with pytest.raises(grpc.RpcError) as error:
            next(get_updates(channel, timeout=60))
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE, error.value
    refused = stockd.metric(REFUSED, reason="certificate")
    assert refused >= 1
    with secure_channel(stockd.port, authority, identities["good"]) as channel:
        read_updates(channel, 10)
    metrics = stockd.wait_at_rest()
    assert metrics.sum("stockd_tls_handshakes_total", outcome="certificate") >= 3
    assert metrics.sum("stockd_tls_handshakes_total", outcome="ok") == refused + 1
    assert metrics.sum("stockd_connections_accepted_total") == 1


def test_stock_client_is_told_what_is_wrong(start_tls, authority, identities, client_program):
    stockd = start_tls(
        tls={"client_ca": authority.certificate, "client_certificate": "required"},
    )
    identity = identities["another authority's"]
    done = subprocess.run(
        [
            *map(str, (client_program, f"localhost:{stockd.port}", "--cacert")),
            *map(str, (authority.certificate, "--cert", identity.certificate)),
            *map(str, ("--key", identity.key, "--no-reconnect", "--no-metrics")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3 and "certificate" in done.stderr, done


def test_listeners_with_files_of_their_own(start_tls, folder, authority):
    """Certificate, key and client authority behind an address replace those of [tls]."""
    fund = Authority(folder, "fund")
    shown = fund.server("other-server")
    stockd = start_tls(
        several(
            f"{TLS_LISTEN} client_certificate=required",
            f"{TLS_LISTEN} client_certificate=required client_ca={fund.certificate}",
            f"{TLS_LISTEN} certificate={shown.certificate} key={shown.key}",
            "127.0.0.1:0",
        ),
        {"client_ca": authority.certificate},
    )
    usual, by_fund, other, plain = stockd.grpc_ports
    ours, theirs = authority.client("ours"), fund.client("theirs")
    assert attempt(usual, client_context(authority, ours)) == SERVED
    assert "UNKNOWN_CA" in attempt(usual, client_context(authority, theirs))
    assert "UNKNOWN_CA" in attempt(by_fund, client_context(authority, ours))
    assert attempt(by_fund, client_context(authority, theirs)) == SERVED
    assert attempt(other, client_context(fund)) == SERVED
    assert attempt(other, client_context(authority)) == "CERTIFICATE_VERIFY_FAILED"
    assert attempt(plain) == SERVED
    wait_handshakes(stockd, ok=3, certificate=2, failed=1)


# --- Names ------------------------------------------------------------------------------------

LISTED = "trader.example, urn://desk/7, a@fund.example, 192.0.2.7, 2001:db8::7, Common-Name"
GOOD_NAMES = {
    "a DNS name": ("x", ["trader.example"]),
    "a DNS name in capitals": ("x", ["TRADER.example"]),
    "the second of them": ("x", ["else.example", "trader.example"]),
    "a URI": ("x", ["urn://desk/7"]),
    "email": ("x", ["a@fund.example"]),
    "an IPv4 address": ("x", ["192.0.2.7"]),
    "an IPv6 address": ("x", ["2001:db8:0::7"]),
    "the common name alone": ("Common-Name", []),
}
BAD_NAMES = {
    "nothing listed": ("x", ["else.example"]),
    "the common name beside others": ("Common-Name", ["else.example"]),
    "a longer name": ("x", ["trader.example.org"]),
    "a part of it": ("x", ["example"]),
    "a wildcard": ("x", ["*.example"]),
    "a URI of another case": ("x", ["urn://desk/7/8"]),
    "another's email": ("x", ["b@fund.example"]),
    "another address": ("x", ["192.0.2.8"]),
    "an address as a DNS name's text": ("192.0.2.70", []),
}


def test_names_of_certificates(start_tls, authority):
    stockd = start_tls(
        several(
            f"{TLS_LISTEN} client_certificate=required",
            f"{TLS_LISTEN} client_certificate=optional",
            TLS_LISTEN,
            "127.0.0.1:0",
        ),
        {"client_ca": authority.certificate},
        access={"allow_names": LISTED},
    )
    required, optional, no, plain = stockd.grpc_ports
    refused = 0
    for number, (what, (common, names)) in enumerate({**GOOD_NAMES, **BAD_NAMES}.items()):
        identity = authority.client(common, f"named-{number}", names)
        for version in VERSIONS:
            context = client_context(authority, identity, least=version, most=version)
            for port in (required, optional):
                seen = attempt(port, context)
                assert (seen == SERVED) == (what in GOOD_NAMES), (what, seen)
                refused += seen != SERVED
    # Who is asked and shows none has no name; who is not asked needs none.
    assert attempt(optional, client_context(authority)) != SERVED
    assert attempt(no, client_context(authority)) == SERVED
    assert attempt(plain) == SERVED
    refused += 1
    stockd.wait_metric(REFUSED, refused, reason="certificate")
    stockd.wait_log(r"warning: 127\.0\.0\.1:\d+: refused: .*access\.allow_names")
    metrics = stockd.wait_at_rest()
    assert metrics.sum(REFUSED) == refused
    # The handshakes themselves were good.
    total = 2 * 2 * (len(GOOD_NAMES) + len(BAD_NAMES)) + 2
    assert metrics.by("stockd_tls_handshakes_total", "outcome")["ok"] == total
    assert metrics.sum("stockd_tls_handshakes_total") == total


def test_the_name_is_in_the_log(start_tls, authority):
    stockd = start_tls(
        tls={"client_ca": authority.certificate, "client_certificate": "required"},
        log={"level": "debug"},
    )
    identity = authority.client("x", names=["trader.example"])
    assert attempt(stockd.port, client_context(authority, identity)) == SERVED
    stockd.wait_log(
        r"debug: 127\.0\.0\.1:\d+: TLS: TLS1\.3, AES-128-GCM, certificate of trader\.ex"
    )


# --- Addresses --------------------------------------------------------------------------------


def served_from(stockd, port, source, host="127.0.0.1"):
    return attempt(port, source=source, host=host) == SERVED


@pytest.mark.parametrize(
    "allow, allowed",
    [
        ("127.0.0.2", {"127.0.0.2"}),
        ("127.0.0.2/31", {"127.0.0.2", "127.0.0.3"}),
        ("127.0.0.4, 127.0.0.9", {"127.0.0.4", "127.0.0.9"}),
        ("127.0.0.0/8", {"127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.9"}),
        ("::ffff:127.0.0.3", {"127.0.0.3"}),
        ("::ffff:127.0.0.2/127", {"127.0.0.2", "127.0.0.3"}),
        ("::1", {"::1"}),
        ("::/0", {"::1"}),
        ("10.0.0.0/8, 2001:db8::/32, unix", set()),
    ],
)
def test_ranges_of_addresses(start_stockd, allow, allowed):
    """On a listener for IPv4 and one for both, where IPv4 comes mapped into IPv6."""
    stockd = start_stockd(grpc={"listen": "127.0.0.1:0, [::]:0"}, access={"allow": allow})
    v4, both = stockd.grpc_ports
    refused = 0
    for source in ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.9"):
        for port in (v4, both):
            assert served_from(stockd, port, source) == (source in allowed), (source, port)
            refused += source not in allowed
    assert served_from(stockd, both, "::1", "::1") == ("::1" in allowed)
    refused += "::1" not in allowed
    stockd.wait_metric(REFUSED, refused, reason="address")
    stockd.wait_log(r"warning: \S+: refused: .*access\.allow")
    metrics = stockd.wait_at_rest()
    assert metrics.sum(REFUSED) == refused


def test_addresses_are_judged_before_tls(start_tls, authority):
    """No work is done for who may not connect."""
    stockd = start_tls(access={"allow": "127.0.0.2"})
    context = client_context(authority)
    assert attempt(stockd.port, context, source="127.0.0.3") != SERVED
    assert attempt(stockd.port, context, source="127.0.0.2") == SERVED
    wait_handshakes(stockd, ok=1)
    assert stockd.metric(REFUSED, reason="address") == 1


def test_metrics_have_ranges_of_their_own(start_stockd):
    stockd = start_stockd(
        access={"allow": "127.0.0.2"},
        metrics={"listen": "127.0.0.1:0, [::]:0", "allow": "127.0.0.1, 127.0.0.8/30"},
    )
    v4, both = stockd.metrics_ports
    assert attempt(stockd.port) != SERVED
    refused = 0
    for source, good in (("127.0.0.1", True), ("127.0.0.11", True), ("127.0.0.12", False)):
        for port in (v4, both):
            sock = dial(port, source=source)
            try:
                sock.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = sock.recv(1000)
            except ConnectionResetError:
                answer = b""
            assert answer.startswith(b"HTTP/1.1 200") == good, (source, answer)
            refused += not good
            sock.close()
    stockd.wait_metric("stockd_metrics_refused_total", refused)
    assert http_request(v4, "/metrics").status == 200


# --- Connections per address ------------------------------------------------------------------


def test_connections_per_address(start_stockd):
    """Counted for each address by itself, mapped or not, and given back at the end."""
    stockd = start_stockd(
        grpc={"listen": "127.0.0.1:0, [::]:0"}, access={"max_connections_per_address": 3}
    )
    v4, both = stockd.grpc_ports
    held = {}
    for source, host in (("127.0.0.2", "127.0.0.1"), ("127.0.0.3", "127.0.0.1"), ("::1", "::1")):
        ports = (both, both, both) if host == "::1" else (v4, both, v4)
        held[source] = [dial(port, source=source, host=host) for port in ports]
        stockd.wait_metric("stockd_connections", 3 * len(held))
        for _ in range(2):
            assert attempt(both, source=source, host=host) != SERVED
    stockd.wait_metric(REFUSED, 6, reason="max_per_address")
    stockd.wait_log(r"warning: \S+: refused: .*access\.max_connections_per_address")
    # One goes, and one more may come.
    held["127.0.0.2"].pop().close()
    stockd.wait_metric("stockd_connections", 8)
    assert served_from(stockd, v4, "127.0.0.2")
    for socks in held.values():
        for sock in socks:
            sock.close()
    stockd.wait_metric("stockd_connections", 0)
    for source in ("127.0.0.2", "127.0.0.3"):
        assert served_from(stockd, both, source)
    metrics = stockd.wait_at_rest()
    assert metrics.sum(REFUSED) == 6


def test_handshakes_count_for_their_address(start_tls, authority):
    """Who is stuck in one has a place like any other, and leaves it however it ends."""
    stockd = start_tls(
        tls={"client_ca": authority.certificate, "client_certificate": "required"},
        access={"max_connections_per_address": 2, "allow_names": "good"},
    )
    good = client_context(authority, authority.client("good"))
    bad = client_context(authority, authority.client("bad"))
    for _ in range(3):
        assert attempt(stockd.port, bad) != SERVED
        assert attempt(stockd.port, client_context(authority)) != SERVED
        # What was refused may linger for a moment.
        wait_until(lambda: attempt(stockd.port, good) == SERVED, what="a place")
    stockd.wait_metric("stockd_connections", 0)
    stockd.wait_metric("stockd_tls_pending_handshakes", 0)
    before = stockd.metric(REFUSED, reason="max_per_address")
    stuck = [dial(stockd.port), dial(stockd.port)]
    stockd.wait_metric("stockd_tls_pending_handshakes", 2)
    assert attempt(stockd.port, good) != SERVED
    assert stockd.metric(REFUSED, reason="max_per_address") == before + 1
    # Another address has places of its own.
    assert attempt(stockd.port, good, source="127.0.0.5") == SERVED
    for sock in stuck:
        sock.close()
    stockd.wait_metric("stockd_tls_pending_handshakes", 0)
    assert attempt(stockd.port, good) == SERVED
    stockd.wait_at_rest()


def test_a_refused_grpcio_learns_it(start_stockd):
    stockd = start_stockd(access={"max_connections_per_address": 1})
    with RawH2(stockd.port) as h2:
        h2.ready()
        with open_channel(stockd.port) as channel:
            with pytest.raises(grpc.RpcError) as error:
                next(get_updates(channel, timeout=60))
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        h2.wait_updates(h2.call(), 3, Chain())
    stockd.wait_metric("stockd_connections", 0)
    with open_channel(stockd.port) as channel:
        read_updates(channel, 3)
