# The keeper in a slim image: built from the lock, run by nobody in particular, with nothing to write but /state.
#
#   docker build -t langdao-keeper .
#   docker run --read-only --env-file .env -v keeper-state:/state -p 127.0.0.1:4100:4100 langdao-keeper

FROM python:3.12-slim AS build
WORKDIR /build
RUN python -m venv /opt/keeper
COPY requirements/run.txt requirements/build.txt ./requirements/
RUN /opt/keeper/bin/pip install --no-cache-dir --require-hashes -r requirements/run.txt \
    && python -m venv /build/hatch \
    && /build/hatch/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY bot ./bot
RUN /build/hatch/bin/python -m hatchling build -t wheel -d /build/wheel \
    && /opt/keeper/bin/pip install --no-cache-dir --no-deps /build/wheel/*.whl

FROM python:3.12-slim
RUN groupadd --gid 10001 keeper \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /state --shell /usr/sbin/nologin keeper \
    && install -d -o keeper -g keeper -m 0700 /state
COPY --from=build /opt/keeper /opt/keeper
ENV PATH=/opt/keeper/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_STATE_HOME=/state \
    HTTP_BIND=0.0.0.0:4100 \
    GATEWAY_BIND=0.0.0.0:4000
USER 10001:10001
WORKDIR /state
VOLUME /state
EXPOSE 4100 4000
STOPSIGNAL SIGTERM
# It listens once it has read the chain, which takes as long as that is. The port may be another one by `.env`, a proxy too.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15m \
    CMD ["python", "-c", "import http.client, os, sys; to = http.client.HTTPConnection('127.0.0.1', int(os.environ['HTTP_BIND'].rpartition(':')[2]), timeout=4); to.request('GET', '/health'); sys.exit(to.getresponse().status != 200)"]
ENTRYPOINT ["langdao-keeper"]
CMD ["run"]
