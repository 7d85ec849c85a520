"""``python -m kilter_edge``: install, update, predict, upload."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from .model import EdgeModel
from .predicting import Predictor, device_key, upload
from .recording import EdgeLog
from .release import EdgeError, Refused, Unreachable
from .sources import Folder, Server, Source
from .updating import Device


def main() -> int:
    """Run a command: 0 done, 1 failed, 3 a release was refused, 4 try again later."""
    options = _parser().parse_args()
    try:
        said = _COMMANDS[options.command](options)
    except (EdgeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 3 if isinstance(error, Refused) else 4 if isinstance(error, Unreachable) else 1
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


def _selftest(options: argparse.Namespace) -> Any:
    return {"difference": EdgeModel(options.folder).self_test()}


def _install(options: argparse.Namespace) -> Any:
    return Device(options.root).install(_source(options), options.model, options.key.read_bytes())._asdict()


def _update(options: argparse.Namespace) -> Any:
    return Device(options.root).update(_source(options), allow_downgrade=options.allow_downgrade)._asdict()


def _predict(options: argparse.Namespace) -> Any:
    try:
        rows = json.load(sys.stdin)
    except ValueError as error:
        raise EdgeError(f"standard input holds no JSON: {error}") from error
    log = EdgeLog(options.root / "log", options.log_size)
    try:
        return Predictor(Device(options.root), log).predict(rows)
    finally:
        log.close()


def _upload(options: argparse.Namespace) -> Any:
    log = EdgeLog(options.root / "log", options.log_size)
    try:
        return upload(options.root, options.name, log, Server(options.to, _token()))._asdict()
    finally:
        log.close()


def _key(options: argparse.Namespace) -> Any:
    return {"public_key": device_key(options.root)}


def _status(options: argparse.Namespace) -> Any:
    return Device(options.root).state()


def _go_back(options: argparse.Namespace) -> Any:
    device = Device(options.root)
    device.go_back()
    return device.state()


def _source(options: argparse.Namespace) -> Source:
    given: str = options.source
    return Server(given, _token()) if given.startswith(("http://", "https://")) else Folder(Path(given))


def _token() -> str:
    return os.environ.get("KILTER_TOKEN", "")


_COMMANDS = {
    "selftest": _selftest,
    "install": _install,
    "update": _update,
    "predict": _predict,
    "upload": _upload,
    "key": _key,
    "status": _status,
    "go-back": _go_back,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kilter_edge", description="A model on a device. KILTER_TOKEN is the server's token."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    test = commands.add_parser("selftest", help="ask a bundle about its example rows")
    test.add_argument("folder", type=Path)
    helps = {
        "install": "trust a key and take the first release",
        "update": "run the newest release, when it is newer, signed, whole and passes its self test",
        "predict": "answer the rows (JSON) on standard input, and record them",
        "upload": "send what was recorded to the store",
        "key": "print the device's public key; it is made when there is none",
        "status": "print which release runs",
        "go-back": "run the release before again",
    }
    made = {name: commands.add_parser(name, help=text) for name, text in helps.items()}
    for one in made.values():
        one.add_argument("--root", type=Path, required=True, help="the device's folder")
    for name in ("install", "update"):
        made[name].add_argument(
            "--from", dest="source", required=True, metavar="URL|DIR", help="a server, or a bundle's folder"
        )
    made["install"].add_argument("--model", required=True)
    made["install"].add_argument(
        "--key", type=Path, required=True, metavar="PUB", help="the public key that signs releases"
    )
    made["update"].add_argument("--allow-downgrade", action="store_true", help="take an older release as well")
    made["upload"].add_argument("--to", required=True, metavar="URL")
    made["upload"].add_argument("--name", required=True, help="the device's name, as it was enrolled")
    for name in ("predict", "upload"):
        made[name].add_argument(
            "--log-size", type=int, default=16_000_000, metavar="BYTES", help="what the log holds at most"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
