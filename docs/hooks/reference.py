"""Pages that MkDocs makes from the code: the commands from the typer app, the Python interface from `dtbench.__all__`.

Figures of the leaderboards are taken from where they are rendered, so that there is one copy of each.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
FIGURES = (
    "d4rl-short-0-intervals.svg",
    "analysis/markov-heads-bundled.svg",
    "analysis/attention-gpt2_dt-hopper-medium.svg",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the figures."""
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    files.append(File.generated(config, "reference/python.md", content=python()))
    for name in FIGURES:
        path = str(ROOT / "leaderboards" / name)
        files.append(File.generated(config, f"figures/{Path(name).name}", abs_src_path=path))
    return files


def commands() -> str:
    """Return the reference of all commands, as `dtbench … --help` shows it."""
    from typer import Context
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from dtbench.cli.app import app

    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=Context(command), name="dtbench", title="Commands")
    return f"{text.strip()}\n"


def python() -> str:
    """Return a page with every name of `dtbench.__all__`, described where it is defined."""
    import dtbench

    parts = [
        "# Python interface",
        "`import dtbench` gives these names; nothing heavy is imported before one of them is used. Errors are those "
        "of `dtbench.errors`; their messages are the sentences that the command line prints.",
    ]
    for name in dtbench.__all__:
        if not name.startswith("__"):
            thing = getattr(dtbench, name)
            options = f"    options:\n      heading: dtbench.{name}\n      toc_label: {name}\n      heading_level: 2"
            parts.append(f"::: {thing.__module__}.{thing.__qualname__}\n{options}")
    return "\n\n".join(parts) + "\n"
