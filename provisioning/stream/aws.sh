#!/usr/bin/env bash
# Amazon: EKS, an ingress for each of the two addresses.
set -Eeuo pipefail

if [[ "${BASH_SOURCE[0]}" == "${0}" ]]; then
  echo 'This script should not be executed directly, please run "deploy.sh" instead.' >&2
  exit 1
fi

: "${AWS_REGION:?Missing AWS_REGION}"
: "${AWS_EKS_CLUSTER_NAME:?Missing AWS_EKS_CLUSTER_NAME}"

aws eks update-kubeconfig --name "$AWS_EKS_CLUSTER_NAME" --region "$AWS_REGION"

export ETCD_STORAGE_CLASS_NAME="${ETCD_STORAGE_CLASS_NAME:-etcd-gp3}"
export ETCD_SNAPSHOT_STORAGE_CLASS_NAME="${ETCD_SNAPSHOT_STORAGE_CLASS_NAME:-stream-etcd-snapshots}"
export CLOUD_ENCRYPTION_PROVIDER="${CLOUD_ENCRYPTION_PROVIDER:-aws}"
export ETCD_IMAGE_REPOSITORY="${ETCD_IMAGE_REPOSITORY:-bitnami-etcd}"

source ./common.sh

for object in storage-class-aws api-service api-ingress http-source-service http-source-ingress; do
  kubectl apply -f "./kubernetes/deploy/$object.yaml"
done

source ./wait.sh
