"""`python -m ancdiff`: the same as `ancdiff`, from the package in this folder. The workflow's rules use it."""

from ancdiff.cli import main

if __name__ == "__main__":  # not in a process that a stage starts
    main()
