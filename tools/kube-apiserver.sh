#!/usr/bin/env bash
# Builds the server of Kubernetes' API from its Go modules, for `make kube-check`. Needs Go; takes some minutes.
#   kube-apiserver.sh FILE
set -Eeuo pipefail

: "${KUBERNETES_VERSION:=1.34.4}"
: "${1:?Missing the file to write}"
file=$(realpath --canonicalize-missing "$1")
mkdir -p "$(dirname "$file")"
module=k8s.io/kubernetes
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# Kubernetes' own versions and checksums. Its parts are folders beside it there; published, they are modules of their
# own with the same number behind "v0".
source=$(GOFLAGS=-mod=mod go mod download -json "$module@v$KUBERNETES_VERSION" | jq --raw-output .Dir)
sed -E "s#^module .*#module built#; s#=> \./staging/src/(.*)#=> \1 v0.${KUBERNETES_VERSION#*.}#" "$source/go.mod" >go.mod
cp "$source/go.sum" go.sum
chmod u+w go.sum
go mod edit -require "$module@v$KUBERNETES_VERSION"
version=k8s.io/component-base/version
IFS=. read -r major minor _ <<<"$KUBERNETES_VERSION"
flags="-s -w -X $version.gitVersion=v$KUBERNETES_VERSION -X $version.gitMajor=$major -X $version.gitMinor=$minor"
GOFLAGS=-mod=mod GOTOOLCHAIN=local CGO_ENABLED=0 go build -o "$file" -ldflags "$flags" "$module/cmd/kube-apiserver"
