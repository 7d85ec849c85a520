"""Models by any name, versions with a source, and who changed what of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from kilter.engines.sql.types import Json, UtcDateTime

revision = "0005"
down_revision = "0004"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TABLES = (
    "registry_deliveries",
    "registry_webhooks",
    "registry_changes",
    "registered_aliases",
    "registered_version_tags",
    "registered_model_tags",
    "registered_versions",
    "registered_models",
)


def upgrade() -> None:
    """Make the tables, and show in them the models that loops made."""
    op.create_table(
        "registered_models",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("owner", sa.String(length=8), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("latest", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registered_models")),
        sa.UniqueConstraint("name", name=op.f("uq_registered_models_name")),
    )
    op.create_table(
        "registered_versions",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("run", sa.String(length=256), nullable=False),
        sa.Column("logged_model", sa.String(length=64), nullable=False),
        sa.Column("run_link", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("user", sa.String(length=200), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=24), nullable=False),
        sa.Column("approval", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"], ["registered_models.id"], name=op.f("fk_registered_versions_model_registered_models")
        ),
        sa.PrimaryKeyConstraint("model", "version", name=op.f("pk_registered_versions")),
    )
    op.create_index(op.f("ix_registered_versions_run"), "registered_versions", ["run"], unique=False)
    op.create_index(op.f("ix_registered_versions_changed_at"), "registered_versions", ["changed_at"], unique=False)
    op.create_table(
        "registered_model_tags",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"], ["registered_models.id"], name=op.f("fk_registered_model_tags_model_registered_models")
        ),
        sa.PrimaryKeyConstraint("model", "name", name=op.f("pk_registered_model_tags")),
    )
    op.create_table(
        "registered_version_tags",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["registered_versions.model", "registered_versions.version"],
            name=op.f("fk_registered_version_tags_model_version_registered_versions"),
        ),
        sa.PrimaryKeyConstraint("model", "version", "name", name=op.f("pk_registered_version_tags")),
    )
    for table in ("registered_model_tags", "registered_version_tags"):
        op.create_index(op.f(f"ix_{table}_name"), table, ["name"], unique=False)
    op.create_table(
        "registered_aliases",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("alias", sa.String(length=255), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["registered_versions.model", "registered_versions.version"],
            name=op.f("fk_registered_aliases_model_version_registered_versions"),
        ),
        sa.PrimaryKeyConstraint("model", "alias", name=op.f("pk_registered_aliases")),
    )
    op.create_table(
        "registry_changes",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("what", sa.String(length=16), nullable=False),
        sa.Column("field", sa.String(length=256), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registry_changes")),
    )
    op.create_index(op.f("ix_registry_changes_model_id"), "registry_changes", ["model", "id"], unique=False)
    op.create_index(op.f("ix_registry_changes_name"), "registry_changes", ["name"], unique=False)
    _make_webhooks()
    _show_loops()


def _make_webhooks() -> None:
    op.create_table(
        "registry_webhooks",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", Json(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registry_webhooks")),
    )
    op.create_table(
        "registry_deliveries",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("webhook", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["webhook"], ["registry_webhooks.id"], name=op.f("fk_registry_deliveries_webhook_registry_webhooks")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registry_deliveries")),
    )
    op.create_index(op.f("ix_registry_deliveries_due_at"), "registry_deliveries", ["due_at"], unique=False)
    op.create_index(op.f("ix_registry_deliveries_webhook"), "registry_deliveries", ["webhook"], unique=False)


def _show_loops() -> None:
    """Show the models that are there; their ids are of another form than those that are made later."""
    connection = op.get_bind()
    names = connection.execute(sa.text("SELECT name FROM models ORDER BY name")).scalars().all()
    show = sa.text(
        "INSERT INTO registered_models (id, name, owner, description, latest, created_at, changed_at) "
        "SELECT :id, name, 'loop', '', latest, created_at, created_at FROM models WHERE name = :name"
    )
    for place, name in enumerate(names):
        connection.execute(show, {"id": f"rm-{place}", "name": name})
    connection.execute(
        sa.text(
            "INSERT INTO registered_versions (model, version, source, location, run, logged_model, run_link, description, "
            '"user", stage, status, approval, created_at, changed_at) '
            "SELECT m.id, v.version, '', '', v.run, '', '', '', '', 'None', 'READY', "
            "CASE WHEN EXISTS (SELECT 1 FROM model_approvals a WHERE a.model = v.model AND a.version = v.version) "
            "THEN 'approved' ELSE 'pending' END, v.at, v.at "
            "FROM model_versions v JOIN registered_models m ON m.name = v.model"
        )
    )


def downgrade() -> None:
    """Drop them."""
    for name in _TABLES:
        op.drop_table(name)
