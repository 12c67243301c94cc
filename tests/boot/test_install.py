"""Installing with apt, and what is there then; removing and purging, and what is there no more."""


def test_installed(installed):
    assert installed.systemctl("is-active", "stockd").output == "active\n"
    assert installed.systemctl("is-enabled", "stockd").output == "enabled\n"
