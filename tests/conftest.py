import os
from pathlib import Path
import pytest

@pytest.fixture(scope='session')
def art()->Path:
    "A folder of real pictures to measure on"
    folder = os.environ.get('MANGA_ART')
    if not folder: pytest.skip('MANGA_ART is not set: no real pictures to measure on')
    return Path(folder)
