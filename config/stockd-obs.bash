# shellcheck shell=bash
#
# bash's completion for stockd-obs(1). It needs no other completion's functions.

_stockd_obs() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
  # Those of stockd-render(1) that say what is rendered; where it goes is our own.
  local options='--prometheus-template --data-source-template --ip --port --client-port --env-file
    -c --config'
  COMPREPLY=()
  # To bash "=" is a word of its own, in "--config=x".
  if [[ $word == = || $before == = ]]; then
    [[ $word == = ]] && word='' || before=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  if [[ $COMP_CWORD -eq 1 ]]; then
    mapfile -t COMPREPLY < <(compgen -W 'start run stop status help version' -- "$word")
  elif [[ ${COMP_WORDS[1]} == start || ${COMP_WORDS[1]} == run ]]; then
    case $before in
      --prometheus-template | --data-source-template | --env-file | -c | --config)
        compopt -o default # readline's own completion: files
        ;;
      --ip | --port | --client-port) ;;
      *) mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word") ;;
    esac
  fi
}

complete -F _stockd_obs stockd-obs
