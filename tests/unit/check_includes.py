#!/usr/bin/env python3
"""Which source file may include which header: the layers of the program, as a test.

A file includes its own folder and those below it: base < net < rpc < services, and
base < market < services. main.c and the files beside it tie the program together and include
everything; settings.[ch] stand on base, and know the market's words; the client on base and net;
config/render/ on base and the settings. proto/ is for all. And each foreign library is known to as
few files as possible, so that it can be replaced, or upgraded, in one place.

    check_includes.py [ROOT]       check the tree; prints "file:line: what is wrong", exits 1
    check_includes.py --self-test  plant a violation of each kind in a copy, and expect each found
"""

import re
import shutil
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

FOLDERS = ("daemon", "client", "proto", "config")

# What each layer may include, besides itself and proto. None: everything in daemon/.
LAYERS = {
    "proto": set(),
    "base": set(),
    "net": {"base"},
    "rpc": {"base", "net"},
    "market": {"base"},
    "services": {"base", "net", "rpc", "market"},
    "settings": {"base", "market"},
    "main": None,
    "client": {"base", "net"},
    "render": {"base", "settings"},
}

# The layer of files and folders; the first match counts.
LAYER_OF = [
    ("daemon/main.c", "main"),
    ("daemon/arguments.[ch]", "main"),
    ("daemon/configuration.[ch]", "main"),
    ("daemon/configuration_*.[ch]", "main"),
    ("daemon/tickers.[ch]", "main"),
    ("daemon/exchange.[ch]", "main"),
    ("daemon/families.[ch]", "main"),
    ("daemon/listeners.[ch]", "main"),
    ("daemon/manager.[ch]", "main"),
    ("daemon/places.[ch]", "main"),
    ("daemon/security.[ch]", "main"),
    ("daemon/settings.[ch]", "settings"),
    ("daemon/base/*", "base"),
    ("daemon/net/*", "net"),
    ("daemon/rpc/*", "rpc"),
    ("daemon/market/*", "market"),
    ("daemon/services/*", "services"),
    ("client/*", "client"),
    ("config/render/*", "render"),
    ("proto/*", "proto"),
]

# Which files may include a library's headers. connection.h is public, connection_*.h are not.
LIBRARIES = {
    "nghttp2/*": ["daemon/net/connection.c", "daemon/net/connection_*.[ch]"],
    "microhttpd.h": [
        "daemon/base/exporter.c",
        "daemon/base/exporter_pages.c",
        "daemon/base/exporter_private.h",
    ],
    "gnutls/*": [
        "daemon/base/credentials.[ch]",
        "daemon/base/exporter.c",
        "daemon/base/exporter_pages.c",
        "daemon/net/tls.c",
        "daemon/net/tls_*.[ch]",
    ],
    "systemd/*": ["daemon/base/systemd.c"],
    "ini.h": ["daemon/base/config_file.c"],
    "jansson.h": ["daemon/market/json.c"],
    "zlib.h": ["daemon/base/exporter_pages.c", "daemon/rpc/compression.c"],
    "*curses*.h": ["client/screen.c"],
    "protobuf-c/*": ["daemon/services/*", "client/*"],
    "*.pb-c.h": ["daemon/services/*", "client/*"],
}

# Made during the build, from proto/.
GENERATED = "*.pb-c.h"

COMMENT_OR_STRING = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)
INCLUDE = re.compile(r"^\s*#\s*(?:include|include_next|import)\b\s*(.*?)\s*$")
NAME = re.compile(r"""^(?:"([^"]+)"|<([^>]+)>)$""")


def strip_comments(text):
    """The text without comments, its lines where they were."""

    def replace(match):
        found = match.group()
        if found.startswith(("//", "/*")):
            return " " + "\n" * found.count("\n")
        return found

    return COMMENT_OR_STRING.sub(replace, text.replace("\\\n", " \n"))


def layer_of(path):
    return next((layer for pattern, layer in LAYER_OF if fnmatch(path, pattern)), None)


def resolve(root, includer, name, quoted):
    """The path in the tree that is meant, or None for a header of the system."""
    folders = [root, root / "daemon"]  # as the compiler is told to search
    if quoted:
        folders.insert(0, includer.parent)
    for folder in folders:
        candidate = (folder / name).resolve()
        if candidate.is_file() and candidate.is_relative_to(root):
            return candidate.relative_to(root).as_posix()
    return None


def check_include(root, path, argument):
    """What is wrong with one #include of the file `path`, or None."""
    match = NAME.match(argument)
    if not match:
        return f"cannot tell what is included: {argument}"
    quoted = match.group(1) is not None
    name = match.group(1) or match.group(2)

    for pattern, owners in LIBRARIES.items():
        if fnmatch(name, pattern) and not any(fnmatch(path, owner) for owner in owners):
            return f"{name} is only for {', '.join(owners)}"

    target = resolve(root, root / path, name, quoted)
    if target is None:
        if quoted and not fnmatch(name, GENERATED):
            return f'"{name}" is not in the tree'
        return None

    layer, target_layer = layer_of(path), layer_of(target)
    allowed = LAYERS[layer]
    if target_layer in ("proto", layer):
        return None
    if allowed is None:
        return None if target.startswith("daemon/") else f"{layer} may not include {target}"
    if target_layer not in allowed:
        return f"{layer} may not include {target}"
    return None


def check(root):
    """All violations in the tree, as lines of text."""
    root = Path(root).resolve()
    violations = []
    files = sorted(
        path
        for folder in FOLDERS
        for path in (root / folder).rglob("*")
        if path.suffix in (".c", ".h")
    )
    if not files:
        violations.append(f"{root}: no source file found")
    for file in files:
        path = file.relative_to(root).as_posix()
        if layer_of(path) is None:
            violations.append(f"{path}:1: belongs to no layer")
            continue
        lines = strip_comments(file.read_text(encoding="utf-8")).split("\n")
        for number, line in enumerate(lines, 1):
            match = INCLUDE.match(line)
            wrong = match and check_include(root, path, match.group(1))
            if wrong:
                violations.append(f"{path}:{number}: {wrong}")
    return violations


# File to plant in (made if it is missing), what is planted at its top, and a part of what is to be
# said of it; None: nothing, it is allowed.
PLANTS = [
    # Upwards.
    ("daemon/base/wheel.c", '#include "net/connection.h"', "base may not include daemon/net"),
    ("daemon/base/wheel.h", '#include "rpc/call.h"', "base may not include daemon/rpc"),
    ("daemon/base/wheel.c", '#include "market/walk.h"', "base may not include daemon/market"),
    ("daemon/base/wheel.c", '#include "services/stock.h"', "base may not include daemon/services"),
    ("daemon/base/wheel.c", '#include "settings.h"', "base may not include daemon/settings.h"),
    ("daemon/net/listener.c", '#include "rpc/call.h"', "net may not include daemon/rpc"),
    ("daemon/net/listener.h", '#include "market/walk.h"', "net may not include daemon/market"),
    ("daemon/net/listener.c", '#include "services/stock.h"', "net may not include"),
    ("daemon/net/listener.c", '#include "settings.h"', "net may not include"),
    ("daemon/rpc/call.c", '#include "services/stock.h"', "rpc may not include daemon/services"),
    ("daemon/rpc/call.h", '#include "market/walk.h"', "rpc may not include daemon/market"),
    ("daemon/rpc/call.c", '#include "families.h"', "rpc may not include daemon/families.h"),
    ("daemon/services/stock.c", '#include "settings.h"', "services may not include"),
    ("daemon/services/stock.c", '#include "client/plant.h"', "services may not include client/"),
    ("daemon/services/market.c", '#include "exchange.h"', "services may not include daemon/"),
    # market never knows the network.
    ("daemon/market/walk.c", '#include "net/connection.h"', "market may not include daemon/net"),
    ("daemon/market/walk.h", '#include "rpc/message.h"', "market may not include daemon/rpc"),
    ("daemon/market/plant.c", '#include "services/stock.h"', "market may not include"),
    # settings and client.
    ("daemon/settings.c", '#include "net/listener.h"', "settings may not include daemon/net"),
    ("daemon/settings.h", '#include "services/stock.h"', "settings may not include"),
    ("client/plant.c", '#include "rpc/message.h"', "client may not include daemon/rpc"),
    ("client/plant.c", '#include "market/walk.h"', "client may not include daemon/market"),
    ("client/plant.h", '#include "services/stock.h"', "client may not include daemon/services"),
    ("client/plant.c", '#include "settings.h"', "client may not include daemon/settings.h"),
    ("daemon/main.c", '#include "client/plant.h"', "main may not include client/"),
    ("daemon/places.c", '#include "client/plant.h"', "main may not include client/"),
    ("daemon/net/listener.c", '#include "manager.h"', "net may not include daemon/manager.h"),
    ("daemon/manager.c", "#include <systemd/sd-daemon.h>", "systemd/sd-daemon.h is only for"),
    ("proto/wire.c", '#include "base/util.h"', "proto may not include daemon/base"),
    # render.
    ("config/render/plan.c", '#include "net/listener.h"', "render may not include daemon/net"),
    ("config/render/plan.h", '#include "client/plant.h"', "render may not include client/"),
    ("config/render/plan.c", '#include "manager.h"', "render may not include daemon/manager.h"),
    ("config/render/dotenv.c", "#include <ini.h>", "ini.h is only for"),
    ("daemon/main.c", '#include "config/render/plan.h"', "main may not include config/"),
    ("daemon/settings.c", '#include "config/render/plan.h"', "settings may not include config/"),
    ("client/plant.c", '#include "config/render/plan.h"', "client may not include config/"),
    # Libraries.
    ("daemon/net/listener.c", "#include <nghttp2/nghttp2.h>", "nghttp2/nghttp2.h is only for"),
    ("daemon/net/connection.h", "#include <nghttp2/nghttp2.h>", "nghttp2/nghttp2.h is only for"),
    ("client/plant.c", "#include <nghttp2/nghttp2.h>", "nghttp2/nghttp2.h is only for"),
    ("daemon/main.c", "#include <nghttp2/nghttp2ver.h>", "nghttp2/nghttp2ver.h is only for"),
    ("daemon/base/metrics.c", "#include <microhttpd.h>", "microhttpd.h is only for"),
    ("daemon/base/exporter.h", "#include <microhttpd.h>", "microhttpd.h is only for"),
    ("daemon/net/tls.h", "#include <gnutls/gnutls.h>", "gnutls/gnutls.h is only for"),
    ("daemon/base/endpoint.c", "#include <gnutls/x509.h>", "gnutls/x509.h is only for"),
    ("daemon/main.c", "#include <systemd/sd-daemon.h>", "systemd/sd-daemon.h is only for"),
    ("daemon/settings.c", "#include <ini.h>", "ini.h is only for"),
    ("daemon/settings.c", '#include "ini.h"', "ini.h is only for"),
    ("daemon/market/feed.c", "#include <jansson.h>", "jansson.h is only for"),
    ("daemon/base/metrics.c", "#include <zlib.h>", "zlib.h is only for"),
    ("daemon/base/exporter.c", "#include <zlib.h>", "zlib.h is only for"),
    ("daemon/rpc/call.c", "#include <zlib.h>", "zlib.h is only for"),
    ("client/screen.h", "#include <curses.h>", "curses.h is only for"),
    ("client/plant.c", "#include <ncurses.h>", "ncurses.h is only for"),
    ("client/plant.c", "#include <ncursesw/curses.h>", "ncursesw/curses.h is only for"),
    ("daemon/rpc/call.c", "#include <protobuf-c/protobuf-c.h>", "protobuf-c.h is only for"),
    ("daemon/market/walk.h", '#include "stockservice.pb-c.h"', "pb-c.h is only for"),
    # In disguise.
    ("daemon/base/wheel.c", '  #  include   "net/connection.h" /* why */', "base may not include"),
    ("daemon/base/wheel.c", '#include "../rpc/call.h"', "base may not include daemon/rpc"),
    ("daemon/base/wheel.c", '#include "../base/../rpc/call.h"', "base may not include daemon/rpc"),
    ("daemon/base/wheel.c", '#include "daemon/rpc/call.h"', "base may not include daemon/rpc"),
    ("daemon/base/wheel.c", "#include <rpc/call.h>", "base may not include daemon/rpc"),
    ("daemon/base/wheel.c", '#/* */include "rpc/call.h"', "base may not include daemon/rpc"),
    ("daemon/base/wheel.c", '#include \\\n"rpc/call.h"', "cannot tell"),
    ("daemon/base/wheel.c", '/* "a */ #include "rpc/call.h"', "base may not include daemon/rpc"),
    ("daemon/base/wheel.c", "#include HEADER", "cannot tell"),
    ("daemon/base/wheel.c", '#include "nowhere.h"', "is not in the tree"),
    ("daemon/base/deeper/plant.c", '#include "net/connection.h"', "base may not include"),
    # Files that have no place.
    ("daemon/extra.c", "", "belongs to no layer"),
    ("daemon/extra/plant.h", "", "belongs to no layer"),
    ("config/plant.c", "", "belongs to no layer"),
    # Allowed: these must not be found.
    ("daemon/base/plant.c", '#include "base/wheel.h"', None),
    ("daemon/base/plant.c", '#include "wheel.h"', None),
    ("daemon/base/plant.c", '#include "proto/wire.h"', None),
    ("daemon/base/systemd.c", "#include <systemd/sd-daemon.h>", None),
    ("daemon/base/plant.c", "#include <uv.h>", None),
    ("daemon/net/connection_plant.c", "#include <nghttp2/nghttp2.h>", None),
    ("daemon/net/connection_plant.h", "#include <nghttp2/nghttp2.h>", None),
    ("daemon/rpc/plant.c", '#include "net/connection.h"', None),
    ("daemon/services/plant.c", '#include "market/walk.h"', None),
    ("daemon/services/plant.c", '#include "net/connection.h"', None),
    ("daemon/services/plant.c", '#include "anything.pb-c.h"', None),
    ("client/plant.h", '#include "stockservice.pb-c.h"', None),
    ("daemon/families.c", '#include "services/stock.h"', None),
    ("daemon/exchange.c", '#include "services/stock.h"', None),
    ("daemon/main.c", '#include "settings.h"', None),
    ("client/plant.c", '#include "net/connection.h"', None),
    ("config/render/plant.c", '#include "settings.h"', None),
    ("config/render/plant.c", '#include "base/config.h"', None),
    ("client/plant.c", '#include "client/plant.h"', None),
    ("client/settings.h", '#include "settings.h"', None),  # its own folder comes first
    ("daemon/base/plant.c", '/* #include "rpc/call.h" */', None),
    ("daemon/base/plant.c", '/*\n#include "rpc/call.h"\n*/', None),
    ("daemon/base/plant.c", '// #include "rpc/call.h"', None),
]


def self_test(root):
    """Plants each of PLANTS in a copy of the tree. Returns what went otherwise than expected."""
    failures = []
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name).resolve()
        for folder in FOLDERS:
            shutil.copytree(
                Path(root) / folder,
                copy / folder,
                ignore=shutil.ignore_patterns("*.md", "*.txt", "*.[1-9]"),
            )
        (copy / "client/plant.h").write_text("#pragma once\n", encoding="utf-8")
        before = len(check(copy))

        for path, planted, expected in PLANTS:
            file = copy / path
            kept = file.read_text(encoding="utf-8") if file.exists() else None
            file.parent.mkdir(exist_ok=True)
            # The rest of the file follows, so that its own lines are checked too.
            file.write_text(planted + "\n" + (kept or ""), encoding="utf-8")
            found = check(copy)
            if expected is None:
                as_expected = len(found) == before
            else:
                as_expected = len(found) == before + 1 and any(
                    line.startswith(f"{path}:") and expected in line for line in found
                )
            if not as_expected:
                failures.append(f"{path} with {planted!r}: expected {expected!r}, found {found}")
            if kept is None:
                file.unlink()
            else:
                file.write_text(kept, encoding="utf-8")

        if len(check(copy)) != before:
            failures.append("the copy was not restored")
        for folder in FOLDERS:
            shutil.rmtree(copy / folder)
        if not check(copy):
            failures.append("an empty tree passes")
    return failures


def main(arguments):
    root = Path(__file__).resolve().parents[2]
    if arguments == ["--self-test"]:
        wrong = self_test(root)
    elif len(arguments) <= 1 and not any(a.startswith("-") for a in arguments):
        wrong = check(arguments[0] if arguments else root)
    else:
        print(__doc__, file=sys.stderr)
        return 2
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
