# The one image of all components; which of them it runs is the command (see charts/kubenclave).
# The same content without a container engine, for tests: tests/cluster/harness/pythonimage.py.
#
#   docker build -t registry.example/kubenclave:0.1.0 .
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# What builds the wheel, pinned, in an environment that stays behind.
COPY requirements requirements
RUN python -m venv /build && /build/bin/pip install --require-hashes -r requirements/run.txt
# The dependencies, pinned, in the environment that is copied; without pip.
RUN python -m venv --without-pip /opt/kubenclave && \
    python -m pip --python /opt/kubenclave/bin/python install --require-hashes --only-binary=:all: -r requirements/image.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . && \
    python -m pip --python /opt/kubenclave/bin/python install --no-deps /wheels/*.whl

FROM ${BASE}
COPY --from=build /opt/kubenclave /opt/kubenclave
ENV PATH=/opt/kubenclave/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["kubenclave"]
