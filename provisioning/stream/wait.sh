#!/usr/bin/env bash
# Waits until every part runs in its new version; prints the logs of one that doesn't.
source "$(dirname "${BASH_SOURCE[0]}")/included.sh"

: "${NAMESPACE:?Missing NAMESPACE}"
: "${KUBERNETES_ROLLOUT_WAIT:=1200s}"

for workload in sts/stream-etcd deployment/stream-api statefulset/stream-http-source \
  statefulset/stream-storage-writer-reader deployment/stream-storage-coordinator; do
  if ! kubectl rollout status "$workload" --namespace "$NAMESPACE" --timeout="$KUBERNETES_ROLLOUT_WAIT"; then
    echo "Rollout of $workload failed." >&2
    kubectl logs --namespace "$NAMESPACE" --selector "app=${workload#*/}" --all-containers --prefix --tail=-1 >&2
    exit 1
  fi
done

# Source nodes were a Deployment once; its pods would go on in their old version beside the StatefulSet's.
kubectl delete deployment/stream-http-source --namespace "$NAMESPACE" --ignore-not-found
