#!/bin/bash
#
# Prints the files that packages are made of, with a NUL behind each: what git tracks, as it is now;
# of a tree that came without git, all but what was built in it.
set -euo pipefail

cd "$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")"
# Whoever builds as root may do so in another's tree.
git=(git -c "safe.directory=$PWD")
if "${git[@]}" rev-parse --git-dir >/dev/null 2>&1; then
  # A file that git tracks, and that has just been deleted, is not there to be packed.
  "${git[@]}" ls-files -z --cached | while IFS= read -r -d '' file; do
    [[ ! -e $file ]] || printf '%s\0' "$file"
  done
else
  find . \( -path ./build -o -path './build-*' -o -path ./.git \) -prune -o ! -type d -printf '%P\0'
fi | LC_ALL=C sort -z
