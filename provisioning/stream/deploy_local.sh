#!/usr/bin/env bash
# Installs Stream into a MiniKube cluster on this machine, which is started if need be.
set -Eeuo pipefail

export CLOUD_PROVIDER=local
export BUILD_BUILDID="${BUILD_BUILDID:-dev}"
export RELEASE_RELEASENAME="${RELEASE_RELEASENAME:-my-release}"
exec "$(dirname "${BASH_SOURCE[0]}")/deploy.sh"
