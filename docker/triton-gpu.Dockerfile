# A node with an NVIDIA GPU, and arm64 (Jetson), for which no wheel of Triton's server exists.
# `docker build -f docker/triton-gpu.Dockerfile -t tridetr-triton-gpu .`; for Jetson: --build-arg TRITON=…-py3-igpu
# `tridetr triton` starts the base image's own server (/opt/tritonserver) with its native backends. The gpu process
# (`tridetr gpu`) runs from this image, too: frames in GPU memory need the same libraries.
ARG TRITON=nvcr.io/nvidia/tritonserver:25.10-py3
FROM ${TRITON}
LABEL org.opencontainers.image.title="tridetr Triton (GPU)" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY clients clients
COPY model_repository model_repository
# --without-pip, because the base image may not have ensurepip
RUN python3 -m venv --without-pip --system-site-packages /opt/tridetr \
 && python3 -m pip --python /opt/tridetr/bin/python3 install --no-cache-dir --constraint constraints.txt '.[otel,gpu,v4l2]' onnx \
 && rm -rf /src
# `tridetr models build-engine` needs the Python bindings of exactly the TensorRT version in the image, which is part of the
# library's name. If there are none (some Jetson releases), everything else works, and the command reports what is missing.
RUN library="$(readlink -f "$(ldconfig -p | grep -om1 '/.*libnvinfer\.so\.[0-9]*$')")" \
 && python3 -m pip --python /opt/tridetr/bin/python3 install --no-cache-dir \
      "tensorrt-cu${CUDA_VERSION%%.*}-bindings==${library##*.so.}.*" \
 || echo "no Python bindings of TensorRT for this image: engines cannot be built in it" >&2
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tridetr \
 && install -d -o 10001 -g 10001 /run/tridetr /var/lib/tridetr /var/cache/tridetr
WORKDIR /
ENV PATH=/opt/tridetr/bin:$PATH PYTHONUNBUFFERED=1 TRIDETR_CONTAINER=1
USER 10001:10001
# Replaces the base image's entry point, which only prints a banner.
ENTRYPOINT ["tridetr"]
CMD ["up", "--config", "/etc/tridetr/node/tridetr.yaml", "--only", "triton"]
