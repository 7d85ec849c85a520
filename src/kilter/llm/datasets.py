"""Evaluation datasets: examples to judge an application by, each named by its inputs."""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.digests import digest, digest_json
from kilter.core.errors import InvalidInput, NotFound
from kilter.engines.sql.database import Database
from kilter.llm.content import cleaned
from kilter.llm.records import (
    DatasetRecord,
    DatasetRecordPage,
    EvaluationDataset,
    EvaluationDatasetPage,
    Upserted,
)
from kilter.llm.tables import dataset_experiments, dataset_records, dataset_tags, datasets
from kilter.llm.writing import chunks
from kilter.operations.table import operation
from kilter.tracking.filters import COMPARE, clauses, on_text
from kilter.tracking.orders import Place
from kilter.tracking.tables import experiments
from kilter.tracking.writing import upsert

USER = "mlflow.user"
MOST_LISTED = 1000
MOST_WRITTEN = 10_000
_NUMBERS = {"created_time": "created_ms", "last_update_time": "changed_ms", "created": "created_ms"}
_TEXTS = {"name": "name", "created_by": "created_by", "last_updated_by": "changed_by"}
_ORDER = re.compile(r"^\s*(?P<field>\w+)(?:\s+(?P<way>asc|desc))?\s*$", re.IGNORECASE)
_KINDS = ((bool, "boolean"), (int, "integer"), (float, "float"), (str, "string"), (list, "array"), (dict, "object"))


class EvaluationDatasetService:
    """Evaluation datasets and their records.

    Args:
        database: Where the rows are.
        clock: The time.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    @operation(writes=True)
    def create(
        self, name: str, tags: dict[str, str] | None = None, experiments: Sequence[int] = ()
    ) -> EvaluationDataset:
        """Make a dataset; several may have one name.

        Args:
            name: 1 to 500 characters.
            tags: What people say about it; ``mlflow.user`` is who makes it.
            experiments: The numbers of the experiments that use it.

        Raises:
            NotFound: When there is no such experiment.
        """
        if not name.strip() or len(name) > 500 or "\x00" in name:
            raise InvalidInput("a dataset needs a name", where="name", allowed="1 to 500 characters")
        now = self._now()
        identity, user = f"d-{secrets.token_hex(16)}", (tags or {}).get(USER)
        with self._database.transaction() as connection:
            connection.execute(
                datasets.insert().values(
                    id=identity,
                    name=name,
                    digest=_digest(name, now),
                    schema=None,
                    records=0,
                    created_ms=now,
                    changed_ms=now,
                    created_by=user,
                    changed_by=user,
                )
            )
            _tag(connection, identity, tags or {})
            _join(connection, identity, experiments)
            return _one(connection, identity)

    @operation
    def get(self, dataset: str) -> EvaluationDataset:
        """Return a dataset without its records.

        Raises:
            NotFound: When there is none.
        """
        with self._database.reading() as connection:
            return _one(connection, dataset)

    @operation(writes=True)
    def delete(self, dataset: str) -> None:
        """Delete a dataset with its records; deleting it again changes nothing."""
        with self._database.transaction() as connection:
            for table in (dataset_records, dataset_tags, dataset_experiments):
                connection.execute(table.delete().where(table.c.dataset == dataset))
            connection.execute(datasets.delete().where(datasets.c.id == dataset))

    @operation
    def list(
        self,
        filter: str = "",  # noqa: A002 - the word that every tracking tool has for it
        order: Sequence[str] = (),
        limit: int = 100,
        cursor: str | None = None,
        among: Sequence[int] | None = None,
    ) -> EvaluationDatasetPage:
        """Return datasets without their records, page by page, the newest first if not said otherwise.

        Args:
            filter: Comparisons joined by ``AND``, over ``name``, ``created_time``, ``last_update_time``, ``created_by``,
                ``last_updated_by`` and ``tags.NAME``.
            order: ``name``, ``created_time`` or ``last_update_time``, with ``ASC`` or ``DESC``.
            limit: At most so many, up to 1000.
            cursor: From the page before.
            among: Only those of the experiments with these numbers.

        Raises:
            InvalidInput: When the filter, the order or the cursor can't be read.
        """
        if not 1 <= limit <= MOST_LISTED:
            raise InvalidInput(f"{limit}", where="limit", allowed=f"1 to {MOST_LISTED}")
        place = Place(f"datasets:{[*order]}")
        start = place.start(cursor)
        query = sa.select(datasets)
        if filter.strip():
            query = query.where(*(_condition(*clause) for clause in clauses(filter)))
        if among is not None:
            using = sa.select(dataset_experiments.c.dataset).where(dataset_experiments.c.experiment.in_([*among]))
            query = query.where(datasets.c.id.in_(using))
        for term in order or ("created_time DESC",):
            query = query.order_by(_ordered(term))
        query = query.order_by(datasets.c.id.desc())
        with self._database.reading() as connection:
            rows = connection.execute(query.offset(start).limit(limit + 1)).all()
            page = _filled(connection, rows[:limit])
        return EvaluationDatasetPage(datasets=page, cursor=place.cursor(start + limit) if len(rows) > limit else None)

    @operation(writes=True)
    def tag(self, dataset: str, tags: dict[str, str]) -> None:
        """Say something about a dataset; the newest word counts.

        Raises:
            NotFound: When there is none.
        """
        with self._database.transaction() as connection:
            _require(connection, dataset)
            _tag(connection, dataset, tags)

    @operation(writes=True)
    def untag(self, dataset: str, name: str) -> None:
        """Take back what was said about a dataset; taking it back again changes nothing."""
        of = (dataset_tags.c.dataset == dataset) & (dataset_tags.c.name == name)
        with self._database.transaction() as connection:
            connection.execute(dataset_tags.delete().where(of))

    @operation(writes=True)
    def add_experiments(self, dataset: str, experiments: Sequence[int]) -> EvaluationDataset:
        """Let experiments use a dataset.

        Raises:
            NotFound: When there is no such dataset or experiment.
        """
        with self._database.transaction() as connection:
            _require(connection, dataset)
            _join(connection, dataset, experiments)
            self._change(connection, dataset)
            return _one(connection, dataset)

    @operation(writes=True)
    def remove_experiments(self, dataset: str, experiments: Sequence[int]) -> EvaluationDataset:
        """Let experiments use a dataset no more; those that don't are passed over.

        Raises:
            NotFound: When there is no such dataset.
        """
        of = (dataset_experiments.c.dataset == dataset) & dataset_experiments.c.experiment.in_([*experiments])
        with self._database.transaction() as connection:
            _require(connection, dataset)
            if connection.execute(dataset_experiments.delete().where(of)).rowcount:
                self._change(connection, dataset)
            return _one(connection, dataset)

    # ------------------------------------------------------------ records

    @operation(writes=True, repeatable=True)
    def write(self, dataset: str, records: Sequence[DatasetRecord]) -> Upserted:
        """Write records, all or none; one whose inputs are there already is changed.

        Args:
            dataset: The dataset.
            records: At most 10,000. Expectations and tags are laid over those that there are; outputs take their place.

        Raises:
            NotFound: When there is no such dataset.
        """
        if len(records) > MOST_WRITTEN:
            raise InvalidInput(f"{len(records)} records", where="records", allowed=f"at most {MOST_WRITTEN:,} at once")
        given = [_plain(record) for record in records]
        with self._database.transaction() as connection:
            row = _require(connection, dataset)
            now = self._now()
            known = _known(connection, dataset, [name for name, _ in given])
            inserted: dict[str, dict[str, Any]] = {}
            changed: dict[str, dict[str, Any]] = {}
            for name, record in given:
                if name in known:
                    known[name] = changed[name] = _laid_over(known[name], record, now)
                else:
                    known[name] = inserted[name] = _new(dataset, name, record, now)
                    continue
                if name in inserted:
                    inserted[name] = changed.pop(name)
            if inserted:
                connection.execute(dataset_records.insert(), [*inserted.values()])
            if changed:
                _rewrite(connection, [*changed.values()])
            schema = _schema(row.schema, [record for _, record in given])
            user = next((tags[USER] for _, record in reversed(given) if USER in (tags := record.tags or {})), None)
            values = {"changed_by": str(user)} if user else {}
            count = sa.select(sa.func.count()).where(dataset_records.c.dataset == dataset).scalar_subquery()
            connection.execute(
                datasets.update()
                .where(datasets.c.id == dataset)
                .values(schema=schema, records=count, changed_ms=now, digest=_digest(row.name, now), **values)
            )
        return Upserted(inserted=len(inserted), updated=len(given) - len(inserted))

    @operation
    def records(self, dataset: str, limit: int = 1000, cursor: str | None = None) -> DatasetRecordPage:
        """Return the records of a dataset in the order in which they came, page by page.

        Args:
            dataset: The dataset.
            limit: At most so many, up to 1000.
            cursor: From the page before.

        Raises:
            NotFound: When there is no such dataset.
        """
        if not 1 <= limit <= MOST_LISTED:
            raise InvalidInput(f"{limit}", where="limit", allowed=f"1 to {MOST_LISTED}")
        place = Place(f"records:{dataset}")
        start = place.read(cursor) if cursor is not None else 0
        if not isinstance(start, int) or not 0 <= start < 2**63:
            raise InvalidInput("the cursor can't be read", where="cursor", fix="start again without one")
        chosen = sa.select(dataset_records).where(
            dataset_records.c.dataset == dataset, dataset_records.c.number > start
        )
        with self._database.reading() as connection:
            _require(connection, dataset, lock=False)
            rows = connection.execute(chosen.order_by(dataset_records.c.number).limit(limit + 1)).all()
        more = len(rows) > limit
        return DatasetRecordPage(
            records=tuple(_record(row) for row in rows[:limit]),
            cursor=place.cursor(rows[limit - 1].number) if more else None,
        )

    @operation(writes=True)
    def delete_records(self, dataset: str, records: Sequence[str]) -> int:
        """Delete records by their ids, and return how many there were.

        Raises:
            NotFound: When there is no such dataset.
        """
        count = 0
        with self._database.transaction() as connection:
            row = _require(connection, dataset)
            for some in chunks([*records]):
                of = (dataset_records.c.dataset == dataset) & dataset_records.c.id.in_(some)
                count += connection.execute(dataset_records.delete().where(of)).rowcount
            if count:
                now = self._now()
                values = {"records": datasets.c.records - count, "changed_ms": now, "digest": _digest(row.name, now)}
                connection.execute(datasets.update().where(datasets.c.id == dataset).values(**values))
        return count

    # ------------------------------------------------------------ within

    def _now(self) -> int:
        return int(self._clock.now().timestamp() * 1000)

    def _change(self, connection: sa.Connection, dataset: str) -> None:
        connection.execute(datasets.update().where(datasets.c.id == dataset).values(changed_ms=self._now()))


def _digest(name: str, now: int) -> str:
    return digest(f"{name}:{now}".encode())[:8]


def _require(connection: sa.Connection, dataset: str, *, lock: bool = True) -> sa.Row[Any]:
    chosen = sa.select(datasets).where(datasets.c.id == dataset)
    row = connection.execute(chosen.with_for_update() if lock else chosen).first()
    if row is None:
        raise NotFound(f"Evaluation dataset with id '{dataset}' not found", where="datasets")
    return row


def _one(connection: sa.Connection, dataset: str) -> EvaluationDataset:
    row = connection.execute(sa.select(datasets).where(datasets.c.id == dataset)).first()
    if row is None:
        raise NotFound(f"Evaluation dataset with id '{dataset}' not found", where="datasets")
    return _filled(connection, [row])[0]


def _filled(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> tuple[EvaluationDataset, ...]:
    tags: defaultdict[str, dict[str, str]] = defaultdict(dict)
    using: defaultdict[str, list[int]] = defaultdict(list)
    for some in chunks([row.id for row in rows]):
        for tag in connection.execute(sa.select(dataset_tags).where(dataset_tags.c.dataset.in_(some))):
            tags[tag.dataset][tag.name] = tag.value
        for use in connection.execute(sa.select(dataset_experiments).where(dataset_experiments.c.dataset.in_(some))):
            using[use.dataset].append(use.experiment)
    return tuple(
        EvaluationDataset(
            id=row.id,
            name=row.name,
            digest=row.digest,
            created_ms=row.created_ms,
            changed_ms=row.changed_ms,
            created_by=row.created_by,
            changed_by=row.changed_by,
            tags=dict(sorted(tags[row.id].items())),
            schema=row.schema,
            records=row.records,
            experiments=tuple(sorted(using[row.id])),
        )
        for row in rows
    )


def _tag(connection: sa.Connection, dataset: str, tags: Mapping[str, str]) -> None:
    for name in tags:
        if not name or len(name) > 250:
            raise InvalidInput("a tag's name can't be used", where="tags", allowed="1 to 250 characters")
    rows = [{"dataset": dataset, "name": cleaned(name), "value": cleaned(value)} for name, value in tags.items()]
    upsert(connection, dataset_tags, rows)


def _join(connection: sa.Connection, dataset: str, numbers: Sequence[int]) -> None:
    wanted = sorted(set(numbers))
    there = set(connection.execute(sa.select(experiments.c.id).where(experiments.c.id.in_(wanted))).scalars())
    if missing := [number for number in wanted if number not in there]:
        raise NotFound(f"No Experiment with id={missing[0]}", where="experiments")
    of = dataset_experiments.c.dataset == dataset
    known = set(connection.execute(sa.select(dataset_experiments.c.experiment).where(of)).scalars())
    new = [{"dataset": dataset, "experiment": number} for number in wanted if number not in known]
    if new:
        connection.execute(dataset_experiments.insert(), new)


def _condition(field: str, operator: str, value: Any) -> sa.ColumnElement[bool]:
    kind, dot, name = field.partition(".")
    if dot and kind in {"tag", "tags"} and isinstance(value, str):
        of = (dataset_tags.c.dataset == datasets.c.id) & (dataset_tags.c.name == name.strip('`"'))
        return sa.exists().where(of, on_text(dataset_tags.c.value, operator, value)).correlate(datasets)
    if field in _NUMBERS and operator in COMPARE and isinstance(value, float):
        return COMPARE[operator](datasets.c[_NUMBERS[field]], value)
    if field in _TEXTS and isinstance(value, str | list):
        return on_text(datasets.c[_TEXTS[field]], operator, value)
    raise InvalidInput(
        f"Invalid attribute key '{field[:60]}' specified, or a comparison that it doesn't know",
        where="filter",
        allowed=", ".join((*_TEXTS, "created_time", "last_update_time", "tags.NAME")),
    )


def _ordered(term: str) -> sa.ColumnElement[Any]:
    match = _ORDER.match(term)
    column = {"name": "name", **_NUMBERS}.get(match["field"]) if match else None
    if match is None or column is None:
        raise InvalidInput(
            f"Invalid order_by: '{term[:60]}'",
            where="order",
            allowed="name, created_time or last_update_time, ASC or DESC",
        )
    return datasets.c[column].desc() if (match["way"] or "").lower() == "desc" else datasets.c[column].asc()


def _plain(record: DatasetRecord) -> tuple[str, DatasetRecord]:
    """Return a record as a row can hold it, and the digest of its inputs."""
    clean = msgspec.structs.replace(
        record,
        inputs=cleaned(record.inputs),
        outputs=cleaned(record.outputs),
        expectations=cleaned(record.expectations),
        tags=cleaned(record.tags),
        source=cleaned(record.source),
    )
    return digest_json(clean.inputs), clean


def _known(connection: sa.Connection, dataset: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for some in chunks(sorted(set(names))):
        of = (dataset_records.c.dataset == dataset) & dataset_records.c.inputs_digest.in_(some)
        for row in connection.execute(sa.select(dataset_records).where(of)):
            found[row.inputs_digest] = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
    return found


def _new(dataset: str, name: str, record: DatasetRecord, now: int) -> dict[str, Any]:
    user = (record.tags or {}).get(USER)
    return {
        "id": f"dr-{secrets.token_hex(16)}",
        "dataset": dataset,
        "inputs_digest": name,
        "inputs": record.inputs,
        "outputs": record.outputs,
        "expectations": record.expectations,
        "tags": record.tags,
        "source": record.source,
        "created_ms": now,
        "changed_ms": now,
        "created_by": user,
        "changed_by": user,
    }


def _laid_over(row: Mapping[str, Any], record: DatasetRecord, now: int) -> dict[str, Any]:
    user = (record.tags or {}).get(USER)
    return {
        **row,
        "outputs": record.outputs if record.outputs is not None else row["outputs"],
        "expectations": {**(row["expectations"] or {}), **record.expectations}
        if record.expectations
        else row["expectations"],
        "tags": {**(row["tags"] or {}), **record.tags} if record.tags else row["tags"],
        "changed_ms": now,
        "changed_by": user or row["changed_by"],
    }


def _rewrite(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    names = ("outputs", "expectations", "tags", "changed_ms", "changed_by")
    update = (
        dataset_records.update()
        .where(dataset_records.c.id == sa.bindparam("its_id"))
        .values({name: sa.bindparam(f"its_{name}") for name in names})
    )
    connection.execute(update, [{f"its_{name}": row[name] for name in ("id", *names)} for row in rows])


def _record(row: sa.Row[Any]) -> DatasetRecord:
    return DatasetRecord(
        id=row.id,
        dataset=row.dataset,
        inputs=row.inputs,
        outputs=row.outputs,
        expectations=row.expectations,
        tags=row.tags,
        source=row.source,
        created_ms=row.created_ms,
        changed_ms=row.changed_ms,
        created_by=row.created_by,
        changed_by=row.changed_by,
    )


def _schema(known: dict[str, Any] | None, records: Sequence[DatasetRecord]) -> dict[str, Any] | None:
    """Return the fields of all records, each with the kind of its first value."""
    if known is None and not records:
        return None
    schema: dict[str, Any] = known or {"inputs": {}, "outputs": {}, "expectations": {}, "version": "1.0"}
    for record in records:
        for part, values in (
            ("inputs", record.inputs),
            ("outputs", record.outputs),
            ("expectations", record.expectations),
        ):
            if isinstance(values, dict) and isinstance(schema[part], dict):
                for name, value in values.items():
                    schema[part].setdefault(name, _kind(value))
            elif values is not None and not schema[part]:
                schema[part] = _kind(values)
    return schema


def _kind(value: Any) -> str:
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "null")
