#!/usr/bin/env bash
# Renders the templates for one provider into deploy/, made anew each time.
#
# A line that ends in "# @aws,gcp" is kept for these providers alone. REMOVE_RESOURCES_LIMITS=true drops the limits of
# the pods, for a small cluster.
set -Eeuo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
: "${CLOUD_PROVIDER:?Missing CLOUD_PROVIDER}"
: "${REMOVE_RESOURCES_LIMITS:=false}"
case "$CLOUD_PROVIDER" in
aws | azure | gcp | local) ;;
*)
  echo "Unknown CLOUD_PROVIDER \"$CLOUD_PROVIDER\": aws, azure, gcp or local" >&2
  exit 1
  ;;
esac

rm -rf ./deploy
mkdir -p ./deploy

# Only these are replaced, so a "$" of another meaning in a template stays as it is.
mapfile -t names < <(grep -rhoE '\$[A-Z][A-Z0-9_]*' ./templates | sort -u)
for name in "${names[@]#\$}"; do
  if [[ -z "${!name:-}" ]]; then
    echo "Missing $name" >&2
    exit 1
  fi
done

for template in ./templates/*.yaml; do
  name=$(basename "$template")
  case "$name" in
  storage-class-*) [[ "$name" == "storage-class-$CLOUD_PROVIDER.yaml" ]] || continue ;;
  *-ingress.yaml) [[ "$CLOUD_PROVIDER" == aws || "$CLOUD_PROVIDER" == gcp ]] || continue ;;
  esac
  awk -v provider="$CLOUD_PROVIDER" -v strip="$REMOVE_RESOURCES_LIMITS" '
    match($0, / # @[a-z,]+$/) {
      if (index("," substr($0, RSTART + 4) ",", "," provider ",") == 0) next
      $0 = substr($0, 1, RSTART - 1)
    }
    {
      match($0, /^ */)
      if (skipping && RLENGTH > depth && NF) next
      skipping = 0
    }
    # The resources of a container; those of a volume claim are its size and stay.
    strip == "true" && /^ +resources:$/ && !claim { skipping = 1; depth = RLENGTH; next }
    /volumeClaimTemplates:/ { claim = 1 }
    /^  template:/ { claim = 0 }
    { print }
  ' "$template" | envsubst "${names[*]}" >"./deploy/$name"
done

# Values of the chart are its own language: copied.
cp ../../common/etcd/values.yaml ./deploy/etcd-values-common.yaml
cp ../etcd/values.yaml ./deploy/etcd-values.yaml
