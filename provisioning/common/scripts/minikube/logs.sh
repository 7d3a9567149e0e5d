#!/usr/bin/env bash
# Prints the logs of the cluster itself and of the pods in NAMESPACE.
set -Eeuo pipefail

: "${MINIKUBE_PROFILE:=stream}"
: "${NAMESPACE:=stream}"
minikube logs --profile "$MINIKUBE_PROFILE"
kubectl get pods --namespace "$NAMESPACE" -o name | while read -r pod; do
  echo "== $pod"
  kubectl logs --namespace "$NAMESPACE" "$pod" --all-containers --prefix
done
