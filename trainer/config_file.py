"""The trainer's settings from a TOML file, as words of the command line."""

from pathlib import Path

from genprop_core.errors import GenPropError


def read(path, parser) -> dict[str, str]:
    """The settings of a TOML file, each as a word of the command line. Tables only group: their names are not looked
    at."""
    values = _flat(_read_toml(Path(path)))
    actions = {a.dest: a for a in parser._actions if a.option_strings and a.dest not in ("help", "config")}
    unknown = sorted(values.keys() - actions.keys())
    if unknown:
        raise GenPropError(f"Expected settings of the trainer in {path}, got {', '.join(unknown)}. --help lists them.")
    found = {}
    for name, value in values.items():
        if actions[name].nargs == 0:
            if not isinstance(value, bool):
                raise GenPropError(f"Expected true or false for {name} in {path}, got {value!r}.")
            found[name] = f"--{name}" if value else f"--no-{name}"
        else:
            found[name] = f"--{name}={value}"
    return found


def _flat(table: dict) -> dict:
    out = {}
    for key, value in table.items():
        out |= _flat(value) if isinstance(value, dict) else {key: value}
    return out


def _read_toml(path: Path) -> dict:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        try:
            import tomli as tomllib
        except ImportError:
            raise GenPropError("Expected Python 3.11 or newer for --config. On 3.10 run: pip install tomli.") from None
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GenPropError(f"Expected a TOML file at {path}, but it cannot be read ({error}).") from None
