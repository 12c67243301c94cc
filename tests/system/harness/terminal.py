"""
A terminal to run programs in, as a person does: tmux, which draws what a program writes, and tells
what is then to be seen. Each terminal is a tmux server of its own.
"""

import contextlib
import itertools
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

from harness.process import clean_environment
from harness.wait import wait_until

_numbers = itertools.count()
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
STATUS = re.compile(r"^ended:(\d+)$", re.MULTILINE)
PROMPT = "$ "
AT_PROMPT = r"^\$$"  # spaces at the end are not shown

# What a shell gets of the tests' own environment.
KEPT = ("PATH", "HOME", "LC_ALL", "ASAN_OPTIONS", "LSAN_OPTIONS", "UBSAN_OPTIONS")


class Terminal:
    """A shell in a terminal. `environment` is what the shell has besides the usual."""

    def __init__(self, folder, width=80, height=24, term="screen-256color", environment=None):
        self.socket = f"stockd-{os.getpid()}-{next(_numbers)}"
        self.folder = folder
        clean = clean_environment()
        # A search for leaks stops all threads first, and waits for ever where the terminal goes
        # meanwhile and the signals for that get in between.
        clean["ASAN_OPTIONS"] = clean["ASAN_OPTIONS"].replace("detect_leaks=1", "detect_leaks=0")
        variables = {name: clean[name] for name in KEPT if name in clean}
        variables.update({"PS1": PROMPT, "TERM": term, **(environment or {})})
        words = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in variables.items())
        # Not the server's environment, which tmux changes.
        shell = f"exec env -i {words} bash --norc --noprofile"
        self.tmux(
            *("-f", "/dev/null", "new-session", "-d", "-c", str(folder)),
            *("-x", str(width), "-y", str(height), shell),
        )
        self.wait_for(AT_PROMPT)

    def tmux(self, *words):
        done = subprocess.run(
            ["tmux", "-L", self.socket, *words],
            env=clean_environment(TERM="xterm-256color", SHELL="/bin/sh"),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, f"tmux {words}: {done.stderr}"
        return done.stdout

    def programs(self):
        """What the shell has started and what this has, by PID, as long as it runs."""
        found = []
        waiting = [int(self.tmux("display-message", "-p", "#{pane_pid}"))]
        while waiting:
            pid = waiting.pop()
            try:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            except FileNotFoundError:
                continue
            waiting += map(int, children)
            found += map(int, children)
        return found

    def close(self):
        """
        Ends what runs, then the terminal. The other way round the kernel would send SIGCONT, for
        which the leak check of a program that is just ending waits for ever.
        """
        for pid in self.programs():
            for number in (signal.SIGTERM, signal.SIGCONT):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        wait_until(lambda: not self.programs(), what="the end of what runs in the terminal")
        path = self.tmux("display-message", "-p", "#{socket_path}").strip()
        self.tmux("kill-server")
        Path(path).unlink(missing_ok=True)  # which tmux leaves

    def clear(self):
        """Empties the screen, whatever the shell's TERM can do."""
        self.tmux("send-keys", "-R")

    def run(self, *words):
        """Types a command; its exit status is shown when it has ended."""
        command = " ".join(shlex.quote(str(word)) for word in words)
        script = self.folder / f"command-{next(_numbers)}"
        script.write_text(f"{command}\necho ended:$?\n")
        # Short enough for any width; sourced, so that it is the shell's own job.
        (self.folder / "go").unlink(missing_ok=True)
        (self.folder / "go").symlink_to(script.name)
        self.clear()
        self.keys(". ./go", "Enter")

    def keys(self, *keys):
        """Presses keys by tmux's names for them; other words are typed."""
        self.tmux("send-keys", *keys)

    def type(self, text):
        self.tmux("send-keys", "-l", text)

    def resize(self, width, height):
        self.tmux("resize-window", "-x", str(width), "-y", str(height))

    def screen(self, colours=False):
        """What is to be seen; with `colours`, as sequences that would draw it."""
        return self.tmux("capture-pane", "-p", *(["-e"] if colours else []))

    def lines(self):
        return self.screen().split("\n")

    def wait(self, condition, what, timeout=10):
        def look():
            found = condition()
            return found or None

        try:
            return wait_until(look, timeout, what)
        except AssertionError as fault:
            raise AssertionError(f"{fault}; the screen:\n{self.screen()}") from None

    def wait_for(self, pattern, timeout=10):
        """Waits until the screen has what matches; returns the match."""
        return self.wait(
            lambda: re.search(pattern, self.screen(), re.MULTILINE), f"{pattern!r}", timeout
        )

    def wait_gone(self, pattern, timeout=10):
        self.wait(
            lambda: not re.search(pattern, self.screen(), re.MULTILINE),
            f"a screen without {pattern!r}",
            timeout,
        )

    def wait_ended(self, timeout=10):
        """The exit status of what run() ran."""
        return int(self.wait(lambda: STATUS.search(self.screen()), "the end", timeout).group(1))

    def modes(self):
        """What stty says of the terminal; at a prompt."""
        self.clear()
        self.keys("stty -a; echo told", "Enter")
        self.wait_for(r"^told$")
        return re.search(r"^speed .*(?=^told$)", self.screen(), re.MULTILINE | re.DOTALL).group()

    def on_full_screen(self):
        """Does the terminal show its other screen, which has no history?"""
        return self.tmux("display-message", "-p", "#{alternate_on}").strip() == "1"

    def cursor_shown(self):
        return self.tmux("display-message", "-p", "#{cursor_flag}").strip() == "1"
