"""stockd --instance: which names there are. What an instance reads is tested with its units."""

import pytest

EXIT_USAGE, EXIT_CONFIGURATION = 2, 78


@pytest.mark.parametrize(
    "name", ["1", "10", "a-1_b.c:d@e", "x\\x2dy", "-", "x" * 240], ids=lambda name: name[:20]
)
def test_what_systemd_gives_is_taken(run_stockd, name):
    done = run_stockd(f"--instance={name}", "--check-config")
    # This machine may have a configuration, and a bad one; that is no matter here.
    assert done.returncode in (0, EXIT_CONFIGURATION)
    assert "instance" not in done.stderr


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "../x", "a b", "a\n", "\u00e4", "a%b", "x" * 241],
    ids=lambda name: repr(name[:20]),
)
def test_other_names_exit_2(run_stockd, name):
    for arguments in ([f"--instance={name}"], ["--instance", name, "--dump-config"]):
        done = run_stockd(*arguments)
        assert (done.returncode, done.stdout) == (EXIT_USAGE, "")
        assert "--instance: a name has" in done.stderr and "stockd --help" in done.stderr
        # What is wrong may hold anything, and is not shown.
        assert len(done.stderr.splitlines()) == 2


def test_instance_and_file_exit_2(run_stockd, tmp_path):
    config = tmp_path / "stockd.conf"
    config.write_text("[log]\nlevel = debug\n")
    for arguments in (["--instance", "1", "-c", config], [f"--config={config}", "--instance=1"]):
        done = run_stockd(*arguments, "--check-config")
        assert (done.returncode, done.stdout) == (EXIT_USAGE, "")
        assert "--config and --instance" in done.stderr and "stockd --help" in done.stderr
