"""`python -m tocsin`: the same as `tocsin`."""

from tocsin.pipelines.cli import main

if __name__ == "__main__":
    main()
