"""
The sandbox of the services, from the inside: a program that tries what is forbidden (probe.c) is
run with the installed units' own settings, once as they are, and then without the directives that
forbid it.
"""


def status(box, pid):
    lines = box.read(f"/proc/{pid}/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_running_stockd_is_confined(service):
    """Not only the probe: the same holds for stockd as it runs."""
    seen = status(service, service.main_pid())
    assert seen["NoNewPrivs"] == "1"
    assert seen["Seccomp"] == "2"
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(seen[name], 16) == 0, (name, seen)
