"Children of tests: their environment, and what becomes of those that do not end"
import os,time

import pytest
from children import Child,posix

def tell_environment(): print(sorted(k for k in os.environ if k.startswith('CHILD_')))

def test_the_environment_is_that_of_the_start(tmp_path, monkeypatch):
    "Not that of the first child: what was set then may be gone, and the other way round"
    monkeypatch.setenv('CHILD_A', '1'); first = Child(tmp_path, tell_environment).end()
    monkeypatch.delenv('CHILD_A'); monkeypatch.setenv('CHILD_B', '1')
    second = Child(tmp_path, tell_environment, CHILD_C='1').end()
    assert (first,second)==((0,"['CHILD_A']\n",''),(0,"['CHILD_B', 'CHILD_C']\n",''))

def sleep_with_a_child(sign):
    if posix and not os.fork():
        for _ in range(60000): sign.touch(); time.sleep(.01)
    print('asleep', flush=True); time.sleep(600)

@pytest.mark.parametrize('wait', [lambda p: p.end(.05), lambda p: p.until('never said', .05)], ids=('end','until'))
def test_a_child_that_does_not_end_is_killed_before_the_test_fails(tmp_path, wait):
    sign = tmp_path/'sign of life'; p = Child(tmp_path, sleep_with_a_child, sign).until('asleep')
    if posix: p.until(sign.exists)
    with pytest.raises(pytest.fail.Exception, match='asleep'): wait(p)
    sign.unlink(missing_ok=True); time.sleep(.1)
    assert not p.process.is_alive() and not sign.exists()
