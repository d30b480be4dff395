#!/usr/bin/env bash
# Download what a machine with torch, transformers and botorch, but without network, lacks of what autolr imports.
#
#     studies/gpu/wheels.sh FOLDER [PYTHON_VERSION]     # 3.12; about 15 MiB for x86-64 Linux
#
# No dependency is resolved: autolr asks for a newer torch than such a machine may have, and runs there all the same.
# Ray is not among them, it is 76 MiB: set RAY=1 for it and what it needs.
set -euo pipefail
folder=${1:?name a folder}
version=${2:-3.12}
packages=(alembic annotated-types beartype bottle colorlog datasets dill mako multiprocess optuna optuna-dashboard
    pydantic pydantic-core sqlalchemy)
[ -z "${RAY:-}" ] || packages+=(ray jsonschema jsonschema-specifications referencing rpds-py)
wanted=()
for package in "${packages[@]}"; do # the release that is installed here, where it is, so that both machines have the same
    here=$(python3 -c 'import sys, importlib.metadata as m; print(m.version(sys.argv[1]))' "$package" 2>/dev/null || true)
    wanted+=("$package${here:+==$here}")
done
platforms=()
for tag in 2_28 2_27 2_17; do platforms+=(--platform "manylinux_${tag}_x86_64"); done
mkdir -p "$folder"
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$folder" "${wanted[@]}"
du -sh "$folder"
