# For TPUs:  docker build -f deploy/tpu.Dockerfile -t REGISTRY/tessy-jax:tpu .
FROM python:3.12-slim

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY tessy_jax tessy_jax
COPY models models
COPY train train
RUN pip install --no-cache-dir '.[tpu,storage,eval]'

COPY configs configs
COPY deploy/run.sh deploy/run.sh
ENTRYPOINT ["/app/deploy/run.sh"]
CMD ["python", "-m", "tessy_jax"]
