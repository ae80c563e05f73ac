import os,sys
from pathlib import Path
import pytest

@pytest.fixture(scope='session')
def art()->Path:
    "A folder of real pictures to measure on"
    folder = os.environ.get('MANGA_ART')
    if not folder: pytest.skip('MANGA_ART is not set: no real pictures to measure on')
    return Path(folder)

@pytest.fixture(autouse=True)
def nothing_left_on():
    "No test may leave autocast on: all that follows would train with stale weights in bfloat16"
    yield
    torch = sys.modules.get('torch')
    if torch is not None and torch.is_autocast_enabled('cpu'):
        torch.set_autocast_enabled('cpu', False)
        pytest.fail('autocast was left on')
