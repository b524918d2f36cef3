"""The page of ``demo.py``: photographs that are dropped on it are restored, and forgotten soon."""
