"""Interceptors from packages that other tests do not need; ``tox -e interceptors`` installs them."""
