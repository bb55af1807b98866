# Capture, detector, controller and gateway: `docker build -f docker/client.Dockerfile -t tridetr .`
# The image contains Python, tridetr and the libraries that these load (docker/root), but no distribution and no package manager.
ARG BASE=docker.io/library/python:3.12-slim-bookworm
FROM ${BASE} AS build
RUN apt-get update && apt-get install --yes --no-install-recommends binutils busybox
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY clients clients
COPY model_repository model_repository
COPY docker/slim docker/root docker/
RUN python -m venv /opt/tridetr \
 && /opt/tridetr/bin/pip install --no-cache-dir --no-compile --constraint constraints.txt '.[otel,v4l2]' \
 && docker/slim /opt/tridetr \
 && docker/root /opt/tridetr /root-fs

FROM scratch
LABEL org.opencontainers.image.title="tridetr" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /root-fs /
ENV PATH=/opt/tridetr/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 TRIDETR_CONTAINER=1 LANG=C.UTF-8
USER 10001:10001
ENTRYPOINT ["tridetr"]
CMD ["--help"]
