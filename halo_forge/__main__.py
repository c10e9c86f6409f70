"""`python -m halo_forge` is the same program as `halo-forge`."""

from halo_forge.cli.app import main

if __name__ == "__main__":
    main()
