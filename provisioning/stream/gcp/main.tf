# The state of the GKE cluster is kept elsewhere; this reads the cluster's name and place.
terraform {
  required_version = ">= 1.5"
  backend "gcs" {}
}

variable "keboola_stack" {
  type        = string
  description = "Name of the stack; the prefix of its main state."
}

variable "terraform_remote_state_bucket" {
  type        = string
  description = "Bucket of the states."
}

data "terraform_remote_state" "main" {
  backend = "gcs"
  config = {
    bucket = var.terraform_remote_state_bucket
    prefix = var.keboola_stack
  }
}

output "main_gke_cluster_name" {
  value = data.terraform_remote_state.main.outputs.main_gke_cluster_name
}

output "main_gke_cluster_location" {
  value = data.terraform_remote_state.main.outputs.main_gke_cluster_location
}
