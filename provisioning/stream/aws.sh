#!/usr/bin/env bash
# Amazon: EKS, an ingress for each of the two addresses.
source "$(dirname "${BASH_SOURCE[0]}")/included.sh"

: "${AWS_REGION:?Missing AWS_REGION}"
: "${AWS_EKS_CLUSTER_NAME:?Missing AWS_EKS_CLUSTER_NAME}"

aws eks update-kubeconfig --name "$AWS_EKS_CLUSTER_NAME" --region "$AWS_REGION"

export ETCD_IMAGE_REPOSITORY="${ETCD_IMAGE_REPOSITORY:-bitnami-etcd}"
install_at aws storage-class-aws api-service api-ingress http-source-service http-source-ingress
