#!/usr/bin/env bash
# Deploys an app with its sidecar to Cloud Run: prints every command first, and asks.
#
#   PROJECT=p REGION=europe-west1 SERVICE=shop CALLS="backend search" \
#   APP_IMAGE=… SIDECAR_IMAGE=… ./deploy.sh app-sidecar.yaml
#
# app-envoy-service.yaml wants ENVOY_IMAGE and SERVICE_IMAGE instead of SIDECAR_IMAGE. CALLS names the
# Cloud Run services of the same project and region that the app may call. --yes does not ask.
set -euo pipefail

fail() { echo "deploy.sh: $*" >&2; exit 2; }

yes=
[ "${1:-}" != --yes ] || { yes=1; shift; }
[ $# = 1 ] || fail "expected one of app-sidecar.yaml and app-envoy-service.yaml"
template=$1
[ -f "$template" ] || fail "$template: there is no such file"
command -v gcloud >/dev/null || fail "there is no gcloud here: install the Google Cloud CLI"

account_name=${SERVICE:-service}-caller
export SERVICE_ACCOUNT=$account_name@${PROJECT:-project}.iam.gserviceaccount.com
for name in PROJECT REGION SERVICE CALLS $(grep -o '\${[A-Z_]*}' "$template" | tr -d '${}' | sort -u); do
  [ -n "${!name:-}" ] || fail "$name is not set; see the first lines of this script"
done
[ ${#account_name} -ge 6 ] && [ ${#account_name} -le 30 ] ||
  fail "SERVICE: the service account $account_name needs 6 to 30 characters"

rendered=$(mktemp)
trap 'rm -f "$rendered"' EXIT
text=$(<"$template")
for name in $(grep -o '\${[A-Z_]*}' "$template" | tr -d '${}' | sort -u); do
  text=${text//"\${$name}"/${!name}}
done
printf '%s\n' "$text" >"$rendered"

where=(--project "$PROJECT" --region "$REGION")
steps() {   # steps DO: calls DO with each command
  if ! gcloud iam service-accounts describe "$SERVICE_ACCOUNT" --project "$PROJECT" >/dev/null 2>&1; then
    "$1" gcloud iam service-accounts create "$account_name" --project "$PROJECT" \
      --display-name "Calls services for $SERVICE"
  fi
  local called
  for called in $CALLS; do
    "$1" gcloud run services add-iam-policy-binding "$called" "${where[@]}" \
      --member "serviceAccount:$SERVICE_ACCOUNT" --role roles/run.invoker
  done
  "$1" gcloud run services replace "$rendered" "${where[@]}"
}
show() { printf '  '; printf '%q ' "$@"; printf '\n'; }
perform() { show "$@"; "$@"; }

echo "This will be done:"
steps show
echo "with this service ($template):"
sed 's/^/  | /' "$rendered"
if [ -z "$yes" ]; then
  read -r -p "Go on? [y/N] " answer || answer=
  [ "$answer" = y ] || { echo "Nothing was done."; exit 1; }
fi
steps perform
