"""``python -m quickstart_lib``, as scripts/quickstart calls it."""

import os

from quickstart_lib.cli import main

# For this process alone: cfy and what it runs must not see the scripts' directory.
os.environ.pop("PYTHONPATH", None)
main(prog_name="quickstart")
