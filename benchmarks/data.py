"""Where to find the data sets that are not in the repository."""

from pathlib import Path

_ROOT = Path(__file__).parents[1]
# Several checkouts may share a folder beside them.
_FOLDERS = _ROOT / "data", _ROOT.parent / "shared/data"
_FOLDER = next((folder for folder in _FOLDERS if folder.exists()), _FOLDERS[0])

MNIST = _FOLDER / "mnist"
"""MNIST's four files, where ``python -m training`` puts them."""
HWD1000 = _FOLDER / "hwd1000"
"""1,000 digits drawn by hand, black on white, in the form of new images (``training/uploads.py``).

They stand in for what users upload, in development and tests; never train on them.
"""
