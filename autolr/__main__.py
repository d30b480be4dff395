"""``python -m autolr`` is the command ``autolr``."""

from autolr.cli import main

if __name__ == "__main__":
    main()
