# shellcheck shell=bash
#
# bash's completion for stock-client(1). It needs no other completion's functions.

_stock_client() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
  local options='-r -d --delay -w --window -o --output -q --quiet -n --count -t --max-time
    --no-reconnect --keepalive --metrics --no-metrics -v --verbose -h --help -V --version
    --tls --cacert --cert --key --server-name --insecure'
  COMPREPLY=()
  # To bash "=" is a word of its own, in "--output=x", and so is ":", in "unix:/x".
  if [[ $word == [=:] || $before == [=:] ]]; then
    [[ $word == [=:] ]] && word='' || before=${COMP_WORDS[COMP_CWORD - 2]}
    [[ $before == --* || $before == unix ]] || return 0
  fi
  case $before in
    --cacert | --cert | --key | unix) compopt -o default ;; # readline's own completion: files
    -o | --output) mapfile -t COMPREPLY < <(compgen -W 'text json csv' -- "$word") ;;
    --server-name) mapfile -t COMPREPLY < <(compgen -A hostname -- "$word") ;;
    -d | --delay | -w | --window | -n | --count | -t | --max-time | --keepalive | --metrics) ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word") ;;
  esac
}

complete -F _stock_client stock-client
