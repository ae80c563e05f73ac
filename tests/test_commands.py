"manga-dataset: words, help, errors, the whole way from a booru to an audited data set"
import os,shutil,subprocess,sys
from functools import partial
from pathlib import Path

import pytest
from children import posix,program
from manga_colorize.booru.client import EmbeddedBooru
from manga_colorize.commands.dataset import manga_dataset,words
from manga_colorize.dataset.build import read_metadata
from test_dataset import pages

ART = os.environ.get('MANGA_ART')

@pytest.mark.parametrize('args', [[],['--help'],['-h']])
def test_usage(args, capsys):
    manga_dataset(args); out = capsys.readouterr().out
    assert out.startswith('usage: manga-dataset') and all(w in out for w in words)

@pytest.mark.parametrize('word', words)
def test_each_word_explains_itself(word, capsys):
    with pytest.raises(SystemExit) as e: manga_dataset([word,'--help'])
    out = capsys.readouterr().out
    assert e.value.code==0 and f'usage: manga-dataset {word}' in out and 'TODO' not in out

@pytest.mark.parametrize('args,match', [(['bild'],'expected one of download, build'),(['build','no such','x','--workers','0'],'expected a folder'),
                                        (['build','world','x','--workers','0'],'expected --n'),
                                        (['audit','no such'],'no such'),(['show','no such'],'finished data set')])
def test_errors_are_one_line(args, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=match) as e: manga_dataset(args)
    assert str(e.value).startswith('manga-dataset') and '\n' not in str(e.value)

def test_a_process_fails_with_a_line_and_a_code():
    exe = shutil.which('manga-dataset', path=str(Path(sys.executable).parent))
    run = subprocess.run([exe,'build','nowhere','x','--workers','0'], capture_output=True, text=True)
    assert run.returncode==1 and run.stderr.startswith('manga-dataset build: expected a folder') and run.stderr.count('\n')==1

def test_from_a_booru_to_an_audit(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path); monkeypatch.setattr('manga_colorize.commands.dataset.EmbeddedBooru', partial(EmbeddedBooru, size=96))
    manga_dataset(['download','world','1girl','scans','--n','20','--rate','1000'])
    manga_dataset(['build','scans','pages','--size','64','--workers','0','--complexity','60'])
    manga_dataset(['audit','pages'])
    manga_dataset(['show','pages','--out','sheet.jpg','--n','4'])
    out = capsys.readouterr().out; facts = read_metadata('pages')
    assert 'sound' in out and Path('sheet.jpg').stat().st_size>5000 and len(facts)>=15
    assert all('1girl' in f['tags'] and f['characters'] and f['artist'] and f['rating'] and f['license']=='unknown' for f in facts)
    card = Path('pages/README.md').read_text(encoding='utf-8'); assert '1girl' in card and '| unknown |' in card

@pytest.mark.skipif(not posix, reason='signals of POSIX')
def test_ctrl_c_and_again(pages, tmp_path):
    start = lambda workers: program(tmp_path, 'manga-dataset', 'build', pages, tmp_path/'out', '--size', '48', '--workers', workers)
    code,_,err = start(1).until((tmp_path/'out'/'.work').exists).interrupt().end()
    assert code==130 and 'goes on from here' in err and 'Traceback' not in err, err
    code,out,err = start(0).end()
    assert code==0 and 'train' in out, err
    assert len(read_metadata(tmp_path/'out'))==12

@pytest.mark.skipif(not ART, reason='MANGA_ART names no folder of real pictures')
def test_real_pictures(tmp_path, capsys):
    manga_dataset(['build',str(Path(ART)/'color'),str(tmp_path/'out'),'--workers','0']); print(capsys.readouterr().out)
    assert len(read_metadata(tmp_path/'out'))>=8
