#!/usr/bin/env bash
# Google: a GKE cluster that Terraform describes in ./gcp, an ingress for each of the two addresses.
source "$(dirname "${BASH_SOURCE[0]}")/included.sh"

: "${TERRAFORM_REMOTE_STATE_BUCKET:?Missing TERRAFORM_REMOTE_STATE_BUCKET}"
: "${TF_INIT_ONLY:=false}"

terraform_init() {
  terraform -chdir=./gcp init -input=false -backend-config="bucket=$TERRAFORM_REMOTE_STATE_BUCKET" \
    -backend-config="prefix=keboola-as-code/stream"
}
if [[ "$TF_INIT_ONLY" == true ]]; then
  terraform_init
  exit 0
fi
: "${GOOGLE_APPLICATION_CREDENTIALS:?Missing GOOGLE_APPLICATION_CREDENTIALS}"
: "${GCP_PROJECT:?Missing GCP_PROJECT}"

export TF_VAR_keboola_stack="${KEBOOLA_STACK:?Missing KEBOOLA_STACK}"
export TF_VAR_terraform_remote_state_bucket="$TERRAFORM_REMOTE_STATE_BUCKET"

terraform_init
terraform -chdir=./gcp validate
terraform -chdir=./gcp plan -input=false -out=terraform.tfplan
terraform -chdir=./gcp apply -input=false -auto-approve terraform.tfplan
CLUSTER_NAME=$(terraform -chdir=./gcp output -raw main_gke_cluster_name)
CLUSTER_LOCATION=$(terraform -chdir=./gcp output -raw main_gke_cluster_location)

gcloud auth login --cred-file="$GOOGLE_APPLICATION_CREDENTIALS"
if ! command -v gke-gcloud-auth-plugin >/dev/null; then
  gcloud components install gke-gcloud-auth-plugin --quiet
fi
gcloud container clusters get-credentials "$CLUSTER_NAME" --location "$CLUSTER_LOCATION" --project "$GCP_PROJECT"

export ETCD_STORAGE_CLASS_NAME="${ETCD_STORAGE_CLASS_NAME:-standard-rwo}"
install_at gcp storage-class-gcp api-service api-ingress http-source-service http-source-ingress
