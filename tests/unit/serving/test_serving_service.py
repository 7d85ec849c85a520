import pytest

from kilter.core.errors import InvalidInput, NotFound
from kilter.engines.sql.database import metadata
from kilter.serving.records import TrafficPlan
from kilter.serving.service import EndpointService

PLAN = TrafficPlan(loop="late", champion=1, bundles={1: "a" * 64}, fallback=0.2)


@pytest.fixture
def service(database, clock, tmp_path):
    with database.transaction() as connection:
        metadata.create_all(connection)
    return EndpointService(database, clock, tmp_path)


def test_setting_a_plan_gives_it_a_generation_and_setting_it_again_changes_nothing(service):
    assert service.set_plan(PLAN) == 1
    assert service.set_plan(PLAN) == 1
    changed = TrafficPlan(
        loop="late", champion=1, challenger=2, mode="canary", share=5, bundles={1: "a" * 64, 2: "b" * 64}
    )
    assert service.set_plan(changed) == 2
    assert service.plan("late").bundles == {1: "a" * 64, 2: "b" * 64}
    assert service.generations() == {"late": 2}
    assert [plan.generation for plan in service.plans()] == [2]


def test_a_plan_set_in_a_transaction_that_fails_is_not_set(service, database):
    def fail_afterwards():
        with database.transaction() as connection:
            service.set_plan(PLAN, connection)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_afterwards()
    with pytest.raises(NotFound):
        service.plan("late")


def test_applied_is_what_every_front_serves(service):
    assert service.applied("late") == 0
    service.report("late", "one", 2, 2)
    service.report("late", "two", 2, 1, "bundle is damaged")
    assert service.applied("late") == 1
    service.report("late", "two", 2, 2)
    assert service.applied("late") == 2
    assert [status.error for status in service.status("late")] == ["", ""]
    assert service.forget("two") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        TrafficPlan(loop="late", champion=None),
        TrafficPlan(loop="Late!", champion=1, bundles={1: ""}),
        TrafficPlan(loop="late", champion=1),
        TrafficPlan(loop="late", champion=1, bundles={1: ""}, challenger=2),
        TrafficPlan(loop="late", champion=1, bundles={1: ""}, mode="shadow"),
        TrafficPlan(loop="late", champion=1, bundles={1: "", 2: ""}, challenger=2, mode="canary", share=0),
        TrafficPlan(loop="late", champion=1, bundles={1: "", 2: ""}, challenger=2, mode="shadow", share=5),
        TrafficPlan(loop="late", champion=1, bundles={1: ""}, challenger=1, mode="shadow"),
    ],
)
def test_a_plan_that_cannot_be_honoured_is_refused(service, wrong):
    with pytest.raises(InvalidInput):
        service.set_plan(wrong)
