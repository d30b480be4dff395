#!/usr/bin/env bash
# Copy of the models and data what run.sh reads, to take along: about 46 MiB.
#
#     AUTOLR_ASSETS=... studies/gpu/assets.sh FOLDER
set -euo pipefail
from=${AUTOLR_ASSETS:?name the folder of models and data}
to=${1:?name a folder}
mkdir -p "$to/models" "$to/data/nli"
cp -RL "$from/models/minilm-nli" "$to/models/"
for part in train validation test; do cp -L "$from/data/nli/snli_$part.jsonl.gz" "$to/data/nli/"; done
chmod -R u+w "$to"
du -sh "$to"
