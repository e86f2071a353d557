"""Finds the packages, with conf/ as mnistjax.conf, which pyproject.toml can't express; it has the rest."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["mnistjax*"]), "mnistjax.conf"])
