# Three images of one code: `service` (API, intake, migrations, io, maintain: no models), `worker-cpu` (with the small
# models) and `worker-gpu` (with torch, too). What changes seldom is installed first, our code last: a new version of it
# is one small layer.
# No HEALTHCHECK: one image runs several programs; compose.yaml says of each how its health shows.
# No init: the only children are decoders, and the worker that starts one also waits for it.

FROM python:3.12-slim-trixie AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    OMNI_HOME=/var/lib/omni-jobs
# A new volume takes its owner from the folder it is mounted on.
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /var/lib/omni-jobs omni \
 && install -d -o omni -g omni -m 0700 /var/lib/omni-jobs /scratch /models
STOPSIGNAL SIGTERM


FROM base AS core
WORKDIR /src
COPY pyproject.toml constraints.txt LICENSE ./
# An empty package stands in for ours, so that a change of the code installs no dependency anew.
RUN mkdir omni_jobs && touch README.md omni_jobs/__init__.py \
 && pip install --no-cache-dir -c constraints.txt '.'


# The cpu worker needs them as well: the speech detector comes with faster-whisper, the aligner with hama.
FROM core AS models
RUN pip install --no-cache-dir -c constraints.txt '.[embedded]'


FROM models AS engine
# Triton compiles the launchers of its kernels when they are first used.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
# torch's wheels bring CUDA along; from the host comes the driver only.
RUN pip install --no-cache-dir -c constraints.txt '.[embedded,engine]'
ENV TRITON_CACHE_DIR=/var/lib/omni-jobs/triton


FROM core AS service
WORKDIR /code
COPY . .
RUN pip install --no-cache-dir --no-deps --force-reinstall '.' && rm -rf /code/*
WORKDIR /
USER omni
CMD ["python", "-m", "omni_jobs.api"]


FROM models AS worker-cpu
WORKDIR /code
COPY . .
RUN pip install --no-cache-dir --no-deps --force-reinstall '.' && rm -rf /code/*
WORKDIR /
USER omni
CMD ["python", "-m", "workers", "cpu"]


# With OMNI_BACKEND=local the model of OMNI_MODEL answers, on the GPU; without it the small ones do, on the CPU: so they
# are in this image, too.
FROM engine AS worker-gpu
WORKDIR /code
COPY . .
RUN pip install --no-cache-dir --no-deps --force-reinstall '.' && rm -rf /code/*
WORKDIR /
USER omni
CMD ["python", "-m", "workers", "gpu"]
