#!/bin/sh
# Makes /venv: the packages of LIST and what they depend on, in the versions of constraints.txt,
# without the UNUSED ones. Runs in the build stage of each image.
#
#   install.sh LIST [UNUSED DISTRIBUTION ...]
set -eu

list=$1
shift
python3 -m venv /venv
/venv/bin/pip install --no-cache-dir --no-compile --only-binary=:all: \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --constraint constraints.txt --requirement "$list"
# pip and setuptools come with the environment, and are not needed any more.
/venv/bin/pip uninstall --yes "$@" setuptools pip

# Tests, which are all that onnx/backend has, C++ headers and a second client of Kubernetes are never
# used. Of torch's programs, only torch_shm_manager is needed, when torch is imported.
cd /venv/lib/python3*/site-packages
rm -rf kubernetes/aio onnx/backend torch/include torch/test
find . -type d -name tests -prune -exec rm -rf {} +
if [ -d torch/bin ]; then
    find torch/bin -type f ! -name torch_shm_manager -delete
fi

# The sources never change in an image, so with unchecked hashes Python need not check their dates.
# torch's own testing code is left out: it has syntax of a newer Python.
python3 -m compileall -q -j 0 -x /torch/testing/_internal/ --invalidation-mode unchecked-hash \
    /venv/lib
