#!/usr/bin/env bash
# Installs MiniKube for Linux into INSTALL_DIR, after comparing its checksum.
set -Eeuo pipefail

: "${MINIKUBE_VERSION:=v1.36.0}"
: "${INSTALL_DIR:=/usr/local/bin}"
case "$(uname -m)" in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*)
  echo "No MiniKube for $(uname -m)" >&2
  exit 1
  ;;
esac
base="https://github.com/kubernetes/minikube/releases/download/$MINIKUBE_VERSION/minikube-linux-$arch"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
curl --fail --silent --show-error --location --output "$folder/minikube" "$base"
curl --fail --silent --show-error --location --output "$folder/sum" "$base.sha256"
echo "$(cut -d ' ' -f 1 "$folder/sum")  $folder/minikube" | sha256sum --check --quiet
install -m 0755 "$folder/minikube" "$INSTALL_DIR/minikube"
