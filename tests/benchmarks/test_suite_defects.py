"""Every planted defect has a place in the code as it is now."""

import pytest

from tests.benchmarks.suite_defects import DEFECTS, Defect
from tests.clones import ROOT


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.why)
def test_its_text_occurs_once(defect: Defect) -> None:
    assert (ROOT / defect.file).read_text().count(defect.old) == 1
    assert defect.old != defect.new
