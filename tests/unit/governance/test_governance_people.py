"""Persons and tokens, on every engine of the metadata."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.core.access import new_secret, secret_digest
from kilter.core.clock import ManualClock
from kilter.core.errors import Conflict, Forbidden, InvalidInput, NotFound
from kilter.engines.sql.database import Database
from kilter.governance.rules import name_from, role_of_groups
from kilter.governance.service import PeopleService
from kilter.journal.service import Journal
from kilter.operations.identity import Identity, asked_by, named
from kilter.operations.table import ROLES


@pytest.fixture
def people(database: Database, clock: ManualClock) -> PeopleService:
    return PeopleService(database, Journal(database, clock), clock)


def test_a_person_is_added_given_roles_shut_out_and_let_in_again(
    people: PeopleService, database: Database, clock: ManualClock
) -> None:
    ana = people.add("ana", "admin", "Ana@Example.org ")
    assert (ana.role, ana.email, ana.created_at) == ("admin", "ana@example.org", clock.now())
    people.add("bo")
    assert people.role("bo", "editor", "fraud-*").projects == {"fraud-*": "editor"}
    assert people.role("bo", "approver", "fraud-*").projects == {"fraud-*": "approver"}
    assert people.role("bo", "viewer", "fraud-*").projects == {}
    assert people.role("bo", "editor").role == "editor"
    assert people.disable("bo").disabled_at == clock.now()
    assert people.everybody().identity("bo") is None
    assert people.enable("bo").disabled_at is None
    assert people.everybody().identity("bo") == Identity(name="bo", role="editor", projects={})
    assert [one.name for one in people.list()] == ["ana", "bo"]
    journal = Journal(database, clock)
    assert journal.verify().ok
    told = [(event.kind, event.data["person"]) for event in journal.events(limit=100)]
    assert told == [
        ("PersonAdded", "ana"),
        ("PersonAdded", "bo"),
        ("PersonRoleGiven", "bo"),
        ("PersonRoleGiven", "bo"),
        ("PersonRoleGiven", "bo"),
        ("PersonRoleGiven", "bo"),
        ("PersonDisabled", "bo"),
        ("PersonEnabled", "bo"),
    ]


def test_the_last_admin_stays(people: PeopleService) -> None:
    people.add("ana", "admin")
    for leave in (lambda: people.disable("ana"), lambda: people.role("ana", "editor")):
        with pytest.raises(Conflict, match="last admin"):
            leave()
    people.add("bo", "admin")
    assert people.role("ana", "editor").role == "editor"


def test_a_token_opens_until_it_is_revoked_or_too_old_and_only_its_digest_is_kept(
    people: PeopleService, clock: ManualClock
) -> None:
    people.add("ana", "editor")
    token, digest = new_secret("kp_")
    made = people.token(digest, "ana", "laptop", clock.now() + timedelta(days=1))
    assert token not in repr(people.tokens("ana")) + repr(people.everybody())
    assert people.everybody().holder(secret_digest(token), clock.now()) == Identity(
        name="ana", role="editor", projects={}
    )
    assert people.everybody().holder(secret_digest(token + "x"), clock.now()) is None
    clock.advance(timedelta(days=1))
    assert people.everybody().holder(digest, clock.now()) is None
    second = new_secret("kp_")[1]
    number = people.token(second, "ana").id
    assert number > made.id
    assert people.revoke(number).revoked_at == clock.now()
    assert people.revoke(number).revoked_at == clock.now()
    assert people.everybody().holder(second, clock.now()) is None
    people.token(new_secret("kp_")[1], "ana")
    people.add("bo", "admin")
    people.disable("ana")
    assert all(people.everybody().holder(one.digest, clock.now()) is None for one in people.tokens("ana"))


def test_who_asks_makes_tokens_of_their_own_and_of_nobody_else(people: PeopleService) -> None:
    for name, role in (("ana", "admin"), ("bo", "editor"), ("cy", "viewer")):
        people.add(name, role)
    bo = Identity(name="bo", role="editor")
    with asked_by(bo):
        mine = people.token(new_secret("kp_")[1], label="mine")
        assert mine.person == "bo"
        assert people.me() == bo
        for refused in (
            lambda: people.token(new_secret("kp_")[1], "cy"),
            lambda: people.tokens("cy"),
        ):
            with pytest.raises(Forbidden, match="only an admin"):
                refused()
    with asked_by(Identity(name="cy")), pytest.raises(Forbidden):
        people.revoke(mine.id)
    with asked_by(Identity(name="ana", role="admin")):
        assert people.revoke(mine.id).person == "bo"
    with pytest.raises(InvalidInput, match="nobody"):
        people.token(new_secret("kp_")[1])


@pytest.mark.parametrize("name", ["", "Ana", "a b", "-a", "a-", "a" * 65, "token", "<b>x</b>", "a\n", "a/b", "ä"])
def test_a_name_that_cannot_be_used_is_refused(people: PeopleService, name: str) -> None:
    with pytest.raises(InvalidInput, match="no name"):
        people.add(name)
    assert people.list() == ()


def test_what_is_wrong_is_said(people: PeopleService, clock: ManualClock) -> None:
    people.add("ana", "admin")
    with pytest.raises(Conflict, match="of that name"):
        people.add("ana")
    with pytest.raises(NotFound):
        people.role("bo", "editor")
    with pytest.raises(InvalidInput, match="<script>"):
        people.role("ana", "editor", "<script>")
    with pytest.raises(InvalidInput, match="digest"):
        people.token("kp_thetokenitself", "ana")
    with pytest.raises(InvalidInput, match="expired"):
        people.token(new_secret("kp_")[1], "ana", expires_at=clock.now())
    digest = new_secret("kp_")[1]
    people.token(digest, "ana")
    with pytest.raises(Conflict, match="known"):
        people.token(digest, "ana")
    with pytest.raises(NotFound, match="no such token"):
        people.revoke(999)


def test_a_provider_s_word_makes_finds_and_changes_a_person(people: PeopleService, clock: ManualClock) -> None:
    made = people.signed_in("https://id 1", ("Ana.Berg@x.org", "1"), "ana.berg@x.org", None, "viewer")
    assert (made.name, made.role, made.seen_at) == ("ana.berg@x.org", "viewer", clock.now())
    assert people.signed_in("https://id 1", ("other",), "new@x.org", "approver", "viewer").role == "approver"
    # Another subject with the same wish gets another name, and another subject with her address is not her.
    other = people.signed_in("https://id 2", ("ana.berg@x.org",), "ana.berg@x.org", None, "viewer")
    assert other.name == "ana.berg@x.org-2"
    people.add("bo", "editor", "bo@x.org")
    assert people.signed_in("https://id 3", ("bob",), "bo@x.org", None, None).name == "bo"
    with pytest.raises(Forbidden, match="nobody has added"):
        people.signed_in("https://id 4", ("cy",), "cy@x.org", None, None)
    people.disable("bo")
    with pytest.raises(Forbidden, match="shut out"):
        people.signed_in("https://id 3", ("bob",), "bo@x.org", "admin", "admin")


names = st.sampled_from(["fraud-cards", "fraud-loans", "flights", "x"])
roles = st.sampled_from(ROLES)


@given(
    role=roles, projects=st.dictionaries(st.sampled_from(["fraud-*", "*", "x", "f?ights"]), roles), on=st.lists(names)
)
def test_a_role_on_several_names_is_the_least_of_the_roles_on_each(role, projects, on) -> None:
    identity = Identity(name="ana", role=role, projects=projects)
    held = identity.role_on(on)
    assert ROLES.index(held) == min((ROLES.index(identity.role_on([name])) for name in on), default=ROLES.index(role))
    assert ROLES.index(role) <= ROLES.index(held) <= ROLES.index(identity.best())
    for needed in ROLES:
        if ROLES.index(needed) <= ROLES.index(held):
            identity.check(needed, on, "here")
        else:
            with pytest.raises(Forbidden, match="ana is"):
                identity.check(needed, on, "here")


def test_pure_rules() -> None:
    assert named({"loop": "a", "model": "b@v7", "endpoint": "", "other": "c", "experiment": 3}) == ("a", "b")
    assert role_of_groups(["x", "ml", "boss"], {"ml": "editor", "boss": "admin"}) == "admin"
    assert role_of_groups(["x"], {"ml": "editor"}) is None
    assert name_from("", "Ä!", "Bo B.") == "bob"
    with pytest.raises(InvalidInput):
        name_from("", "!!", "token")
