#!/bin/bash
#
# Builds the RPM packages, with their source package, and tries them: rpmlint, what they do to a root
# of their own, and whether they have the files of the Debian packages that stand beside them.
#
# It runs where rpm is at home, and on Debian, whose rpmbuild has neither the macros of CMake nor those
# of systemd. Those that are missing are defined for this one build, in a home of its own.
set -euo pipefail

usage() {
  cat <<'END'
packaging/rpm.sh [OPTION...] [OUTPUT]

  OUTPUT      where the packages are put (build/packages)
  --nocheck   build them without running the unit tests
  --help      this text
END
}

die() {
  printf 'rpm.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

top=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
output=$top/build/packages
options=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --nocheck) options+=(--nocheck) ;;
    -h | --help)
      usage
      exit
      ;;
    -*) die "no such option: $1 (--help lists them)" 2 ;;
    *) output=$1 ;;
  esac
  shift
done
mkdir -p "$output"
output=$(readlink -f "$output")

spec=$top/packaging/rpm/stockd.spec
packages=(stockd stock-client stockd-observability)

# The version stands in two places that each need it written out; this is where they are compared.
version=$(sed -nE 's/^project\(stockd VERSION ([0-9.]+).*/\1/p' "$top/CMakeLists.txt")
of_spec=$(sed -nE 's/^Version: +//p' "$spec")
[[ $version == "$of_spec" ]] ||
  die "CMakeLists.txt is of version $version, packaging/rpm/stockd.spec of $of_spec"

scratch=$(mktemp -d "${TMPDIR:-/tmp}/stockd-rpm.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
export HOME=$scratch/home
mkdir -p "$HOME" "$scratch"/top/{BUILD,BUILDROOT,RPMS,SOURCES,SPECS,SRPMS}

# --- building ---------------------------------------------------------------------------------------

# macro NAME[(OPTIONS)] BODY: defines it, unless this system's rpm does.
macro() {
  [[ -n $(rpm --eval "%{?${1%%(*}:defined}") ]] || printf '%%%s %s\n' "$1" "$2" >>"$HOME/.rpmmacros"
}

define_macros() {
  printf '%%_topdir %s\n' "$scratch/top" >"$HOME/.rpmmacros"
  # The same source gives the same packages.
  cat >>"$HOME/.rpmmacros" <<'END'
%source_date_epoch_from_changelog 1
%use_source_date_epoch_as_buildtime 1
%clamp_mtime_to_source_date_epoch 1
%_buildhost localhost
END
  if [[ -z $(rpm --eval '%{?cmake:defined}') ]]; then
    # With a distribution's own macros come its flags, and packages with what debuggers need; these
    # flags harden as theirs do. A shell that is called sh must be able to do what rpm's helpers want
    # of it, which only some are.
    cat >>"$HOME/.rpmmacros" <<'END'
%build_cflags -O2 -g -Wall -fexceptions -fstack-protector-strong -fstack-clash-protection -fcf-protection -Werror=format-security -D_FORTIFY_SOURCE=2 -fPIE
%build_ldflags -Wl,-z,relro -Wl,-z,now -Wl,--as-needed -pie
%install %{?buildsubdir:%{debug_package}}\
%%install
%__brp_compress /bin/bash /usr/lib/rpm/brp-compress
END
  fi
  macro _vpath_builddir redhat-linux-build
  # Three backslashes are one for the shell, and a line that goes on for rpm.
  # shellcheck disable=SC2016
  macro cmake 'CFLAGS="${CFLAGS:-%{build_cflags}}" LDFLAGS="${LDFLAGS:-%{build_ldflags}}" \\\
  cmake -S . -B %{_vpath_builddir} -DCMAKE_C_FLAGS_RELEASE=-DNDEBUG \\\
    -DCMAKE_INSTALL_PREFIX=%{_prefix} -DCMAKE_INSTALL_SYSCONFDIR=%{_sysconfdir} \\\
    -DCMAKE_SKIP_INSTALL_RPATH=ON -DBUILD_SHARED_LIBS=ON'
  macro cmake_build 'cmake --build %{_vpath_builddir} %{?_smp_mflags} --verbose'
  macro cmake_install 'DESTDIR=%{buildroot} cmake --install %{_vpath_builddir}'
  macro ctest 'ctest --test-dir %{_vpath_builddir} --output-on-failure --force-new-ctest-process %{?_smp_mflags}'

  macro _unitdir '%{_prefix}/lib/systemd/system'
  macro _journalcatalogdir '%{_prefix}/lib/systemd/catalog'
  macro _tmpfilesdir '%{_prefix}/lib/tmpfiles.d'
  macro systemd_requires "\\
Requires(post): systemd \\
Requires(preun): systemd \\
Requires(postun): systemd"
  local helper=/usr/lib/systemd/systemd-update-helper
  macro 'systemd_post()' "\\
if [ \$1 -eq 1 ] && [ -x $helper ]; then \\
    $helper install-system-units %* || : \\
fi"
  macro 'systemd_preun()' "\\
if [ \$1 -eq 0 ] && [ -x $helper ]; then \\
    $helper remove-system-units %* || : \\
fi"
  macro 'systemd_postun()' '%{nil}'
  macro 'systemd_postun_with_restart()' "\\
if [ \$1 -ge 1 ] && [ -x $helper ]; then \\
    $helper mark-restart-system-units %* || : \\
fi"
  macro 'journal_catalog_update()' '%{nil}'
}

make_source() {
  local name=stockd-$version
  "$top/packaging/tracked.sh" |
    tar --create --directory "$top" --null --verbatim-files-from --files-from - \
    --transform "s,^\(\./\)\?,$name/," --owner root:0 --group root:0 --mode u=rwX,go=rX \
    --mtime "@$(date --utc --date "$(sed -nE '/^%changelog/{n;s/^\* ([A-Za-z]+ [A-Za-z]+ [0-9]+ [0-9]+) .*/\1/p}' "$spec")" +%s)" |
    gzip --no-name >"$scratch/top/SOURCES/$name.tar.gz"
}

build() {
  define_macros
  make_source
  # Where packages are not rpm's, it knows of none that is installed.
  rpm --query rpm >/dev/null 2>&1 || options+=(--nodeps)
  (umask 022 && rpmbuild -ba "${options[@]}" "$spec") >"$scratch/log" 2>&1 ||
    {
      cat "$scratch/log" >&2
      die 'rpmbuild failed'
    }
  grep -E '[0-9]+% tests passed|^Wrote:' "$scratch/log" || true
  if [[ " ${options[*]} " != *' --nocheck '* ]]; then
    grep -q '100% tests passed' "$scratch/log" || die 'no test was run'
  fi
}

# --- trying -----------------------------------------------------------------------------------------

# package NAME: the file that it is in.
package() {
  local file
  for file in "$scratch/top/RPMS"/*/"$1-$version-"*.rpm; do
    [[ $(rpm --query --package --queryformat '%{NAME}' "$file") != "$1" ]] || echo "$file"
  done
}

check_lint() {
  rpmlint --config "$top/packaging/rpm/rpmlint.toml" "$spec" "${files[@]}" \
    "$scratch"/top/SRPMS/*.rpm >"$scratch/lint" 2>&1 || {
    cat "$scratch/lint" >&2
    die 'rpmlint finds errors'
  }
  grep -E '^[^ ]+: W: ' "$scratch/lint" && die 'rpmlint has warnings'
  tail -n 1 "$scratch/lint"
}

# The scriptlets as they are in the packages: no macro is left in them, a shell understands them, and
# without systemd, as where an image is made, they do nothing and succeed.
check_scriptlets() {
  local file name tag text count=0
  for file in "${files[@]}"; do
    name=$(rpm --query --package --queryformat '%{NAME}' "$file")
    for tag in POSTIN PREUN POSTUN; do
      text=$(rpm --query --package --queryformat "%{$tag}" "$file")
      [[ $text != '(none)' && -n $text ]] || continue
      [[ $text != *%* ]] || die "$name: a macro is left in $tag: $text"
      sh -n -c "$text" || die "$name: $tag is no shell script"
      # This one must not talk to the service manager of the machine that it is built on.
      [[ ! -d /run/systemd/system ]] || continue
      for argument in 0 1 2; do
        sh -e -c "$text" "$tag" "$argument" ||
          die "$name: $tag $argument fails where no service manager runs"
      done
      count=$((count + 1))
    done
  done
  # Three each of stockd and of stock-client, and one of stockd-observability; what the macros that are
  # kept for older systems leave empty is not counted.
  [[ $count -eq 7 ]] || die "there are $count scriptlets, not 7"
  echo "scriptlets: $count"
}

in_root() {
  rpm --root "$root" "$@"
}

# What stands in the root, but for rpm's own database.
listing() {
  (cd "$root" && find . \( -path ./var -o -path "./${HOME#/}" \) -prune -o ! -type d -print) | sort
}

# The folders in it that are the packages' own.
folders() {
  (cd "$root" && find . \( -path ./var -o -path "./${HOME#/}" \) -prune -o -type d -name 'stock*' -print |
    grep -vxF ".${scratch}") | sort
}

# change OPTION...: what rpm does with the packages' files. On Debian it has doubts about being used at
# all, which are shown only with something else.
change() {
  in_root "$@" --nodeps --noscripts "${files[@]}" >"$scratch/change" 2>&1 || {
    cat "$scratch/change" >&2
    die "rpm $1 failed"
  }
}

# Into a root, and out of it again. What the administrator changed is kept at an upgrade, and saved
# at the end.
check_life() {
  local conf=$root/etc/stockd/stockd.conf program
  mkdir -p "$root"
  in_root --initdb
  change --install
  in_root --verify --nodeps "${packages[@]}" >"$scratch/verify" 2>&1 ||
    {
      cat "$scratch/verify" >&2
      die 'rpm finds its own packages changed'
    }
  [[ ! -s $scratch/verify ]] || die "rpm --verify says: $(<"$scratch/verify")"
  [[ $("$root$(rpm --eval %_sbindir)/stockd" --version) == *" $version"* ]] ||
    die "the installed stockd is not of version $version"
  for program in stock-client stockd-obs stockd-render; do
    [[ $("$root/usr/bin/$program" --version) == *" $version"* ]] ||
      die "the installed $program is not of version $version"
  done

  echo '# changed here' >>"$conf"
  # The negative of the above: a change is seen.
  ! in_root --verify --nodeps stockd >/dev/null 2>&1 || die 'rpm --verify does not see a change'
  change --upgrade --force
  grep -q '^# changed here' "$conf" || die 'an upgrade lost a changed configuration'

  in_root --erase --nodeps --noscripts "${packages[@]}" >"$scratch/erase" 2>&1
  [[ $(listing) == ./etc/stockd/stockd.conf.rpmsave && $(folders) == ./etc/stockd ]] || {
    listing >&2
    folders >&2
    die 'this is left when the packages are erased'
  }
  echo 'installed, verified, upgraded, erased'
}

# The paths of one package, each of a folder with a / at its end. What differs by convention is left out:
# where documents and licences are, and what a manual page is packed with; and the folders that others
# have, too, or may leave to them.
normalise() {
  sed -E -e 's,^\./?,/,' -e '/^\/usr\/lib\/stock/!{/\/$/d}' -e 's,\.gz$,,' -e '/^\/usr\/share\/(doc|licenses|lintian)\//d' \
    -e '/^\/usr\/lib\/\.build-id/d' -e 's,^/lib/,/usr/lib/,' | sort
}

rpm_files() {
  rpm --query --package --queryformat '[%{FILEMODES:perms} %{FILENAMES}\n]' "$(package "$1")" |
    sed -E -e 's,^d.*,&/,' -e 's,^[^ ]+ ,,' | normalise
}

deb_files() {
  dpkg-deb --fsys-tarfile "$1" | tar --list --file - | normalise
}

check_against_debian() {
  local name deb
  command -v dpkg-deb >/dev/null || return 0
  for name in "${packages[@]}"; do
    deb=$(find "$output" -maxdepth 1 -name "${name}_$version*.deb" -print -quit)
    if [[ -z $deb ]]; then
      echo "$name: no .deb in $output to compare with"
      continue
    fi
    diff --label "$(basename "$deb")" --label "$(basename "$(package "$name")")" -u \
      <(deb_files "$deb") <(rpm_files "$name") || die "$name has other files than Debian's"
    echo "$name: the files of $(basename "$deb")"
  done
}

build
files=()
for name in "${packages[@]}"; do
  file=$(package "$name")
  [[ -n $file ]] || die "there is no package $name"
  files+=("$file")
done
root=$scratch/root
check_lint
check_scriptlets
check_life
check_against_debian

find "$scratch/top/RPMS" "$scratch/top/SRPMS" -name '*.rpm' -exec cp -t "$output" {} +
echo
find "$scratch/top/RPMS" "$scratch/top/SRPMS" -name '*.rpm' -printf "$output/%f\n" | sort
