"""The same model in other servers, each written as its documentation says; see ``servers.py``."""
