# Triton on a PC without a GPU: the server of the nvidia-pytriton wheel (x86_64 only) with ONNX Runtime and OpenVINO.
# `docker build -f docker/triton-cpu.Dockerfile -t tridetr-triton-cpu .`
# It also contains all other parts of tridetr: `docker run --shm-size 512m tridetr-triton-cpu up --demo` runs the whole demo.
ARG BASE=docker.io/library/python:3.12-slim-bookworm
FROM ${BASE} AS build
RUN apt-get update && apt-get install --yes --no-install-recommends binutils
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY clients clients
COPY model_repository model_repository
COPY docker/slim docker/slim
RUN python -m venv /opt/tridetr \
 && /opt/tridetr/bin/pip install --no-cache-dir --no-compile --constraint constraints.txt '.[server,otel,v4l2]' \
 && /opt/tridetr/bin/pip install --no-cache-dir --no-compile --no-deps nvidia-pytriton==0.7.0 \
 && docker/slim /opt/tridetr

FROM ${BASE}
LABEL org.opencontainers.image.title="tridetr Triton (CPU)" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/tridetr /opt/tridetr
ENV PATH=/opt/tridetr/bin:$PATH PYTHONUNBUFFERED=1 TRIDETR_CONTAINER=1
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tridetr \
 && install -d -o 10001 -g 10001 /run/tridetr /var/lib/tridetr
USER 10001:10001
ENTRYPOINT ["tridetr"]
CMD ["--help"]
