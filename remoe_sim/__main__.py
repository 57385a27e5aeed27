"""`python -m remoe_sim`: the command line, for where scripts are not on the path."""

from remoe_sim.cli import run

if __name__ == "__main__":
    run()
