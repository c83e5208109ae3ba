"""The `cosnorm` command, also as `python -m cosnorm_lab`; without its extra it says what to install."""

import importlib.util
import sys

NEEDED = ("typer", "rich", "lightning_fabric", "pooch", "jinja2", "matplotlib", "PIL", "scipy", "sklearn")


def main() -> None:
    """Runs the command line; what the user can mend is printed as one line, with exit status 1 or 2."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        from cosnorm import installing  # and torch with it, which the command starts without

        sys.stderr.write(
            f"The cosnorm command needs {', '.join(missing)}; "
            f"install them with: {installing.command('lab')}\n"
        )
        sys.exit(2)
    from cosnorm_lab.cli import app
    from cosnorm_lab.errors import LabError

    try:
        app(prog_name="cosnorm")
    except LabError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(1)
    except OSError as error:
        sys.stderr.write(f"Error: {error.filename or 'reading or writing'}: {error.strerror or error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
