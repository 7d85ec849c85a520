"""What may be a name, an alias, a tag, a stage: MLflow's rules, so that what one client may say, every other may too."""

from __future__ import annotations

import posixpath
import re

from kilter.core.errors import Conflict, InvalidInput
from kilter.registry.elsewhere import ALLOWED, check_elsewhere, lies_elsewhere
from kilter.registry.records import APPROVALS, LABELS, ApprovalState, Label

LONGEST_NAME = 256
LONGEST_ALIAS = 255
LONGEST_KEY = 250
LONGEST_VALUE = 100_000
LONGEST_TEXT = 100_000
LONGEST_SOURCE = 8_000

PROMPT = "mlflow.prompt.is_prompt"
"""The tag that makes a model a prompt: searches leave prompts out unless they ask for this tag."""
STATE = "kilter.stage"
"""The tag that says where a loop's version stands; nobody else may set it."""
LOOPS_ALIASES = frozenset({"champion", "challenger"})

PLACEHOLDERS = frozenset({"dummy-source", "prompt-template"})
"""What stands for the source of a prompt, which is all in its tags."""
PACKAGE = "model-package"
"""What stands for the source of a version whose files are not this server's: what SageMaker or Vertex AI runs is said in its tags."""

_SCHEMES = ("models:/", "runs:/", "mlflow-artifacts:/")
_ALIAS = re.compile(r"[\w\-]+\Z")
_NUMBERED = re.compile(r"[vV]\d+\Z")
_KEY = re.compile(r"[/\w.\- :]+\Z")
_LABEL = {label.lower(): label for label in LABELS}


def loops_location(model: str, version: int) -> str:
    """Return where clients of MLflow read the files of a version that a loop made."""
    return f"mlflow-artifacts:/models/{model}/{version}"


def check_name(name: str, where: str = "model") -> str:
    """Return a model's name.

    Raises:
        InvalidInput: When it can be none.
    """
    if not name.strip() or len(name) > LONGEST_NAME or "/" in name or ":" in name or not _sayable(name):
        raise InvalidInput(
            f"{name[:60]!r} is not a model's name",
            where=where,
            allowed=f'1 to {LONGEST_NAME} characters without "/" and ":"',
        )
    if posixpath.normpath(name) != name or name == "." or name.startswith(".."):
        raise InvalidInput(f"{name[:60]!r} would be another name as a file's", where=where)
    return name


def check_alias(alias: str) -> str:
    """Return an alias that can be set.

    Raises:
        InvalidInput: When it can be none, or would be taken for a version.
    """
    if not _ALIAS.match(alias) or len(alias) > LONGEST_ALIAS:
        raise InvalidInput(
            f"{alias[:60]!r} is not an alias",
            where="alias",
            allowed=f"1 to {LONGEST_ALIAS} letters, digits, underscores and hyphens",
        )
    if alias.lower() == "latest" or _NUMBERED.match(alias):
        raise InvalidInput(f"{alias!r} names a version already", where="alias", fix="choose another word")
    return alias


def check_tags(tags: dict[str, str]) -> dict[str, str]:
    """Return tags that can be set.

    Raises:
        InvalidInput: When a name or a value can't be.
    """
    for name, value in tags.items():
        normal = posixpath.normpath(name) if name else "."
        climbs = normal != name or normal == "." or normal.startswith(("..", "/"))
        if climbs or not _KEY.match(name) or len(name) > LONGEST_KEY:
            raise InvalidInput(
                f"{name[:60]!r} is not a tag's name",
                where="tags",
                allowed=f"1 to {LONGEST_KEY} letters, digits and characters of /_.-:",
            )
        if name == STATE:
            raise InvalidInput(f"{STATE} is said by the loop", where="tags", fix="choose another name")
        if len(value) > LONGEST_VALUE or not _sayable(value):
            raise InvalidInput(
                f"the value of {name!r} is too long", where="tags", allowed=f"{LONGEST_VALUE} characters"
            )
    return tags


def check_text(text: str, where: str, most: int = LONGEST_TEXT) -> str:
    """Return a text that can be kept.

    Raises:
        InvalidInput: When it is too long, or has a character that no database keeps.
    """
    if len(text) > most or not _sayable(text):
        raise InvalidInput("the text can't be kept", where=where, allowed=f"{most} characters, none of them NUL")
    return text


def check_source(source: str, where: str = "source") -> str:
    """Return where a version's files are: in this store, or in a place outside of it that is kept as a reference.

    Whoever reads a version reads what its source names, so a source that could name any file of a machine or any host is refused
    here, for every face alike. What lies elsewhere is not read by this server at all.

    Raises:
        InvalidInput: When it names another kind of place, or climbs.
    """
    check_text(source, where, LONGEST_SOURCE)
    if source in PLACEHOLDERS or source == PACKAGE:
        return source
    if lies_elsewhere(source):
        return check_elsewhere(source, where)
    if not source.startswith(_SCHEMES) or ".." in source.replace("%2e", ".").replace("%2E", ".").split("/"):
        raise InvalidInput(
            f"{source[:100]!r} is no source",
            where=where,
            allowed=f"models:/m-ID, models:/NAME/VERSION, runs:/RUN/PATH, mlflow-artifacts:/PATH, {ALLOWED}",
        )
    return source


def label_of(text: str) -> Label:
    """Return a stage by its name in any case.

    Raises:
        InvalidInput: When there is none of that name.
    """
    found = _LABEL.get(text.lower())
    if found is None:
        raise InvalidInput(f"{text[:60]!r} is not a stage", where="stage", allowed=", ".join(LABELS))
    return found


def check_approval(state: str) -> ApprovalState:
    """Return the state of an approval.

    Raises:
        InvalidInput: When there is none of that name.
    """
    for one in APPROVALS:
        if one == state:
            return one
    raise InvalidInput(f"{state[:60]!r} is no state of an approval", where="state", allowed=", ".join(APPROVALS))


def refuse_loops_alias(model: str, alias: str) -> Conflict:
    """Return what is said when somebody moves an alias that a loop moves."""
    return Conflict(
        f"{alias!r} of {model!r} is moved by its loop, which moves the traffic with it",
        where="alias",
        fix=f"kilter promote {model}, or kilter rollback {model}; any other alias is yours",
    )


def refuse_loops_model(model: str, what: str) -> Conflict:
    """Return what is said when somebody changes what belongs to a loop."""
    return Conflict(
        f"{model!r} belongs to a loop: {what}",
        where="model",
        fix="its loop trains and registers its versions; use another name for your own",
    )


def _sayable(text: str) -> bool:
    return "\x00" not in text
