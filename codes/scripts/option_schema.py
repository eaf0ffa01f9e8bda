"""Write the schema of all options for editors, or the page docs/options.md:

python codes/scripts/option_schema.py > options/schema.json
python codes/scripts/option_schema.py --markdown > docs/options.md
"""

import argparse
import sys
from collections.abc import Sequence

if not __package__:
    from as_module import run_as_module

    run_as_module(__file__)

from ..recipe.schema import json_schema, markdown


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Write all options of a recipe to standard output, made from the option classes."
    )
    parser.add_argument("--markdown", action="store_true", help="a page to read instead of a JSON schema")
    arguments = parser.parse_args(argv)
    sys.stdout.write(markdown() if arguments.markdown else json_schema())
    return 0


if __name__ == "__main__":
    sys.exit(main())
