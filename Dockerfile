FROM python:3.12-slim AS build
WORKDIR /src
RUN pip install --no-cache-dir build
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
USER perdure
EXPOSE 3773
# The agent's file is mounted, or copied in by an image built on this one.
CMD ["perdure", "serve", "/app/agent.py", "--host", "0.0.0.0", "--port", "3773"]
