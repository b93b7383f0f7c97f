"""`python -m causeway` is the `causeway` command."""

from causeway.cluster.cli.main import main

if __name__ == "__main__":
    main()
