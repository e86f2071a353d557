"""Finds the packages; pyproject.toml has the rest. It can't add mnistjax.conf, which is conf/, to those found."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["mnistjax*"]), "mnistjax.conf"])
