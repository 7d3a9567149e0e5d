#!/usr/bin/env bash
# logs.sh FOLDER: saves the logs of all pods of NAMESPACE and its events.
set -Eeuo pipefail

: "${NAMESPACE:=stream}"
: "${1:?Missing the folder to write to}"
mkdir -p "$1"
kubectl get events --namespace "$NAMESPACE" --sort-by=.lastTimestamp >"$1/events.txt"
kubectl get pods --namespace "$NAMESPACE" -o name | while read -r pod; do
  kubectl logs --namespace "$NAMESPACE" "$pod" --all-containers --prefix >"$1/${pod#pod/}.log"
  kubectl logs --namespace "$NAMESPACE" "$pod" --all-containers --prefix --previous \
    >"$1/${pod#pod/}.previous.log" 2>/dev/null || rm -f "$1/${pod#pod/}.previous.log"
done
