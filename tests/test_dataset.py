"Data sets: layout, refusals, determinism, splits, foreign folders, places, old and new reports"
import os,subprocess,sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np,pytest
from PIL import Image
from fixtures import contents,digest,picture,refusals
from manga_colorize.core import read_image
from manga_colorize.dataset.audit import audit
from manga_colorize.dataset.build import build_dataset,prepare,read_metadata
from manga_colorize.dataset.screening import Screens
from manga_colorize.dataset.sources import Drawn,Folder

ART = os.environ.get('MANGA_ART')

def save(a, path, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(a).save(path, **kwargs)

@dataclass
class Drawing: color:object; tags:tuple=('1girl',); characters:tuple=('mia',); style:str='plain'
@dataclass
class FakeWorld:
    "What `World` promises, in a line each"
    seed:int = 0
    def cast(self, n): return [f'mia{i}' for i in range(n)]
    def illustration(self, i, size=256, cast=None):
        who = cast[i%len(cast)] if cast else f'mia{i}'
        return Drawing(picture(i, size, size), characters=(who,), style='plain' if i%4 else 'chibi')
    def scene(self, i, size=256): return Drawing(picture(1000+i, size, size), ('scene',), (), 'scene')

@pytest.fixture
def pages(tmp_path):
    for i in range(12): save(picture(i), tmp_path/'in'/f'chapter {i%3}'/f'{i}.png')
    return tmp_path/'in'

def test_layout(pages, tmp_path):
    dst = tmp_path/'out'; r = build_dataset(pages, dst, size=64, valid_pct=.25)
    assert (r.kept,r.train,r.valid)==(12,9,3) and r.refused=={} and r.held=={}
    facts = read_metadata(dst)
    assert [set(f) for f in facts]==[{'file_name','split','source','complexity','colourfulness','width','height','tags','characters','style','phash'}]*12
    pngs = {p.relative_to(dst).as_posix() for p in dst.rglob('*.png') if p.parent.name!='card'}
    assert {f['file_name'] for f in facts}==pngs and all(f['file_name'].startswith(f['split']+'/') for f in facts)
    assert all(read_image(dst/f['file_name']).shape==(64,64,3) for f in facts)
    assert {p.name for p in dst.iterdir()}=={'train','valid','card','README.md','dataset.json','metadata.jsonl'}

def test_colours_survive(tmp_path):
    "RGB order, and no loss in the file"
    a = picture(3, 64, 64); save(a, tmp_path/'in'/'a.png')
    build_dataset(tmp_path/'in', tmp_path/'out', size=64)
    np.testing.assert_array_equal(read_image(next((tmp_path/'out'/'train').glob('*.png'))), a)

def test_workers_change_nothing(pages, tmp_path):
    (pages/'bad.png').touch()
    for k in (0,2): build_dataset(pages, tmp_path/str(k), size=48, n=7, seed=5, n_workers=k)
    assert contents(tmp_path/'0')==contents(tmp_path/'2')
    build_dataset(pages, tmp_path/'other', size=48, n=7, seed=6)
    assert {f['source'] for f in read_metadata(tmp_path/'other')}!={f['source'] for f in read_metadata(tmp_path/'0')}

def test_world_and_workers(tmp_path):
    for k in (0,1): build_dataset(FakeWorld(), tmp_path/str(k), size=48, n=24, n_workers=k)
    assert contents(tmp_path/'0')==contents(tmp_path/'1')
    facts = read_metadata(tmp_path/'0')
    assert {f['style'] for f in facts if f['split']=='train'}=={'plain','scene'}
    assert audit(tmp_path/'0', radius=0).ok

def test_workers_do_not_import_fastai():
    code = "import sys,manga_colorize.dataset.build; print('fastai' in sys.modules)"
    assert subprocess.run([sys.executable,'-c',code], capture_output=True, text=True, check=True).stdout.strip()=='False'

def test_more_of_the_same_world_keeps_what_was(tmp_path):
    for n in (5,9): build_dataset(Drawn(FakeWorld()), tmp_path/str(n), size=32, n=n)
    assert [f['source'] for f in read_metadata(tmp_path/'5')]==[f['source'] for f in read_metadata(tmp_path/'9')][:5]

@pytest.mark.parametrize('scenes,styles', [(0.,{'plain','chibi'}),(1.,{'scene'})])
def test_share_of_scenes(tmp_path, scenes, styles):
    build_dataset(FakeWorld(), tmp_path/'a', size=32, n=6, scenes=scenes, test_pct=0)
    assert {f['style'] for f in read_metadata(tmp_path/'a')}==styles

def test_refusals_are_counted_and_named(pages, tmp_path):
    (pages/'empty.png').touch(); (pages/'text.jpg').write_text('not a picture')
    (pages/'cut.png').write_bytes((pages/'chapter 0'/'0.png').read_bytes()[:500])
    save(picture(0,20,20), pages/'tiny.png'); save(picture(40)[...,0], pages/'grey.png'); save(picture(41,64,400), pages/'strip.png')
    save(np.repeat(picture(42)[...,:1],3,2), pages/'grey rgb.jpg')
    save(np.random.default_rng(0).integers(0,256,(96,96,3),np.uint8), pages/'noise.png')
    (pages/'notes.txt').write_text('ignored'); (pages/'.hidden.png').touch()
    r = build_dataset(pages, tmp_path/'out', size=64)
    assert r.kept==12
    assert refusals(tmp_path/'out')=={'cut.png':'cannot be read', 'text.jpg':'not a picture', 'empty.png':'empty file', 'grey rgb.jpg':'no colour',
                                   'grey.png':'no colour',
                                      'noise.png':'too complex', 'tiny.png':'too small', 'strip.png':'too narrow'}
    assert r.refused=={'cannot be read':1, 'not a picture':1, 'empty file':1, 'no colour':2, 'too complex':1, 'too small':1, 'too narrow':1}
    assert 'text.jpg' in str(r) and '| too complex | 1 |' in r._repr_markdown_()
    card = (tmp_path/'out'/'README.md').read_text(encoding='utf-8')
    assert '| no colour | less than 0.005 of the pixels coloured | 2 |' in card

def test_near_duplicates_are_kept_once(pages, tmp_path):
    for i in range(12): Image.fromarray(picture(i)).resize((70,70)).save(pages/f'copy {i}.jpg', quality=50)
    r = build_dataset(pages, tmp_path/'out', size=64)
    assert r.kept==12 and r.refused=={'near-duplicate':12}
    assert build_dataset(pages, tmp_path/'all', size=64, screens=Screens(twins=None)).kept==24

def test_screens(pages, tmp_path):
    save(picture(50,64,64), pages/'small.png')
    r = build_dataset(pages, tmp_path/'a', size=64, screens=Screens(min_side=80)); assert r.refused=={'too small':1}
    save(picture(51,800,1200), tmp_path/'big'/'a.png'); save(picture(52,800,1200), tmp_path/'big'/'b.jpg')
    assert build_dataset(tmp_path/'big', tmp_path/'c', size=64, screens=Screens(min_side=600)).kept==2   # the JPEG is read at a quarter
    assert {(f['width'],f['height']) for f in read_metadata(tmp_path/'c')}=={(1200,800)}
    assert build_dataset(pages, tmp_path/'d', size=64, screens=Screens(max_complexity=90)).kept==13
    with pytest.raises(ValueError, match='max_complexity in screens'): build_dataset(pages, tmp_path/'e', size=64, max_complexity=30, screens=Screens())
    with pytest.raises(ValueError, match='all of them held back'): build_dataset(FakeWorld(), tmp_path/'f', n=3, size=32, scenes=1., kept_styles=['scene'])
    with pytest.raises(ValueError, match='too complex'): build_dataset(pages, tmp_path/'b', size=64, max_complexity=0)

@pytest.mark.parametrize('mode', ('P','CMYK','1','L','LA','I;16','RGBA'))
@pytest.mark.parametrize('suffix', ('png','tif','gif','webp','jpg'))
def test_every_mode_is_kept_or_refused(tmp_path, mode, suffix):
    im = Image.fromarray(picture(1))
    im = Image.fromarray(np.zeros((96,96),np.uint16)) if mode=='I;16' else im.convert(mode)
    try: im.save(tmp_path/f'a.{suffix}')
    except (OSError,KeyError,ValueError): pytest.skip('no such file')
    out = prepare(Folder(tmp_path), 64, Screens(), f'a.{suffix}', {})
    assert ('png' in out)!=('refused' in out)

def test_same_names_in_other_folders(tmp_path):
    for i,name in enumerate(('a/1.png','b/1.png','b/1.PNG.png','ä/漫画.png','b/漫画.png')): save(picture(i), tmp_path/'in'/name)
    assert build_dataset(tmp_path/'in', tmp_path/'out', size=48).kept==5
    files = [f['file_name'] for f in read_metadata(tmp_path/'out')]
    assert len(set(files))==5 and all(f.isascii() for f in files)

def test_finished_is_reported_without_work(pages, tmp_path):
    r = build_dataset(pages, tmp_path/'out', size=48); before = contents(tmp_path/'out')
    assert build_dataset(pages, tmp_path/'out', size=48, each=lambda k: 1/0)==r and contents(tmp_path/'out')==before

@pytest.mark.parametrize('other', [dict(size=64),dict(seed=1),dict(n=3),dict(max_complexity=30.),dict(valid_pct=.2),dict(test_pct=.2),dict(kept_styles=['x'])])
def test_another_data_set_is_left_alone(pages, tmp_path, other):
    build_dataset(pages, tmp_path/'out', size=48); before = contents(tmp_path/'out')
    with pytest.raises(ValueError, match='or the same data set'): build_dataset(pages, tmp_path/'out', **(dict(size=48)|other))
    assert contents(tmp_path/'out')==before

def test_foreign_folder_is_left_alone(pages, tmp_path):
    dst = tmp_path/'out'; dst.mkdir(); (dst/'thesis.txt').write_text('mine')
    with pytest.raises(ValueError, match='other files'): build_dataset(pages, dst, size=48)
    assert contents(dst)=={'thesis.txt':digest(b'mine')}
    with pytest.raises(ValueError, match='empty folder'): build_dataset(pages, dst/'thesis.txt', size=48)

def test_folders_must_be_apart(pages, tmp_path):
    for dst in (pages, pages/'out', tmp_path):
        with pytest.raises(ValueError, match='two separate folders'): build_dataset(pages, dst)

@pytest.mark.parametrize('kwargs,match', [(dict(n=None),'expected n,'),(dict(n=0),'n of at least 1'),(dict(n=1,size=8),'expected a size'),
                                          (dict(n=1,seed=-1),'expected a seed'),
                                          (dict(n=1,valid_pct=1.),'valid_pct'),(dict(n=1,valid_pct=-.1),'valid_pct'),(dict(n=1,test_pct=1.5),'test_pct')])
def test_wrong_arguments(tmp_path, kwargs, match):
    with pytest.raises(ValueError, match=match): build_dataset(FakeWorld(), tmp_path/'out', **kwargs)
    assert not (tmp_path/'out').exists()

def test_nothing_usable(tmp_path):
    save(picture(0)[...,0], tmp_path/'in'/'grey.png')
    with pytest.raises(ValueError, match='no colour'): build_dataset(tmp_path/'in', tmp_path/'out', size=64)
    assert not (tmp_path/'out'/'metadata.jsonl').exists()
    save(picture(1), tmp_path/'more'/'a.png'); (tmp_path/'void').mkdir()
    with pytest.raises(ValueError, match='expected a folder'): build_dataset(tmp_path/'nowhere', tmp_path/'out2')
    with pytest.raises(ValueError, match='none at all'): build_dataset(tmp_path/'void', tmp_path/'out3')

def test_endless_source_that_gives_nothing_stops(tmp_path):
    with pytest.raises(ValueError, match='expected usable pictures'): build_dataset(FakeWorld(), tmp_path/'d', n=3, size=32, max_complexity=-1.)

class Paired:
    "Pictures that bring a sketch of their own"
    endless,path = False,None
    def recipe(self): return dict(kind='paired')
    def __iter__(self): return ((f'p{i}',{}) for i in range(6))
    def name(self, key): return key
    def load(self, key, size):
        a = picture(int(key[1:]), 80, 120); s = np.full((80,120), 255, np.uint8); s[:,60:] = 0
        return a,dict(sketch=s, width=120, height=80)

def test_own_sketches_are_kept(tmp_path):
    build_dataset(Paired(), tmp_path/'d', size=64)
    for f in read_metadata(tmp_path/'d'):
        assert f['sketch']==f"sketches/{f['file_name']}" and (f['width'],f['height'])==(120,80)
        s = read_image(tmp_path/'d'/f['sketch'])
        assert s.shape==(64,64,3) and (s[:,:31]==255).all() and (s[:,33:]==0).all()

@pytest.mark.parametrize('dst', ['memory://bucket/{}/pages','file://{}/far'])
def test_urls_as_places(pages, tmp_path, dst):
    "The same files as in a folder; finished work is known, another recipe refused"
    url = dst.format(tmp_path.as_posix().lstrip('/') if 'memory' in dst else tmp_path.as_posix())
    build_dataset(pages, tmp_path/'near', size=48)
    r = build_dataset(pages, url, size=48, work=tmp_path/'work')
    from fsspec.core import url_to_fs
    fs,root = url_to_fs(url)
    assert {p[len(root)+1:]:digest(fs.cat_file(p)) for p in fs.find(root)}==contents(tmp_path/'near')
    assert build_dataset(pages, url, size=48, work=tmp_path/'work')==r and read_metadata(url)==read_metadata(tmp_path/'near')
    assert audit(url).ok and not any((tmp_path/'work').iterdir())
    with pytest.raises(ValueError, match='or the same data set'): build_dataset(pages, url, size=64, work=tmp_path/'work')

def test_a_url_as_source(pages, tmp_path):
    from fsspec import filesystem
    fs = filesystem('memory')
    for name in contents(pages): fs.pipe_file(f'/scans/{tmp_path.name}/{name}', (pages/name).read_bytes())
    build_dataset(pages, tmp_path/'near', size=48); build_dataset(f'memory://scans/{tmp_path.name}', tmp_path/'far', size=48)
    assert [f['source'] for f in read_metadata(tmp_path/'near')]==[f['source'] for f in read_metadata(tmp_path/'far')]

@pytest.mark.skipif(not ART, reason='MANGA_ART names no folder of real pictures')
def test_real_art(tmp_path):
    r = build_dataset(Path(ART), tmp_path/'out', size=256)
    why = refusals(tmp_path/'out')
    assert all(why.get(f)=='no colour' for f in why if f.startswith('manga/bw_'))
    assert not any(f['source'].startswith('manga/bw_') for f in read_metadata(tmp_path/'out'))
    assert audit(tmp_path/'out').ok
    print(r)
