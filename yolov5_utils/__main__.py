"""`python -m yolov5_utils`: see cli.py."""

import sys

from .cli import main

if __name__ == "__main__":
    code = main()
    if code:  # else by falling off the end: under `python -i`, SystemExit is an error to show
        sys.exit(code)
