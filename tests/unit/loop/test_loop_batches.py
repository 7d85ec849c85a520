"""When a batch is run: at the times of its schedule, once for all that were missed, again when it failed, and never by a challenger."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from kilter.core.errors import DeclarationError
from kilter.loop.decide import decide, pending_actions
from kilter.loop.declaration.checks import check, require
from kilter.loop.declaration.plan import plan
from kilter.loop.declaration.policy import policy_of
from kilter.loop.declaration.spec import load_source, spec_from_json, spec_of
from kilter.loop.policy import BatchPolicy, Policy
from kilter.loop.records import (
    ActionFailed,
    Applied,
    BatchFinished,
    LoopState,
    Notify,
    PauseRequested,
    RunBatch,
    Tick,
)
from kilter.loop.rules.batches import ATTEMPTS, next_slot, slot_of
from kilter.loop.summary import next_deadline, summary

NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)
MIDNIGHT = NOON.replace(hour=0)
DAY = timedelta(days=1)
POLICY = Policy(loop="shop", owner="me", spec="s", batches=(BatchPolicy(name="daily", every=86400.0),))


def started(policy=POLICY, champion=3, at=NOON):
    """Return a loop with a champion, and what it asked for."""
    return decide(LoopState(policy=policy, champion=champion, last_training=at), Tick(at=at))


def runs(actions):
    return [action for action in actions if isinstance(action, RunBatch)]


def finish(state, action, at, rows=10):
    done = BatchFinished(
        at=at, action=action.id, batch=action.batch, version=action.version, slot=action.slot, rows=rows
    )
    return decide(state, done)


def test_times_are_whole_multiples_since_1970():
    assert slot_of(NOON, 86400) == MIDNIGHT
    assert slot_of(MIDNIGHT, 86400) == MIDNIGHT
    assert slot_of(NOON + timedelta(minutes=59), 7200) == NOON
    assert next_slot(MIDNIGHT, 86400) == MIDNIGHT + DAY


def test_it_is_run_by_the_champion_as_soon_as_there_is_one_and_then_at_each_time():
    nobody, actions = decide(LoopState(policy=POLICY), Tick(at=NOON))
    assert runs(actions) == []
    assert summary(nobody).batches[0].work == "waiting"
    state, actions = started()
    (run,) = runs(actions)
    assert (run.batch, run.version, run.slot, run.spec) == ("daily", 3, MIDNIGHT, "s")
    assert summary(state).batches[0].work == "running"
    assert decide(state, Tick(at=NOON + timedelta(hours=1)))[1] == ()
    state, actions = finish(state, run, NOON + timedelta(hours=2))
    assert actions == ()
    told = summary(state).batches[0]
    assert (told.work, told.done, told.rows, told.due) == ("done", MIDNIGHT, 10, MIDNIGHT + DAY)
    assert next_deadline(state) == MIDNIGHT + DAY
    assert runs(decide(state, Tick(at=MIDNIGHT + DAY - timedelta(microseconds=1)))[1]) == []
    assert [one.slot for one in runs(decide(state, Tick(at=MIDNIGHT + DAY))[1])] == [MIDNIGHT + DAY]


def test_what_was_missed_is_caught_up_once():
    state, actions = started()
    state, _ = finish(state, runs(actions)[0], NOON)
    state, actions = decide(state, Tick(at=NOON + 9 * DAY))
    assert [one.slot for one in runs(actions)] == [MIDNIGHT + 9 * DAY]
    state, actions = finish(state, runs(actions)[0], NOON + 13 * DAY)  # it took longer than four of its times
    assert [one.slot for one in runs(actions)] == [MIDNIGHT + 13 * DAY]


def test_an_answer_that_comes_twice_and_a_tick_that_comes_late_change_nothing():
    state, actions = started()
    (run,) = runs(actions)
    state, _ = finish(state, run, NOON)
    again, actions = finish(state, run, NOON, rows=99)
    assert again is state
    assert actions == ()
    assert decide(state, Tick(at=NOON - 5 * DAY)) == (state, ())


def test_a_run_that_fails_is_tried_again_and_given_up_with_word_to_the_owner():
    state, actions = started()
    (run,) = runs(actions)
    now = NOON
    for attempt in range(1, ATTEMPTS):
        state, actions = decide(state, ActionFailed(at=now, action=run.id, reason="no disk", attempt=attempt))
        assert actions == ()
        assert summary(state).batches[0].work == "retrying"
        assert pending_actions(state, now) == ()
        assert decide(state, ActionFailed(at=now, action=run.id, reason="no disk", attempt=attempt))[0] is state
        now = next_deadline(state)
        state, actions = decide(state, Tick(at=now))
        assert actions == (run,)
    state, actions = decide(state, ActionFailed(at=now, action=run.id, reason="no disk", attempt=ATTEMPTS))
    (told,) = actions
    assert isinstance(told, Notify)
    assert "no disk" in told.body
    assert "daily" in told.title
    assert (summary(state).batches[0].work, summary(state).batches[0].failed) == ("failed", "no disk")
    state, actions = decide(state, Tick(at=MIDNIGHT + DAY))
    assert [one.slot for one in runs(actions)] == [MIDNIGHT + DAY]
    assert runs(actions)[0].id != run.id


def test_what_can_never_succeed_is_not_tried_again():
    state, actions = started()
    state, actions = decide(
        state, ActionFailed(at=NOON, action=runs(actions)[0].id, reason="carrier: 9% unknown", retryable=False)
    )
    assert [type(action) for action in actions] == [Notify]
    assert decide(state, Tick(at=NOON + timedelta(hours=3)))[1] == ()


def test_a_pause_does_not_stop_what_the_champion_answers():
    state, actions = started()
    state, _ = finish(state, runs(actions)[0], NOON)
    state, _ = decide(state, PauseRequested(at=NOON, by="me", reason="holidays"))
    assert [one.slot for one in runs(decide(state, Tick(at=NOON + DAY))[1])] == [MIDNIGHT + DAY]


def test_one_that_is_declared_no_more_ends_what_it_began_and_does_no_time_twice():
    state, actions = started()
    (run,) = runs(actions)
    without = msgspec.structs.replace(POLICY, spec="t", batches=())
    state, actions = decide(state, Applied(at=NOON, policy=without, rebuild=False))
    assert runs(actions) == []
    assert pending_actions(state, NOON) == (run,)
    state, _ = finish(state, run, NOON)
    assert summary(state).batches == ()
    assert runs(decide(state, Tick(at=NOON + DAY))[1]) == []
    again = msgspec.structs.replace(POLICY, spec="u")
    assert runs(decide(state, Applied(at=NOON, policy=again, rebuild=False))[1]) == []


def test_several_batches_do_not_wait_for_each_other():
    policy = msgspec.structs.replace(POLICY, batches=(*POLICY.batches, BatchPolicy(name="often", every=3600.0)))
    state, actions = started(policy)
    daily, often = runs(actions)
    state, _ = finish(state, often, NOON)
    state, actions = decide(state, Tick(at=NOON + timedelta(hours=1)))
    assert [one.batch for one in runs(actions)] == ["often"]
    assert {one.id for one in pending_actions(state, NOON)} == {daily.id, runs(actions)[0].id}


# ---------------------------------------------------------------- the declaration

TEXT = """
import polars as pl
from kilter import Batch
from kilter import Dataset, Label, Loop, Table

visits = Table("visits", key="visit", time="at")

def bought() -> pl.Expr:
    return pl.col("spent") > 0

def train(data: Dataset) -> object:
    return None

loop = Loop(name="shop", owner="me@example.org", inputs=[visits.columns("price")], label=Label(bought, known_at="paid_at"),
            train=train{more})
"""


def declared(more=""):
    text = TEXT.replace("{more}", more)
    return load_source(text if more else text.replace("from kilter import Batch\n", ""), "shop.py")


def test_a_declaration_without_a_batch_has_the_digest_that_it_always_had():
    spec = spec_of(declared())
    assert "batch" not in spec.json()
    assert spec_from_json(spec.json()) == spec
    assert spec.digest == "792ee82849280a757bbb768215505a1a58673dbcd21ad2622547f4c0f9ede592"


def test_a_batch_is_part_of_the_plan_and_of_the_policy_and_asks_for_no_new_model():
    before = spec_of(declared())
    after = spec_of(declared(', batch=[Batch(input="in", output="out/{slot}", every="48h")]'))
    assert spec_from_json(after.json()) == after
    assert after.data_digest == before.data_digest
    assert after.digest != before.digest
    (change,) = plan(before, after)
    assert (change.field, change.effect) == ("batch", "at once")
    (back,) = plan(after, before)
    assert back.field == "batch"
    assert policy_of(after).batches == (BatchPolicy(name="batch", every=172800.0),)
    require(declared(', batch=[Batch(input="in", output="table:answers")]'))


@pytest.mark.parametrize(
    ("batch", "field", "says"),
    [
        ('Batch(input="in", output="out")', "batch[0].output", "find the files of the last one"),
        ('Batch(input="in", output="table:t", bad_rows="bad/")', "batch[0].bad_rows", "find the files of the last one"),
        ('Batch(input="in", output="table:t", every="1s")', "batch[0].every", "too often"),
        ('Batch(input="in", output="table:t", every="often")', "batch[0].every", "often"),
        ('Batch(input="in", output="table:t", name="A b")', "batch[0].name", "can't be a name"),
        ('Batch(input="in", output="table:t"), Batch(input="in", output="table:u")', "batch[1].name", "two batches"),
        ('Batch(input="", output="table:t")', "batch[0].input", "no place"),
        ('Batch(input="postgresql://u:p@h/d", output="table:t", query="SELECT 1")', "batch[0].input", "password"),
        ('Batch(input="postgresql://u@h/d", output="table:t")', "batch[0].query", "no query"),
        ('Batch(input="in", output="table:t", query="SELECT 1")', "batch[0].query", "goes to a database"),
        ('Batch(input="in", output="mysql://u@h/d")', "batch[0].output", "names no table"),
        ('Batch(input="in", output="table:t", max_nulls=5)', "batch[0].max_nulls", "no share"),
        ('Batch(input="in", output=7)', "batch[0].output", "7 was given"),
        ('"daily"', "batch[0]", "'daily' was given"),
    ],
)
def test_a_wrong_batch_is_named_with_its_field(batch, field, says):
    found = check(declared(f", batch=[{batch}]"))
    assert all(isinstance(error, DeclarationError) for error in found)
    assert any(error.where.endswith(f": {field}") and says in error.message for error in found), found


def test_a_schedule_has_a_slot_at_any_moment():
    for moment in (
        datetime.min.replace(tzinfo=UTC),
        datetime(1969, 12, 31, 23, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ):
        for every in (0.0, 1.0, 70_000.0, 1e9):
            assert slot_of(moment, every) <= moment
            assert next_slot(moment, every) >= slot_of(moment, every)
