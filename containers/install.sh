#!/bin/sh
# Makes /venv: what the list asks for, in the versions of constraints.txt, less what the program
# does not use. Runs in the build stage of each image.
#
#   install.sh LIST [UNUSED DISTRIBUTION ...]
set -eu

list=$1
shift
python3 -m venv /venv
/venv/bin/pip install --no-cache-dir --no-compile --only-binary=:all: \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --constraint constraints.txt --requirement "$list"
# pip and setuptools come with the environment.
/venv/bin/pip uninstall --yes "$@" setuptools pip

# Tests, C++ headers, and a second client of Kubernetes: never imported. torch asks for
# torch_shm_manager when it is imported.
cd /venv/lib/python3*/site-packages
rm -rf kubernetes/aio torch/include torch/test
find . -type d -name tests -prune -exec rm -rf {} +
if [ -d torch/bin ]; then
    find torch/bin -type f ! -name torch_shm_manager -delete
fi

# The sources never change in an image: with unchecked hashes Python need not look at their dates.
# What torch tests itself with holds the syntax of a newer Python.
python3 -m compileall -q -j 0 -x /torch/testing/_internal/ --invalidation-mode unchecked-hash \
    /venv/lib
