"""What a run records of the world it was made in: code, command, machine; each part is left out when it can't be had."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec

SECONDS = 5.0
"""How long git may take for one answer."""

MOST_DIFF = 20 << 20
_HIDDEN = "[redacted]"
_SECRET = re.compile(
    r"(?i)(pass(word|wd|phrase)?|secret|token|api[-_]?key|access[-_]?key|credential|private[-_]?key|auth)"
)
_LONG_SECRET = re.compile(r"\b(?:sk|pk|ghp|gho|hf|xox[abp]|AKIA)[-_]?[A-Za-z0-9_-]{12,}")
_URL_SECRET = re.compile(r"(?<=://)[^/@\s]+@")


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the working copy.

    Args:
        commit: The commit that is checked out.
        branch: Its branch.
        remote: Where it came from, without passwords.
        dirty: Whether tracked files differ from the commit.
        untracked: Files that git does not know, of the kinds that programs are made of.
        folder: The folder of the program's start, relative to the working copy's root.
        diff: Digest of the differences, kept as ``code.diff``.
    """

    commit: str
    branch: str = ""
    remote: str = ""
    dirty: bool = False
    untracked: tuple[str, ...] = ()
    folder: str = "."
    diff: str = ""


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """The machine.

    Args:
        host: Its name.
        system: Its operating system.
        machine: Its architecture.
        cpu: The processor's model.
        cores: How many cores this process may use.
        memory: Bytes of main memory.
        gpus: The graphics processors' models, as far as NVML is there to ask.
        driver: The graphics driver's version.
    """

    host: str = ""
    system: str = ""
    machine: str = ""
    cpu: str = ""
    cores: int = 0
    memory: int = 0
    gpus: tuple[str, ...] = ()
    driver: str = ""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run records beside its lock and its source; the artifact ``recorded.json``.

    Args:
        python: The interpreter's version.
        command: The command line, secrets taken out.
        redacted: Whether something was taken out: then the command can't be run again as it stands.
        module: The module, when the program was started with ``python -m``.
        seeds: Seeds: the run's own, and ``PYTHONHASHSEED``.
        code: The working copy; None outside of one.
        hardware: The machine.
        settings: Environment variables that change what numeric libraries compute.
    """

    python: str = ""
    command: tuple[str, ...] = ()
    redacted: bool = False
    module: str = ""
    seeds: dict[str, str] = {}
    code: Code | None = None
    hardware: Hardware = Hardware()
    settings: dict[str, str] = {}


_SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "TF_DETERMINISTIC_OPS",
)


def recorded(seed: int | None) -> tuple[Recorded, bytes]:
    """Look at the world and return what was seen, with the differences of the working copy to its commit."""
    code, diff = code_of(Path.cwd())
    command, hidden = command_line()
    seeds = {"PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "")}
    if seed is not None:
        seeds["run"] = str(seed)
    found = Recorded(
        python=platform.python_version(),
        command=command,
        redacted=hidden,
        module=getattr(getattr(sys.modules.get("__main__"), "__spec__", None), "name", "") or "",
        seeds={name: value for name, value in seeds.items() if value},
        code=code,
        hardware=hardware(),
        settings=numeric_settings(),
    )
    return found, diff


def numeric_settings() -> dict[str, str]:
    """Return the environment variables that change what numeric libraries compute."""
    return {name: os.environ[name] for name in _SETTINGS if name in os.environ}


def command_line() -> tuple[tuple[str, ...], bool]:
    """Return the command of this process without its secrets, and whether there were any."""
    given = list(getattr(sys, "orig_argv", sys.argv)) or list(sys.argv)
    shown: list[str] = []
    hide_next = False
    for word in given:
        name, mark, _ = word.partition("=")
        if hide_next and not word.startswith("-"):
            shown.append(_HIDDEN)
            hide_next = False
            continue
        hide_next = False
        if mark and _SECRET.search(name):
            shown.append(f"{name}={_HIDDEN}")
            continue
        if word.startswith("-") and not mark and _SECRET.search(word):
            hide_next = True
        shown.append(_URL_SECRET.sub(f"{_HIDDEN}@", _LONG_SECRET.sub(_HIDDEN, word)))
    return tuple(shown), shown != given


def code_of(folder: Path) -> tuple[Code | None, bytes]:
    """Return the state of the working copy around a folder and its differences to the commit; None outside of one."""
    commit = _git(folder, "rev-parse", "HEAD").decode().strip()
    if not commit:
        return None, b""
    root = _git(folder, "rev-parse", "--show-toplevel").decode().strip()
    diff = _git(Path(root or folder), "diff", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "HEAD")
    if len(diff) > MOST_DIFF:
        diff = b""
    untracked = _git(folder, "ls-files", "--others", "--exclude-standard", "--full-name", "-z").decode(errors="replace")
    from kilter.core.digests import digest  # noqa: PLC0415 - only a working copy needs it

    code = Code(
        commit=commit,
        branch=_git(folder, "rev-parse", "--abbrev-ref", "HEAD").decode().strip(),
        remote=_bare(_git(folder, "config", "--get", "remote.origin.url").decode().strip()),
        dirty=bool(_git(folder, "status", "--porcelain", "--untracked-files=no").strip()),
        untracked=tuple(
            sorted(name for name in untracked.split("\0") if name.endswith((".py", ".toml", ".yaml", ".ipynb")))[:100]
        ),
        folder=os.path.relpath(folder.resolve(), Path(root).resolve()) if root else ".",
        diff=digest(diff) if diff else "",
    )
    return code, diff


def hardware() -> Hardware:
    """Return what this machine is."""
    gpus, driver = _gpus()
    try:
        cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on Linux
        cores = os.cpu_count() or 0
    memory = 0
    with suppress(ValueError, OSError, AttributeError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Hardware(
        host=platform.node(),
        system=platform.platform(),
        machine=platform.machine(),
        cpu=_cpu(),
        cores=cores,
        memory=memory,
        gpus=gpus,
        driver=driver,
    )


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _gpus() -> tuple[tuple[str, ...], str]:
    from kilter.tracking.sdk.gpu import names  # noqa: PLC0415 - beside its only use

    return names()


def _bare(remote: str) -> str:
    """Return an address without what may be a password."""
    if "://" not in remote:
        return remote
    parts = urlsplit(remote)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _git(folder: Path, *arguments: str) -> bytes:
    """Return what git says, or nothing: without git, outside of a working copy, or when it takes too long."""
    program = shutil.which("git")
    if program is None:
        return b""
    # Nothing of the working copy's own settings is run: no pager, no file-system monitor, no hooks, no prompt.
    command = [program, "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-pager", *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(  # noqa: S603 - git itself, with fixed words
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout if done.returncode == 0 else b""
