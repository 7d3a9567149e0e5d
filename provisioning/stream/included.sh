#!/usr/bin/env bash
# What the scripts have in common that deploy.sh reads: they refuse to be run alone, and end the same way.
set -Eeuo pipefail

if [[ "${BASH_SOURCE[1]:-$0}" == "$0" ]]; then
  echo 'This script should not be executed directly, please run "deploy.sh" instead.' >&2
  exit 1
fi

# install_at ENCRYPTION OBJECT…: installs etcd and Stream, applies the provider's own objects, and waits for all.
install_at() {
  export CLOUD_ENCRYPTION_PROVIDER="${CLOUD_ENCRYPTION_PROVIDER:-$1}"
  export ETCD_STORAGE_CLASS_NAME="${ETCD_STORAGE_CLASS_NAME:-etcd-gp3}"
  export ETCD_SNAPSHOT_STORAGE_CLASS_NAME="${ETCD_SNAPSHOT_STORAGE_CLASS_NAME:-stream-etcd-snapshots}"
  shift
  source ./common.sh
  local object
  for object in "$@"; do
    kubectl apply -f "./kubernetes/deploy/$object.yaml"
  done
  source ./wait.sh
}
