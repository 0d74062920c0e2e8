"""Commands that send results and runs, and fetch them: `results check`, `push`, `pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dtbench.cli.output import Json, echo_json

results_app = typer.Typer(help="Check results before they are published.", no_args_is_help=True)

Repo = Annotated[str, typer.Argument(metavar="REPO", help="Repository of the model hub, e.g. my-name/dt-hopper.")]


@results_app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of results.")],
    replay: Annotated[
        int, typer.Option(min=0, metavar="N", help="Also evaluate N runs again from their checkpoints, and compare.")
    ] = 0,
    against: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Published results to compare the data with. Default: this checkout's."),
    ] = None,
    json_: Json = False,
) -> None:
    """Check results by the rules for publication: complete, known suite, committed code, three seeds, same protocol.

    The exit code is 1 if a record breaks a rule, or if a repeated evaluation differs. Warnings do not change it.
    """
    from dtbench.console import resumable
    from dtbench.runs.replay import Replay
    from dtbench.runs.replay import replay as repeat
    from dtbench.runs.submission import check_submission, published_results

    count, findings = check_submission(folder, against if against is not None else published_results())
    replays: list[Replay] = []
    with resumable():
        if not json_:
            for finding in findings:
                typer.echo(str(finding))
        for done in repeat(folder, replay) if replay else ():
            replays.append(done)
            if not json_:
                typer.echo(str(done))
    errors = sum(finding.is_error for finding in findings) + sum(not done.is_equal for done in replays)
    if json_:
        echo_json(
            {
                "records": count,
                "errors": errors,
                "findings": [finding.to_dict() for finding in findings],
                "replays": [{**vars(done), "is_equal": done.is_equal} for done in replays],
            }
        )
    else:
        warnings = sum(not finding.is_error for finding in findings)
        again = f", {len(replays)} evaluated again" if replay else ""
        typer.echo(f"{count} records{again}: {errors or 'no'} errors, {warnings or 'no'} warnings")
    if errors:
        raise typer.Exit(1)


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, …/<task>/seed-<n>.")],
    repo: Repo,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Send a run to the model hub: weights as safetensors, its record, and a model card written from it."""
    from dtbench.console import resumable
    from dtbench.runs.sharing import push as send

    with resumable():
        url = send(run, repo, private=private)
    typer.echo(f"Sent to {url}")


def pull(
    repo: Repo,
    output: Annotated[Path, typer.Option(help="Folder of results to put it into.")] = Path("results"),
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. Default: the newest.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Your own code for a model that is not part of dtbench: package.module:Class or FILE.py:Class."
        ),
    ] = None,
) -> None:
    """Fetch a run from the model hub: it evaluates and analyses like one's own. Code and pickles are never fetched."""
    from dtbench.console import resumable
    from dtbench.runs.sharing import pull as fetch

    with resumable():
        folder = fetch(repo, output, revision=revision, model=model)
    typer.echo(f"Fetched {folder}")
