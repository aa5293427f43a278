"""`python -m yolov5_utils`: see commands/cli.py."""

import sys

if __name__ == "__main__":
    # The working directory leads sys.path, where a script that lies elsewhere would import nothing
    # from: until the launcher puts the script's folder there, the next entry is there twice.
    if not getattr(sys.flags, "safe_path", sys.flags.isolated):
        sys.path[0] = sys.path[1]
    from .commands.cli import main

    code = main()
    if code:  # else by falling off the end: under `python -i`, SystemExit is an error to show
        sys.exit(code)
