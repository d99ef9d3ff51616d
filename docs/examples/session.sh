#!/usr/bin/env bash
# A program with a session, with curl and the commands of reaperd: `bash session.sh`.
#
# It makes sure that a daemon runs, registers itself, looks its session up, and follows the events of all
# sessions of its user, also when the daemon restarts. SIGTERM ends it. Its session ends with it in any case.
#
# `reaperd run -- COMMAND` and `reaperd watch --follow` do most of this in one command each.
set -euo pipefail

# In a folder of this user alone: otherwise another user could listen there, and read the token.
socket=${REAPERD_SOCKET:-$XDG_RUNTIME_DIR/reaperd/reaperd.sock}
token=$(reaperd token)
id=shell-$$

# Secrets go through standard input: all users can read the arguments of a command.
call() { curl --silent --show-error --fail-with-body --unix-socket "$socket" "$@"; }
as_session() { printf 'Authorization: ClaudeMesh-Session %s' "$token" | call --header @- "$@"; }

# Starts a daemon unless one answers. Of several that are started at the same time one stays.
ensure_daemon() {
  reaperd status >/dev/null 2>&1 && return
  setsid reaperd daemon </dev/null >/dev/null 2>&1 &
  disown
  for _ in {1..100}; do
    reaperd status >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "no daemon answers on $socket: see reaperd doctor" >&2
  exit 1
}

register() {
  local form='{"token":"%s","session_id":"%s","mesh":"examples","display_name":"in a shell","pid":%d,"ttl":"process"}'
  local answer
  answer=$(printf "$form" "$token" "$id" $$ | call --data-binary @- localhost/v1/sessions/register) ||
    { echo "$answer" >&2; exit 1; }
  echo "registered: $(as_session localhost/v1/sessions/me)"
}

handle() {
  local event=$1 data=$2
  case $event in
    session_registered | session_deregistered | gap) echo "event: $event $data" ;;
    # A daemon that was started anew has no sessions.
    snapshot) [[ $data == *"\"sessionId\":\"$id\""* ]] || register ;;
  esac
}

# Reads a stream of events to its end.
follow() {
  local event='' data='' line
  # The snapshot is sent if there is no position yet.
  local position=()
  [ -z "$last_id" ] || position=(--header "Last-Event-ID: $last_id")
  echo "following${last_id:+ again}"
  exec {events}< <(exec curl --silent --no-buffer --unix-socket "$socket" "${position[@]}" 'localhost/v1/events?snapshot=1')
  stream=$!
  while IFS= read -r line; do
    case $line in
      'id: '*) last_id=${line#id: } ;;
      'event: '*) event=${line#event: } ;;
      'data: '*) data=${line#data: } ;;
      # The others are comments, and the time to wait before a new stream: a second.
      '') [ -z "$event" ] || handle "$event" "$data"; event='' data='' ;;
    esac
  done <&$events
  exec {events}<&-
}

# Without `kill`, curl would notice only at its next write that its reader has gone.
stop() {
  as_session --request DELETE localhost/v1/sessions/me >/dev/null || true
  kill $stream 2>/dev/null || true
  exit 0
}

trap stop TERM
last_id='' stream=''
while :; do
  ensure_daemon
  # A stream that ends, or that is cut off, is opened again behind the last event.
  follow
  sleep 1
done
