#!/bin/bash
#
# Builds the Debian packages: .deb, -dbgsym, .dsc with its source, .buildinfo and .changes.
#
# Debian wants its folder at the top of the source tree, where only the project's own folders should
# stand. So the tree is copied, packaging/debian becomes debian/ in the copy, and the packages are
# built there. What is copied is what git tracks, as it is now.
set -euo pipefail

usage() {
  cat <<'END'
packaging/deb.sh [OPTION...] [OUTPUT]

  OUTPUT                where the packages are put (build/packages)
  --version VERSION     give them this version instead of debian/changelog's
  --check-reproducible  build twice, as differently as can be, and compare; OUTPUT gets the first
  --help                this text

DEB_BUILD_OPTIONS and DEB_BUILD_PROFILES are heeded, as by all of Debian's tools: nocheck in them
leaves out the tests.
END
}

die() {
  printf 'deb.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

top=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
output=$top/build/packages
version=
check=
while [[ $# -gt 0 ]]; do
  case $1 in
    --version)
      [[ $# -ge 2 ]] || die '--version needs a version' 2
      version=$2
      shift
      ;;
    --version=*) version=${1#*=} ;;
    --check-reproducible) check=yes ;;
    -h | --help)
      usage
      exit
      ;;
    -*) die "no such option: $1 (--help lists them)" 2 ;;
    *) output=$1 ;;
  esac
  shift
done

# The version stands in two places that each need it written out; this is where they are compared.
of_changelog=$(sed -nE '1s/.*\(([^)]*)\).*/\1/p' "$top/packaging/debian/changelog")
of_project=$(sed -nE 's/^project\(stockd VERSION ([0-9.]+).*/\1/p' "$top/CMakeLists.txt")
[[ $of_changelog == "$of_project" || $of_changelog == "$of_project"[~+-]* ]] ||
  die "CMakeLists.txt is of version $of_project, packaging/debian/changelog of $of_changelog"
version=${version:-$of_changelog}
dpkg --validate-version "$version" || die "no version for Debian: $version" 2

# Of the package prometheus the tests want promtool alone, which may be there without a server.
if command -v promtool >/dev/null; then
  export DEB_BUILD_PROFILES="${DEB_BUILD_PROFILES:+$DEB_BUILD_PROFILES }pkg.stockd.promtool"
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/stockd-deb.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch" # the second build may be another user's

# copy_tree FOLDER: the source tree, with debian/. Modes and times are those that any copy has,
# whatever the umask and the clock of whoever checked the tree out.
copy_tree() {
  local date
  mkdir -p "$1"
  "$top/packaging/tracked.sh" |
    tar --create --directory "$top" --null --verbatim-files-from --files-from - |
    tar --extract --directory "$1"
  mv "$1/packaging/debian" "$1/debian"
  sed -i "1s/([^)]*)/($version)/" "$1/debian/changelog"
  chmod -R u=rwX,go=rX "$1"
  date=$(dpkg-parsechangelog --file "$1/debian/changelog" --show-field Timestamp)
  find "$1" -exec touch --no-dereference --date "@$date" {} +
}

# build FOLDER [COMMAND...]: runs dpkg-buildpackage in FOLDER/stockd-VERSION, by way of COMMAND; what
# is built comes to stand in FOLDER.
build() {
  local folder=$1
  shift
  (cd "$folder/stockd-$version" && "$@" dpkg-buildpackage --unsigned-source --unsigned-changes)
}

# What two builds must have alike: all but .buildinfo, which describes the one build that it is of,
# and .changes, which holds its checksum.
products() {
  find "$1" -maxdepth 1 -type f ! -name '*.buildinfo' ! -name '*.changes' -printf '%f\n' | sort
}

check_reproducible() {
  local second=$scratch/quite/another/place/of-a-different-length command=() same=yes file
  command -v faketime >/dev/null || die 'the package faketime is needed to build at another time'
  mkdir -p "$second"
  copy_tree "$second/stockd-$version"
  if [[ $EUID -eq 0 ]]; then
    chown -R 65534:65534 "$second"
    command=(unshare --uts bash -c 'hostname elsewhere && exec "$@"' --
      setpriv --reuid 65534 --regid 65534 --clear-groups)
  fi
  # Times of files are real ones: ninja compares them with each other.
  command+=(env -u SOURCE_DATE_EPOCH NO_FAKE_STAT=1 FAKETIME_DONT_FAKE_MONOTONIC=1
    HOME=/nonexistent USER=somebody LOGNAME=somebody TZ=Pacific/Chatham LC_ALL=C.UTF-8
    DEB_BUILD_OPTIONS="parallel=1 nocheck" faketime -f '+398d')
  (umask 002 && build "$second" "${command[@]}")

  echo
  [[ $(products "$first") == "$(products "$second")" ]] ||
    die "the two builds made different files: $(products "$first" | xargs) and $(products "$second" | xargs)"
  while IFS= read -r file; do
    if cmp --silent "$first/$file" "$second/$file"; then
      echo "the same twice: $file"
      continue
    fi
    same=
    echo "DIFFERS: $file"
    ! command -v diffoscope >/dev/null || diffoscope "$first/$file" "$second/$file" || true
  done < <(products "$first")
  [[ -n $same ]] || die 'the packages are not reproducible'
}

first=$scratch/first
mkdir -p "$first"
copy_tree "$first/stockd-$version"
(umask 022 && build "$first" env)
[[ -z $check ]] || check_reproducible

mkdir -p "$output"
find "$first" -maxdepth 1 -type f -exec cp -t "$output" {} +
echo
find "$first" -maxdepth 1 -type f -printf "$output/%f\n" | sort
