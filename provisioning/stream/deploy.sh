#!/usr/bin/env bash
# Installs Stream into the cluster of one provider: CLOUD_PROVIDER is aws, azure, gcp or local.
set -Eeuo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
for name in CLOUD_PROVIDER BUILD_BUILDID RELEASE_RELEASENAME; do
  if [[ -z "${!name:-}" ]]; then
    echo "Missing $name" >&2
    exit 1
  fi
done
export CLOUD_PROVIDER
export RELEASE_ID="$BUILD_BUILDID-$RELEASE_RELEASENAME"

case "$CLOUD_PROVIDER" in
aws | azure | gcp | local) ;;
*)
  echo "Unknown CLOUD_PROVIDER \"$CLOUD_PROVIDER\": aws, azure, gcp or local" >&2
  exit 1
  ;;
esac
# shellcheck disable=SC1090
source "./$CLOUD_PROVIDER.sh"
