"""Running a recorded command again, in a folder of its own: nothing of the user's working copy is touched."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from kilter.core.errors import Conflict, InvalidInput, KilterError, NotFound
from kilter.tracking.records import Run
from kilter.tracking.sdk.recording import Recorded
from kilter.tracking.sdk.settings import Reproduces
from kilter.tracking.service import RunService


def run_again(runs: RunService, run: Run, recorded: Recorded, store: str, repository: Path) -> str:
    """Run a recorded command again and return the mark of the run that it makes.

    Args:
        runs: The runs of the store.
        run: The run.
        recorded: What it was made with.
        store: Where the new run goes.
        repository: A working copy that has the commit; it is read, and only its list of worktrees changes for a while.

    Raises:
        InvalidInput: When the command can't be run again: nobody recorded it, or it held a secret.
        NotFound: When the commit is not there.
        Conflict: When the command fails.
    """
    if not recorded.command:
        raise InvalidInput(f"nobody recorded the command of run {run.id}", where="reproduce")
    if recorded.redacted:
        raise InvalidInput(
            f"the command of run {run.id} held secrets, which were not kept",
            where="reproduce",
            fix="run it by hand, with its secrets in environment variables",
        )
    token = secrets.token_hex(8)
    meant = Reproduces(run=run.id, token=token, store=store)
    environment = {**os.environ, **recorded.settings, "KILTER_REPRODUCES": msgspec.json.encode(meant).decode()}
    if "PYTHONHASHSEED" in recorded.seeds:
        environment["PYTHONHASHSEED"] = recorded.seeds["PYTHONHASHSEED"]
    with _folder(runs, run, recorded, repository) as (folder, command):
        try:
            done = subprocess.run(command, cwd=folder, env=environment, check=False, stdout=2)  # noqa: S603 - the run's own command
        except OSError as error:
            raise Conflict(f"{command[0]} can't be started ({error.strerror})", where="reproduce") from error
    if done.returncode != 0 and not _made(runs, token):
        raise Conflict(
            f"the command ended with code {done.returncode}",
            where="reproduce",
            fix="see above what it said; data that it reads by a relative path must be in git, or named by a whole path",
        )
    return token


@contextmanager
def _folder(runs: RunService, run: Run, recorded: Recorded, repository: Path) -> Iterator[tuple[Path, list[str]]]:
    """Give a clean folder with the program in it, and the command to run there."""
    with tempfile.TemporaryDirectory(prefix="kilter-reproduce-") as place:
        if recorded.code is None:
            yield Path(place), _alone(runs, run, recorded, Path(place))
            return
        tree = Path(place).resolve() / "tree"
        root = _root(repository, recorded.code.commit)
        _git(root, "worktree", "add", "--detach", "--quiet", str(tree), recorded.code.commit)
        try:
            if recorded.code.diff:
                changes = runs.artifact(run.id, "code.diff")
                _git(tree, "apply", "--binary", "--whitespace=nowarn", "-", text=changes)
            folder = tree / recorded.code.folder
            if not folder.resolve().is_relative_to(tree) or not folder.is_dir():
                raise InvalidInput(
                    f"the command ran in {recorded.code.folder!r}, which the commit does not have", where="reproduce"
                )
            yield folder, _in_tree(recorded, root, tree)
        finally:
            shutil.rmtree(tree, ignore_errors=True)
            _git(root, "worktree", "prune")


def _alone(runs: RunService, run: Run, recorded: Recorded, folder: Path) -> list[str]:
    """Write the program that was kept with the run, and return the command for it."""
    words = list(recorded.command[1:])
    program = next((place for place, word in enumerate(words) if word.endswith(".py")), None)
    if program is None:
        return [sys.executable, *words]
    try:
        source = runs.artifact(run.id, "source.py")
    except NotFound:
        raise NotFound(f"neither git nor the run {run.id} has its program", where="reproduce") from None
    name = Path(words[program]).name
    (folder / name).write_bytes(source)
    words[program] = name
    return [sys.executable, *words]


def _in_tree(recorded: Recorded, root: Path, tree: Path) -> list[str]:
    """Return the command with whole paths into the working copy led into the tree."""
    words = []
    for word in recorded.command[1:]:
        path = Path(word)
        inside = path.is_absolute() and path.is_relative_to(root) and (tree / path.relative_to(root)).exists()
        words.append(str(tree / path.relative_to(root)) if inside else word)
    return [sys.executable, *words]


def _root(repository: Path, commit: str) -> Path:
    """Return the root of a working copy that has a commit.

    Raises:
        NotFound: When it has not, or is none.
    """
    try:
        root = Path(_git(repository, "rev-parse", "--show-toplevel").decode().strip())
        _git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except KilterError as error:
        raise NotFound(
            f"commit {commit[:12]} is not in {repository}",
            where="reproduce",
            fix="run it in a clone of the program's repository, after `git fetch`",
        ) from error
    return root


def _git(folder: Path, *words: str, text: bytes | None = None) -> bytes:
    program = shutil.which("git")
    if program is None:
        raise NotFound("git is not installed", where="reproduce", fix="install git")
    # The commit's own hooks are not run.
    command = [program, "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", *words]
    try:
        done = subprocess.run(command, cwd=folder, input=text, capture_output=True, timeout=300, check=False)  # noqa: S603 - fixed words
    except (OSError, subprocess.SubprocessError) as error:
        raise Conflict(f"git {words[0]} did not end: {error}", where="reproduce") from error
    if done.returncode != 0:
        raise Conflict(
            f"git {words[0]} failed: {done.stderr.decode(errors='replace').strip()[:500]}", where="reproduce"
        )
    return done.stdout


def _made(runs: RunService, token: str) -> bool:
    return bool(runs.list(filter=f"tags.reproduction = '{token}'", limit=1).runs)
