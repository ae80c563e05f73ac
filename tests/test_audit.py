"Audits: sound data sets pass, every kind of damage is found once"
import json,shutil
from pathlib import Path

import pytest
from PIL import Image,ImageEnhance
from manga_colorize.dataset.audit import audit
from manga_colorize.commands.dataset import manga_dataset
from manga_colorize.dataset.build import build_dataset,read_metadata
from manga_colorize.world.artist import World
from test_dataset import picture,save

@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp('audit')/'pages'
    build_dataset(World(0), path, size=96, n=80, scenes=.3)
    return path

@pytest.fixture
def pages(sound, tmp_path): return Path(shutil.copytree(sound, tmp_path/'pages'))

def write(path, rows): (path/'metadata.jsonl').write_text('\n'.join(map(json.dumps, rows)), encoding='utf-8')
def what(path): return {w for w,_ in audit(path).problems}

def test_a_world_is_sound(sound):
    found = audit(sound)
    assert found.ok and set(found.pictures)=={'train','valid','color','transfer','interpolation'}, found
    assert 'sound' in str(found) and '**Sound**' in found._repr_markdown_()

@pytest.mark.parametrize('test', ['transfer','interpolation'])
def test_a_stranger_in_training(pages, test):
    rows = read_metadata(pages); f = next(f for f in rows if f['split']==test)
    next(r for r in rows if r['split']=='train')['characters'] += f['characters']; write(pages, rows)
    assert what(pages)=={'a character of a test for strangers is known'}

def test_an_unknown_acquaintance(pages):
    rows = read_metadata(pages); next(r for r in rows if r['split']=='color')['characters'] += ['nobody']; write(pages, rows)
    assert what(pages)=={'a character of the color test is unknown'}

@pytest.mark.parametrize('change', ['none','smaller','brighter','jpeg','cut'])
def test_a_copy_across(pages, change):
    rows = read_metadata(pages); f = next(f for f in rows if f['split']=='valid'); im = Image.open(pages/f['file_name'])
    im = dict(none=im, smaller=im.resize((64,64)), brighter=ImageEnhance.Brightness(im).enhance(1.15), jpeg=im,
              cut=im.crop((1,1,95,95)).resize((96,96)))[change]
    im.save(pages/'train'/'copy.png') if change!='jpeg' else im.save(pages/'train'/'copy.jpg', quality=40)
    rows.append(dict(file_name='train/copy.jpg' if change=='jpeg' else 'train/copy.png', split='train', characters=[])); write(pages, rows)
    assert what(pages)=={'near-duplicates in two splits'}

def test_missing_damaged_stray(pages):
    rows = read_metadata(pages)
    (pages/rows[0]['file_name']).unlink(); (pages/rows[1]['file_name']).write_bytes(b'x'); shutil.copy(pages/rows[2]['file_name'], pages/'train'/'stray.png')
    found = audit(pages)
    assert {w for w,_ in found.problems}=={'a picture cannot be read','a file without metadata'} and len(found.problems)==3

def test_any_folder(tmp_path):
    "Without metadata the first folder is the split; copies within one are a note"
    for i in range(4): save(picture(i), tmp_path/'train'/f'{i}.png')
    save(picture(0), tmp_path/'train'/'again.png'); save(picture(9), tmp_path/'test'/'9.png')
    found = audit(tmp_path); assert found.ok and [w for w,_ in found.notes]==['near-duplicates in one split'] and found.pictures=={'train':5,'test':1}
    save(picture(1), tmp_path/'test'/'1.png'); assert what(tmp_path)=={'near-duplicates in two splits'}

def test_command_fails_on_problems(pages, capsys):
    manga_dataset(['audit',str(pages)]); assert 'sound' in capsys.readouterr().out
    (pages/read_metadata(pages)[0]['file_name']).unlink()
    with pytest.raises(SystemExit) as e: manga_dataset(['audit',str(pages)])
    assert e.value.code==1 and 'not sound' in capsys.readouterr().out
