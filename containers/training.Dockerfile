# Training and retraining, with drivers for all stores; runs and data go to the volume at /work.
ARG BASE=docker.io/library/python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${BASE} AS build
ARG PIP_INDEX_URL=https://pypi.org/simple
# Wheels without CUDA; those with it are at whl/cu130.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
COPY constraints.txt containers/install.sh containers/training.txt ./
RUN ./install.sh training.txt
COPY predictor /app/predictor
COPY serving /app/serving
COPY training /app/training
COPY transformer /app/transformer
# Whatever the umask of the checkout, the image's user shall read these files and not write them.
RUN chmod -R go=rX /app \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${BASE}
# The base's own pip is not needed, nor the copy from which Python would install it again.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* \
    /usr/lib/python3*/ensurepip /usr/local/lib/python3*/ensurepip /usr/share/python-wheels
COPY --from=build /venv /venv
COPY --from=build /app /app
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
USER 65532:65532
WORKDIR /work
ENTRYPOINT ["python", "-m", "training"]

ARG SOURCE="" REVISION="" VERSION=""
LABEL org.opencontainers.image.title="mnist-kserve-training" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}"
