#!/usr/bin/env bash
# Signs in to the k6 cloud if there is a token, then runs k6 with the given arguments.
set -Eeuo pipefail

if [[ -n "${K6_CLOUD_API_TOKEN:-}" ]]; then
  k6 cloud login --token "$K6_CLOUD_API_TOKEN"
fi
exec k6 "$@"
