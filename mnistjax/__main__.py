"""`python -m mnistjax` is `mnistjax`."""

from mnistjax.cli import command

command()
