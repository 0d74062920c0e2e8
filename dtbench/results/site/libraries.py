"""The scripts of others that the site carries along: plotly.js from plotly, DataTables from itables.

Both packages hold their script whole, so that nothing is loaded from elsewhere. itables' bundle (DataTables 2 with
jQuery and its buttons) is a module, which browsers refuse to load from a disk; its exports are turned into one global
name.
"""

from __future__ import annotations

import re
from importlib import import_module
from importlib.resources import files
from types import ModuleType

from dtbench.errors import ConfigError

INSTALL = "pip install 'dtbench[site]'"
#: The site's own files, in `assets/`.
OWN = ("site.css", "theme.js", "page.js", "tables.js", "figures.js", "compare.js")
_EXPORTS = re.compile(r"export\s*\{([^{}]*)\}\s*;?\s*(?=\Z|/\*)")


def need(module: str) -> ModuleType:
    """Import a module of the extra `site`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f"A site needs {module.partition('.')[0]}: {INSTALL}.") from error


def scripts() -> dict[str, bytes]:
    """Return file name → content of everything in the site's folder `assets`.

    Raises:
        ConfigError: a package is missing, or has another form than the one known.
    """
    plotly = need("plotly.offline").get_plotlyjs()
    need("itables")
    bundle = files("itables") / "html"
    own = files("dtbench.results.site") / "assets"
    try:
        tables = (bundle / "dt_bundle.js").read_text(encoding="utf-8")
        style = (bundle / "dt_bundle.css").read_bytes()
    except OSError as error:
        raise ConfigError(f"itables holds no bundle of DataTables; install a known version: {INSTALL}.") from error
    found = {name: (own / name).read_bytes() for name in OWN}
    return {
        **found,
        "plotly.min.js": plotly.encode("utf-8"),
        "datatables.min.js": as_script(tables).encode("utf-8"),
        "datatables.min.css": style,
    }


def as_script(module: str) -> str:
    """Return itables' module as a classic script that sets `window.DataTable`.

    Raises:
        ConfigError: the module's exports are not where they are known to be.

    >>> as_script("var a=1,b=2;export{b as jQuery,a as default};")
    '(()=>{var a=1,b=2;window.DataTable=a;})();'
    """
    found = list(_EXPORTS.finditer(module))
    last = found[-1] if found else None
    pairs = [pair.strip().split(" as ") for pair in last[1].split(",")] if last else []
    names = {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
    if last is None or "default" not in names:
        raise ConfigError(f"itables' bundle of DataTables has another form; install a known version: {INSTALL}.")
    return f"(()=>{{{module[: last.start()]}window.DataTable={names['default']};{module[last.end() :]}}})();"
