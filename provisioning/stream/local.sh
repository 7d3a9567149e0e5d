#!/usr/bin/env bash
# MiniKube on this machine; everything has a default.
source "$(dirname "${BASH_SOURCE[0]}")/included.sh"

# default NAME VALUE
default() { export "$1=${!1:-$2}"; }
default MINIKUBE_PROFILE stream
default KEBOOLA_STACK local-machine
default HOSTNAME_SUFFIX keboola.com
default STREAM_IMAGE_REPOSITORY docker.io/keboola/stream-api
default BENCHMARK_IMAGE_REPOSITORY docker.io/keboolabot/stream-benchmark
default STREAM_IMAGE_TAG "$(git rev-parse --short HEAD)-$(date +%s)"
default STREAM_ETCD_REPLICAS 3
for name in API HTTP_SOURCE STORAGE_READER_WRITER STORAGE_COORDINATOR; do
  default "STREAM_${name}_REPLICAS" 2
done
for name in ETCD API HTTP_SOURCE STORAGE_WRITER STORAGE_READER STORAGE_COORDINATOR; do
  memory=(200Mi 250Mi)
  [[ "$name" != HTTP_SOURCE ]] || memory=(500Mi 1000Mi)
  default "STREAM_${name}_MEMORY_SOFT_LIMIT" "${memory[0]}"
  default "STREAM_${name}_MEMORY_HARD_LIMIT" "${memory[1]}"
  default "STREAM_${name}_CPU_SOFT_LIMIT" 100m
done
default STREAM_ETCD_STORAGE_CLASS_NAME standard
for name in FAST MEDIUM SLOW; do
  default "STREAM_VOLUME_${name}_STORAGE_CLASS_NAME" standard
  default "STREAM_VOLUME_${name}_STORAGE_SIZE" 100Mi
done
default ETCD_SNAPSHOT_STORAGE_CLASS_NAME csi-hostpath-sc
default ETCD_SNAPSHOT_VOLUME_SIZE 100Mi

if ! minikube status --profile "$MINIKUBE_PROFILE" >/dev/null; then
  ../common/scripts/minikube/start.sh
fi
kubectl config use-context "$MINIKUBE_PROFILE"

SERVICE_IMAGE="$STREAM_IMAGE_REPOSITORY:$STREAM_IMAGE_TAG"
BENCHMARK_IMAGE="$BENCHMARK_IMAGE_REPOSITORY:$STREAM_IMAGE_TAG"
docker build --tag "$SERVICE_IMAGE" --build-arg PYTHONDEVMODE=1 --file ../../docker/service/Dockerfile ../..
docker build --tag "$BENCHMARK_IMAGE" --file ../../docker/k6/Dockerfile ../..
minikube image load --profile "$MINIKUBE_PROFILE" --overwrite=true "$SERVICE_IMAGE"
minikube image load --profile "$MINIKUBE_PROFILE" --overwrite=true "$BENCHMARK_IMAGE"
minikube image ls --profile "$MINIKUBE_PROFILE"
kubectl label nodes --overwrite --all nodepool=main

install_at none api-service http-source-service

echo "To use this cluster:   export MINIKUBE_PROFILE=$MINIKUBE_PROFILE"
echo "To use another again:  unset MINIKUBE_PROFILE"
echo "API:         $(minikube service --profile "$MINIKUBE_PROFILE" --namespace "$NAMESPACE" stream-api --url)"
echo "HTTP source: $(minikube service --profile "$MINIKUBE_PROFILE" --namespace "$NAMESPACE" stream-http-source --url)"
echo "Put these addresses into the configuration with ./rollout-stream.sh"
