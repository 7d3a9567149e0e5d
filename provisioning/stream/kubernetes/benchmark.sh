#!/usr/bin/env bash
# Runs the k6 benchmark as a job in the cluster that kubectl points at; the job of an earlier run is deleted.
set -Eeuo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
: "${STORAGE_API_TOKEN:?Missing STORAGE_API_TOKEN}"
: "${KEBOOLA_STACK:?Missing KEBOOLA_STACK}"
: "${BENCHMARK_IMAGE:=docker.io/keboolabot/stream-benchmark:latest}"
: "${K6_API_HOST:=http://stream-api.stream.svc.cluster.local}"
: "${K6_OVERWRITE_SOURCE_HOST:=http://stream-http-source.stream.svc.cluster.local}"
export KEBOOLA_STACK BENCHMARK_IMAGE K6_API_HOST K6_OVERWRITE_SOURCE_HOST

# The token goes through a pipe alone: not to a file, not to a command line.
ENCODED_TOKEN=$(printf '%s' "$STORAGE_API_TOKEN" | base64 --wrap=0)
export ENCODED_TOKEN

# shellcheck disable=SC2016  # The names of what envsubst replaces.
names='$KEBOOLA_STACK $BENCHMARK_IMAGE $K6_API_HOST $K6_OVERWRITE_SOURCE_HOST $ENCODED_TOKEN'
apply() {
  envsubst "$names" <"./benchmark/$1.yaml" | kubectl apply -f -
}
apply namespace
apply secret
kubectl delete job benchmark --namespace stream-benchmark --ignore-not-found
apply job
echo "kubectl logs --namespace stream-benchmark --selector app=stream-benchmark --follow"
