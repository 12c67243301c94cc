# shellcheck shell=bash
#
# bash's completion for stockd-obs(1). It needs no other completion's functions.

_stockd_obs() {
  local word=${COMP_WORDS[COMP_CWORD]}
  COMPREPLY=()
  if [[ $COMP_CWORD -eq 1 ]]; then
    mapfile -t COMPREPLY < <(compgen -W 'start run stop status help version' -- "$word")
  elif [[ ${COMP_WORDS[1]} == start || ${COMP_WORDS[1]} == run ]]; then
    # What differs from one time to the other.
    mapfile -t COMPREPLY < <(compgen -W '--ip' -- "$word")
  fi
}

complete -F _stockd_obs stockd-obs
