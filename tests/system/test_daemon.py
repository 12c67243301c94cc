"""stockd as a program: options, configuration, environment, listeners, log, signals, the end."""

import os
import re
import signal
import socket
import subprocess
import threading
import time

import grpc
import pytest

from harness.clients import get_updates, open_channel
from harness.h2 import INITIAL_WINDOW_SIZE, NO_ERROR, RawH2, request_headers
from harness.metrics import http_request
from harness.process import clean_environment
from harness.stocks import Chain, pb2
from harness.wait import wait_until

UNAVAILABLE = 14
EXIT_USAGE, EXIT_UNAVAILABLE, EXIT_CONFIGURATION = 2, 69, 78
LOG_LINE = re.compile(
    r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}([+-]\d\d:\d\d|Z) "
    r"(error|warning|notice|info|debug): .+$"
)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def values_of(text):
    """{section.key: value} of an INI file; a key that is there twice makes a list."""
    values = {}
    section = None
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, value = line.split(" = ", 1) if " = " in line else (line.rstrip(" ="), "")
            name = f"{section}.{key}"
            values[name] = f"{values[name]}, {value}" if name in values else value
    return values


def first_prices(stockd, count, calls=1):
    """The prices of the first updates of calls that follow each other on one connection."""
    prices = []
    with open_channel(stockd.port) as channel:
        for _ in range(calls):
            call = get_updates(channel)
            prices.append([next(call).price for _ in range(count)])
            call.cancel()
            stockd.wait_metric("stockd_streams", 0)
    return prices


# --- Options ----------------------------------------------------------------------------------


def test_version(run_stockd):
    for option in ("--version", "-V"):
        done = run_stockd(option)
        assert re.fullmatch(r"stockd \d+\.\d+\.\d+\n", done.stdout)
        assert (done.returncode, done.stderr) == (0, "")


def test_help_names_every_option(run_stockd):
    done = run_stockd("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for option in (
        "--config",
        "--initial-delay",
        "-i",
        "--check-config",
        "--dump-config",
        "--version",
        "--help",
    ):
        assert option in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    "arguments", [["--nothing"], ["-x"], ["--config"], ["-i"], ["argument"], ["--version=1"]]
)
def test_wrong_options_exit_2(run_stockd, arguments):
    done = run_stockd(*arguments)
    assert done.returncode == EXIT_USAGE
    assert done.stdout == ""
    assert "stockd --help" in done.stderr


# --- Configuration ----------------------------------------------------------------------------


def test_all_faults_are_told_in_one_go(run_stockd, tmp_path):
    config = tmp_path / "stockd.conf"
    lines = [
        "[grpc]",  # 1
        "listen = 127.0.0.1:70000",
        "max_connections = many",  # 3
        "colour = red",  # 4
        "max_header_bytes = 1T",
        "[stream]",
        "interval = 100",  # 7: no unit
        "initial_delay = -1s",
        "ticker =",
        "start_price = nan",  # 10
        "seed = x",
        "this is no setting",  # 12
        "[log]",
        "level = loud",  # 14
        "[nothing]",
        "key = value",  # 16
    ]
    faulty = {2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 14}
    config.write_text("\n".join(lines) + "\n")
    for option in ("--check-config", "--dump-config", None):
        done = run_stockd("--config", config, *([option] if option else []))
        assert done.returncode == EXIT_CONFIGURATION
        assert done.stdout == ""
        told = {
            int(number): text
            for number, text in re.findall(rf"{re.escape(str(config))}:(\d+): (.+)", done.stderr)
        }
        assert faulty <= set(told), sorted(faulty - set(told))
        # The unknown section is told at its head or at its key.
        assert set(told) - faulty in ({15}, {16}, {15, 16}), told
        assert "colour" in told[4] and "70000" in told[2] and "interval" in told[7]


@pytest.mark.parametrize(
    "section, key, value",
    [
        ("grpc", "listen", "127.0.0.1"),
        ("grpc", "listen", "localhost:80"),
        ("grpc", "listen", "[::1:80"),
        ("grpc", "listen", ""),
        ("grpc", "max_connections", "0"),
        ("grpc", "max_connections", "-1"),
        ("grpc", "max_connections", "1.5"),
        ("grpc", "max_streams", "99999999999999999999"),
        ("grpc", "max_message_bytes", "1"),
        ("grpc", "preface_timeout", "0"),
        ("grpc", "preface_timeout", "10 parsecs"),
        ("stream", "start_price", "0"),
        ("stream", "start_price", "inf"),
        ("stream", "start_price", "150 USD"),
        ("stream", "ticker", "A" * 33),
        ("stream", "seed", "-1"),
        ("stream", "interval", "2days"),
        ("log", "level", "7"),
    ],
)
def test_bad_values_exit_78(run_stockd, tmp_path, section, key, value):
    config = tmp_path / "stockd.conf"
    config.write_text(f"# a comment\n[{section}]\n{key} = {value}\n")
    done = run_stockd("--config", config, "--check-config")
    assert done.returncode == EXIT_CONFIGURATION
    (line,) = done.stderr.splitlines()
    assert f"{config}:3: " in line and key in line


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:/nowhere/s"])
def test_names_that_nobody_would_look_at_exit_78(run_stockd, listen):
    """Whoever lists names means that others may not connect."""
    options = ["--set", f"grpc.listen={listen}", "--set", "access.allow_names=fund.example"]
    done = run_stockd("--check-config", *options)
    assert done.returncode == 78
    assert "access.allow_names: no address in grpc.listen asks for" in done.stderr


def test_a_certificate_that_is_not_used_is_told(run_stockd):
    """Whoever names one means to have TLS."""
    done = run_stockd("--check-config", "--set", "tls.certificate=/etc/stockd/server.pem")
    assert done.returncode == 0
    assert "warning: tls.certificate: it is not used" in done.stderr


def test_a_user_with_a_colon_exits_78(run_stockd, tmp_path):
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    for user, code in (("prometheus", 0), ("prome:theus", 78)):
        options = ["--set", f"metrics.user={user}", "--set", f"metrics.password_file={password}"]
        done = run_stockd("--check-config", *options)
        assert done.returncode == code
        assert ("metrics.user: it has a colon" in done.stderr) == (code == 78)


@pytest.mark.parametrize("mode, word", [(0o604, "read"), (0o602, "written"), (0o666, "read")])
def test_a_password_that_is_not_of_its_owner_alone(run_stockd, tmp_path, mode, word):
    """Whoever can write it can log in, as whoever can read it."""
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(mode)
    options = ["--set", "metrics.user=u", "--set", f"metrics.password_file={password}"]
    done = run_stockd("--check-config", *options)
    assert done.returncode == 78
    assert f"{password}: can be {word} by others" in done.stderr


@pytest.mark.parametrize("word", ["owner", "group"])
def test_an_owner_that_does_not_exist_is_told(run_stockd, tmp_path, word):
    listen = f"grpc.listen=unix:{tmp_path}/s {word}=nobody-has-this-name"
    done = run_stockd("--set", listen, "--set", "metrics.listen=")
    assert done.returncode == EXIT_UNAVAILABLE
    assert "no such directory, or no such owner or group" in done.stderr


def test_a_missing_file_is_told(run_stockd, tmp_path):
    done = run_stockd("--config", tmp_path / "none.conf", "--check-config")
    assert done.returncode == EXIT_CONFIGURATION
    assert str(tmp_path / "none.conf") in done.stderr


def test_a_good_configuration_is_checked_in_silence(run_stockd, tmp_path):
    config = tmp_path / "stockd.conf"
    config.write_text("[stream]\ninterval = 250ms\n")
    done = run_stockd("--config", config, "--check-config")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_dump_config_round_trip(run_stockd, tmp_path):
    config = tmp_path / "stockd.conf"
    config.write_text(
        "[grpc]\nlisten = 127.0.0.1:0, [::1]:4444\nmax_connections = 77\n"
        "max_header_bytes = 4K\npreface_timeout = 1500ms\n"
        "[stream]\nticker = X.Y-Z\nstart_price = 0.1\nseed = 18446744073709551615\n"
        "[log]\nlevel = debug\n"
    )
    first = run_stockd("--config", config, "--dump-config")
    assert first.returncode == 0 and first.stderr == ""
    values = values_of(first.stdout)
    assert values["grpc.listen"] == "127.0.0.1:0, [::1]:4444"
    assert values["grpc.max_connections"] == "77"
    assert values["stream.ticker"] == "X.Y-Z"
    assert values["stream.seed"] == "18446744073709551615"
    assert values["stream.interval"] == "100ms"
    again = tmp_path / "again.conf"
    again.write_text(first.stdout)
    second = run_stockd("--config", again, "--dump-config")
    assert second.returncode == 0 and second.stderr == ""
    assert values_of(second.stdout) == values


def test_dump_config_round_trip_of_tickers(run_stockd, tmp_path):
    config = tmp_path / "stockd.conf"
    config.write_text("[ticker A.B]\ninterval = 1500ms\n[market]\nfeed = none\n[ticker ^X]\n")
    first = run_stockd("--config", config, "--set", "ticker A.B.volatility=0.5", "--dump-config")
    assert first.returncode == 0 and first.stderr == ""
    values = values_of(first.stdout)
    assert values["ticker A.B.interval"] == "1500ms"
    assert values["ticker A.B.volatility"] == "0.5"
    assert values["market.feed"] == "none"
    assert "\n[ticker ^X]\n" in first.stdout
    again = tmp_path / "again.conf"
    again.write_text(first.stdout)
    second = run_stockd("--config", again, "--dump-config")
    assert second.returncode == 0 and second.stderr == ""
    assert values_of(second.stdout) == values
    assert "\n[ticker ^X]\n" in second.stdout


MARKET_FAULTS = [
    ("feed = pipe", "market.pipe: market.feed = pipe needs the path of a FIFO"),
    ("feed = pipe\npipe = /dev/null", "market.pipe: /dev/null: not a FIFO"),
    (
        "feed = pipe\npipe = /no/such/fifo",
        "market.pipe: /no/such/fifo: there is no such FIFO; mkfifo makes one",
    ),
    ("feed = replay", "market.replay_file: market.feed = replay needs the path of a CSV file"),
    ("feed = replay\nreplay_file = /no/such.csv", "market.replay_file: /no/such.csv: No such"),
    ("feed = replay\nreplay_file = /etc/passwd", "market.replay_file: /etc/passwd:1: the header"),
    ("tickers_file = /no/such.csv", "market.tickers_file: /no/such.csv: cannot be read: No such"),
    ("tickers_file = /etc/passwd", "market.tickers_file: /etc/passwd:1: the header has no column"),
    ("tickers = A, B, A", 'market.tickers: "A" is given twice'),
    ("soft_bytes = 5M", "market.soft_bytes: it is above market.hard_bytes"),
    ("soft_age = 2m", "market.soft_age: it is above market.hard_age"),
]


@pytest.mark.parametrize("text, fault", MARKET_FAULTS)
def test_faults_of_the_market_exit_78(run_stockd, tmp_path, text, fault):
    config = tmp_path / "stockd.conf"
    config.write_text(f"[market]\n{text}\n")
    for option in (["--check-config"], []):
        done = run_stockd("--config", config, *option)
        assert done.returncode == EXIT_CONFIGURATION
        assert [line.partition(" error: ")[2][: len(fault)] for line in done.stderr.splitlines()][
            0
        ] == fault


def test_faults_of_the_market_are_told_together(run_stockd, tmp_path):
    config = tmp_path / "stockd.conf"
    config.write_text("[market]\nfeed = replay\ntickers = A, A\nsoft_age = 1h\nsoft_bytes = 1G\n")
    done = run_stockd("--config", config, "--check-config")
    told = [line.split(" error: ")[1].split(":")[0] for line in done.stderr.splitlines()]
    assert told == ["market.tickers", "market.replay_file", "market.soft_bytes", "market.soft_age"]
    # Neither is one where it has no limit to be above of, or that feed is not the one.
    config.write_text("[market]\nsoft_bytes = 1G\nhard_bytes = 0\nsoft_age = 1h\nhard_age = 0\n")
    done = run_stockd("--config", config, "--check-config")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_limit_that_has_no_effect_is_told(run_stockd, tmp_path):
    config = tmp_path / "stockd.conf"
    config.write_text("[market]\nhistory_size = 1M\n")
    done = run_stockd("--config", config, "--check-config")
    assert done.returncode == 0
    assert "warning: market.hard_bytes is above market.history_size" in done.stderr


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_a_dump_that_cannot_be_written_is_told(stockd_program, redirection):
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" --config /dev/null --dump-config {redirection}']
        + [str(stockd_program)],
        capture_output=True,
        text=True,
        timeout=30,
        env=clean_environment(),
    )
    assert done.returncode == 1
    assert "cannot write to standard output" in done.stderr


def test_dump_config_of_the_defaults_is_a_configuration(run_stockd, tmp_path):
    empty = tmp_path / "empty.conf"
    empty.write_text("")
    defaults = run_stockd("--config", empty, "--dump-config")
    values = values_of(defaults.stdout)
    assert values["grpc.listen"] == "[::]:4444"
    assert values["metrics.listen"] == "[::]:2112"
    assert values["stream.ticker"] == "AAPL"
    assert float(values["stream.start_price"]) == 150
    config = tmp_path / "stockd.conf"
    config.write_text(defaults.stdout)
    assert run_stockd("--config", config, "--check-config").returncode == 0


def test_drop_ins_come_over_the_file_in_the_order_of_their_names(run_stockd, tmp_path):
    config = tmp_path / "stockd.conf"
    config.write_text("[stream]\nticker = FILE\ninterval = 1s\nstart_price = 10\n")
    drop_ins = tmp_path / "stockd.conf.d"
    drop_ins.mkdir()
    (drop_ins / "20-later.conf").write_text("[stream]\nticker = LATER\n")
    (drop_ins / "10-early.conf").write_text("[stream]\nticker = EARLY\ninterval = 2s\n")
    (drop_ins / "30-not-read").write_text("[stream]\nticker = NO\n")
    values = values_of(run_stockd("--config", config, "--dump-config").stdout)
    assert values["stream.ticker"] == "LATER"
    assert values["stream.interval"] == "2s"
    assert float(values["stream.start_price"]) == 10


def test_environment_over_file(run_stockd, tmp_path):
    config = tmp_path / "stockd.conf"
    config.write_text("[grpc]\nlisten = 127.0.0.1:1\n[metrics]\nlisten = 127.0.0.1:2\n")
    done = run_stockd(
        "--config",
        config,
        "--dump-config",
        environment={"GRPC_SERVER_PORT": "5551", "STOCK_SERVICE_METRICS_SERVER_PORT": "5552"},
    )
    values = values_of(done.stdout)
    assert values["grpc.listen"] == "[::]:5551"
    assert values["metrics.listen"] == "[::]:5552"


@pytest.mark.parametrize("port", ["65536", "-1", "http", "1 2", "127.0.0.1:80", "80,81"])
@pytest.mark.parametrize("name", ["GRPC_SERVER_PORT", "STOCK_SERVICE_METRICS_SERVER_PORT"])
def test_bad_ports_in_the_environment_are_told(run_stockd, tmp_path, name, port):
    config = tmp_path / "stockd.conf"
    config.write_text("")
    done = run_stockd("--config", config, "--check-config", environment={name: port})
    assert done.returncode == EXIT_CONFIGURATION
    assert name in done.stderr


def test_the_command_line_comes_last(run_stockd, tmp_path):
    config = tmp_path / "stockd.conf"
    config.write_text("[stream]\ninitial_delay = 3s\n")
    for arguments, delay in [
        ([], "3s"),
        (["-i", "2"], "2s"),
        (["--initial-delay", "2"], "2s"),
        (["--initial-delay=0"], "0"),
        (["-i", "0"], "0"),
    ]:
        done = run_stockd("--config", config, "--dump-config", *arguments)
        assert done.returncode == 0, done.stderr
        text = values_of(done.stdout)["stream.initial_delay"]
        assert text.rstrip("ms") == delay.rstrip("ms"), text


@pytest.mark.parametrize("delay", ["soon", "-1", "", "1e9"])
def test_a_bad_delay_is_told(run_stockd, tmp_path, delay):
    config = tmp_path / "stockd.conf"
    config.write_text("")
    done = run_stockd("--config", config, "--check-config", "-i", delay)
    assert done.returncode == EXIT_USAGE
    assert "--initial-delay" in done.stderr


def test_environment_starts_the_servers(start_stockd):
    stockd = start_stockd(
        environment={"GRPC_SERVER_PORT": "0", "STOCK_SERVICE_METRICS_SERVER_PORT": "0"}
    )
    assert re.search(r"listening for gRPC on \[::\]:\d+", stockd.log())
    assert stockd.metric("stockd_connections") == 0
    with RawH2(stockd.port) as h2:
        h2.ready()


# --- Listeners --------------------------------------------------------------------------------


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def served(port, host="127.0.0.1"):
    with RawH2(port, host=host) as h2:
        h2.wait_updates(h2.ready().call(), 2, Chain())


def test_several_listeners(start_stockd):
    addresses = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.1:0"] + ["[::1]:0"] * has_ipv6()
    stockd = start_stockd(
        grpc={"listen": ", ".join(addresses)},
        metrics={"listen": ", ".join(addresses)},
        stream={"interval": "5ms"},
    )
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.1", "::1"]
    assert len(stockd.grpc_ports) == len(stockd.metrics_ports) == len(addresses)
    for port, host in zip(stockd.grpc_ports, hosts):
        served(port, host)
    for port, host in zip(stockd.metrics_ports, hosts):
        assert http_request(port, "/-/ready", host=host).status == 200
    assert stockd.metric("stockd_connections_accepted_total") == len(addresses)


def test_the_wildcard_takes_both_families(start_stockd):
    stockd = start_stockd(
        grpc={"listen": "[::]:0"}, metrics={"listen": ":0"}, stream={"interval": "5ms"}
    )
    for host in ["127.0.0.1"] + ["::1"] * has_ipv6():
        served(stockd.port, host)
        assert http_request(stockd.metrics_port, "/-/healthy", host=host).status == 200


def test_no_metrics_listener(start_stockd):
    stockd = start_stockd(metrics={"listen": ""}, stream={"interval": "5ms"}, wait=False)
    port = int(stockd.wait_log(r"listening for gRPC on \S+:(\d+)\n").group(1))
    served(port)
    assert "listening for metrics" not in stockd.log()


@pytest.mark.parametrize("section", ["grpc", "metrics"])
def test_a_port_that_is_taken_is_told(start_stockd, section):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        stockd = start_stockd(wait=False, **{section: {"listen": address}})
        stockd.expected_exit = EXIT_UNAVAILABLE
        assert stockd.wait() == EXIT_UNAVAILABLE
        errors = [line for line in stockd.log().splitlines() if " error: " in line]
        assert len(errors) == 1
        assert address in errors[0] and "address already in use" in errors[0]


def test_a_restart_takes_the_same_port(start_stockd):
    """Connections of the one before, still in TIME_WAIT, do not keep the port."""
    address = f"127.0.0.1:{free_port()}"
    for _ in range(3):
        stockd = start_stockd(grpc={"listen": address}, stream={"interval": "5ms"})
        served(stockd.port)
        h2 = RawH2(stockd.port).ready()
        assert stockd.stop() == 0
        h2.close()


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_standard_files(stockd_program, tmp_path, closed):
    """
    Started without standard error, it must not write its messages into what gets descriptor 2, and
    must come to a good end: libuv aborts when it is told to close a standard file.
    """
    port, metrics_port = free_port(), free_port()

    def accepts():
        assert process.poll() is None
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    process = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$0" "$@" {closed}', str(stockd_program), "--config", "/dev/null"]
        + ["--set", f"grpc.listen=127.0.0.1:{port}"]
        + ["--set", f"metrics.listen=127.0.0.1:{metrics_port}"]
        + ["--set", "stream.interval=5ms", "--set", "log.level=debug"],
        env=clean_environment(),
        cwd=tmp_path,
    )
    try:
        wait_until(accepts, what="a listener")
        assert os.readlink(f"/proc/{process.pid}/fd/2") == "/dev/null"
        served(port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


# --- Log --------------------------------------------------------------------------------------


def test_log_lines(start_stockd):
    stockd = start_stockd(stream={"interval": "7ms", "ticker": "LOGS"}, log={"level": "debug"})
    with RawH2(stockd.port) as h2:
        h2.ready()
        assert h2.answer(request_headers("/no.Service/Method")).status == 12
        stream = h2.call()
        h2.wait_updates(stream, 2, Chain(ticker="LOGS"))
        peer = "%s:%d" % h2.socket.getsockname()
    stockd.wait_metric("stockd_connections", 0)
    assert stockd.stop() == 0
    log = stockd.log()
    for line in log.splitlines():
        assert LOG_LINE.match(line), line
    version = re.search(r"info: stockd (\d+\.\d+\.\d+)", log)
    assert version
    # Settings that differ from the default, and where they come from.
    assert re.search(rf"info: .*stream\.interval = 7ms.*{re.escape(str(stockd.config_path))}", log)
    assert re.search(r"info: .*stream\.ticker = LOGS", log)
    assert "stream.start_price" not in log
    # Each connection and call, at debug.
    assert re.search(rf"debug: .*{re.escape(peer)}", log)
    assert re.search(rf"debug: .*{re.escape(peer)}.*stockservice.StockService/GetUpdates", log)
    assert re.search(rf"debug: .*{re.escape(peer)}.*Canceled", log)
    assert re.search(r"debug: .*(peer_lost|peer_closed)", log)
    # Totals at the end.
    assert re.search(r"info: stopped: \d+ updates", log)


def test_the_log_level_is_kept(start_stockd):
    port = free_port()
    stockd = start_stockd(grpc={"listen": f"127.0.0.1:{port}"}, log={"level": "error"}, wait=False)

    def listening():
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return True
        except OSError:
            return False

    wait_until(listening)
    assert stockd.stop() == 0
    assert stockd.log() == ""


def test_a_log_that_nobody_reads_does_not_stop_it(stockd_program, tmp_path):
    port, metrics_port = free_port(), free_port()
    process = subprocess.Popen(
        [str(stockd_program), "--config", "/dev/null"]
        + ["--set", f"grpc.listen=127.0.0.1:{port}"]
        + ["--set", f"metrics.listen=127.0.0.1:{metrics_port}"]
        + ["--set", "stream.interval=1ms", "--set", "log.level=debug"],
        env=clean_environment(),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    try:
        while b"listening for metrics" not in process.stderr.readline():
            pass
        for _ in range(400):
            served(port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def test_refusals_do_not_fill_the_log(start_stockd):
    stockd = start_stockd(grpc={"max_connections": "1"}, log={"level": "info"})
    with RawH2(stockd.port) as h2:
        h2.ready()
        before = len(stockd.log().splitlines())
        for _ in range(300):
            with socket.create_connection(("127.0.0.1", stockd.port)) as sock:
                sock.settimeout(20)
                assert sock.recv(1) == b""
        written = len(stockd.log().splitlines()) - before
    assert 1 <= written <= 60
    assert sum(stockd.metrics().by("stockd_refused_total", "reason").values()) == 300


def test_what_a_client_sends_cannot_forge_log_lines(start_stockd):
    stockd = start_stockd(log={"level": "debug"})
    with RawH2(stockd.port) as h2:
        h2.ready()
        h2.answer(request_headers("/a/b%0Ainfo: forged \x7f\x9b2J"))
        with socket.create_connection(("127.0.0.1", stockd.port)) as sock:
            sock.sendall(b"GET /\x1b[2J\ninfo: forged HTTP/1.1\r\n\r\n")
            sock.settimeout(20)
            while sock.recv(1000):
                pass
    assert stockd.stop() == 0
    for line in stockd.log().splitlines():
        assert LOG_LINE.match(line), line
        assert "\x1b" not in line and "\x9b" not in line


# --- Delay and seed ---------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["-i", "1"], ["--initial-delay", "1"]])
def test_the_initial_delay(start_stockd, arguments):
    stockd = start_stockd(stream={"interval": "5ms"}, arguments=arguments)
    with RawH2(stockd.port) as h2:
        h2.ready()
        for _ in range(2):  # of each call, not of the first alone
            began = time.monotonic()
            stream = h2.call()
            chain = Chain()
            h2.wait_updates(stream, 1, chain)
            assert time.monotonic() - began >= 0.99
            h2.wait_updates(stream, 20, chain)
            stream.reset()


def test_a_seed_makes_runs_repeatable(start_stockd):
    def run(seed):
        stockd = start_stockd(stream={"interval": "0", "seed": seed})
        prices = first_prices(stockd, 200, calls=3)
        stockd.stop()
        return prices

    one, same, other = run("42"), run("42"), run("43")
    assert one == same
    # Neighbouring seeds and calls have nothing in common.
    assert len({tuple(prices) for prices in one + other}) == 6
    assert len({prices[0] for prices in one + other}) == 6


def test_without_a_seed_no_two_runs_are_the_same(start_stockd):
    runs = [first_prices(start_stockd(stream={"interval": "0"}), 5)[0] for _ in range(3)]
    assert len({tuple(prices) for prices in runs}) == 3


# --- The end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("interval", ["20ms", "1h"])
def test_signals_end_every_call_with_unavailable(start_stockd, number, interval):
    stockd = start_stockd(stream={"interval": interval})
    calls = 8
    codes = []
    begun = threading.Semaphore(0)

    def follow():
        with open_channel(stockd.port) as channel:
            chain = Chain()
            call = get_updates(channel)
            try:
                if interval == "1h":
                    begun.release()
                for update in call:
                    chain.check(update)
                    if chain.count == 1 and interval != "1h":
                        begun.release()
            except grpc.RpcError:
                pass
            codes.append((call.code(), call.details()))

    threads = [threading.Thread(target=follow, daemon=True) for _ in range(calls)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=30)
    stockd.wait_metric("stockd_streams", calls)
    began = time.monotonic()
    assert stockd.stop(number) == 0
    assert time.monotonic() - began < 10
    for thread in threads:
        thread.join(30)
    assert [code for code, _ in codes] == [grpc.StatusCode.UNAVAILABLE] * calls, codes
    # It is the server's own word, not the client's conclusion from a lost connection.
    assert all("shutting down" in details for _, details in codes), codes


@pytest.mark.parametrize("interval", ["0", "5ms", "1h"])
def test_the_end_on_the_wire(start_stockd, interval):
    """Trailers with 14, GOAWAY without an error, then the end of file, not a reset."""
    stockd = start_stockd(stream={"interval": interval})
    with RawH2(stockd.port) as h2:
        h2.auto_credit = True
        streams = [h2.ready().call() for _ in range(3)]
        chains = [Chain() for _ in streams]
        for stream, chain in zip(streams, chains):
            h2.wait_updates(stream, 3 if interval != "1h" else 0, chain)
        stockd.wait_metric("stockd_streams", 3)
        began = time.monotonic()
        stockd.send_signal(signal.SIGTERM)
        h2.wait_closed()
        assert time.monotonic() - began < 4  # before the time for the end is up
        assert not h2.reset_by_peer
        for stream, chain in zip(streams, chains):
            assert stream.ended and stream.status == UNAVAILABLE
            chain.check_bytes(stream.take_bodies())
            assert stream.partial_bytes == 0
        assert h2.goaway and h2.goaway[1] == NO_ERROR
        assert h2.goaway[0] in (streams[-1].id, 2**31 - 1)
    assert stockd.wait() == 0


@pytest.mark.parametrize("window", [0, 50])
def test_stalled_calls_do_not_hold_the_end_up(start_stockd, window):
    """A call at a message boundary gets its status; one in the middle of a message a reset."""
    stockd = start_stockd(stream={"interval": "5ms"}, grpc={"shutdown_timeout": "1s"})
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: window}) as h2:
        stream = h2.ready().call()
        stockd.wait_metric("stockd_blocked_streams", 1)
        began = time.monotonic()
        stockd.send_signal(signal.SIGTERM)
        h2.wait_closed()
        assert stream.data_bytes == window
        if window == 0:
            assert stream.status == UNAVAILABLE
        else:
            assert not stream.ended
        assert stockd.wait() == 0
        assert time.monotonic() - began < 5


def test_a_socket_that_nobody_reads_does_not_hold_the_end_up(start_stockd):
    stockd = start_stockd(stream={"interval": "0"}, grpc={"shutdown_timeout": "1s"})
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 2**31 - 1}, receive_buffer=4096) as h2:
        h2.ready()
        h2.open_connection_window()
        for _ in range(10):
            h2.call()
        stockd.wait_metric("stockd_blocked_streams", 10, reason="socket")
        began = time.monotonic()
        assert stockd.stop() == 0
        assert 0.9 <= time.monotonic() - began < 5


def test_a_second_signal_ends_at_once(start_stockd):
    stockd = start_stockd(stream={"interval": "0"}, grpc={"shutdown_timeout": "1h"})
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 2**31 - 1}, receive_buffer=4096) as h2:
        h2.ready()
        h2.open_connection_window()
        h2.call()
        stockd.wait_metric("stockd_blocked_streams", 1, reason="socket")
        stockd.send_signal(signal.SIGTERM)
        stockd.wait_log("ending 1 stream")
        assert stockd.running()
        assert stockd.stop(signal.SIGTERM) == 0


def test_any_number_of_signals_is_a_good_end(start_stockd):
    """Not even a signal in the last moments, when nobody watches for it any more, kills."""
    stockd = start_stockd(grpc={"shutdown_timeout": "1h"}, stream={"interval": "0"})
    clients = [RawH2(stockd.port) for _ in range(100)]
    for h2 in clients:
        h2.call()
    stockd.wait_metric("stockd_streams", len(clients))
    while stockd.running():
        stockd.send_signal(signal.SIGTERM)
    assert stockd.wait() == 0
    for h2 in clients:
        h2.close()


def test_nobody_is_let_in_during_the_end(start_stockd):
    stockd = start_stockd(stream={"interval": "0"}, grpc={"shutdown_timeout": "1h"})
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 2**31 - 1}, receive_buffer=4096) as h2:
        h2.ready()
        h2.open_connection_window()
        h2.call()
        stockd.wait_metric("stockd_blocked_streams", 1, reason="socket")
        assert http_request(stockd.metrics_port, "/-/ready").status == 200
        stockd.send_signal(signal.SIGTERM)
        stockd.wait_log("ending 1 stream")

        def refused():
            try:
                socket.create_connection(("127.0.0.1", stockd.port)).close()
                return False
            except ConnectionRefusedError:
                return True

        wait_until(refused)
        # Still alive, no longer ready, and Prometheus can watch it end.
        assert http_request(stockd.metrics_port, "/-/healthy").status == 200
        assert http_request(stockd.metrics_port, "/-/ready").status == 503
        assert stockd.metric("stockd_connections") == 1
        assert stockd.stop(signal.SIGINT) == 0


def test_the_end_with_nobody_there(start_stockd):
    stockd = start_stockd()
    began = time.monotonic()
    assert stockd.stop() == 0
    assert time.monotonic() - began < 4


def test_scrapers_do_not_hold_the_end_up(start_stockd):
    stockd = start_stockd()
    with socket.create_connection(("127.0.0.1", stockd.metrics_port)) as idle:
        idle.sendall(b"GET /metrics HTTP/1.1\r\n")
        began = time.monotonic()
        assert stockd.stop() == 0
        assert time.monotonic() - began < 4


# --- Descriptors ------------------------------------------------------------------------------


def test_few_descriptors_lower_the_cap(start_stockd):
    """The cap of connections stays below the limit of open files, and the log says so."""
    stockd = start_stockd(
        stream={"interval": "5ms"}, grpc={"max_connections": "1000"}, prefix=["prlimit", "-n200"]
    )
    assert re.search(r"warning: .*max_connections.*200", stockd.log())
    clients = []
    try:
        while stockd.metric("stockd_refused_total") == 0:
            assert len(clients) < 200
            clients.append(RawH2(stockd.port))
        # Full, it still serves those that are in, and the metrics.
        for h2 in clients[:3]:
            h2.wait_updates(h2.ready().call(), 2, Chain())
        assert stockd.metric("process_open_fds") < 200
    finally:
        for h2 in clients:
            h2.close()
    stockd.wait_metric("stockd_connections", 0)
    served(stockd.port)


def test_descriptors_come_back(start_stockd):
    stockd = start_stockd(stream={"interval": "5ms"})
    served(stockd.port)
    stockd.wait_at_rest()
    before = stockd.descriptors()
    for _ in range(50):
        served(stockd.port)
    stockd.wait_at_rest()
    wait_until(lambda: stockd.descriptors() <= before, what="descriptors as before")


def test_updates_are_those_of_the_proto_file(start_stockd):
    """Field numbers and types to the byte, by protoc's own reading of stockservice.proto."""
    stockd = start_stockd(stream={"interval": "0"})
    with RawH2(stockd.port) as h2:
        stream = h2.ready().call()
        bodies = []
        h2.wait(lambda: bodies.extend(stream.take_bodies()) or len(bodies) >= 100, what="updates")
    for body in bodies:
        update = pb2().StockUpdate.FromString(body)
        assert update.SerializeToString(deterministic=True) == body
