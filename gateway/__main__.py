"""`python -m gateway`: the command line, which lives in `gateway.cli`."""

import sys

from gateway.cli import main

sys.exit(main())
