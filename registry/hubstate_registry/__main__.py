"""``python -m hubstate_registry`` is ``hubstate-registry``."""

from hubstate_registry.cli import main

if __name__ == "__main__":
    main()
