# The official Envoy with this project's configuration, for app-envoy-service.yaml. From the checkout:
#   docker build -f deploy/cloud-run/envoy.Dockerfile -t ENVOY_IMAGE .
ARG ENVOY_IMAGE=envoyproxy/envoy:v1.40.0
FROM ${ENVOY_IMAGE}
COPY envoy /etc/envoy
