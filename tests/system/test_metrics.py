"""The scrape endpoint of a running stockd: formats, families, and a real Prometheus."""

import gzip
import http.client
import json
import socket
import subprocess
import time
import urllib.parse

import pytest

from harness.clients import get_updates, open_channel
from harness.h2 import INITIAL_WINDOW_SIZE, RawH2, message, request_headers
from harness.metrics import Metrics, http_request, scrape
from harness.process import clean_environment
from harness.stocks import Chain, pb2
from harness.wait import wait_until

TEXT = "text/plain; version=0.0.4"
OPENMETRICS = "application/openmetrics-text"

GET_UPDATES_LABELS = {
    "grpc_type": "server_stream",
    "grpc_service": "stockservice.StockService",
    "grpc_method": "GetUpdates",
}
CODES = (
    "OK Canceled Unknown InvalidArgument DeadlineExceeded NotFound AlreadyExists PermissionDenied "
    "ResourceExhausted FailedPrecondition Aborted OutOfRange Unimplemented Internal Unavailable "
    "DataLoss Unauthenticated"
).split()

# Each with the labels that a sample must have, or none.
AT_ZERO_FROM_THE_START = [
    ("stock_updates_sent_total", {}),
    ("stockd_send_lag_seconds_bucket", {"le": "0.001"}),
    ("stockd_send_lag_seconds_count", {}),
    ("stockd_feed_last_update_timestamp_seconds", {}),
    ("grpc_server_started_total", GET_UPDATES_LABELS),
    ("grpc_server_msg_received_total", GET_UPDATES_LABELS),
    ("grpc_server_msg_sent_total", GET_UPDATES_LABELS),
    *[("grpc_server_handled_total", {**GET_UPDATES_LABELS, "grpc_code": code}) for code in CODES],
    ("stockd_connections", {}),
    ("stockd_connections_accepted_total", {}),
    *[
        ("stockd_connections_closed_total", {"reason": reason})
        for reason in (
            "peer_closed",
            "peer_lost",
            "preface_timeout",
            "bad_preface",
            "protocol_error",
            "flood",
            "no_memory",
            "shutdown",
            "local",
        )
    ],
    ("stockd_streams", {"state": "sending"}),
    ("stockd_streams", {"state": "blocked"}),
    *[
        (name, {"reason": reason})
        for name in (
            "stockd_blocked_streams",
            "stockd_blocked_seconds_total",
            "stockd_blocked_episodes_total",
        )
        for reason in ("stream_window", "connection_window", "socket")
    ],
    ("stockd_sent_bytes_total", {}),
    ("stockd_received_bytes_total", {}),
    ("stockd_queued_bytes", {"place": "request"}),
    ("stockd_queued_bytes", {"place": "call"}),
    ("stockd_queued_bytes", {"place": "socket"}),
    ("stockd_window_updates_received_total", {"scope": "stream"}),
    ("stockd_window_updates_received_total", {"scope": "connection"}),
    *[
        ("stockd_refused_total", {"reason": reason})
        for reason in (
            "max_connections",
            "accept_failed",
            "max_streams",
            "max_streams_total",
            "no_memory",
        )
    ],
    *[
        (name, {"policy": policy})
        for name in ("stockd_market_subscribers", "stockd_market_subscribers_behind")
        for policy in ("block", "conflate", "drop_oldest", "disconnect")
    ],
    *[
        ("stockd_market_cut_off_total", {"reason": reason})
        for reason in (
            "soft_bytes",
            "soft_age",
            "hard_bytes",
            "hard_age",
            "max_queue",
            "history",
        )
    ],
    *[
        ("stockd_market_resumes_total", {"outcome": outcome})
        for outcome in ("complete", "history", "epoch", "ahead")
    ],
    ("stockd_market_subscriptions_bytes", {}),
    ("stockd_market_conflated_total", {}),
    ("stockd_market_dropped_total", {}),
    ("stockd_market_heartbeats_total", {}),
    ("stockd_market_gaps_total", {}),
    ("stockd_market_events_sent_total", {}),
    ("stockd_market_queue_age_seconds_count", {}),
    ("stockd_market_send_lag_seconds_count", {}),
    ("stockd_market_feed_faults_total", {}),
    ("stockd_market_replay_late_total", {}),
    ("stockd_market_feed_state", {"state": "stale"}),
    ("stockd_market_feed_state", {"state": "gone"}),
]
PROCESS = [
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
]


@pytest.fixture
def stockd(start_stockd):
    return start_stockd(stream={"interval": "2ms"})


@pytest.fixture
def busy(stockd):
    """The same stockd with some of everything in its counters."""
    with open_channel(stockd.port) as channel:
        call = get_updates(channel)
        chain = Chain()
        while chain.count < 20:
            chain.check(next(call))
        with socket.create_connection(("127.0.0.1", stockd.port)) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while sock.recv(1000):
                pass
        yield stockd
        call.cancel()


def promtool(text):
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
    )
    return done.returncode, done.stdout + done.stderr


def test_promtool_has_nothing_to_say(busy):
    body = http_request(busy.metrics_port, "/metrics").body.decode()
    assert promtool(body) == (0, "")


def test_promtool_has_nothing_to_say_of_a_fresh_stockd(start_stockd):
    stockd = start_stockd()
    body = http_request(stockd.metrics_port, "/metrics").body.decode()
    assert promtool(body) == (0, "")


def test_promtool_would_have_said_something():
    """The check above can fail."""
    code, text = promtool("# TYPE wrong counter\nwrong 1\n")
    assert code != 0 and text


@pytest.mark.parametrize(
    "name, labels",
    AT_ZERO_FROM_THE_START,
    ids=lambda value: value if isinstance(value, str) else ",".join(value.values()),
)
def test_present_at_zero_from_the_start(fresh, name, labels):
    samples = fresh.find(name, **labels)
    assert samples, f"no {name} {labels}"
    assert all(sample.value == 0 for sample in samples), samples


@pytest.fixture(scope="module")
def fresh(stockd_program, tmp_path_factory):
    """The first scrape of a stockd that nobody has called."""
    from harness.process import Stockd

    daemon = Stockd(stockd_program, tmp_path_factory.mktemp("fresh"), 0, {}, (), None)
    try:
        yield daemon.wait_ready().metrics()
    finally:
        daemon.check_end()


def test_unknown_methods_have_a_label_of_their_own(fresh):
    assert fresh.sum("grpc_server_started_total", grpc_method="other") == 0


def test_the_standard_process_metrics(fresh):
    for name in PROCESS:
        assert fresh.sum(name) > 0, name
    assert fresh.types["process_cpu_seconds_total"] == "counter"
    assert fresh.sum("process_open_fds") < fresh.sum("process_max_fds")


def test_process_metrics_are_true(busy):
    metrics = busy.metrics()
    # The scrape's own connection comes and goes.
    assert abs(metrics.sum("process_open_fds") - busy.descriptors()) <= 2
    assert abs(metrics.sum("process_start_time_seconds") - busy.started_at) < 5
    assert 0 < metrics.sum("process_cpu_seconds_total") <= busy.cpu_seconds() + 0.1
    assert metrics.sum("process_resident_memory_bytes") >= 1 << 20


def test_build_info_tells_the_version(fresh, run_stockd):
    (sample,) = fresh.find("stockd_build_info")
    assert sample.value == 1
    assert sample.labels["version"] in run_stockd("--version").stdout


@pytest.mark.parametrize("name", ["stockd_event_loop_lag_seconds", "stockd_send_lag_seconds"])
def test_lags_are_histograms(busy, name):
    metrics = busy.metrics()
    assert metrics.types[name] == "histogram"
    buckets = metrics.find(f"{name}_bucket")
    bounds = [float(sample.labels["le"]) for sample in buckets]
    assert bounds == sorted(bounds) and bounds[-1] == float("inf")
    counts = [sample.value for sample in buckets]
    assert counts == sorted(counts)
    assert counts[-1] == metrics.sum(f"{name}_count") > 0
    assert metrics.sum(f"{name}_sum") > 0


def test_the_feed(fresh, busy, start_stockd):
    """How often an update is due, and when the last was made."""
    before = time.time()
    metrics = busy.metrics()
    assert metrics.sum("stockd_feed_interval_seconds") == 0.002
    # By the clock that the kernel keeps at its ticks; and the call goes on.
    assert before - 60 < metrics.sum("stockd_feed_last_update_timestamp_seconds") <= time.time()
    assert fresh.sum("stockd_feed_interval_seconds") == 0.1  # the default

    # An update that is due and cannot be sent has not been made.
    blocked = start_stockd(stream={"interval": "1m"})
    with RawH2(blocked.port, settings={INITIAL_WINDOW_SIZE: 0}) as h2:
        stream = h2.ready().call()
        blocked.wait_metric("stockd_blocked_streams", 1)
        assert blocked.metric("stockd_feed_last_update_timestamp_seconds") == 0
        began = time.time()
        stream.give(1000)
        h2.wait_updates(stream, 1, Chain())
    made = blocked.metric("stockd_feed_last_update_timestamp_seconds")
    assert began - 0.1 < made <= time.time()
    assert blocked.metric("stockd_feed_interval_seconds") == 60


def test_every_family_has_help_and_type(busy):
    metrics = busy.metrics()
    for sample in metrics.samples:
        family = sample.name
        for suffix in ("_bucket", "_count", "_sum"):
            base = family.removesuffix(suffix)
            if base != family and metrics.types.get(base) == "histogram":
                family = base
        assert metrics.types.get(family) in ("counter", "gauge", "histogram"), sample
        assert metrics.help.get(family), sample
        assert metrics.types[family] != "counter" or family.endswith("_total"), sample


def test_no_label_tells_of_a_client(busy):
    allowed = {
        *GET_UPDATES_LABELS,
        *("grpc_code", "reason", "state", "place", "scope", "outcome", "policy", "le"),
    }
    for sample in busy.metrics().samples:
        if sample.name != "stockd_build_info":
            assert set(sample.labels) <= allowed, sample


def test_the_number_of_samples_does_not_depend_on_clients(stockd):
    before = len(stockd.metrics().samples)
    connections = [RawH2(stockd.port).ready() for _ in range(10)]
    for number, h2 in enumerate(connections):
        h2.answer(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", f"/a{number}/b{number}"),
                (":authority", f"host{number}"),
                ("content-type", "application/grpc"),
            ]
        )
        h2.call()
        h2.ping()
    assert len(stockd.metrics().samples) == before
    for h2 in connections:
        h2.close()


def test_counters_count(stockd):
    with RawH2(stockd.port) as h2:
        h2.ready()
        stream = h2.call()
        chain = Chain()
        h2.wait_updates(stream, 10, chain)
        metrics = stockd.metrics()
        assert metrics.sum("stockd_connections") == 1
        assert metrics.sum("stockd_connections_accepted_total") == 1
        assert metrics.sum("stockd_streams") == 1
        assert metrics.sum("grpc_server_started_total", **GET_UPDATES_LABELS) == 1
        assert metrics.sum("grpc_server_msg_received_total", **GET_UPDATES_LABELS) == 1
        assert metrics.sum("stock_updates_sent_total") >= chain.count
        assert metrics.sum("stockd_received_bytes_total") > 24 + 9 + 5
        stream.reset()
        h2.ping()
        # All that was sent is what the socket brought; after the PING nothing is under way.
        chain.check_bytes(stream.take_bodies())
        metrics = stockd.metrics()
        assert metrics.sum("stock_updates_sent_total") == chain.count
        assert metrics.sum("grpc_server_msg_sent_total", **GET_UPDATES_LABELS) == chain.count
        assert metrics.sum("stockd_sent_bytes_total") == h2.received_bytes


def test_the_market(stockd):
    """What it has, who subscribes, and what was sent to them, by the subscriber's own count."""
    request = pb2().SubscribeRequest(policy=pb2().SLOW_POLICY_CONFLATE)
    with RawH2(stockd.port) as h2:
        stream = h2.ready().call(
            request_headers("/stockservice.StockService/Subscribe"),
            message(request.SerializeToString()),
        )
        events = []

        def enough():
            events.extend(pb2().MarketEvent.FromString(one[1]) for one in stream.take_messages())
            return len(events) >= 10

        h2.wait(enough, what="events")
        metrics = stockd.metrics()
        assert metrics.sum("stockd_market_subscribers", policy="conflate") == 1
        assert metrics.sum("stockd_market_subscribers") == 1
        assert metrics.sum("stockd_market_subscriptions_bytes") > 0
        stream.reset()
        h2.ping()
        enough()
    metrics = stockd.wait_at_rest()
    assert metrics.sum("stockd_market_subscribers") == 0
    assert metrics.sum("stockd_market_subscriptions_bytes") == 0
    assert metrics.sum("stockd_market_events_sent_total") == len(events)
    assert metrics.sum("stock_updates_sent_total") == 0, "those of GetUpdates"
    assert metrics.sum("stockd_send_lag_seconds_count") == 0, "the same"
    for name in ("stockd_market_queue_age_seconds", "stockd_market_send_lag_seconds"):
        assert metrics.types[name] == "histogram"
        assert metrics.sum(f"{name}_count") == len(events), name
    taken = metrics.sum("stockd_market_updates_total")
    # The first one has the number 2.
    assert taken + 1 == metrics.sum("stockd_market_sequence") >= events[-1].sequence
    assert taken == metrics.sum("stockd_market_history_updates")
    assert 50 * taken < metrics.sum("stockd_market_history_bytes") < 400 * taken
    assert metrics.sum("stockd_market_tickers") == len({one.update.ticker for one in events})
    assert metrics.sum("stockd_market_feed_state", state="live") == 1
    assert metrics.sum("stockd_market_feed_state") == 1
    last = metrics.sum("stockd_market_last_update_timestamp_seconds")
    assert events[-1].time_unix_nano / 1e9 - 0.1 < last <= time.time()


def test_text_format_is_the_default(busy):
    answer = http_request(busy.metrics_port, "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith(TEXT)
    assert not Metrics(answer.body.decode()).eof


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=1.0.0",
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
    ],
)
def test_openmetrics_when_it_is_asked_for(busy, accept):
    answer = http_request(busy.metrics_port, "/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith(OPENMETRICS)
    text = answer.body.decode()
    assert text.endswith("# EOF\n")
    metrics = Metrics(text)
    # Families of counters lose their _total, samples keep it.
    assert metrics.types["stock_updates_sent"] == "counter"
    assert metrics.sum("stock_updates_sent_total") >= 20
    plain = busy.metrics()
    assert {sample.name for sample in plain.samples} == {s.name for s in metrics.samples}


def test_openmetrics_is_what_a_parser_of_it_takes(busy):
    """The order that the specification asks for: a family's lines stand together."""
    text = http_request(
        busy.metrics_port, "/metrics", headers={"Accept": OPENMETRICS}
    ).body.decode()
    families = []
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            families.append(line.split()[2])
        elif not line.startswith("#"):
            assert line.startswith(families[-1]), line
    assert len(families) == len(set(families))


@pytest.mark.parametrize("accept", ["text/plain", "*/*", "application/json", ""])
def test_text_for_all_others(busy, accept):
    answer = http_request(busy.metrics_port, "/metrics", headers={"Accept": accept})
    assert answer.status == 200 and answer.headers["content-type"].startswith(TEXT)


def test_gzip_when_it_is_asked_for(busy):
    plain = http_request(busy.metrics_port, "/metrics")
    assert "content-encoding" not in plain.headers
    packed = http_request(busy.metrics_port, "/metrics", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 2
    metrics = Metrics(gzip.decompress(packed.body).decode())
    assert metrics.sum("stock_updates_sent_total") >= 20
    refused = http_request(busy.metrics_port, "/metrics", headers={"Accept-Encoding": "gzip;q=0"})
    assert "content-encoding" not in refused.headers


@pytest.mark.parametrize(
    "path, status",
    [
        ("/", 200),
        ("/metrics", 200),
        ("/-/healthy", 200),
        ("/-/ready", 200),
        ("/metrics?x=y", 200),
        ("/nothing", 404),
        ("/metrics/", 404),
        ("/../etc/passwd", 404),
    ],
)
def test_paths(stockd, path, status):
    answer = http_request(stockd.metrics_port, path)
    assert answer.status == status
    head = http_request(stockd.metrics_port, path, method="HEAD")
    assert (head.status, head.body) == (status, b"")


def test_the_landing_page_leads_to_the_metrics(stockd):
    answer = http_request(stockd.metrics_port, "/")
    assert answer.headers["content-type"].startswith("text/html")
    assert b"/metrics" in answer.body and b"stockd" in answer.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_not_allowed(stockd, method):
    answer = http_request(stockd.metrics_port, "/metrics", method=method)
    assert answer.status == 405
    assert {word.strip() for word in answer.headers["allow"].split(",")} == {"GET", "HEAD"}


def test_many_scrapes_on_one_connection(stockd):
    connection = http.client.HTTPConnection("127.0.0.1", stockd.metrics_port, timeout=20)
    sockets = set()
    for _ in range(50):
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert response.status == 200
        Metrics(response.read().decode())
        sockets.add(connection.sock.getsockname() if connection.sock else None)
    connection.close()
    assert len(sockets) == 1, "the connection was not kept"


def test_scrapers_that_never_finish_do_not_hinder(stockd):
    """Half a request, and a request whose answer nobody reads, on many connections."""
    idle = []
    try:
        for number in range(30):
            sock = socket.create_connection(("127.0.0.1", stockd.metrics_port))
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + (b"\r\n" if number % 2 else b""))
            idle.append(sock)
        with RawH2(stockd.port) as h2:
            chain = Chain()
            h2.wait_updates(h2.ready().call(), 50, chain)
        # Its limit of connections may be reached; once they are gone it serves again.
    finally:
        for sock in idle:
            sock.close()
    wait_until(lambda: scrape(stockd.metrics_port), what="a scrape")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def test_a_real_prometheus_scrapes_it(stockd, start_program, tmp_path):
    port = free_port()
    config = tmp_path / "prometheus.yml"
    config.write_text(f"""
global:
  scrape_interval: 300ms
  scrape_timeout: 300ms
scrape_configs:
  - job_name: stockd
    static_configs:
      - targets: ["127.0.0.1:{stockd.metrics_port}"]
""")
    prometheus = start_program(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ],
        "prometheus",
    )

    def query(expression):
        if not prometheus.running():
            raise AssertionError(f"prometheus ended:\n{prometheus.log()}")
        try:
            answer = http_request(port, "/api/v1/query?query=" + urllib.parse.quote(expression))
        except OSError:
            return []
        if answer.status != 200:
            return []
        return json.loads(answer.body)["data"]["result"]

    def value(expression):
        result = query(expression)
        return float(result[0]["value"][1]) if result else None

    with open_channel(stockd.port) as channel:
        call = get_updates(channel)
        chain = Chain()

        def read_and(condition):
            chain.check(next(call))
            return condition()

        wait_until(lambda: read_and(lambda: value("up") == 1.0), 60, "up == 1")
        wait_until(
            lambda: read_and(lambda: (value("increase(stock_updates_sent_total[3s])") or 0) > 0),
            60,
            "a growing counter",
        )
        assert value("count({__name__=~'grpc_server_.+'})") > 20
        assert value("stockd_build_info") == 1.0
        # Nothing of what it scraped was refused.
        assert value("scrape_samples_scraped") == value("scrape_samples_post_metric_relabeling")
        call.cancel()
