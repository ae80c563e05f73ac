"How commands start: Ctrl-C while they load, and the help of every word"
import os,signal,subprocess,sys,time
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
config = ConfigParser(delimiters=['=']); config.read(ROOT/'settings.ini', encoding='utf-8')
scripts = dict(s.split('=') for s in config['DEFAULT']['console_scripts'].split())

def test_there_are_seven():
    assert list(scripts)==[f'manga-{k}' for k in ('demo','dataset','train','evaluate','colorize','paint','course')]

@pytest.mark.skipif(os.name!='posix', reason='Windows sends Ctrl-C to whole consoles')
@pytest.mark.parametrize('script', scripts)
def test_ctrl_c_while_loading_ends_quietly(script, tmp_path):
    "A torch that takes long to import; Ctrl-C comes in the middle of it"
    (tmp_path/'torch').mkdir()
    (tmp_path/'torch'/'__init__.py').write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    module,function = scripts[script].split(':')
    (tmp_path/'main.py').write_text(f'import sys\nfrom {module} import {function}\nsys.exit({function}())\n')
    env = {**os.environ, 'PYTHONPATH':os.pathsep.join([str(tmp_path),str(ROOT)])}
    with subprocess.Popen([sys.executable,str(tmp_path/'main.py'),'x'], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline()=='loading\n', p.stderr.read()
        begun = time.monotonic(); p.send_signal(signal.SIGINT)
        out,err = p.communicate(timeout=20)
    assert (out,err)==('','') and p.returncode==-signal.SIGINT and time.monotonic()-begun<10

def test_ctrl_c_is_usual_afterwards():
    from manga_colorize.commands import start
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ModuleNotFoundError): start.start('nothing')
    assert signal.getsignal(signal.SIGINT) is before
