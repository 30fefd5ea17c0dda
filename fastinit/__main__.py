"""The command line: `python -m fastinit`."""

import sys

from fastinit.commands.main import main

sys.exit(main())
