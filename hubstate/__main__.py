"""``python -m hubstate``: the same as the ``hubstate`` command."""

from hubstate.cli import main

if __name__ == "__main__":
    main()
