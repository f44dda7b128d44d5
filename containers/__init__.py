"""The container images: their Dockerfiles, and ``python3 -m containers``, which builds them."""
