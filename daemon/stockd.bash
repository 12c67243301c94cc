# shellcheck shell=bash
#
# bash's completion for stockd(8). It needs no other completion's functions.

# All settings as "SECTION.KEY=", whatever the configuration of this machine is.
_stockd_settings() {
  local line section=''
  while read -r line; do
    case $line in
      '#'* | '') ;;
      '['*']')
        section=${line#'['}
        section=${section%']'}
        ;;
      *=*) printf '%s.%s=\n' "$section" "${line%%[ =]*}" ;;
    esac
  done < <(GRPC_SERVER_PORT='' STOCK_SERVICE_METRICS_SERVER_PORT='' \
    "$1" --config /dev/null --dump-config 2>/dev/null)
}

_stockd() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
  local options='-c --config --instance -i --initial-delay -s --set --check-config --dump-config
    -h --help -V --version'
  COMPREPLY=()
  # To bash "=" is a word of its own, in "--set=x" as in "--set log.level=x", and so is ":".
  if [[ $word == [=:] || $before == [=:] ]]; then
    [[ $word == [=:] ]] && word='' || before=${COMP_WORDS[COMP_CWORD - 2]}
    [[ $before == --* ]] || return 0
  fi
  case $before in
    -c | --config) compopt -o default ;; # readline's own completion: files
    -s | --set)
      mapfile -t COMPREPLY < <(compgen -W "$(_stockd_settings "$1")" -- "$word")
      compopt -o nospace
      ;;
    -i | --initial-delay | --instance) ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word") ;;
  esac
}

complete -F _stockd stockd
