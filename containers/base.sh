#!/bin/sh
# Builds a base image from Debian's packages, with Python 3.11, on a machine that cannot reach a
# registry of images. Needs root, debootstrap and buildah.
#
#   containers/base.sh                # the image localhost/mnist-kserve-base
#   make images BUILD_ARGS="--build-arg BASE=localhost/mnist-kserve-base"
set -eu

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
debootstrap --variant=minbase --include=ca-certificates,python3-venv bookworm "$root" \
    "${MIRROR:-http://deb.debian.org/debian}"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
container=$(buildah from scratch)
buildah add --quiet "$container" "$root" /
buildah commit --quiet --rm "$container" localhost/mnist-kserve-base
