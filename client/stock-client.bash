# shellcheck shell=bash
#
# bash's completion for stock-client(1). It needs no other completion's functions.

# The options of a command; of none without one.
_stock_client_options() {
  local end='-v --verbose -h --help -V --version --keepalive
    --tls --cacert --cert --key --server-name --insecure'
  local subscription='--policy --max-queue --min-interval --heartbeat --snapshot'
  case $1 in
    watch) printf '%s ' "$subscription" --resume --state -F --format -o --output -q --quiet -r \
      -d --delay -w --window -n --count -t --max-time --metrics --no-metrics --no-reconnect ;;
    top) printf '%s ' -i --interval -w --window -t --max-time --no-reconnect ;;
    stat) printf '%s ' "$subscription" -i --interval -n --count -o --output -w --window \
      -t --max-time --no-reconnect ;;
    bench) printf '%s ' "$subscription" -n --calls -c --connections -t --duration --rate --stages \
      --slow --slow-delay --method -w --window -o --output --no-progress ;;
    check) printf '%s ' --service --health-only -o --output -q --quiet -t --max-time ;;
    list) printf '%s ' -o --output -t --max-time ;;
    *) printf '%s ' -r -d --delay -w --window -o --output -q --quiet -n --count -t --max-time \
      --no-reconnect --metrics --no-metrics ;;
  esac
  printf '%s' "$end"
}

_stock_client() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
  local commands='watch top stat bench check list' command='' formats='text json csv' words
  COMPREPLY=()
  # A command is the first word, and nothing else is.
  [[ $COMP_CWORD -gt 1 && " $commands " == *" ${COMP_WORDS[1]} "* ]] && command=${COMP_WORDS[1]}
  [[ $command == check ]] && formats='text json'
  # To bash "=" is a word of its own, in "--output=x", and so is ":", in "unix:/x".
  if [[ $word == [=:] || $before == [=:] ]]; then
    [[ $word == [=:] ]] && word='' || before=${COMP_WORDS[COMP_CWORD - 2]}
    [[ $before == --* || $before == unix ]] || return 0
  fi
  case $before in
    # readline's own completion: files
    --cacert | --cert | --key | --state | unix) compopt -o default ;;
    -o | --output) mapfile -t COMPREPLY < <(compgen -W "$formats" -- "$word") ;;
    --policy)
      mapfile -t COMPREPLY < <(compgen -W 'block conflate drop-oldest disconnect' -- "$word")
      ;;
    --method) mapfile -t COMPREPLY < <(compgen -W 'subscribe get-updates' -- "$word") ;;
    --service)
      mapfile -t COMPREPLY < <(compgen -W 'market stockservice.StockService' -- "$word")
      ;;
    --server-name) mapfile -t COMPREPLY < <(compgen -A hostname -- "$word") ;;
    -[dwntciF] | --delay | --window | --count | --max-time | --keepalive | --metrics) ;;
    --interval | --max-queue | --min-interval | --heartbeat | --resume | --format) ;;
    --calls | --connections | --duration | --rate | --stages | --slow | --slow-delay) ;;
    *)
      words=$(_stock_client_options "$command")
      [[ $COMP_CWORD -eq 1 ]] && words+=" $commands"
      mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
      ;;
  esac
}

complete -F _stock_client stock-client
