#!/usr/bin/env bash
# dump.sh FILE: writes all objects of NAMESPACE as JSON, one list. Secrets are left out.
set -Eeuo pipefail

: "${NAMESPACE:=stream}"
: "${1:?Missing the file to write}"
kinds=configmaps,cronjobs,daemonsets,deployments,endpoints,ingresses,jobs,networkpolicies,persistentvolumeclaims
kinds+=,poddisruptionbudgets,pods,serviceaccounts,services,statefulsets
mkdir -p "$(dirname "$1")"
kubectl get "$kinds" --namespace "$NAMESPACE" -o json >"$1"
