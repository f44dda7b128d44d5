"""The container images: their Dockerfile, and ``python3 -m containers``, which builds them."""
