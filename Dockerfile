# Two images from one file:
#   docker build --target operator -t instructbooth/operator .
#   docker build --target trainer  -t instructbooth/trainer  .
# Dependencies come from hashed locks in a layer of their own; the project is the last layer, so that a change of
# source makes a few megabytes, not six gigabytes. Behind a proxy that signs with an authority of its own, mount its
# certificate and pass --build-arg PIP_CERT=... --build-arg SSL_CERT_FILE=...
FROM debian:bookworm-slim AS base
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && apt-get clean \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp

FROM base AS tools
ARG PIP_CERT
ARG SSL_CERT_FILE
COPY requirements/build.txt /requirements/
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv \
 && python3 -m venv /opt/tools \
 && /opt/tools/bin/pip install --no-cache-dir --require-hashes --requirement /requirements/build.txt
ENV UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never

# The project alone, in a skeleton of the environment that the final images have.
FROM tools AS project-operator
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY instructbooth instructbooth
COPY operator operator
RUN /opt/tools/bin/uv venv --python /usr/bin/python3 /opt/venv \
 && /opt/tools/bin/uv build --wheel --no-build-isolation --python /opt/tools/bin/python --out-dir /wheel . \
 && /opt/tools/bin/uv pip install --python /opt/venv --no-deps /wheel/*.whl \
 && rm /opt/venv/bin/instructbooth-trainer /opt/venv/bin/instructbooth

FROM tools AS project-trainer
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY instructbooth instructbooth
COPY trainer trainer
COPY miniature miniature
RUN /opt/tools/bin/uv venv --python /usr/bin/python3 /opt/venv \
 && /opt/tools/bin/uv build --wheel --no-build-isolation --python /opt/tools/bin/python --out-dir /wheel . \
 && /opt/tools/bin/uv pip install --python /opt/venv --no-deps /wheel/*.whl \
 && rm /opt/venv/bin/instructbooth-operator

FROM base AS operator
ARG SSL_CERT_FILE
COPY requirements/operator.txt /requirements/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    UV_NO_CACHE=1 /opt/tools/bin/uv venv --python /usr/bin/python3 /opt/venv \
 && UV_NO_CACHE=1 /opt/tools/bin/uv pip install --python /opt/venv \
      --require-hashes --requirement /requirements/operator.txt \
 # What only the command line and the trainer use.
 && /opt/tools/bin/uv pip uninstall --python /opt/venv minio pycryptodome argon2-cffi argon2-cffi-bindings rich pygments \
 # Bytecode for what a start imports; all of the Kubernetes client's would double the image.
 && PYTHONDONTWRITEBYTECODE= /opt/venv/bin/python -c "import kopf, kubernetes.aio.client, kubernetes.aio.config, pydantic"
COPY --from=project-operator /opt/venv /opt/venv
USER 65532:65532
ENTRYPOINT ["instructbooth-operator"]

FROM base AS trainer
ARG SSL_CERT_FILE
COPY requirements/trainer.txt /requirements/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    UV_NO_CACHE=1 /opt/tools/bin/uv venv --python /usr/bin/python3 /opt/venv \
 && UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 /opt/tools/bin/uv pip install --python /opt/venv \
      --require-hashes --requirement /requirements/trainer.txt
COPY --from=project-trainer /opt/venv /opt/venv
USER 65532:65532
ENTRYPOINT ["instructbooth-trainer"]
