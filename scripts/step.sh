# Sourced by the scripts beside it: runs one long step with its progress in view.
#
#   step "Title" "What to do when it fails" command arg…
#
# The command's output goes to a file. On a terminal one line shows the elapsed time and the last
# line of that output; elsewhere a line appears every 20 seconds. A failed step prints the command,
# its status, the end of its output and the advice. V=1 shows all output as it comes.
# shellcheck shell=bash

step_logs=${HEARTH_STEP_LOGS:-target/steps}
step_pid=

step_elapsed() {
  local s=$((SECONDS - $1))
  if ((s < 60)); then printf '%d s' "$s"; else printf '%d min %02d s' $((s / 60)) $((s % 60)); fi
}

# One line of text, cut to the terminal's width, replacing the line before it.
step_redraw() {
  local columns
  columns=$(tput cols 2>/dev/null) || columns=80
  printf '\r\033[K%s' "${1:0:columns-1}"
}

# Ends the running step and everything it started: it leads its own process group.
step_abort() {
  if [[ -n $step_pid ]]; then
    kill -TERM -- "-$step_pid" 2>/dev/null || true
    wait "$step_pid" 2>/dev/null || true
    step_pid=
  fi
}

step() {
  local title=$1 advice=$2
  shift 2
  local start=$SECONDS slug log status=0 said=0 seconds last
  slug=$(tr -c 'a-zA-Z0-9\n' - <<<"$title")
  mkdir -p "$step_logs"
  log=$step_logs/$slug.log
  if [[ ${V:-} == 1 ]]; then
    printf '==> %s\n    %s\n' "$title" "$*"
    "$@" 2>&1 | tee "$log" || status=$?
  else
    [[ -t 1 ]] || printf '==> %s\n' "$title"
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    step_pid=$!
    set +m
    while kill -0 "$step_pid" 2>/dev/null; do
      seconds=$((SECONDS - start))
      if [[ -t 1 ]]; then
        last=$(tail -c 400 "$log" | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1) || last=
        step_redraw "==> $title … $(step_elapsed "$start")  $last"
      elif ((seconds >= said + 20)); then
        said=$seconds
        printf '    … %s\n' "$(step_elapsed "$start")"
      fi
      sleep 0.2
    done
    wait "$step_pid" || status=$?
    step_pid=
    [[ ! -t 1 ]] || printf '\r\033[K'
  fi
  if ((status == 0)); then
    if [[ -t 1 ]]; then
      printf '==> %s: %s\n' "$title" "$(step_elapsed "$start")"
    else
      printf '    done in %s\n' "$(step_elapsed "$start")"
    fi
    return 0
  fi
  {
    printf '\n%s failed after %s.\n' "$title" "$(step_elapsed "$start")"
    printf '  command: %s\n  status:  %d\n  output:  %s, which ends in\n' "$*" "$status" "$log"
    tail -n 30 "$log" | sed 's/^/    | /'
    printf '  what to do: %s\n' "$advice"
  } >&2
  return "$status"
}
