# docker build -t lumen . && docker run --rm -v "$PWD/runs:/work/runs" lumen train scenes
FROM python:3.12-slim
WORKDIR /lumen
COPY . .
# The CPU build of PyTorch saves 4 GB: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_INDEX=https://pypi.org/simple
RUN pip install --no-cache-dir torch torchvision --index-url "$TORCH_INDEX" && pip install --no-cache-dir .
WORKDIR /work
ENTRYPOINT ["lumen"]
