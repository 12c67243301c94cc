"""
stockd-render: what it makes of templates, where it finds what it puts there, and that whatever goes
wrong changes nothing.
"""

import os
import re
import signal
import stat
import subprocess

import pytest

from harness.process import SOURCE, assert_no_report, clean_environment
from harness.wait import wait_until

EXIT_FAILURE, EXIT_USAGE, EXIT_CONFIGURATION = 1, 2, 78
TEMPLATES = SOURCE / "config" / "templates"
PROMETHEUS = "--prometheus-template", TEMPLATES / "prometheus.yml"
DATA_SOURCE = "--data-source-template", TEMPLATES / "datasources.yaml"
ALL = "p: {{.IP}} {{.Port}} {{.ClientPort}}\n"
OURS = re.compile(r"^(PROM|DS)_")

# The same shape as the .env file of the program that users come from.
ENV_FILE = """\
# Ports of the metrics
STOCK_SERVICE_METRICS_SERVER_PORT=2112
STOCK_SERVICE_CLIENT_METRICS_SERVER_PORT=2113

# For Prometheus
PROM_TEMPLATE_FILE=in/prometheus/prometheus.yml
PROM_OUTPUT_FILE=out/prometheus/prometheus.yml
PROM_TARGET_GRPC_SERVER_PORT=2212
PROM_TARGET_GRPC_CLIENT_PORT=2213

# For Grafana
DS_TEMPLATE_FILE=in/grafana/datasources.yaml
DS_OUTPUT_FILE=out/grafana/datasources.yaml
DS_SERVER_PORT=9090

# For others
GF_SECURITY_ADMIN_PASSWORD=secret123!
GF_RENDERING_SERVER_URL=http://renderer:8081/render
GF_LOG_FILTERS=rendering:debug
GRPC_SERVER_PORT=4444"""


class Render:
    def __init__(self, program, folder):
        self.program = program
        self.folder = folder

    def __call__(self, *arguments, environment=None, prefix=(), timeout=60, **options):
        """Runs it in the folder, and returns what it did. Every line that it says is its own."""
        variables = {k: v for k, v in clean_environment().items() if not OURS.match(k)}
        variables.update(environment or {})
        options.setdefault("stdout", subprocess.PIPE)
        done = subprocess.run(
            [*map(str, prefix), str(self.program), *map(str, arguments)],
            cwd=self.folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=timeout,
            **options,
        )
        done.stderr = done.stderr.decode(errors="replace")
        assert_no_report(done.stderr, "stockd-render")
        for line in done.stderr.splitlines():
            assert re.match(r"(\S*/)?stockd-render: |Try ", line), done.stderr
        return done

    def text(self, template, *arguments, **options):
        """What the Prometheus template with this text becomes."""
        (self.folder / "given.yml").write_bytes(template.encode())
        done = self(
            "-p", "-", "--prometheus-template", "given.yml", "-c", self.config(), *arguments,
            **options,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def config(self, text="", name="stockd.conf"):
        path = self.folder / name
        path.write_text(text)
        return path

    def fails(self, status, *arguments, **options):
        """It ends with this status, and has written nothing. What it says."""
        before = snapshot(self.folder)
        done = self(*arguments, **options)
        assert done.returncode == status, done.stderr
        assert not done.stdout
        assert snapshot(self.folder) == before
        return done.stderr


def snapshot(folder):
    """Everything below the folder: which file it is, its kind and mode, and what is in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[str(path)] = (status.st_mode, status.st_ino, status.st_uid, content)
    return found


@pytest.fixture
def render(build, tmp_path):
    program = build / "config" / "render" / "stockd-render"
    assert program.exists(), f"no config/render/stockd-render in {build}"
    folder = tmp_path / "here"
    folder.mkdir()
    return Render(program, folder)


# --- What is made -----------------------------------------------------------------------------


def test_our_templates_are_filled(render):
    done = render(
        *("-p", "prometheus.yml", *PROMETHEUS, "-d", "datasources.yaml", *DATA_SOURCE),
        *("--ip", "192.0.2.5", "--port", 1, "--client-port", 65535, "--prometheus-port", 9091),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", "")
    for name, values in (
        ("prometheus.yml", {"IP": "192.0.2.5", "Port": "1", "ClientPort": "65535"}),
        ("datasources.yaml", {"IP": "192.0.2.5", "Port": "9091"}),
    ):
        expected = (TEMPLATES / name).read_text()
        for placeholder, value in values.items():
            assert "{{." + placeholder + "}}" in expected
            expected = expected.replace("{{." + placeholder + "}}", value)
        assert (render.folder / name).read_text() == expected
        assert "{{" not in expected


@pytest.mark.parametrize("ip", ["192.0.2.5", "2001:db8::5"])
def test_prometheus_takes_the_result(render, ip):
    arguments = *PROMETHEUS, "--ip", ip, "--port", 2112
    assert render("-p", "made.yml", *arguments).returncode == 0
    checked = subprocess.run(
        ["promtool", "check", "config", "made.yml"], cwd=render.folder, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stdout + checked.stderr
    host = f"[{ip}]" if ":" in ip else ip
    made = (render.folder / "made.yml").read_text()
    assert re.findall(r"targets: \['(.*)'\]", made) == [f"{host}:2112", f"{host}:2113"]
    assert re.findall(r"job_name: (\S+)", made) == ["stockd", "stock-client"]


def test_the_data_source_is_that_of_the_dashboard(render):
    done = render("-d", "-", *DATA_SOURCE, "--ip", "::1")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert "    url: http://[::1]:9090" in lines
    assert "    uid: stockd-prometheus" in lines


def test_a_users_own_files_are_used(render):
    """An .env file and templates as the users of the original have them, and no option at all."""
    for folder in ("in/prometheus", "in/grafana", "out/prometheus", "out/grafana"):
        (render.folder / folder).mkdir(parents=True)
    (render.folder / ".env").write_text(ENV_FILE)
    (render.folder / "in/prometheus/prometheus.yml").write_text(
        "scrape_configs:\n  - job_name: 'server'\n    static_configs:\n"
        "      - targets: ['{{.IP}}:{{.Port}}']\n"
        "  - job_name: 'client'\n    static_configs:\n"
        "      - targets: ['{{.IP}}:{{.ClientPort}}']"
    )
    (render.folder / "in/grafana/datasources.yaml").write_text(
        "datasources:\n- name: Prometheus\n  url: http://{{ .IP }}:{{ .Port }}\n"
    )
    done = render("--ip", "192.0.2.5", "-c", render.config())
    assert (done.returncode, done.stdout) == (0, b"")
    assert (render.folder / "out/prometheus/prometheus.yml").read_text() == (
        "scrape_configs:\n  - job_name: 'server'\n    static_configs:\n"
        "      - targets: ['192.0.2.5:2212']\n"
        "  - job_name: 'client'\n    static_configs:\n"
        "      - targets: ['192.0.2.5:2213']"
    )
    assert (render.folder / "out/grafana/datasources.yaml").read_text() == (
        "datasources:\n- name: Prometheus\n  url: http://192.0.2.5:9090\n"
    )


def test_only_what_is_asked_for_is_made(render):
    assert render("-d", "a", *DATA_SOURCE, "--ip", "::1").returncode == 0
    assert [path.name for path in render.folder.iterdir()] == ["a"]


def test_bytes_pass_through(render):
    (render.folder / "t").write_bytes(b"\xef\xbb\xbfa\r\n\xff\xc3\xa4{{.IP}}\r")
    done = render("-p", "-", "--prometheus-template", "t", "--ip", "::1", "--port", 1)
    assert done.stdout == b"\xef\xbb\xbfa\r\n\xff\xc3\xa4[::1]\r"


# --- Where values come from -------------------------------------------------------------------

# Each overrides those behind it: what it is, and how it says a port.
PORT_SOURCES = [
    ("option", lambda port: {"arguments": ["--port", port]}),
    ("variable", lambda port: {"environment": {"PROM_TARGET_GRPC_SERVER_PORT": port}}),
    (".env", lambda port: {"env": f"PROM_TARGET_GRPC_SERVER_PORT={port}"}),
    ("stockd's", lambda port: {"environment": {"STOCK_SERVICE_METRICS_SERVER_PORT": port}}),
    ("stockd's in .env", lambda port: {"env": f"STOCK_SERVICE_METRICS_SERVER_PORT={port}"}),
    ("stockd.conf", lambda port: {"config": f"[metrics]\nlisten = [::]:{port}"}),
    ("default", lambda port: {}),
]
CLIENT_PORT_SOURCES = [
    ("option", lambda port: {"arguments": ["--client-port", port]}),
    ("variable", lambda port: {"environment": {"PROM_TARGET_GRPC_CLIENT_PORT": port}}),
    (".env", lambda port: {"env": f"PROM_TARGET_GRPC_CLIENT_PORT={port}"}),
    ("own", lambda port: {"environment": {"STOCK_SERVICE_CLIENT_METRICS_SERVER_PORT": port}}),
    ("own in .env", lambda port: {"env": f"STOCK_SERVICE_CLIENT_METRICS_SERVER_PORT={port}"}),
    ("default", lambda port: {}),
]
PROMETHEUS_PORT_SOURCES = [
    ("option", lambda port: {"arguments": ["--prometheus-port", port]}),
    ("variable", lambda port: {"environment": {"DS_SERVER_PORT": port}}),
    (".env", lambda port: {"env": f"DS_SERVER_PORT={port}"}),
    ("default", lambda port: {}),
]


@pytest.mark.parametrize(
    "sources, name, default",
    [
        (PORT_SOURCES, "Port", 2112),
        (CLIENT_PORT_SOURCES, "ClientPort", 2113),
        (PROMETHEUS_PORT_SOURCES, "Port", 9090),
    ],
    ids=["port", "client", "prometheus"],
)
def test_the_nearest_source_counts(render, sources, name, default):
    """All of them at once, then without the first, and so on to the default."""
    short = "d" if sources is PROMETHEUS_PORT_SOURCES else "p"
    long = "data-source" if short == "d" else "prometheus"
    (render.folder / "t").write_text("{{." + name + "}}")
    for first in range(len(sources)):
        arguments, environment, env, config = [], {}, "", ""
        for number in range(first, len(sources)):
            said = sources[number][1](str(1000 + number))
            arguments += said.get("arguments", [])
            environment.update(said.get("environment", {}))
            env += said.get("env", "") + "\n"
            config += said.get("config", "")
        (render.folder / ".env").write_text(env)
        done = render(
            *("-" + short, "-", f"--{long}-template", "t", "--ip", "192.0.2.5"),
            *("-c", render.config(config), *arguments),
            environment=environment,
        )
        last = first == len(sources) - 1
        assert done.stdout.decode() == str(default if last else 1000 + first), sources[first][0]


def test_files_have_the_same_sources(render):
    for name in "123":
        (render.folder / name).write_text(f"{name} {{{{.IP}}}}")
    (render.folder / ".env").write_text("PROM_TEMPLATE_FILE=1\nPROM_OUTPUT_FILE=out1\n")
    variables = {"PROM_TEMPLATE_FILE": "2", "PROM_OUTPUT_FILE": "out2"}
    common = "--ip", "::1", "--port", 1
    assert render(*common).returncode == 0
    assert render(*common, environment=variables).returncode == 0
    options = "--prometheus-template", "3", "--prometheus-output", "out3"
    assert render(*common, *options, environment=variables).returncode == 0
    for name in "123":
        assert (render.folder / f"out{name}").read_text() == f"{name} [::1]"
    (render.folder / "other.env").write_text("PROM_TEMPLATE_FILE=3\nPROM_OUTPUT_FILE=out4\n")
    assert render(*common, "--env-file", "other.env").returncode == 0
    assert (render.folder / "out4").read_text() == "3 [::1]"


def test_an_empty_variable_hides_that_of_the_env_file(render):
    (render.folder / ".env").write_text("PROM_OUTPUT_FILE=x\nDS_SERVER_PORT=1\n")
    said = render.fails(EXIT_USAGE, environment={"PROM_OUTPUT_FILE": ""})
    assert "nothing is asked for" in said
    (render.folder / "t").write_text("{{.Port}}")
    done = render(
        *("-d", "-", "--data-source-template", "t"),
        environment={"DS_SERVER_PORT": "", "PROM_OUTPUT_FILE": ""},
    )
    assert done.stdout == b"9090"


def test_a_folder_that_is_called_env_is_none(render):
    """As Python's virtual environments often are."""
    (render.folder / ".env").mkdir()
    assert "nothing is asked for" in render.fails(EXIT_USAGE)
    said = render.fails(EXIT_CONFIGURATION, "--env-file", ".env", "-p", "-")
    assert said == "stockd-render: .env: cannot be read: Is a directory\n"
    said = render.fails(EXIT_CONFIGURATION, "--env-file", "none", "-p", "-")
    assert said == "stockd-render: none: cannot be read: No such file or directory\n"


# --- stockd's configuration -------------------------------------------------------------------


def made_of(render, listen, *arguments, more=""):
    """What is rendered for a stockd that listens there, and what is said of it."""
    (render.folder / "t").write_text("{{.IP}}:{{.Port}}")
    config = render.config(f"[metrics]\nlisten = {listen}\n{more}")
    done = render("-p", "-", "--prometheus-template", "t", "-c", config, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(), done.stderr.replace(str(render.folder), "")


@pytest.mark.parametrize(
    "listen, ip, made",
    [
        ("[::]:2200", "192.0.2.5", "192.0.2.5:2200"),
        ("[::]:2200", "2001:db8::5", "[2001:db8::5]:2200"),
        ("0.0.0.0:2200", "192.0.2.5", "192.0.2.5:2200"),
        ("192.0.2.5:2200", "192.0.2.5", "192.0.2.5:2200"),
        ("[2001:db8::5]:2200", "2001:db8:0::5", "[2001:db8::5]:2200"),
        # The first of those that the address is covered by.
        ("127.0.0.1:2200, 192.0.2.5:2201, [::]:2202", "192.0.2.5", "192.0.2.5:2201"),
        ("0.0.0.0:2200, [2001:db8::5]:2201", "2001:db8::5", "[2001:db8::5]:2201"),
        ("unix:/run/a, [::]:2202", "192.0.2.5", "192.0.2.5:2202"),
    ],
)
def test_the_port_is_that_of_the_address(render, listen, ip, made):
    assert made_of(render, listen, "--ip", ip) == (made, "")


@pytest.mark.parametrize(
    "listen, ip, port",
    [
        ("127.0.0.1:2112", "192.0.2.5", 2112),
        ("0.0.0.0:2112", "2001:db8::5", 2112),
        ("[::1]:2112", "192.0.2.5", 2112),
        ("[2001:db8::6]:2112", "2001:db8::5", 2112),
        ("unix:/run/a, 127.0.0.1:2112, 192.0.2.6:2113", "192.0.2.5", 2112),
    ],
)
def test_an_address_without_metrics_is_told(render, listen, ip, port):
    made, said = made_of(render, listen, "--ip", ip)
    host = f"[{ip}]" if ":" in ip else ip
    assert made == f"{host}:{port}"
    assert said == (
        f"stockd-render: stockd has no metrics at {host}:{port}: its metrics.listen is {listen} "
        "(/stockd.conf:2)\n"
    )


def test_a_port_without_metrics_is_told(render):
    made, said = made_of(render, "[::]:2112", "--ip", "192.0.2.5", "--port", 2113)
    assert made == "192.0.2.5:2113"
    assert "no metrics at 192.0.2.5:2113: its metrics.listen is [::]:2112 (" in said
    made, said = made_of(render, "", "--ip", "192.0.2.5", "--port", 2113)
    assert made == "192.0.2.5:2113"
    assert "its metrics.listen is empty (" in said


def test_without_a_tcp_port_one_must_be_given(render):
    for listen, said in (
        ("unix:/run/a", "there is no TCP address in it"),
        ("", "there is no TCP address in it"),
        ("127.0.0.1:0", "the kernel chooses the port"),
    ):
        config = render.config(f"[metrics]\nlisten = {listen}\n")
        answer = render.fails(EXIT_CONFIGURATION, "-p", "-", *PROMETHEUS, "-c", config)
        assert f"stockd-render: {config}:2: metrics.listen: {said}" in answer
    made, said = made_of(render, "unix:/run/a", "--ip", "192.0.2.5", "--port", 1)
    assert made == "192.0.2.5:1"
    assert "its metrics.listen is unix:/run/a (" in said


def test_what_a_scrape_needs_besides_is_told(render):
    files = "certificate=/a key=/b"
    made, said = made_of(render, f"[::]:2112 tls=yes {files}", "--ip", "192.0.2.5")
    assert made == "192.0.2.5:2112"
    assert re.fullmatch(r"stockd-render: .* over TLS .*https.*tls_config.*\n", said)
    # Not of an address that is not the one.
    listen = f"127.0.0.1:2112 tls=yes {files}, 192.0.2.5:2112"
    assert made_of(render, listen, "--ip", "192.0.2.5") == ("192.0.2.5:2112", "")
    password = "user = x\npassword_file = /p\n"
    made, said = made_of(render, "[::]:2112", "--ip", "192.0.2.5", more=password)
    assert re.fullmatch(r"stockd-render: .*metrics\.user.*basic_auth\n", said)


def test_faults_of_stockds_configuration_are_told(render):
    config = render.config("[stream]\ninterval = fast\n\n[metrics]\nlsten = :1\n")
    said = render.fails(EXIT_CONFIGURATION, "-p", "-", *PROMETHEUS, "-c", config)
    assert f"stockd-render: {config}:2: stream.interval: " in said
    assert f"stockd-render: {config}:5: metrics.lsten: there is no such key" in said
    # Where it is not needed it is not read, unless somebody says so.
    assert render("-d", "-", *DATA_SOURCE, "-c", config).returncode == 0
    given = "-p", "-", *PROMETHEUS, "--ip", "::1", "--port", 1
    assert render(*given, environment={"GRPC_SERVER_PORT": "x"}).returncode == 0
    render.fails(EXIT_CONFIGURATION, *given, "-c", config)
    drop_ins = render.folder / "stockd.conf.d"
    drop_ins.mkdir()
    (drop_ins / "port.conf").write_text("[metrics]\nlisten = [::]:2300\n")
    config.write_text("")
    (render.folder / "t").write_text("{{.Port}}")
    done = render("-p", "-", "--prometheus-template", "t", "-c", config)
    assert done.stdout == b"2300"


# --- What is wrong with ports and variables ---------------------------------------------------

NO_PORTS = ["0", "65536", "-1", "+1", "1.0", "0x1", "http", " 1", "99999999999999999999"]


@pytest.mark.parametrize("port", NO_PORTS)
def test_a_bad_port_says_where_it_is_from(render, port):
    common = "-p", "-", *PROMETHEUS, "-d", "x", *DATA_SOURCE, "-c", render.config()
    for option, variable in (
        ("--port", "PROM_TARGET_GRPC_SERVER_PORT"),
        ("--client-port", "PROM_TARGET_GRPC_CLIENT_PORT"),
        ("--prometheus-port", "DS_SERVER_PORT"),
        (None, "STOCK_SERVICE_CLIENT_METRICS_SERVER_PORT"),
    ):
        wrong = f'"{port}" is not a port (1 to 65535)'
        (render.folder / ".env").write_text("")
        if option:
            said = render.fails(EXIT_USAGE, *common, f"{option}={port}")
            assert said.startswith(f"stockd-render: option {option}: {wrong}\n")
        said = render.fails(EXIT_CONFIGURATION, *common, environment={variable: port})
        assert said == f"stockd-render: environment variable {variable}: {wrong}\n"
        (render.folder / ".env").write_text(f"# x\n\n{variable}='{port}'\n")
        said = render.fails(EXIT_CONFIGURATION, *common)
        assert said == f"stockd-render: .env:3: {variable}: {wrong}\n"


@pytest.mark.parametrize("port", ["x", "65536"])
def test_a_bad_port_of_stockd_says_where_it_is_from(render, port):
    name = "STOCK_SERVICE_METRICS_SERVER_PORT"
    common = "-p", "-", *PROMETHEUS, "-c", render.config()
    said = render.fails(EXIT_CONFIGURATION, *common, environment={name: port})
    assert said.startswith(f"stockd-render: environment variable {name}: metrics.listen: ")
    assert len(said.splitlines()) == 1
    (render.folder / ".env").write_text(f"{name}={port}\n")
    said = render.fails(EXIT_CONFIGURATION, *common)
    assert said.startswith(f"stockd-render: .env:1: {name}: metrics.listen: ")


def test_faults_of_the_env_file_are_told(render):
    (render.folder / ".env").write_text(
        "OTHER=$X ${Y}\nPROM_OUTPUT_FILE=$HOME/x\nwhat is this\nDS_SERVER_PORT=0\n"
    )
    said = render.fails(EXIT_CONFIGURATION, "-d", "x", *DATA_SOURCE)
    assert said.splitlines() == [
        'stockd-render: .env:2: PROM_OUTPUT_FILE: "$" before a name is not supported '
        "(\\$ is a dollar sign)",
        "stockd-render: .env:3: what is this: this is not NAME=VALUE",
        'stockd-render: .env:4: DS_SERVER_PORT: "0" is not a port (1 to 65535)',
    ]
    (render.folder / "big").write_bytes(b"#" * (1 << 20) + b"\n")
    said = render.fails(EXIT_CONFIGURATION, "--env-file", "big", "-p", "-")
    assert said == "stockd-render: big: the file is larger than 1048576 bytes\n"
    (render.folder / "big").write_bytes(b"#" * (1 << 20))
    done = render("--env-file", "big", "-p", "-", "--prometheus-template", "big")
    assert done.returncode == 0 and len(done.stdout) == 1 << 20
    (render.folder / "big").write_bytes(b"#" * ((1 << 20) + 1))
    said = render.fails(
        *(EXIT_FAILURE, "--env-file", "/dev/null", "--ip", "::1", "--port", "1"),
        *("-p", "-", "--prometheus-template", "big"),
    )
    assert said == (
        "stockd-render: option --prometheus-template: big: the file is larger than 1048576 bytes\n"
    )
    said = render.fails(EXIT_CONFIGURATION, "--env-file", "/dev/zero", "-p", "-")
    assert said == "stockd-render: /dev/zero: the file is larger than 1048576 bytes\n"


# --- The command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "nothing is asked for: say --prometheus-output or --data-source-output"),
        (["--port", "1"], "nothing is asked for"),
        (["--none"], "unrecognized option"),
        (["-p"], "requires an argument"),
        (["-p", "-", "more"], "unexpected argument 'more'"),
        (["-p", ""], "option --prometheus-output: \"\" says nothing"),
        (["-d", "x", "--env-file", ""], "option --env-file: \"\" says nothing"),
        (["-d", "x", "--config="], "option --config: \"\" says nothing"),
        (["--prometheus-template", "x", "-d", "y"], "nothing to make from it without"),
        (["--data-source-template", "x", "-p", "y"], "nothing to make from it without"),
        (["-p", "-", "--ip", "localhost"], "option --ip: \"localhost\" is not a numeric address"),
        (["-p", "-", "--ip", ""], "option --ip: \"\" is not a numeric address"),
        (["-p", "-", "--ip", "fe80::1%lo"], "option --ip: \"fe80::1%lo\" is valid on one link"),
        (["-p", "-", "--ip", "::"], "option --ip: :: stands for every address"),
    ],
)  # fmt: skip
def test_wrong_usage_exits_2(render, arguments, said):
    answer = render.fails(EXIT_USAGE, *arguments)
    assert said in answer
    assert answer.endswith("Try 'stockd-render --help'.\n")


def test_help_and_version(render):
    for option in ("-h", "--help"):
        done = render(option)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(b"Usage: stockd-render ")
    for option in ("-V", "--version"):
        done = render("-p", "x", option)
        assert re.fullmatch(r"stockd-render \d+\.\d+\.\d+\n", done.stdout.decode())
    assert not list(render.folder.iterdir())


def test_the_manual_page_has_every_option_and_variable(render):
    page = (SOURCE / "config" / "stockd-render.1").read_text()
    options = re.findall(r"^ +(?:-\w, )?--([a-z-]+)", render("--help").stdout.decode(), re.MULTILINE)
    assert len(options) == 12
    for option in options:
        assert re.search(rf"^\.It .*Fl Fl {option}\b", page, re.MULTILINE), option
    source = (SOURCE / "config" / "render" / "inputs.h").read_text()
    variables = re.findall(r'"([A-Z_]{4,})"', source)
    assert len(variables) == 9
    for variable in variables:
        assert f".It Ev {variable}\n" in page, variable


# --- Whatever goes wrong changes nothing ------------------------------------------------------


def old_outputs(render):
    """Both outputs as they are before, one of them behind a link; and the arguments for them."""
    (render.folder / "p").write_text("old p")
    (render.folder / "p").chmod(0o640)
    (render.folder / "d").write_text("old d")
    (render.folder / "tp").write_text(ALL)
    (render.folder / "td").write_text("d: {{.IP}} {{.Port}}\n")
    return ["-p", "p", "--prometheus-template", "tp", "-d", "d", "--data-source-template", "td",
            "--ip", "192.0.2.5", "--port", "2112"]  # fmt: skip


def test_a_fault_of_any_template_changes_nothing(render):
    arguments = old_outputs(render)
    for name, other in (("tp", "td"), ("td", "tp")):
        kept = (render.folder / name).read_text()
        (render.folder / name).write_text("one\n\n x {{.Prot}}\n{{if}}\n")
        said = render.fails(EXIT_FAILURE, *arguments).splitlines()
        assert said[0].startswith(f"stockd-render: {name}:3: {{{{.Prot}}}}: there is no such place")
        assert "there are {{.IP}}" in said[0] and said[0].endswith("Port}}")
        assert said[1].startswith(f"stockd-render: {name}:4: {{{{if}}}}: only placeholders and")
        (render.folder / name).write_text(kept)
    (render.folder / "td").write_text("{{.ClientPort}}")
    said = render.fails(EXIT_FAILURE, *arguments)
    assert said.endswith("no such placeholder; there are {{.IP}} and {{.Port}}\n")
    (render.folder / "td").unlink()
    said = render.fails(EXIT_FAILURE, *arguments)
    assert said == (
        "stockd-render: option --data-source-template: td: cannot be read: "
        "No such file or directory\n"
    )
    (render.folder / "td").write_bytes(b"\n" * ((1 << 20) + 1))
    assert "td: the file is larger than 1048576 bytes" in render.fails(EXIT_FAILURE, *arguments)
    (render.folder / "td").write_bytes(b"\n\0")
    assert "td:2: a NUL byte is in the line" in render.fails(EXIT_FAILURE, *arguments)


def test_an_output_that_cannot_be_is_told_with_its_origin(render):
    old_outputs(render)
    env = render.folder / ".env"
    common = "PROM_TEMPLATE_FILE=tp\nDS_TEMPLATE_FILE=td\nPROM_OUTPUT_FILE=p\n"
    (render.folder / "folder").mkdir()
    os.mkfifo(render.folder / "fifo")
    (render.folder / "nowhere").symlink_to("not-there")
    (render.folder / "loop").symlink_to("loop")
    (render.folder / "same").symlink_to("p")
    (render.folder / "hard").hardlink_to(render.folder / "p")
    for output, why in (
        ("none/x", "cannot be written: No such file or directory"),
        ("p/x", "cannot be written: Not a directory"),
        ("folder", "cannot be written: Is a directory"),
        ("none/", "cannot be written: No such file or directory"),
        ("new/", "cannot be written: No such file or directory"),
        ("fifo", "cannot be written: it is not a regular file (- is standard output)"),
        ("/dev/null", "cannot be written: it is not a regular file (- is standard output)"),
        ("nowhere", "cannot be written: it is a symbolic link to what is not there"),
        ("loop", "cannot be written: Too many levels of symbolic links"),
        ("x" * 256, "cannot be written: File name too long"),
        ("p", "it is the other output, too"),
        ("./folder/../p", "it is the other output, too"),
        ("same", "it is the other output, too"),
        ("hard", "it is the other output, too"),
        ("tp", "it is a template"),
        ("td", "it is a template"),
    ):
        env.write_text(common + f"DS_OUTPUT_FILE={output}\n")
        said = render.fails(EXIT_FAILURE, "--ip", "::1", "--port", "1")
        assert said == f"stockd-render: .env:4: DS_OUTPUT_FILE: {output}: {why}\n"
    env.write_text(common.replace("=p\n", "=a/../new\n") + "DS_OUTPUT_FILE=./new\n")
    (render.folder / "a").mkdir()
    said = render.fails(EXIT_FAILURE, "--ip", "::1", "--port", "1")
    assert said == "stockd-render: .env:4: DS_OUTPUT_FILE: ./new: it is the other output, too\n"
    said = render.fails(EXIT_FAILURE, "--ip", "::1", "--port", "1", "-p", "-", "-d", "-")
    assert said == "stockd-render: option --data-source-output: -: it is the other output, too\n"


def test_a_name_may_be_as_long_as_names_can_be(render):
    arguments = old_outputs(render)
    for _ in "made", "replaced":
        done = render(*arguments, "-p", "x" * 255)
        assert done.returncode == 0, done.stderr
        assert (render.folder / ("x" * 255)).read_text() == "p: 192.0.2.5 2112 2113\n"


def test_modes_and_links_stay(render):
    arguments = old_outputs(render)
    (render.folder / "d").unlink()
    (render.folder / "elsewhere").mkdir()
    (render.folder / "elsewhere" / "file").write_text("old")
    (render.folder / "d").symlink_to("elsewhere/file")
    before = (render.folder / "p").stat()
    if os.geteuid() == 0:
        os.chown(render.folder / "p", 12345, 23456)
    done = render(*arguments, umask=0o027)
    assert done.returncode == 0, done.stderr
    status = (render.folder / "p").stat()
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert status.st_ino != before.st_ino
    if os.geteuid() == 0:
        assert (status.st_uid, status.st_gid) == (12345, 23456)
    assert (render.folder / "p").read_text() == "p: 192.0.2.5 2112 2113\n"
    assert os.readlink(render.folder / "d") == "elsewhere/file"
    assert (render.folder / "elsewhere" / "file").read_text() == "d: 192.0.2.5 9090\n"
    for mask, mode in ((0o027, 0o640), (0o022, 0o644), (0o077, 0o600)):
        (render.folder / "p").unlink()
        assert render(*arguments, umask=mask).returncode == 0
        assert stat.S_IMODE((render.folder / "p").stat().st_mode) == mode
    # Nothing is left beside them.
    assert {path.name for path in render.folder.iterdir()} == {"p", "d", "tp", "td", "elsewhere"}
    assert len(list((render.folder / "elsewhere").iterdir())) == 1


def test_a_standard_output_that_is_full_changes_nothing(render):
    arguments = old_outputs(render)
    with open("/dev/full", "wb") as full:
        said = render.fails(EXIT_FAILURE, *arguments, "-p", "-", stdout=full)
    assert said == (
        "stockd-render: option --prometheus-output: -: cannot be written: "
        "No space left on device\n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    said = render.fails(EXIT_FAILURE, *arguments, "-d", "-", stdout=writing)
    os.close(writing)
    assert said.endswith("-: cannot be written: Broken pipe\n")


@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_ends_the_wait_for_a_reader(render, ignored):
    """Unless it is one that is ignored, as in a job in the background."""
    arguments = old_outputs(render)
    (render.folder / "tp").write_text("p" * (1 << 20))
    before = snapshot(render.folder)
    prefix = ["bash", "-c", 'trap "" INT; exec "$@"', "-"] if ignored else []
    process = subprocess.Popen(
        [*prefix, str(render.program), *arguments, "-p", "-"],
        cwd=render.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with process, process.stdout:
        assert process.stdout.read(1) == b"p"
        wait_until(lambda: snapshot(render.folder) != before, what="the file aside")
        process.send_signal(signal.SIGINT)
        if ignored:
            assert len(process.stdout.read(100_000)) == 100_000  # it still writes
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -(signal.SIGTERM if ignored else signal.SIGINT)
    assert snapshot(render.folder) == before


def test_one_output_may_go_to_standard_output(render):
    arguments = old_outputs(render)
    done = render(*arguments, "-d", "-")
    assert done.stdout == b"d: 192.0.2.5 9090\n"
    assert (render.folder / "p").read_text() == "p: 192.0.2.5 2112 2113\n"


def test_a_file_that_may_not_grow_changes_nothing(render):
    """As a quota would have it, and for any user: the second file is larger than a file may be."""
    arguments = old_outputs(render)
    (render.folder / "td").write_text("d" * 100_000)
    said = render.fails(EXIT_FAILURE, *arguments, prefix=["prlimit", "--fsize=65536:65536"])
    assert said.endswith("option --data-source-output: d: cannot be written: File too large\n")


# What needs root: a world of its own, as `unshare` makes it, with what the shell does in it.


def root_only():
    assert os.geteuid() == 0, "the tests run as root, as in CI"


def in_world(*commands, network=True):
    root_only()
    script = "\n".join(["set -e", *commands, 'exec "$@"'])
    flags = ["--mount"] + (["--net"] if network else [])
    return ["unshare", *flags, "sh", "-c", script, "sh"]


def test_a_folder_that_cannot_be_written_to_changes_nothing(render):
    arguments = old_outputs(render)
    (render.folder / "locked").mkdir()
    locked = render.folder / "locked"
    (locked / "d").write_text("old")
    world = in_world(f"mount --bind {locked} {locked}", f"mount -o remount,bind,ro {locked}")
    said = render.fails(EXIT_FAILURE, *arguments, "-d", "locked/d", prefix=world)
    assert said.endswith("locked/d: cannot be written: Read-only file system\n")


def test_somebody_elses_folder_is_told(render):
    root_only()
    arguments = old_outputs(render)
    os.chown(render.folder, 12345, 12345)
    render.folder.chmod(0o755)
    # Root without what lets it pass by permissions: only its own folders above this one are open.
    anybody = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    said = render.fails(EXIT_FAILURE, *arguments, prefix=anybody)
    assert said.endswith("option --prometheus-output: p: cannot be written: Permission denied\n")


def test_a_file_that_may_not_be_written_is_not_replaced(render):
    """Its folder would let it be."""
    root_only()
    arguments = old_outputs(render)
    (render.folder / "p").chmod(0o444)
    anybody = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    said = render.fails(EXIT_FAILURE, *arguments, prefix=anybody)
    assert said.endswith("option --prometheus-output: p: cannot be written: Permission denied\n")


def test_a_full_disk_changes_nothing(render):
    """The first output is on a disk with room, the second on one without."""
    arguments = old_outputs(render)
    disk = render.folder / "disk"
    disk.mkdir()
    (render.folder / "td").write_text("d" * 200_000)
    # What is on the disk afterwards is seen in its own world only.
    look = f'"$@"; status=$?; ls -A {disk}; cat {disk}/d; exit $status'
    world = [
        *in_world(f"mount -t tmpfs -o size=64k tmpfs {disk}", f"echo old >{disk}/d"),
        *("sh", "-c", look, "sh"),
    ]
    before = snapshot(render.folder)
    done = render(*arguments, "-d", "disk/d", prefix=world)
    assert done.returncode == EXIT_FAILURE
    assert done.stderr.endswith("disk/d: cannot be written: No space left on device\n")
    assert done.stdout == b"d\nold\n"
    assert snapshot(render.folder) == before


@pytest.mark.parametrize("exists", [True, False])
def test_a_name_that_cannot_be_taken_takes_the_others_back(render, exists):
    """A file that something is mounted on, as containers have it, can be written aside, no more."""
    arguments = old_outputs(render)
    if not exists:
        (render.folder / "p").unlink()
    (render.folder / "other").write_text("other")
    world = in_world(f"mount --bind {render.folder}/other {render.folder}/d")
    said = render.fails(EXIT_FAILURE, *arguments, prefix=world)
    assert said.endswith("d: cannot be written: Device or resource busy\n")


# --- The address ------------------------------------------------------------------------------


def test_no_network(render):
    done = render.text(ALL, prefix=in_world())
    assert done == "p: 127.0.0.1 2112 2113\n"
    (render.folder / "t").write_text("{{.IP}}")
    done = render(
        *("-p", "-", "--prometheus-template", "t", "-c", render.config()), prefix=in_world()
    )
    assert done.stderr == (
        "stockd-render: this machine has no address that others could reach (Network is "
        "unreachable): {{.IP}} is 127.0.0.1 (--ip gives another)\n"
    )
    # Nobody looks for what is given.
    done = render(
        *("-p", "-", "--prometheus-template", "t", "-c", render.config(), "--ip", "192.0.2.7"),
        prefix=in_world(),
    )
    assert (done.stdout, done.stderr) == (b"192.0.2.7", "")


VETH = "ip link set lo up; ip link add near type veth peer far; ip link set near up; ip link set far up"


@pytest.mark.parametrize(
    "commands, host",
    [
        (["ip address add 198.51.100.7/24 dev near", "ip route add default via 198.51.100.1"],
         "198.51.100.7"),
        (["ip address add 2001:db8::7/64 dev near nodad", "ip -6 route add default via 2001:db8::1"],
         "[2001:db8::7]"),
        # IPv4 comes first.
        (["ip address add 198.51.100.7/24 dev near", "ip route add default via 198.51.100.1",
          "ip address add 2001:db8::7/64 dev near nodad", "ip -6 route add default via 2001:db8::1"],
         "198.51.100.7"),
        # A link that leads nowhere, and an address that counts on it only.
        (["ip address add 198.51.100.7/24 dev near"], "127.0.0.1"),
        (["ip address add fe80::7/64 dev near nodad", "ip -6 route add default dev near"], "127.0.0.1"),
    ],
    ids=["IPv4", "IPv6", "both", "no route", "link-local"],
)  # fmt: skip
def test_the_outbound_address_is_found(render, commands, host):
    (render.folder / "t").write_text("{{.IP}}")
    done = render(
        *("-p", "-", "--prometheus-template", "t", "-c", render.config()),
        prefix=in_world(VETH, *commands),
    )
    assert done.stdout.decode() == host, done.stderr
    assert ("no address" in done.stderr) == (host == "127.0.0.1")


def test_no_packet_is_sent(render):
    """Not by the address that is found, nor to find it."""
    counters = "cat /sys/class/net/near/statistics/tx_packets"
    world = in_world(
        # Nothing but what the program sends: no router or neighbour is looked for.
        "mount -t sysfs sysfs /sys",
        "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6",
        VETH,
        "ip address add 198.51.100.7/24 dev near",
        "ip route add default via 198.51.100.1",
    )
    look = f'before=$({counters}); "$@"; echo " $before $({counters})"'
    (render.folder / "t").write_text("{{.IP}}")
    done = render(
        *("-p", "-", "--prometheus-template", "t", "-c", render.config()),
        prefix=[*world, "sh", "-c", look, "sh"],
    )
    assert done.stdout.decode() == "198.51.100.7 0 0\n", done.stderr
