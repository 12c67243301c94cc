# shellcheck shell=bash
#
# bash's completion for stockd-render(1). It needs no other completion's functions.

_stockd_render() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
  local options='-p --prometheus-output --prometheus-template -d --data-source-output
    --data-source-template --ip --port --client-port --prometheus-port --env-file -c --config
    -h --help -V --version'
  COMPREPLY=()
  # To bash "=" is a word of its own, in "--port=x", and so is ":", in an address.
  if [[ $word == [=:] || $before == [=:] ]]; then
    [[ $word == [=:] ]] && word='' || before=${COMP_WORDS[COMP_CWORD - 2]}
    [[ $before == --* ]] || return 0
  fi
  case $before in
    -p | -d | -c | --prometheus-output | --prometheus-template | --data-source-output | \
      --data-source-template | --env-file | --config)
      compopt -o default # readline's own completion: files
      ;;
    --ip | --port | --client-port | --prometheus-port) ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word") ;;
  esac
}

complete -F _stockd_render stockd-render
