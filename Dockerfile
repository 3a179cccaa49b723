# The two sides as images: docker build --target edge . | docker build --target central .
# Packages come from the compiled requirement files, each checked against its hash.
ARG PYTHON=3.11-slim

FROM python:${PYTHON} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HOME=/tmp
RUN useradd --system --uid 10001 --no-create-home --home-dir /tmp metercast \
    && install -d -o metercast -g metercast /var/lib/metercast
WORKDIR /srv/metercast

FROM base AS edge-packages
COPY requirements/edge.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/tmp/.cache/pip \
    python -m venv /opt/venv && pip install --quiet --require-hashes -r /tmp/requirements.txt

FROM base AS central-packages
COPY requirements/central.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/tmp/.cache/pip \
    python -m venv /opt/venv && pip install --quiet --require-hashes -r /tmp/requirements.txt

FROM base AS edge
COPY --from=edge-packages /opt/venv /opt/venv
COPY params.yaml ./
COPY shared ./shared
COPY edge ./edge
# Within the container's own network; the compose file decides who else may look.
ENV METERCAST_EDGE_STATE_DIR=/var/lib/metercast \
    METERCAST_EDGE_METRICS_HOST=0.0.0.0
USER metercast
VOLUME /var/lib/metercast
EXPOSE 9464
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=4 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9464/metrics', timeout=4)"]
CMD ["python", "-m", "edge", "run"]

FROM base AS central
# LightGBM's wheel expects the system's OpenMP.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=central-packages /opt/venv /opt/venv
COPY params.yaml ./
COPY shared ./shared
COPY central ./central
ENV METERCAST_CENTRAL_WORK_DIR=/var/lib/metercast \
    METERCAST_CENTRAL_METRICS_HOST=0.0.0.0 \
    GIT_PYTHON_REFRESH=quiet
USER metercast
VOLUME /var/lib/metercast
EXPOSE 9465
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9465/metrics', timeout=4)"]
CMD ["python", "-m", "central", "run"]
