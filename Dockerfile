# The image of Tocsin, for one container (`docker run tocsin:0.1.0 run rul`) and for the nodes of a Ray cluster.
#
#   docker build --tag tocsin:0.1.0 --build-arg TORCH_INDEX=ADDRESS .       for CPUs; ADDRESS: the index of torch's CPU wheels
#   docker build --tag tocsin:0.1.0-cuda --build-arg DEVICE=cuda .          for NVIDIA GPUs; it also runs without one
#
# requirements.lock is resolved for this Python.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
# cpu or cuda. The default index has only CUDA wheels of torch for Linux, so cpu needs TORCH_INDEX.
ARG DEVICE=cpu
# The package index that torch comes from. Default with cuda: the default index
ARG TORCH_INDEX
ARG UV=0.13.9
WORKDIR /build
RUN pip install --no-cache-dir "uv==${UV}" && python -m venv --without-pip /opt/tocsin
ENV VIRTUAL_ENV=/opt/tocsin UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1

# First what changes seldom. Without TORCH_INDEX, cuda installs the lock file as it is. Else torch comes from TORCH_INDEX: for cpu
# alone, for cuda with the CUDA packages that its wheel asks for. `gpu` names the packages that only torch needs.
COPY requirements.lock ./
RUN set -eu; \
    gpu='^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)=='; \
    grep -vE "$gpu" requirements.lock > rest.txt; \
    grep '^torch==' requirements.lock > torch.txt; \
    case "$DEVICE" in \
    cpu) \
        : "${TORCH_INDEX:?expected the address of an index with CPU wheels of torch, got none; pass --build-arg TORCH_INDEX=ADDRESS, or --build-arg DEVICE=cuda}"; \
        uv pip install --no-deps --requirements rest.txt; \
        uv pip install --no-deps --default-index "$TORCH_INDEX" --requirements torch.txt;; \
    cuda) \
        if [ -n "${TORCH_INDEX:-}" ]; then \
            uv pip install --no-deps --requirements rest.txt; \
            uv pip install --index "$TORCH_INDEX" --requirements torch.txt; \
        else \
            uv pip install --no-deps --requirements requirements.lock; \
        fi;; \
    *) echo "DEVICE: expected cpu or cuda, got $DEVICE" >&2; exit 1;; \
    esac

COPY pyproject.toml README.md LICENSE ./
COPY operators operators
COPY models models
COPY pipelines pipelines
COPY deploy deploy
COPY tocsin tocsin
RUN uv pip install --no-deps --no-build-isolation .


FROM python:${PYTHON}-slim
# tini passes SIGTERM on, which drains the pipeline, and reaps the processes that Ray leaves behind.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home --home-dir /var/lib/tocsin tocsin
COPY --from=build /opt/tocsin /opt/tocsin
ENV PATH=/opt/tocsin/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 \
    GRPC_ENABLE_FORK_SUPPORT=0

# A number, so that Kubernetes can check `runAsNonRoot`.
USER 1000:1000
# Also the home folder. Everything that a container writes is here, in /tmp and in /dev/shm: Ray's token, `.tocsin`, and the lake
# while lake.path is its default. Mount a volume here.
WORKDIR /var/lib/tocsin

# Asks whether the supervisor's loop runs, where TOCSIN_HEALTH__PORT is set; else there is no endpoint to ask. Not /readyz: a
# paused pipeline, or one that waits for Kafka, is not ready, and a restart of the container would not help.
HEALTHCHECK --interval=15s --timeout=5s --start-period=2m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; port = os.environ.get('TOCSIN_HEALTH__PORT', '0'); port == '0' or urllib.request.urlopen(f'http://127.0.0.1:{port}/livez', timeout=4)"]

ENTRYPOINT ["tini", "--", "tocsin"]
CMD ["--help"]
