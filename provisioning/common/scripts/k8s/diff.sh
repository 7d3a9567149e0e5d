#!/usr/bin/env bash
# diff.sh OLD NEW: compares two dumps without what differs in each run. Exits 1 if they differ.
set -Eeuo pipefail

: "${1:?Missing the old dump}"
: "${2:?Missing the new dump}"

# A line for each value, as gron prints them: path = value.
normalised() {
  jq -r '
    .items
    | map(select(.kind != "Pod" and .kind != "Endpoints")
      | del(.status, .metadata.uid, .metadata.resourceVersion, .metadata.generation, .metadata.creationTimestamp,
          .metadata.managedFields, .metadata.annotations["deployment.kubernetes.io/revision"],
          .metadata.annotations["kubectl.kubernetes.io/last-applied-configuration"],
          .spec.template.metadata.annotations["kubectl.kubernetes.io/restartedAt"],
          .spec.template.metadata.labels.releaseId, .spec.clusterIP, .spec.clusterIPs))
    | map({key: "\(.kind)/\(.metadata.name)", value: .}) | from_entries
    | paths(scalars) as $path | "\($path | map(tostring) | join(".")) = \(getpath($path) | tojson)"
  ' "$1" | sort
}
# Not by <(…): a dump that can't be read would be an empty one, equal to another.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
normalised "$1" >"$folder/old"
normalised "$2" >"$folder/new"
diff --unified=0 --label "$1" --label "$2" "$folder/old" "$folder/new"
