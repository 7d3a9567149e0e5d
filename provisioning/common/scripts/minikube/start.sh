#!/usr/bin/env bash
# Starts the MiniKube cluster of MINIKUBE_PROFILE. Calico, since the default network ignores network policies.
set -Eeuo pipefail

: "${MINIKUBE_PROFILE:=stream}"
minikube start --profile "$MINIKUBE_PROFILE" --cpus "${MINIKUBE_CPUS:-3}" --memory "${MINIKUBE_MEMORY:-4096}" \
  --cni=calico --wait=apiserver,system_pods,default_sa
for addon in metrics-server volumesnapshots csi-hostpath-driver; do
  minikube addons enable "$addon" --profile "$MINIKUBE_PROFILE"
done
