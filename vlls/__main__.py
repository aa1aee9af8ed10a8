"""``python -m vlls``."""

from vlls.cli import main

if __name__ == "__main__":
    main()
