import argparse

import pytest

from kilter.cli.arguments import parse
from kilter.cli.processes import build
from kilter.cli.tuning import passed_on, tuned
from kilter.core.errors import DeclarationError, InvalidInput
from kilter.loop.environment import load_environment
from kilter.serving.settings import Settings

TOML = """
[env.dev]
replicas = 2
memory = "2 GB"

[env.dev.serving]
replicas_max = 4
queue_seconds = "2s"

[env.dev.endpoints.late]
cache = "1 MB"
timeout = 0.5
"""


def options(command, *flags):
    found = parse(command, build, list(flags))
    assert isinstance(found, argparse.Namespace)
    return found


def test_the_file_says_how_endpoints_are_run_and_flags_go_before_it(tmp_path):
    (tmp_path / "kilter.toml").write_text(TOML)
    overlay = load_environment(tmp_path)
    file = Settings(replicas=2, replicas_max=4, queue_seconds=2.0)
    settings, single, memory = tuned(options("serve"), overlay)
    assert (settings, memory) == (file, 2_000_000_000)
    assert (single["late"].cache, single["late"].timeout, single["late"].replicas_max) == (1_000_000, 0.5, 4)
    settings, single, memory = tuned(
        options("serve", "--replicas", "1:3", "--timeout", "7s", "--memory", "1GB"), overlay
    )
    assert (settings.replicas, settings.replicas_max, settings.timeout, memory) == (1, 3, 7.0, 1_000_000_000)
    assert (single["late"].timeout, single["late"].replicas) == (0.5, 1)
    assert tuned(options("serve"), None) == (Settings(), {}, 0)


def test_up_hands_its_flags_on():
    flags = ["--replicas", "0:2", "--cache", "64MB"]
    assert passed_on(options("up", *flags)) == flags


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        (["--replicas", "many"], "--replicas"),
        (["--replicas", "4:2"], "flags.replicas_max"),
        (["--timeout", "soon"], "flags.timeout"),
        (["--memory", "much"], "--memory"),
        (["--queue-rows", "-1"], "--queue-rows"),
        (["--batch-rows", "0"], "flags.batch_rows"),
    ],
)
def test_flags_that_cannot_be_honoured_are_named(flags, where):
    with pytest.raises(InvalidInput) as error:
        tuned(options("serve", *flags), None)
    assert error.value.where == where


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[env.dev.serving]\nreplica = 1", "replicas"),
        ("[env.dev.serving]\ntimeout = 'soon'", "duration"),
        ("[env.dev.endpoints.late]\ncache = -1", "endpoints.late.cache"),
        ("[env.dev]\nmemory = 'much'", "size"),
        ("[env.dev.serving]\nreplicas = 'two'", "serving"),
    ],
)
def test_a_file_that_cannot_be_honoured_says_the_place(tmp_path, text, word):
    (tmp_path / "kilter.toml").write_text(text)
    with pytest.raises(DeclarationError) as error:
        load_environment(tmp_path)
    assert word in str(error.value)
