# Triton on a node with an NVIDIA GPU, and on arm64 (Jetson), for which no wheel of the server exists.
# `docker build -f docker/triton-gpu.Dockerfile -t tridetr-triton-gpu .`; for Jetson: --build-arg TRITON=…-py3-igpu
# Not usable yet: `tridetr triton` does not know this image's server (docs/triton.md, "GPU").
ARG TRITON=nvcr.io/nvidia/tritonserver:25.10-py3
FROM ${TRITON}
LABEL org.opencontainers.image.title="tridetr Triton (GPU)" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY clients clients
COPY model_repository model_repository
RUN python3 -m venv --system-site-packages /opt/tridetr \
 && /opt/tridetr/bin/pip install --no-cache-dir --constraint constraints.txt '.[otel,gpu]' \
 && rm -rf /src \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tridetr \
 && install -d -o 10001 -g 10001 /run/tridetr /var/lib/tridetr /var/cache/tridetr
WORKDIR /
ENV PATH=/opt/tridetr/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
# The base image's entry point prints a banner and starts no server; ours is the clients' command.
ENTRYPOINT ["tridetr"]
CMD ["up", "--config", "/etc/tridetr/node/tridetr.yaml", "--only", "triton"]
