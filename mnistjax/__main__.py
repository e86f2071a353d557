"""`python -m mnistjax` is `mnistjax`."""

import sys

from mnistjax.cli import main

sys.exit(main())
