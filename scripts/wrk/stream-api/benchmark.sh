#!/usr/bin/env bash
# The benchmark of scripts/k6 for machines without k6: the same variables, records and limits, sent by wrk.
# Needs wrk, curl and jq. Exits 1 if a limit is passed. Prints one line of JSON for each stage.
#
# wrk has no ramps: the scenario "ramping" runs half of the users while going up and down, and all in between.
set -Eeuo pipefail

: "${K6_API_TOKEN:?Missing K6_API_TOKEN}"
: "${K6_API_HOST:=http://localhost:8001}"
: "${K6_OVERWRITE_SOURCE_HOST:=}"
: "${K6_SCENARIO:=constant}"
: "${K6_TABLE_MAPPING:=static}"
: "${K6_CONST_VIRTUAL_USERS:=1000}"
: "${K6_CONST_TOTAL_REQUESTS:=1000000}"
: "${K6_CONST_TIMEOUT:=20m}"
: "${K6_RAMPING_MAX_VIRTUAL_USERS:=1000}"
: "${K6_RAMPING_UP_DURATION:=2m}"
: "${K6_RAMPING_STABLE_DURATION:=10m}"
: "${K6_RAMPING_DOWN_DURATION:=2m}"
: "${K6_TEARDOWN_WAIT:=100}"
: "${K6_MAX_ERROR_RATE:=0.001}"
: "${K6_MAX_P95:=1000}"
: "${K6_MIN_RATE:=0}"
: "${STREAM_PAYLOAD_SIZE:=1}"
: "${STREAM_SYNC_MODE:=disk}"
: "${STREAM_SYNC_WAIT:=true}"
: "${WRK_THREADS:=2}"

cd "$(dirname "${BASH_SOURCE[0]}")"
for tool in wrk curl jq; do
  if ! command -v "$tool" >/dev/null; then
    echo "Missing the program $tool" >&2
    exit 1
  fi
done

# one_of NAME VALUE…: the variable must have one of the values.
one_of() {
  local name=$1 value
  shift
  for value in "$@"; do
    if [[ "${!name}" == "$value" ]]; then return; fi
  done
  echo "$name is \"${!name}\": one of $*" >&2
  exit 1
}
one_of K6_SCENARIO constant ramping
one_of K6_TABLE_MAPPING static path template
one_of STREAM_SYNC_MODE disk cache
one_of STREAM_SYNC_WAIT true false

branch="${K6_API_HOST%/}/v1/branches/default"
sync=storage.level.local.encoding.sync

# call METHOD PATH [BODY]. The token goes through a file descriptor: a command line can be read by every user.
call() {
  local body=()
  if [[ $# -gt 2 ]]; then body=(--json "$3"); fi
  curl --silent --show-error --fail-with-body --request "$1" "${body[@]}" \
    --config <(printf 'header = "X-StorageApi-Token: %s"\n' "$K6_API_TOKEN") "$2"
}

# change METHOD PATH [BODY]: a change is a task, which is waited for.
change() {
  local url state
  url=$(call "$@" | jq --raw-output .url)
  for ((second = 0; second < 180; second++)); do
    state=$(call GET "$url")
    if jq --exit-status .isFinished <<<"$state" >/dev/null; then
      if jq --exit-status '.error // empty' <<<"$state" >&2; then return 1; fi
      return
    fi
    sleep 1
  done
  echo "$1 $2: not finished in 180 seconds" >&2
  return 1
}

id="benchmark-$(date +%s)-$$"
source="$branch/sources/$id"
columns() {
  case "$K6_TABLE_MAPPING" in
  static) jq --null-input '["uuid", "datetime", "ip", "body", "headers"] | map({type: ., name: .})' ;;
  path) echo '[{"type": "uuid", "name": "id"}, {"type": "path", "name": "g", "path": "c.f.g"}]' ;;
  template)
    jq --null-input '[{type: "uuid", name: "id"},
      {type: "template", name: "g", template: {language: "jsonnet", content: "Body(\"c.f.g\")"}}]'
    ;;
  esac
}

change POST "$branch/sources" "{\"sourceId\": \"$id\", \"type\": \"http\", \"name\": \"$id\"}"
trap 'sleep "$K6_TEARDOWN_WAIT"; change DELETE "$source"' EXIT
running=$(call GET "$source/settings" | jq --raw-output --arg key "$sync.mode" '.settings[] | select(.key == $key).value')
if [[ "$running" != "$STREAM_SYNC_MODE" ]]; then
  echo "The service runs with $sync.mode \"$running\", STREAM_SYNC_MODE is \"$STREAM_SYNC_MODE\"" >&2
  K6_TEARDOWN_WAIT=0
  exit 1
fi
change PATCH "$source/settings" "{\"settings\": [{\"key\": \"$sync.wait\", \"value\": $STREAM_SYNC_WAIT}]}"
change POST "$source/sinks" "$(columns | jq --arg table "in.c-$id.records" \
  '{type: "table", name: "records", table: {type: "keboola", tableId: $table, mapping: {columns: .}}}')"
url=$(call GET "$source" | jq --raw-output .http.url)
if [[ -n "$K6_OVERWRITE_SOURCE_HOST" ]]; then
  url="${K6_OVERWRITE_SOURCE_HOST%/}/${url#*://*/}"
fi

# stage USERS DURATION TOTAL: one run of wrk; its line of JSON.
stage() {
  local threads=$(($1 < WRK_THREADS ? $1 : WRK_THREADS)) expected=202
  if (($3)); then threads=1; fi
  if [[ "$STREAM_SYNC_WAIT" == true ]]; then expected=200; fi
  EXPECTED_STATUS=$expected TOTAL_REQUESTS=$3 STREAM_PAYLOAD_SIZE=$STREAM_PAYLOAD_SIZE \
    wrk --threads "$threads" --connections "$1" --duration "$2" --timeout 30s --script ./main.lua "$url" |
    sed -n 's/^RESULT //p' | jq --compact-output --argjson users "$1" '{users: $users} + .'
}

# half USERS: at least one.
half() { echo $((($1 + 1) / 2)); }

if [[ "$K6_SCENARIO" == constant ]]; then
  stages=$(stage "$K6_CONST_VIRTUAL_USERS" "$K6_CONST_TIMEOUT" "$K6_CONST_TOTAL_REQUESTS")
else
  most=$K6_RAMPING_MAX_VIRTUAL_USERS
  stages=$(
    stage "$(half "$most")" "$K6_RAMPING_UP_DURATION" 0
    stage "$most" "$K6_RAMPING_STABLE_DURATION" 0
    stage "$(half "$most")" "$K6_RAMPING_DOWN_DURATION" 0
  )
fi
echo "$stages"

verdict=$(jq --slurp --compact-output --argjson errors "$K6_MAX_ERROR_RATE" --argjson most "$K6_MAX_P95" \
  --argjson rate "$K6_MIN_RATE" '
  {requests: (map(.requests) | add), seconds: (map(.seconds) | add), wrong: (map(.unexpected + .broken) | add),
    p95: (map(.p95) | max)}
  | .rate = (if .seconds > 0 then .requests / .seconds else 0 end)
  | .passed = [
      if .requests == 0 then "no request was answered" else empty end,
      if .wrong > $errors * .requests then "K6_MAX_ERROR_RATE" else empty end,
      if .p95 >= $most then "K6_MAX_P95" else empty end,
      if .rate < $rate then "K6_MIN_RATE" else empty end]
  | {requests, rate, p95, wrong, failedLimits: .passed}' <<<"$stages")
echo "$verdict"
jq --exit-status '.failedLimits == []' <<<"$verdict" >/dev/null
