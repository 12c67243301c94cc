#!/usr/bin/env python3
"""The include rule: which folder may include which, and who alone may know a library.

    base < net < rpc < services        base < market < services

A file includes its own folder and those below it in one of these lines. Only the files that wire
the daemon together include everything. The client stands on base and net; the wire rules in proto
know nothing but themselves. What the rule buys: each layer can be tested with those above it
absent, and a library can be replaced by changing the one file that knows it.
"""

import re
import sys
import tempfile
from pathlib import Path

# Folder of a file -> folders that it may include besides its own.
FOLDERS = {
    "proto": set(),
    "daemon/base": set(),
    "daemon/net": {"daemon/base"},
    "daemon/rpc": {"daemon/base", "daemon/net", "proto"},
    "daemon/market": {"daemon/base"},
    "daemon/services": {
        "daemon/base",
        "daemon/net",
        "daemon/rpc",
        "daemon/market",
        "proto",
    },
    "client": {"daemon/base", "daemon/net", "proto"},
}

# Files of daemon/ itself, without their endings: None stands for every folder.
DAEMON_FILES = {
    "main": None,
    "families": None,
    "settings": {"daemon/base"},
}

# Headers of libraries -> the files that may include them.
LIBRARIES = {
    r"nghttp2/": r"daemon/net/connection[a-z_]*\.[ch]",
    r"microhttpd\.h": r"daemon/base/exporter\.c",
    r"systemd/sd-journal\.h": r"daemon/base/log\.c",
    r"systemd/sd-daemon\.h": r"daemon/base/systemd\.c",
    r"ini\.h": r"daemon/base/config\.c",
    r"zlib\.h": r"daemon/base/exporter\.c",
    r"protobuf-c/|stockservice\.pb-c\.h": r"daemon/services/[a-z_]+\.c|client/[a-z_]+\.[ch]",
}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
GENERATED = {"stockservice.pb-c.h"}


def allowed_folders(path):
    """The folders that the file at `path` may include, None for all; raises KeyError if unknown."""
    folder = path.parent.as_posix()
    if folder == "daemon":
        return DAEMON_FILES[path.stem]
    return FOLDERS[folder] | {folder}


def find_included(root, path, name):
    """The path below `root` of a header in quotes, as the compiler's -I flags find it, or None."""
    for folder in (root / path.parent, root, root / "daemon"):
        if (folder / name).is_file():
            return (folder / name).resolve().relative_to(root.resolve())
    return None


def check_file(root, path):
    """Yields what is wrong with the includes of the file at `path`, which is relative to `root`."""
    try:
        allowed = allowed_folders(path)
    except KeyError:
        yield f"{path}: the include rule knows no such place; see {Path(__file__).name}"
        return
    for quote, name in INCLUDE.findall((root / path).read_text(encoding="utf-8")):
        for header, users in LIBRARIES.items():
            if re.match(header, name) and not re.fullmatch(users, path.as_posix()):
                yield f"{path}: only {users} may include {name}"
        if quote == "<" or name in GENERATED:
            continue
        included = find_included(root, path, name)
        if included is None:
            yield f"{path}: includes {name}, which is nowhere"
        elif allowed is None:
            continue
        elif included.as_posix() == "daemon/settings.h":
            if path.stem != "settings":
                yield f"{path}: only main.c may include {name}"
        elif included.parent.as_posix() not in allowed:
            yield f"{path}: must not include {name}"


def check_tree(root):
    """All faults below `root`, and the number of files that were looked at."""
    files = sorted(
        file.relative_to(root)
        for folder in ("proto", "daemon", "client")
        for file in (root / folder).rglob("*.[ch]")
    )
    return [fault for path in files for fault in check_file(root, path)], len(files)


def self_test():
    """A rule that never fires proves nothing: a small tree with every kind of fault."""
    tree = {
        "daemon/base/a.h": "",
        "daemon/base/a.c": '#include "base/a.h"\n#include "net/b.h"\n',
        "daemon/net/b.h": '#include "base/a.h"\n# include <nghttp2/nghttp2.h>\n',
        "daemon/market/c.c": '#include "net/b.h"\n#include "../rpc/d.h"\n',
        "daemon/rpc/d.h": '#include "net/b.h"\n',
        "daemon/rpc/d.c": '#include "d.h"\n#include "base/none.h"\n#include "settings.h"\n',
        "daemon/settings.h": '#include "base/a.h"\n',
        "daemon/main.c": '#include "settings.h"\n#include "rpc/d.h"\n',
        "daemon/other/e.c": "",
        "client/f.c": '#include "base/a.h"\n#include "rpc/d.h"\n',
    }
    expected = {
        "client/f.c: must not include rpc/d.h",
        "daemon/base/a.c: must not include net/b.h",
        r"daemon/net/b.h: only daemon/net/connection[a-z_]*\.[ch] may include nghttp2/nghttp2.h",
        "daemon/market/c.c: must not include net/b.h",
        "daemon/market/c.c: must not include ../rpc/d.h",
        "daemon/rpc/d.c: includes base/none.h, which is nowhere",
        "daemon/rpc/d.c: only main.c may include settings.h",
        "daemon/other/e.c: the include rule knows no such place; see include_rule.py",
    }
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for name, text in tree.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
        faults, count = check_tree(root)
    if set(faults) != expected or count != len(tree):
        sys.exit(f"include_rule.py does not catch what it should:\n{set(faults) ^ expected}")


def main():
    self_test()
    faults, count = check_tree(Path(__file__).resolve().parents[2])
    for fault in faults:
        print(fault)
    print(f"{count} files, {len(faults)} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
