"""The batch job on Ray Data: the same rows, the same bits, nothing half done."""

import pytest

ray = pytest.importorskip("ray.data", reason="Ray is not installed: kilter[ray]")
pytest.importorskip("lightgbm")

from kilter.core.errors import NotFound  # noqa: E402
from kilter.serving.ray.cluster import joined  # noqa: E402

from .cluster_scoring import ClusterScoring, Shop, rows  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    # Ray Data sets options that it calls deprecated when it makes its own context.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with joined("", processors=2):
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop.make(tmp_path_factory.mktemp("objects"))


class TestRay(ClusterScoring):
    engine = "ray"

    def test_a_machine_that_cannot_reach_the_bundle_says_so(self, shop, tmp_path):
        rows(10).write_parquet(tmp_path / "in.parquet")
        lost = Shop(str(tmp_path / "elsewhere"), shop.bundle)
        with pytest.raises(NotFound, match=f"no object {shop.bundle[:12]}"):
            lost.there("ray", tmp_path / "in.parquet", tmp_path / "out")
