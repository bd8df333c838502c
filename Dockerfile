FROM python:3.12-slim AS build
WORKDIR /src
RUN pip install --no-cache-dir 'build>=1.2'
COPY . .
# By way of the sdist, so that nothing but what is released can get in.
RUN python -m build --outdir /dist

FROM python:3.12-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1
RUN --mount=type=bind,from=build,source=/dist,target=/dist \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install -c /constraints.txt /dist/*.whl \
    && useradd --system --uid 10001 --create-home --home-dir /app perdure
WORKDIR /app
# By its number: whoever checks that it is not root (runAsNonRoot) cannot look a name up.
USER 10001
EXPOSE 3773
# Of the front door, which is what CMD starts. A worker's is in docker-compose.yml, for it has no port.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as request; request.urlopen('http://127.0.0.1:3773/healthz', timeout=4)"]
# The agent's file is mounted, or copied in by an image built on this one.
CMD ["perdure", "serve", "/app/agent.py", "--host", "0.0.0.0", "--port", "3773"]
