#!/usr/bin/env bash
# Azure: AKS behind an application gateway, which is told the addresses of the two services.
source "$(dirname "${BASH_SOURCE[0]}")/included.sh"

: "${RESOURCE_GROUP:?Missing RESOURCE_GROUP}"

# output NAME KEY: an output of the deployment NAME.
output() {
  az deployment group show --resource-group "$RESOURCE_GROUP" --name "$1" --query "properties.outputs.$2.value" -o tsv
}

CLUSTER_NAME=$(output kbc-aks clusterName)
az aks get-credentials --name "$CLUSTER_NAME" --resource-group "$RESOURCE_GROUP" --overwrite-existing

export ETCD_IMAGE_REGISTRY="${ETCD_IMAGE_REGISTRY:-keboola.azurecr.io}"
export ETCD_IMAGE_REPOSITORY="${ETCD_IMAGE_REPOSITORY:-bitnami-etcd}"
export ETCD_IMAGE_PULL_SECRETS="${ETCD_IMAGE_PULL_SECRETS:-acr-secret}"
install_at azure storage-class-azure api-service http-source-service

# address APP: the IP of its load balancer, which Azure gives after a while (at most 15 minutes).
address() {
  local ip tries=0
  until ip=$(kubectl get services --namespace "$NAMESPACE" --selector "app=$1" \
    -o jsonpath='{.items[0].status.loadBalancer.ingress[0].ip}') && [[ -n "$ip" ]]; do
    ((++tries < 90)) || {
      echo "The load balancer of $1 has got no address." >&2
      return 1
    }
    sleep "${POLL_SECONDS:-10}"
  done
  echo "$ip"
}
API_IP=$(address stream-api)
HTTP_SOURCE_IP=$(address stream-http-source)

GATEWAY=$(output kbc-application-gateway appGatewayName)
# route NAME IP: the gateway sends what arrives for NAME to IP.
route() {
  az network application-gateway address-pool update --gateway-name "$GATEWAY" --resource-group "$RESOURCE_GROUP" \
    --name "$1" --servers "$2"
  az network application-gateway probe update --gateway-name "$GATEWAY" --resource-group "$RESOURCE_GROUP" \
    --name "$1-health-probe" --host "$2"
}
route stream "$API_IP"
route stream-in "$HTTP_SOURCE_IP"
