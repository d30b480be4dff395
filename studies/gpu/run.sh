#!/usr/bin/env bash
# Every check there is of what a GPU changes, within eight minutes and without network.
#
#     studies/gpu/run.sh OUT               # on a machine with a GPU: OUT/gpu.json, OUT/gpu.md, OUT/log.txt
#     studies/gpu/run.sh OUT --rehearse    # tiny sizes, on the CPU
#
# AUTOLR_WHEELS: folder of wheels of what the machine lacks, see wheels.sh; AUTOLR_ASSETS: models and data, see
# assets.sh; PYTHON: the interpreter that has torch.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
export AUTOLR_GPU_STARTED="${AUTOLR_GPU_STARTED:-$(date +%s)}"
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
site=
if [ -n "${AUTOLR_WHEELS:-}" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
        --root-user-action=ignore --target "$site" "$AUTOLR_WHEELS"/*.whl
fi
export PYTHONPATH="$root${site:+:$site}${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
"$python" "$here/run.py" "$@"
