#!/usr/bin/env bash
# Installs etcd and Stream into the cluster that kubectl points at. Read by the script of a cloud.
source "$(dirname "${BASH_SOURCE[0]}")/included.sh"

# The original says ETCD_STORAGE_CLASS_NAME; both names are understood.
: "${STREAM_ETCD_STORAGE_CLASS_NAME:=${ETCD_STORAGE_CLASS_NAME:-}}"
for name in RELEASE_ID KEBOOLA_STACK HOSTNAME_SUFFIX STREAM_IMAGE_REPOSITORY STREAM_IMAGE_TAG STREAM_ETCD_REPLICAS \
  STREAM_API_REPLICAS STREAM_HTTP_SOURCE_REPLICAS STREAM_STORAGE_READER_WRITER_REPLICAS \
  STREAM_STORAGE_COORDINATOR_REPLICAS STREAM_ETCD_STORAGE_CLASS_NAME STREAM_VOLUME_MEDIUM_STORAGE_CLASS_NAME \
  STREAM_VOLUME_MEDIUM_STORAGE_SIZE; do
  if [[ -z "${!name:-}" ]]; then
    echo "Missing $name" >&2
    exit 1
  fi
  export "${name?}"
done

export NAMESPACE=stream
: "${ETCD_CHART_VERSION:=12.0.11}"
: "${STREAM_ETCD_MAX_TXN_OPS:=1024}"
: "${ETCD_DISASTER_RECOVERY_ENABLED:=true}"
: "${ETCD_SNAPSHOT_STORAGE_CLASS_NAME:=}"
: "${ETCD_SNAPSHOT_VOLUME_SIZE:=10Gi}"
: "${ETCD_FROM_SNAPSHOT_ENABLED:=false}"
: "${ETCD_FROM_SNAPSHOT_FILENAME:=}"
: "${ETCD_IMAGE_REGISTRY:=docker.io}"
: "${ETCD_IMAGE_REPOSITORY:=bitnamilegacy/etcd}"
: "${ETCD_IMAGE_PULL_SECRETS:=}"

# limit NAME MEMORY_SOFT MEMORY_HARD CPU_SOFT: what each pod asks for, and the memory it must not pass.
limit() {
  local soft="STREAM_$1_MEMORY_SOFT_LIMIT" hard="STREAM_$1_MEMORY_HARD_LIMIT" cpu="STREAM_$1_CPU_SOFT_LIMIT"
  export "$soft=${!soft:-$2}" "$hard=${!hard:-$3}" "$cpu=${!cpu:-$4}"
}
limit ETCD 1600Mi 2000Mi 4000m
limit API 200Mi 250Mi 200m
limit HTTP_SOURCE 3200Mi 4000Mi 4000m
limit STORAGE_WRITER 200Mi 250Mi 1000m
limit STORAGE_READER 200Mi 250Mi 500m
limit STORAGE_COORDINATOR 500Mi 750Mi 400m

./kubernetes/build.sh
kubectl apply -f ./kubernetes/deploy/namespace.yaml

# The password is kept over upgrades; on the first install the chart makes one.
ETCD_ROOT_PASSWORD=$(kubectl get secret --namespace "$NAMESPACE" stream-etcd --ignore-not-found \
  -o jsonpath='{.data.etcd-root-password}' | base64 --decode)

# The secret of source nodes and disk writers is made once, and kept. Not on a command line, as below.
if [[ -z "$(kubectl get secret --namespace "$NAMESPACE" stream-writer --ignore-not-found -o name)" ]]; then
  kubectl create -f - <<SECRET
{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "stream-writer", "namespace": "$NAMESPACE"},
 "stringData": {"secret": "$(head -c 32 /dev/urandom | base64 --wrap=0)"}}
SECRET
fi

etcd_options=(
  --set "replicaCount=$STREAM_ETCD_REPLICAS"
  --set "persistence.storageClass=$STREAM_ETCD_STORAGE_CLASS_NAME"
  --set "resources.requests.memory=$STREAM_ETCD_MEMORY_SOFT_LIMIT"
  --set "resources.limits.memory=$STREAM_ETCD_MEMORY_HARD_LIMIT"
  --set "resources.requests.cpu=$STREAM_ETCD_CPU_SOFT_LIMIT"
  --set "disasterRecovery.enabled=$ETCD_DISASTER_RECOVERY_ENABLED"
  --set "disasterRecovery.pvc.storageClassName=$ETCD_SNAPSHOT_STORAGE_CLASS_NAME"
  --set "disasterRecovery.pvc.size=$ETCD_SNAPSHOT_VOLUME_SIZE"
  --set "startFromSnapshot.enabled=$ETCD_FROM_SNAPSHOT_ENABLED"
  --set "startFromSnapshot.snapshotFilename=$ETCD_FROM_SNAPSHOT_FILENAME"
  --set "extraEnvVars[3].name=GOMEMLIMIT"
  --set "extraEnvVars[3].value=${STREAM_ETCD_MEMORY_SOFT_LIMIT}B"
  --set "extraEnvVars[4].name=ETCD_MAX_TXN_OPS"
  --set-string "extraEnvVars[4].value=$STREAM_ETCD_MAX_TXN_OPS"
  --set "image.registry=$ETCD_IMAGE_REGISTRY"
  --set "image.repository=$ETCD_IMAGE_REPOSITORY"
)
if [[ "$STREAM_ETCD_REPLICAS" == 1 ]]; then
  etcd_options+=(--set "pdb.create=false")
fi
if [[ -n "$ETCD_IMAGE_PULL_SECRETS" ]]; then
  etcd_options+=(--set "image.pullSecrets[0]=$ETCD_IMAGE_PULL_SECRETS")
fi
if [[ -n "$ETCD_ROOT_PASSWORD" ]]; then
  # Through a file descriptor: a command line can be read by every user of the machine.
  exec 9< <(printf 'auth:\n  rbac:\n    rootPassword: "%s"\n' "$ETCD_ROOT_PASSWORD")
  etcd_options+=(--values /dev/fd/9)
fi

helm repo add bitnami https://charts.bitnami.com/bitnami
helm upgrade --install stream-etcd bitnami/etcd --version "$ETCD_CHART_VERSION" --namespace "$NAMESPACE" \
  --values ./kubernetes/deploy/etcd-values-common.yaml --values ./kubernetes/deploy/etcd-values.yaml \
  "${etcd_options[@]}"

for object in config-map \
  api-pdb api-network-policy api-deployment \
  http-source-pdb http-source-network-policy http-source-statefulset \
  storage-writer-reader-network-policy storage-writer-reader-statefulset storage-writer-reader-service \
  storage-coordinator-pdb storage-coordinator-network-policy storage-coordinator-deployment; do
  kubectl apply -f "./kubernetes/deploy/$object.yaml"
done
