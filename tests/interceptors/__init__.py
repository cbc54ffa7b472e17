"""Interceptors from packages that are not needed elsewhere; ``tox -e interceptors`` installs them."""
