"""The version of npusim, as pyproject.toml states it."""

VERSION = "0.1.0"
