#!/usr/bin/env bash
# Puts the addresses that MiniKube gave the two services into the configuration, and restarts all pods with it.
# May be run again at any time.
set -Eeuo pipefail

: "${MINIKUBE_PROFILE:=stream}"
NAMESPACE=stream

url() {
  minikube service --profile "$MINIKUBE_PROFILE" --namespace "$NAMESPACE" "$1" --url | head -n 1
}
API_URL=$(url stream-api)
HTTP_SOURCE_URL=$(url stream-http-source)
if [[ -z "$API_URL" || -z "$HTTP_SOURCE_URL" ]]; then
  echo "MiniKube told no address of a service." >&2
  exit 1
fi
echo "API loadbalancer: $API_URL"
echo "HTTP source loadbalancer: $HTTP_SOURCE_URL"

# By the key's place, whatever stands there: "api:" and "source:" are keys of the first level.
changed=$(kubectl get configmap stream-config --namespace "$NAMESPACE" -o json |
  jq --arg api "$API_URL" --arg source "$HTTP_SOURCE_URL" '
    .data["config.yaml"] |= ([foreach split("\n")[] as $line ({top: ""};
      (if ($line | test("^[a-zA-Z]")) then .top = ($line | split(":")[0]) else . end)
      | .line = (if ($line | test("^ +publicUrl:")) and .top == "api" then
          ($line | sub("publicUrl:.*"; "publicUrl: \($api)"))
        elif ($line | test("^ +publicUrl:")) and .top == "source" then
          ($line | sub("publicUrl:.*"; "publicUrl: \($source)"))
        else $line end); .line)] | join("\n"))')
kubectl apply -f - <<<"$changed"

for workload in deployment/stream-api statefulset/stream-http-source deployment/stream-storage-coordinator \
  statefulset/stream-storage-writer-reader; do
  kubectl rollout restart "$workload" --namespace "$NAMESPACE"
done
