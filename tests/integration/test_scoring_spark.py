"""The batch job on Spark: the same rows, the same bits, nothing half done."""

import shutil

import pytest

pyspark = pytest.importorskip("pyspark.sql", reason="Spark is not installed: kilter[spark]")
pytest.importorskip("lightgbm")

from kilter.serving.scoring.spark import session  # noqa: E402

from .cluster_scoring import ClusterScoring, Shop  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs java"),
]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with session("", 2) as found:
        yield
        context = found.sparkContext
    gateway = context._gateway
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(30)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop.make(tmp_path_factory.mktemp("objects"))


class TestSpark(ClusterScoring):
    engine = "spark"
