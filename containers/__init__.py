"""The images: what they are made of, and ``python3 -m containers`` that makes them."""
