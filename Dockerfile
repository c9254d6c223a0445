# The web UI in a container. Voices and training runs are in folders of the host:
#   docker build -t revoice .                             for a CPU
#   docker build -t revoice --build-arg COMPUTE=cuda .    for NVIDIA cards; then run with --gpus all --shm-size 2g, because
#                                                         training on a GPU loads its clips in separate processes
#   docker run --init -p 7865:7865 -v ./weights:/revoice/weights -v ./logs:/revoice/logs revoice
# The page can be reached from outside the container, so it requires a login: -e REVOICE_USER=... -e REVOICE_PASSWORD=...,
# or the password that `docker logs` shows.
# The digest is that of Python 3.12.14 of September 2026, for all architectures. A tag can be moved to another image; a digest
# cannot. A newer image: --build-arg BASE=python:3.12-slim@sha256:... as shown by
#   docker buildx imagetools inspect python:3.12-slim
ARG BASE=python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea
FROM ${BASE}
ARG COMPUTE=cpu
ENV PYTHONUTF8=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /revoice

# Packages first: they rarely change, so a change of the program does not install them again.
COPY requirements.txt requirements-torch.lock requirements-run.lock ./
RUN set -eu; \
    pins=$(grep -E '^torch(audio)?==' requirements.txt); \
    case "$COMPUTE" in \
      cpu) pip install --no-deps --index-url https://download.pytorch.org/whl/cpu $pins ;; \
      cuda) pip install --no-deps --require-hashes -r requirements-torch.lock ;; \
      *) echo "COMPUTE is cpu or cuda, not $COMPUTE" >&2; exit 1 ;; \
    esac; \
    pip install --no-deps --require-hashes -r requirements-run.lock

COPY infer-web.py LICENSE ./
COPY configs configs
COPY i18n i18n
COPY lib lib
COPY infer infer
COPY train train
COPY web web
COPY docs docs
COPY pretrained/lite pretrained/lite

# Not as root. The user id is the first one of most hosts, so that mounted folders are writable.
RUN useradd --uid 1000 --create-home revoice && mkdir -p weights logs && chown revoice weights logs pretrained
USER revoice
VOLUME ["/revoice/weights", "/revoice/logs"]
EXPOSE 7865
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 7865), 5)"]
ENTRYPOINT ["python", "infer-web.py", "--host", "0.0.0.0", "--port", "7865"]
