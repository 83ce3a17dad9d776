"""``python -m steepest`` is the ``steepest`` command."""

from steepest.cli.main import main

if __name__ == "__main__":
    main()
