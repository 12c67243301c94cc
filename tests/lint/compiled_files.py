#!/usr/bin/env python3
"""Prints the C and C++ files of a compile_commands.json that are ours, each ended by NUL.

What was generated into the build folder is left out: it is not ours to correct.
"""

import json
import sys
from pathlib import Path


def main():
    commands = Path(sys.argv[1]).resolve()
    build = commands.parent
    entries = json.loads(commands.read_text(encoding="utf-8"))
    files = {Path(entry["directory"], entry["file"]).resolve() for entry in entries}
    ours = sorted(file for file in files if build not in file.parents)
    if not ours:
        sys.exit(f"{commands} names no source file")
    sys.stdout.write("".join(f"{file}\0" for file in ours))


if __name__ == "__main__":
    main()
