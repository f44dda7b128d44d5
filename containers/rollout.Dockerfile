# Takes canaries to their end, in the cluster; has the part of the predictor that reads metadata,
# and of serving what ends a program while it imports, the numbers of flags, and that of classes.
ARG BASE=docker.io/library/python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${BASE} AS build
ARG PIP_INDEX_URL=https://pypi.org/simple
WORKDIR /build
COPY constraints.txt containers/install.sh containers/rollout.txt ./
RUN ./install.sh rollout.txt \
    aiohappyeyeballs aiohttp aiohttp-retry aiosignal attrs frozenlist multidict propcache yarl
COPY predictor/__init__.py predictor/artifact.py predictor/metadata.py /app/predictor/
COPY rollout /app/rollout
COPY serving/__init__.py serving/numbers.py serving/scores.py serving/start.py /app/serving/
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
ENTRYPOINT ["python", "-m", "rollout"]

ARG SOURCE="" REVISION="" VERSION=""
LABEL org.opencontainers.image.title="mnist-kserve-rollout" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}"
