"""
The completions for bash, called as readline calls them, and held against what the programs say of
themselves.
"""

import re
import subprocess

import pytest

from harness.process import SOURCE, clean_environment

# What compopt is told goes into the answer: outside of readline the built-in would only fail.
CALL = """
set -u
source "$1"
shift
compopt() { printf 'compopt %s\\n' "$*"; }
read -r _ _ complete command <<<"$(complete -p "${1##*/}")"
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
"$complete" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
[[ ${#COMPREPLY[@]} -eq 0 ]] || printf '%s\\n' "${COMPREPLY[@]}"
"""

FILES = "compopt -o default"
OPTION_LINE = re.compile(r"^ +(?:(-\w)(?:, )?)?(--[a-z-]+)?(?: ([A-Z]\S*))? +\S", re.MULTILINE)


class Completion:
    """Of a program, or of one of its commands; `commands` are those that it has itself."""

    def __init__(self, script, program, command=None, commands=()):
        self.script = script
        self.program = program
        self.command = [command] if command else []
        self.commands = list(commands)

    def __call__(self, *words, **environment):
        """What is offered for the last of the words, as bash breaks them."""
        done = subprocess.run(
            ["bash", "--norc", "--noprofile", "-c", CALL, "bash"]
            + [str(self.script), str(self.program), *self.command, *words],
            env=clean_environment(**environment),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout.splitlines()

    def run(self, *arguments):
        done = subprocess.run(
            [str(self.program), *self.command, *arguments],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def options(self):
        """{option: what --help calls its argument, or None}"""
        options = {}
        for short, long, argument in OPTION_LINE.findall(self.run("--help")):
            for option in (short, long):
                if option:
                    options[option] = argument or None
        return options


@pytest.fixture
def stockd(stockd_program):
    return Completion(SOURCE / "daemon" / "stockd.bash", stockd_program)


def commands_of_table():
    table = (SOURCE / "client" / "commands.h").read_text()
    return re.findall(r"^ +X\((\w+)", table, re.MULTILINE)


@pytest.fixture
def client(client_program):
    script = SOURCE / "client" / "stock-client.bash"
    return Completion(script, client_program, commands=commands_of_table())


def client_command(client_program, name):
    return Completion(SOURCE / "client" / "stock-client.bash", client_program, name)


@pytest.fixture
def render(build):
    program = build / "config" / "render" / "stockd-render"
    return Completion(SOURCE / "config" / "stockd-render.bash", program)


@pytest.fixture(params=["stockd", "client", "render"] + commands_of_table())
def either(request):
    if request.param in commands_of_table():
        return client_command(request.getfixturevalue("client_program"), request.param)
    return request.getfixturevalue(request.param)


# --- Each of them -----------------------------------------------------------------------------


def test_the_options_are_those_of_help(either):
    options = either.options()
    assert len(options) > 9 and {"-h", "--help", "-V", "--version"} <= options.keys()
    offered = either("-")
    assert sorted(offered) == sorted(options)
    assert sorted(either("")) == sorted([*options, *either.commands])
    assert sorted(either("--")) == sorted(name for name in options if name.startswith("--"))
    for name in options:
        assert name in either(name)
    assert either("--no-such") == []


def test_behind_an_option_comes_its_argument(either):
    for name, argument in either.options().items():
        offered = either(name, "")
        if argument is None:
            assert set(offered) == set(either.options())
        elif argument == "FILE":
            assert offered == [FILES]
        else:
            assert FILES not in offered and not any(line.startswith("-") for line in offered)
        if argument and name.startswith("--"):
            assert either(name, "=") == offered
            assert either(name, "=", "") == offered


def test_nothing_is_offered_where_nothing_is_known(either):
    for words in (["127.0.0.1", ":"], ["127.0.0.1", ":", ""], ["a", "="], ["a", "=", ""]):
        assert either(*words) == []


# --- stockd -----------------------------------------------------------------------------------


def settings_of(dump):
    names, section = [], None
    for line in dump.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            names.append(f"{section}.{line.split(' =')[0]}=")
    return names


def test_settings_are_completed(stockd):
    names = settings_of(stockd.run("--dump-config"))
    assert len(names) > 30 and "grpc.listen=" in names
    for words in (["--set", ""], ["-s", ""], ["--set", "="], ["--set", "=", ""]):
        offered = stockd(*words)
        assert "compopt -o nospace" in offered
        assert sorted(line for line in offered if not line.startswith("compopt")) == sorted(names)
    assert stockd("--set", "stream.in")[-2:] == ["stream.interval=", "stream.initial_delay="]
    assert stockd("--set", "=", "log.")[-1] == "log.level="
    assert stockd("-h", "--set", "none.")[1:] == []
    # What follows a setting is for a person to say.
    assert stockd("--set", "log.level", "=") == []
    assert stockd("--set", "log.level", "=", "") == []
    assert stockd("--set", "=", "log.level", "=", "i") == []


def test_settings_are_completed_with_any_configuration(stockd):
    """Somebody who mends a configuration needs their names most."""
    bad = {"GRPC_SERVER_PORT": "bad", "STOCK_SERVICE_METRICS_SERVER_PORT": "bad"}
    assert stockd("--set", "", **bad) == stockd("--set", "")


def test_options_go_on_behind_a_file(stockd):
    assert stockd("--config", "/etc/a.conf", "--dump") == ["--dump-config"]
    assert stockd("--config", "=", "/etc/a.conf", "--check") == ["--check-config"]


# --- stock-client -----------------------------------------------------------------------------


def test_commands_are_completed(client):
    assert {"watch", "top", "stat", "bench", "check", "list"} == set(client.commands)
    for command in client.commands:
        assert client(command[:-1]) == [command]
        assert f"  {command} " in client.run("--help")
    # Only the first word is one.
    assert client("-v", "watc") == []
    assert "--state" in client("watch", "--s") and "--state" not in client("-v", "watch", "--s")


def test_policies_are_completed(client_program):
    for command in ("watch", "stat", "bench"):
        completion = client_command(client_program, command)
        said = re.search(
            r"--policy POLICY +(?:.*:\s+)?(block .*?)\n +-", completion.run("--help"), re.DOTALL
        ).group(1)
        names = re.findall(r"[a-z-]+", said.replace("(the", "").replace("default)", ""))
        assert sorted(completion("--policy", "")) == sorted(set(names) - {"or"})
    assert client_command(client_program, "check")("-o", "") == ["text", "json"]


def test_formats_are_completed(client):
    said = re.search(r"--output FORMAT +print updates as (.*)", client.run("--help")).group(1)
    names = re.sub(r"\(.*?\)", "", said).replace(" or ", ", ").replace(" ", "").split(",")
    assert sorted(client("-o", "")) == sorted(client("--output", "=", "")) == sorted(names)
    assert client("--output", "c") == ["csv"]


def test_unix_sockets_are_files(client):
    assert client("unix", ":") == [FILES]
    assert client("-q", "unix", ":", "/run/") == [FILES]


def test_server_names_are_hosts(client):
    assert "localhost" in client("--server-name", "localh")
