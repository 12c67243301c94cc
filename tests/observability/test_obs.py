"""
stockd-obs where no service manager takes part: from the tree, it runs Prometheus in the background
or in the foreground, and leaves nothing. What it does with systemd is in tests/boot.
"""

import os
import re
import signal
import socket
import subprocess
import urllib.parse
from pathlib import Path

import pytest
from harness.process import SOURCE, clean_environment
from harness.prometheus import PrometheusApi, get_here
from harness.wait import wait_until

# All look for free ports in the same place.
pytestmark = pytest.mark.xdist_group("obs")


def processes_of(folder):
    """The PIDs of those that have the folder in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended
            if any(os.fsencode(folder) in word for word in words):
                found.append(int(entry.name))
    return found


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


class Obs:
    """stockd-obs of the build, with a place of its own for what it makes."""

    def __init__(self, build, folder):
        self.program = build / "config" / "stockd-obs"
        self.home = folder / "runtime"  # nothing else is in it
        self.home.mkdir(mode=0o700)
        self.work = folder / "work"
        self.work.mkdir()
        self.folder = self.home / f"stockd-obs-{os.getuid()}"
        self.environment = clean_environment(XDG_RUNTIME_DIR=self.home, TMPDIR=self.home)

    def __call__(self, *words, environment=None):
        return subprocess.run(
            [str(self.program), *map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            cwd=self.work,
            env=self.environment | (environment or {}),
        )

    def start(self, *words):
        """Starts it, which must succeed; what it says."""
        done = self("start", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *words):
        """In the foreground, as a running program."""
        return subprocess.Popen(
            [str(self.program), "run", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.work,
            env=self.environment,
        )

    def prometheus(self):
        """The PID of the Prometheus that was started."""
        parent = int((self.folder / "pid").read_text().split()[0])
        [child] = children(parent)
        return int(child)

    def assert_nothing_is_left(self):
        wait_until(lambda: not processes_of(self.home), 30, "the end of all that was started")
        assert list(self.home.iterdir()) == []
        status = self("status")
        assert (status.returncode, status.stdout) == (3, "It does not run.\n"), status


@pytest.fixture
def obs(build, tmp_path):
    made = Obs(build, tmp_path)
    yield made
    made("stop")
    left = processes_of(made.home)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "stop has left processes"


@pytest.fixture
def targets(start_stockd, start_client):
    """A stockd and its client, as options of stockd-obs."""
    stockd = start_stockd()
    client = start_client(f"127.0.0.1:{stockd.port}")
    return ["--ip", "127.0.0.1", "--port", stockd.metrics_port, "--client-port", client.port]


def url_of(text):
    return re.search(r"^Prometheus runs at (http://127\.0\.0\.1:\d+)/$", text, re.M).group(1)


def port_of(text):
    return urllib.parse.urlsplit(url_of(text)).port


def health(url):
    return {one["labels"]["job"]: one["health"] for one in PrometheusApi(url).targets()}


def is_free(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) != 0


def take_first_port():
    """Listens at the first port that stockd-obs would find free; (the socket, the port)."""
    for port in range(9090, 9190):
        taken = socket.socket()
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if is_free(port):
                taken.bind(("127.0.0.1", port))
                taken.listen()
                return taken, port
        except OSError:
            pass
        taken.close()
    raise AssertionError("no port is free")


def wait_said(process):
    """What a Prometheus in the foreground says when it is ready."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.endswith("ends it.\n"):
            return "".join(lines)
    raise AssertionError(f"it ended: {process.stderr.read()}")


# --- In the background --------------------------------------------------------------------------


def test_start_and_stop(obs, targets):
    said = obs.start(*targets)
    url = url_of(said)
    assert f"its configuration        {obs.folder}/prometheus.yml\n" in said
    assert f"data source for Grafana  {obs.folder}/datasources.yaml\n" in said
    assert said.endswith(f"\n{obs.program} stop ends it.\n")
    # It is ready at once, for this user alone.
    assert "is Ready" in get_here(f"{url}/-/ready")
    assert obs.folder.stat().st_mode & 0o777 == 0o700
    wait_until(lambda: health(url) == {"stockd": "up", "stock-client": "up"}, 30, "both targets")
    source = (obs.folder / "datasources.yaml").read_text()
    assert re.search(rf"^ +url: {re.escape(url)}$", source, re.M), source

    assert obs("status").stdout == said
    again = obs.start(*targets)
    assert again == f"It runs already.\n{said}"

    pid = obs.prometheus()
    stopped = obs("stop")
    assert (stopped.returncode, stopped.stderr) == (0, ""), stopped
    assert not Path(f"/proc/{pid}").exists()
    obs.assert_nothing_is_left()
    again = obs("stop")
    assert (again.returncode, again.stdout) == (0, "It does not run.\n"), again


def test_rules_are_loaded(obs, targets):
    url = url_of(obs.start(*targets))
    groups = PrometheusApi(url).api("rules")["groups"]
    assert {Path(group["file"]).name for group in groups} == {"stockd.yml"}
    assert any(rule["type"] == "alerting" for group in groups for rule in group["rules"])
    assert {group["interval"] for group in groups} == {15}


def test_rules_of_a_template_stay(obs):
    """A template that has rules and intervals itself is left as it is."""
    template = obs.work / "own.yml"
    template.write_text(
        "global:\n  evaluation_interval: 7s\nrule_files: []\n"
        "scrape_configs:\n  - job_name: own\n    static_configs: [{targets: ['{{.IP}}:{{.Port}}']}]\n"
    )
    url = url_of(obs.start("--prometheus-template", template, "--ip", "127.0.0.1", "--port", 1))
    assert PrometheusApi(url).api("rules")["groups"] == []
    assert "evaluation_interval: 7s" in PrometheusApi(url).api("status/config")["yaml"]
    wait_until(lambda: list(health(url)) == ["own"], 30, "the target of the template")


def test_variables_and_an_env_file(obs):
    """They count as they do to stockd-render, but that the outputs are our own."""
    (obs.work / ".env").write_text(
        "PROM_TARGET_GRPC_SERVER_PORT=1234\nPROM_OUTPUT_FILE=never.yml\nDS_OUTPUT_FILE=never.yaml\n"
    )
    done = obs("start", environment={"PROM_TARGET_GRPC_CLIENT_PORT": "1235"})
    assert done.returncode == 0, done.stderr
    configuration = (obs.folder / "prometheus.yml").read_text()
    assert re.search(r"targets: \['[^']+:1234'\]", configuration), configuration
    assert re.search(r"targets: \['[^']+:1235'\]", configuration), configuration
    assert sorted(path.name for path in obs.work.iterdir()) == [".env"]
    # Whatever address others see, this Prometheus has another.
    source = (obs.folder / "datasources.yaml").read_text()
    assert re.search(rf"^ +url: {re.escape(url_of(done.stdout))}$", source, re.M), source


def test_a_port_that_is_taken_is_left_alone(obs):
    taken, port = take_first_port()
    with taken:
        found = port_of(obs.start())
    assert found > port
    assert all(not is_free(between) for between in range(port + 1, found + 1))


# Stands before Prometheus in the path: once, just before that begins, somebody takes its port, who
# answers everything.
THIEF = """#!/bin/bash
if mkdir "$THIEF_HOME" 2>/dev/null; then
  port=$(grep -oP -- '--web.listen-address=127.0.0.1:\\K\\d+' <<<"$*")
  mkdir -p "$THIEF_HOME/page/-" && touch "$THIEF_HOME/page/-/ready"
  setsid /usr/bin/python3 -m http.server --bind 127.0.0.1 --directory "$THIEF_HOME/page" "$port" \\
    </dev/null >/dev/null 2>&1 4>&- &
  echo $! >"$THIEF_HOME/pid"
  until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.05; done
fi
PATH=${PATH#*:}
exec prometheus "$@"
"""


@pytest.fixture
def thief(obs, tmp_path):
    program = tmp_path / "thief" / "prometheus"
    program.parent.mkdir()
    program.write_text(THIEF)
    program.chmod(0o755)
    home = tmp_path / "taken"
    obs.environment |= {"PATH": f"{program.parent}:{os.environ['PATH']}", "THIEF_HOME": str(home)}
    yield home / "pid"
    if (home / "pid").exists():
        os.kill(int((home / "pid").read_text()), signal.SIGKILL)


def test_a_port_that_is_taken_a_moment_later(obs, thief):
    said = obs.start()
    assert thief.exists()
    url = url_of(said)
    assert PrometheusApi(url).api("status/flags")["config.file"] == f"{obs.folder}/prometheus.yml"
    source = (obs.folder / "datasources.yaml").read_text()
    assert re.search(rf"^ +url: {re.escape(url)}$", source, re.M), source
    assert obs("stop").returncode == 0
    obs.assert_nothing_is_left()


def test_a_port_that_is_taken_a_moment_later_in_the_foreground(obs, thief):
    process = obs.run()
    url = url_of(wait_said(process))
    assert thief.exists()
    assert str(obs.home) in PrometheusApi(url).api("status/flags")["config.file"]
    process.terminate()
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    obs.assert_nothing_is_left()


def test_many_starts_at_once(obs):
    """One starts it, the others find it; nobody fails, and there is one Prometheus."""
    command = [str(obs.program), "start"]
    started = [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=obs.work,
            env=obs.environment,
        )
        for _ in range(5)
    ]
    done = [(process.communicate(timeout=150), process.returncode) for process in started]
    assert all(status == 0 for _, status in done), done
    said = obs("status").stdout
    first = [output for (output, _), _ in done if output == said]
    later = [output for (output, _), _ in done if output == f"It runs already.\n{said}"]
    assert (len(first), len(later)) == (1, 4), done
    obs.prometheus()  # one


def test_start_while_it_is_being_ended(obs):
    """It begins anew, when the one before has ended."""
    obs.start()
    pid = obs.prometheus()
    os.kill(pid, signal.SIGSTOP)
    stop = subprocess.Popen(
        [str(obs.program), "stop"], stdout=subprocess.DEVNULL, env=obs.environment
    )

    def told():
        status = Path(f"/proc/{pid}/status").read_text()
        pending = int(re.search(r"^ShdPnd:\s*(\w+)$", status, re.M).group(1), 16)
        return pending & 1 << (signal.SIGTERM - 1)

    try:
        wait_until(told, 30, "stop to tell Prometheus")
        start = subprocess.Popen(
            [str(obs.program), "start"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=obs.work,
            env=obs.environment,
        )
        wait_until(
            lambda: start.poll() is not None or len(children(start.pid)) > 0, 30, "start at work"
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    said = start.communicate(timeout=120)[0]
    assert (stop.wait(60), start.returncode) == (0, 0)
    assert "already" not in said
    assert obs("status").stdout == said
    assert obs.prometheus() != pid


def test_a_relative_runtime_folder_does_not_count(obs):
    """As its specification says: it would be another one in another working directory."""
    folder = obs.work / "relative" / f"stockd-obs-{os.getuid()}"
    folder.mkdir(parents=True)
    start_time = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    (folder / "pid").write_text(f"{os.getpid()} {start_time}\n")
    (folder / "about").write_text("from the wrong place\n")
    said = obs("status", environment={"XDG_RUNTIME_DIR": "relative"}).stdout
    assert "from the wrong place" not in said
    control = obs("status", environment={"XDG_RUNTIME_DIR": str(obs.work / "relative")}).stdout
    assert control == "from the wrong place\n"


@pytest.mark.parametrize("victim", ["prometheus", "parent"])
def test_nothing_is_left_of_one_that_was_killed(obs, victim):
    obs.start()
    child = obs.prometheus()
    parent = int((obs.folder / "pid").read_text().split()[0])
    os.kill(child if victim == "prometheus" else parent, signal.SIGKILL)
    wait_until(lambda: not processes_of(obs.home), 30, "the end of both")
    if victim == "parent":
        # Nobody was there to clean up: the next does.
        assert obs("status").returncode == 3
        stopped = obs("stop")
        assert (stopped.returncode, stopped.stdout) == (0, "It does not run.\n"), stopped
    obs.assert_nothing_is_left()
    obs.start()


def test_start_after_one_that_was_killed(obs):
    obs.start()
    parent = int((obs.folder / "pid").read_text().split()[0])
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: not processes_of(obs.home), 30, "the end of both")
    assert "already" not in obs.start()


def test_a_process_that_has_the_pid_now_is_spared(obs):
    """The PID of one that is gone may be somebody else's."""
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            obs.folder.mkdir(mode=0o700)
            (obs.folder / "pid").write_text(f"{other.pid} 1\n")
            assert obs("stop").returncode == 0
            assert other.poll() is None
        finally:
            other.kill()
    obs.assert_nothing_is_left()


def test_what_a_link_points_to_is_spared(obs, tmp_path):
    """Its folder is in a place where others may have made the link."""
    other = tmp_path / "other"
    other.mkdir()
    obs.folder.symlink_to(other)
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            start_time = Path(f"/proc/{process.pid}/stat").read_text().split()[21]
            (other / "pid").write_text(f"{process.pid} {start_time}\n")
            assert obs("status").returncode == 3
            obs.start()
            assert process.poll() is None
        finally:
            process.kill()
    assert not obs.folder.is_symlink()
    assert [path.name for path in other.iterdir()] == ["pid"]


# --- In the foreground --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_run_until_a_signal(obs, targets, number):
    process = obs.run(*targets)
    said = wait_said(process)
    assert said.endswith("Ctrl-C ends it.\n")
    url = url_of(said)
    wait_until(lambda: health(url).get("stockd") == "up", 30, "the target")
    process.send_signal(number)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert "See you next time" in log  # Prometheus was ended in order
    obs.assert_nothing_is_left()


def test_run_beside_one_that_was_started(obs):
    started = obs.start()
    process = obs.run()
    beside = wait_said(process)
    assert port_of(beside) > port_of(started)
    process.terminate()
    assert process.wait(60) == 0
    assert obs("status").stdout == started
    process.communicate()


def test_run_ends_with_prometheus(obs):
    process = obs.run()
    wait_said(process)
    [child] = [
        pid
        for pid in processes_of(obs.home)
        if Path(f"/proc/{pid}/comm").read_text() == "prometheus\n"
    ]
    os.kill(child, signal.SIGKILL)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1 and "prometheus ended with status 137" in log, log
    obs.assert_nothing_is_left()


# --- What goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["start", "run"])
@pytest.mark.parametrize(
    "template, why",
    [
        ("scrape_configs: [{{.Nothing}}]\n", "own.yml:1"),  # stockd-render's word
        ("scrape_configs: 1\n", "Error loading config"),  # that of Prometheus
        (None, "own.yml"),
    ],
    ids=["placeholder", "content", "missing"],
)
def test_a_bad_template(obs, command, template, why):
    if template is not None:
        (obs.work / "own.yml").write_text(template)
    done = obs(command, "--prometheus-template", "own.yml")
    assert done.returncode == 1 and why in done.stderr and done.stdout == "", done
    obs.assert_nothing_is_left()


@pytest.mark.parametrize(
    "words", [["begin"], ["stop", "now"], ["status", "--all"], ["--start"]], ids=" ".join
)
def test_a_wrong_command_line(obs, words):
    done = obs(*words)
    assert done.returncode == 2 and done.stdout == "" and done.stderr, done


@pytest.mark.parametrize("words", [["--nonsense"], ["--help"], ["--port", "none"]], ids=" ".join)
def test_a_wrong_option(obs, words):
    done = obs("start", *words)
    assert done.returncode == 1 and "stockd-render" in done.stderr, done
    obs.assert_nothing_is_left()


def test_help_and_version(obs):
    for words in ([], ["help"], ["--help"], ["-h"]):
        done = obs(*words)
        assert done.returncode == 0 and done.stdout.startswith("stockd-obs COMMAND\n"), done
    for word in ("version", "--version", "-V"):
        assert re.fullmatch(r"stockd-obs \d+\.\d+\.\d+\n", obs(word).stdout)


# --- Completion ---------------------------------------------------------------------------------


# What compopt is told goes into the answer: outside of readline the built-in would only fail.
COMPLETE = """
set -u
source "$1"
shift
compopt() { printf 'compopt %s\\n' "$*"; }
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_stockd_obs
[[ ${#COMPREPLY[@]} -eq 0 ]] || printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(*words):
    """What is offered for the last of the words behind the program's name, as bash breaks them."""
    script = SOURCE / "config" / "stockd-obs.bash"
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", COMPLETE, "bash", script, "stockd-obs", *words],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.splitlines()


def test_completion_of_commands(obs):
    commands = re.findall(r"^  ([a-z]+)\b(?:, ([a-z]+))?", obs("help").stdout, re.M)
    assert sorted(offered("")) == sorted(word for pair in commands for word in pair if word)
    assert offered("sta") == ["start", "status"]
    assert offered("stop", "") == offered("status", "-") == []


def test_completion_of_options(build):
    """They are options of stockd-render, and with the right arguments."""
    helped = subprocess.run(
        [build / "config" / "render" / "stockd-render", "--help"], capture_output=True, text=True
    )
    known = dict(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)(?: ([A-Z]+))?", helped.stdout, re.M))
    for command in ("start", "run"):
        options = offered(command, "")
        assert {"--ip", "--prometheus-template", "-c"} <= set(options)
        for option in set(options) - {"-c"}:
            files = ["compopt -o default"] if known[option] == "FILE" else []
            assert offered(command, option, "") == offered(command, option, "=", "") == files
