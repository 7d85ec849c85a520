"""The operations on endpoints: what they are to do, how far they are, and what they answered."""

from __future__ import annotations

from pathlib import Path

import msgspec
import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.engines.sql.database import Database
from kilter.operations.table import operation
from kilter.serving.recording.predictions import find
from kilter.serving.records import EndpointStatus, Prediction, TrafficPlan
from kilter.serving.rules import check_plan
from kilter.serving.tables import endpoint_plans, endpoint_status


class EndpointService:
    """Plans, status and predictions of endpoints.

    Args:
        database: The store's metadata.
        clock: The time.
        logs: The folder of the prediction logs, one folder per front; None when they are elsewhere.
    """

    def __init__(self, database: Database, clock: Clock, logs: Path | None = None) -> None:
        self._database = database
        self._clock = clock
        self._logs = logs

    def set_plan(
        self, plan: TrafficPlan, connection: sa.Connection | None = None, *, instead_of: int | None = None
    ) -> int:
        """Make an endpoint do what a plan says; setting the plan that is set already changes nothing.

        Args:
            plan: The plan; its ``generation`` is given here.
            connection: The caller's transaction, or None for one of its own.
            instead_of: The generation that the plan takes the place of; None for whatever stands.

        Returns:
            The plan's generation.

        Raises:
            InvalidInput: When the plan contradicts itself.
            Conflict: When another generation stands than the one that it takes the place of.
        """
        check_plan(plan)
        if connection is None:
            with self._database.transaction() as own:
                return self._set(own, plan, instead_of)
        return self._set(connection, plan, instead_of)

    def _set(self, connection: sa.Connection, plan: TrafficPlan, instead_of: int | None) -> int:
        query = sa.select(endpoint_plans.c.generation, endpoint_plans.c.plan).where(endpoint_plans.c.loop == plan.loop)
        row = connection.execute(query.with_for_update()).first()
        current = _plan(row.plan, row.generation) if row else None
        if instead_of is not None and (current is None or current.generation != instead_of):
            raise Conflict("another plan was written meanwhile", where="endpoint", fix="look at it, then try again")
        if current is not None and msgspec.structs.replace(plan, generation=current.generation) == current:
            return current.generation
        generation = 1 if current is None else current.generation + 1
        values = {"generation": generation, "plan": msgspec.structs.replace(plan, generation=generation),
                  "set_at": self._clock.now()}  # fmt: skip
        if current is None:
            connection.execute(sa.insert(endpoint_plans).values(loop=plan.loop, **values))
        else:
            connection.execute(sa.update(endpoint_plans).where(endpoint_plans.c.loop == plan.loop).values(**values))
        return generation

    @operation
    def plan(self, loop: str) -> TrafficPlan:
        """Return what an endpoint is to do.

        Args:
            loop: The endpoint.
        """
        query = sa.select(endpoint_plans.c.generation, endpoint_plans.c.plan).where(endpoint_plans.c.loop == loop)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise NotFound("there is no such endpoint", where="endpoint")
        return _plan(row.plan, row.generation)

    @operation
    def plans(self) -> list[TrafficPlan]:
        """Return what every endpoint is to do, by name."""
        query = sa.select(endpoint_plans.c.generation, endpoint_plans.c.plan).order_by(endpoint_plans.c.loop)
        with self._database.reading() as connection:
            return [_plan(row.plan, row.generation) for row in connection.execute(query)]

    def generations(self) -> dict[str, int]:
        """Return the generation of every endpoint's plan: the cheap question that a front asks again and again."""
        query = sa.select(endpoint_plans.c.loop, endpoint_plans.c.generation)
        with self._database.reading() as connection:
            return {row.loop: row.generation for row in connection.execute(query)}

    @operation
    def status(self, loop: str) -> list[EndpointStatus]:
        """Return how far each front has followed an endpoint's plan.

        Args:
            loop: The endpoint.
        """
        query = sa.select(endpoint_status).where(endpoint_status.c.loop == loop).order_by(endpoint_status.c.front)
        with self._database.reading() as connection:
            return [
                EndpointStatus(
                    loop=row.loop,
                    front=row.front,
                    generation=row.generation,
                    applied=row.applied_generation,
                    error=row.error,
                    updated_at=row.updated_at,
                )
                for row in connection.execute(query)
            ]

    @operation
    def applied(self, loop: str) -> int:
        """Return the generation that every front serves at least; 0 when none serves the endpoint yet.

        Args:
            loop: The endpoint.
        """
        return min((status.applied for status in self.status(loop)), default=0)

    def report(self, loop: str, front: str, generation: int, applied: int, error: str = "") -> None:
        """Write how far a front is.

        Args:
            loop: The endpoint.
            front: The front's name.
            generation: The plan it tried to apply.
            applied: The generation that it serves.
            error: Why it serves no newer one.
        """
        values = {
            "generation": generation,
            "applied_generation": applied,
            "error": error,
            "updated_at": self._clock.now(),
        }
        same = (endpoint_status.c.loop == loop) & (endpoint_status.c.front == front)
        with self._database.transaction() as connection:
            if connection.execute(sa.update(endpoint_status).where(same).values(**values)).rowcount == 0:
                connection.execute(sa.insert(endpoint_status).values(loop=loop, front=front, **values))

    @operation(writes=True)
    def forget(self, front: str) -> int:
        """Forget a front that won't come back, so that plans no longer wait for it.

        Args:
            front: Its name.

        Returns:
            How many rows of it were there.
        """
        with self._database.transaction() as connection:
            return connection.execute(sa.delete(endpoint_status).where(endpoint_status.c.front == front)).rowcount

    @operation
    def prediction(self, id: str) -> Prediction:  # noqa: A002 - the name is the argument's in every face
        """Return a recorded prediction by its id.

        Args:
            id: The id, as the answer to a request gave it.
        """
        if self._logs is None:
            raise InvalidInput("the prediction logs are not on this machine", where="id", fix="ask the front's machine")
        return find(self._logs, id)


def _plan(value: object, generation: int) -> TrafficPlan:
    return msgspec.structs.replace(msgspec.convert(value, TrafficPlan, str_keys=True), generation=generation)
