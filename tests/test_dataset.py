"Data sets: sources, refusals, determinism, interrupted and foreign folders"
import json,os,subprocess,sys
from dataclasses import dataclass
from pathlib import Path

import cv2,numpy as np,pytest
from PIL import Image
from manga_colorize.core import read_image
from manga_colorize.data.dataset import Report,build_dataset,in_order,manga_dataset,prepare,read_metadata
from manga_colorize.data.sources import Drawn,Folder,Refused,fit,read_color,screen

ART = os.environ.get('MANGA_ART')
def picture(i=0, h=96, w=96):
    "Smooth colour with a few edges"
    rng = np.random.default_rng(i)
    a = cv2.resize(rng.integers(0, 256, (3,3,3), np.uint8), (w,h), interpolation=cv2.INTER_CUBIC)
    return cv2.circle(a, (w//2,h//2), min(h,w)//4, rng.integers(0,256,3).tolist(), -1)
def save(a, path, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(a).save(path, **kwargs)

@dataclass
class Drawing: color:object; tags:tuple=('1girl',); characters:tuple=('mia',); style:str='plain'
@dataclass
class FakeWorld:
    "What `World` promises, in a line each"
    seed:int = 0
    def illustration(self, i, size=256): return Drawing(picture(i, size, size))
    def scene(self, i, size=256): return Drawing(picture(1000+i, size, size), ('scene',), (), 'scene')

@pytest.fixture
def pages(tmp_path):
    for i in range(12): save(picture(i), tmp_path/'in'/f'chapter {i%3}'/f'{i}.png')
    return tmp_path/'in'

def contents(path): return {p.relative_to(path).as_posix():p.read_bytes() for p in path.rglob('*') if p.is_file()}

def test_layout(pages, tmp_path):
    dst = tmp_path/'out'; r = build_dataset(pages, dst, size=64, valid_pct=.25)
    assert (r.kept,r.train,r.valid)==(12,9,3) and r.refused=={}
    facts = read_metadata(dst)
    assert [set(f) for f in facts]==[{'file_name','split','source','complexity','tags','characters','style'}]*12
    assert {f['file_name'] for f in facts}=={p.relative_to(dst).as_posix() for p in dst.rglob('*.png')}
    assert all(f['file_name'].startswith(f['split']+'/') for f in facts)
    assert all(read_image(dst/f['file_name']).shape==(64,64,3) for f in facts)
    assert not [p for p in dst.rglob('.*')]

def test_colours_survive(tmp_path):
    "RGB order, and no loss in the file"
    a = picture(3, 64, 64); save(a, tmp_path/'in'/'a.png')
    build_dataset(tmp_path/'in', tmp_path/'out', size=64)
    np.testing.assert_array_equal(read_image(next((tmp_path/'out').rglob('*.png'))), a)

def test_workers_change_nothing(pages, tmp_path):
    (pages/'bad.png').touch()
    for k in (0,3): build_dataset(pages, tmp_path/str(k), size=48, n=7, seed=5, n_workers=k)
    assert contents(tmp_path/"0")==contents(tmp_path/"3")
    build_dataset(pages, tmp_path/'other', size=48, n=7, seed=6)
    assert contents(tmp_path/'other')!=contents(tmp_path/'0')

def test_world_and_workers(tmp_path):
    for k in (0,2): build_dataset(FakeWorld(), tmp_path/str(k), size=48, n=9, n_workers=k)
    assert contents(tmp_path/'0')==contents(tmp_path/'2')
    facts = read_metadata(tmp_path/'0')
    assert {f['style'] for f in facts}=={'plain','scene'} and {tuple(f['characters']) for f in facts}=={(),('mia',)}

def test_workers_do_not_import_fastai():
    code = "import sys,manga_colorize.data.dataset; print('fastai' in sys.modules)"
    assert subprocess.run([sys.executable,'-c',code], capture_output=True, text=True, check=True).stdout.strip()=='False'

def test_more_of_the_same_world_keeps_what_was(tmp_path):
    build_dataset(FakeWorld(), tmp_path/'a', size=32, n=5); build_dataset(FakeWorld(), tmp_path/'b', size=32, n=9)
    assert [f['source'] for f in read_metadata(tmp_path/'a')]==[f['source'] for f in read_metadata(tmp_path/'b')][:5]

@pytest.mark.parametrize('scenes,styles', [(0.,{'plain'}),(1.,{'scene'})])
def test_share_of_scenes(tmp_path, scenes, styles):
    build_dataset(FakeWorld(), tmp_path/'a', size=32, n=6, scenes=scenes)
    assert {f['style'] for f in read_metadata(tmp_path/'a')}==styles

def test_refusals_are_counted_and_named(pages, tmp_path):
    (pages/'empty.png').touch(); (pages/'text.jpg').write_text('not a picture')
    (pages/'cut.png').write_bytes((pages/'chapter 0'/'0.png').read_bytes()[:500])
    save(picture(0,20,20), pages/'tiny.png'); save(picture(0)[...,0], pages/'grey.png')
    save(np.repeat(picture(0)[...,:1],3,2), pages/'grey rgb.jpg')
    save(np.random.default_rng(0).integers(0,256,(96,96,3),np.uint8), pages/'noise.png')
    (pages/'notes.txt').write_text('ignored'); (pages/'.hidden.png').touch()
    r = build_dataset(pages, tmp_path/'out', size=64)
    assert r.kept==12
    assert r.refused=={'cannot be read':['cut.png','text.jpg'], 'empty file':['empty.png'], 'no colour':['grey rgb.jpg','grey.png'],
                       'too complex':['noise.png'], 'too small':['tiny.png']}
    assert 'text.jpg' in str(r) and '| too complex | 1 |' in r._repr_markdown_()

def test_alpha_lies_on_white(tmp_path):
    a = np.dstack([picture(1), np.zeros((96,96),np.uint8)]); a[30:60,30:60,3] = 255
    save(a, tmp_path/'a.png')
    out = read_color(tmp_path/'a.png')
    assert (out[0,0]==255).all() and (out[40,40]==a[40,40,:3]).all()

@pytest.mark.parametrize('turn', range(1,9))
def test_exif_rotation(tmp_path, turn):
    a = np.zeros((40,60,3),np.uint8); a[:20,:30] = (255,0,0); a[20:,30:] = (0,0,255)
    stored = {1:a, 2:a[:,::-1], 3:a[::-1,::-1], 4:a[::-1], 5:a.transpose(1,0,2), 6:np.rot90(a), 7:a.transpose(1,0,2)[::-1,::-1], 8:np.rot90(a,-1)}[turn]
    exif = Image.Exif(); exif[274] = turn
    save(np.ascontiguousarray(stored), tmp_path/'a.png', exif=exif)
    np.testing.assert_array_equal(read_color(tmp_path/'a.png'), a)

@pytest.mark.parametrize('mode', ('P','CMYK','1','L','LA','I;16','RGBA'))
@pytest.mark.parametrize('suffix', ('png','tif','gif','webp','jpg'))
def test_every_mode_is_kept_or_refused(tmp_path, mode, suffix):
    im = Image.fromarray(picture(1))
    im = Image.fromarray(np.zeros((96,96),np.uint16)) if mode=='I;16' else im.convert(mode)
    try: im.save(tmp_path/f'a.{suffix}')
    except (OSError,KeyError,ValueError): pytest.skip('no such file')
    out = prepare(Folder(tmp_path), 64, 40., f'a.{suffix}')
    assert ('png' in out)!=('refused' in out)

@pytest.mark.parametrize('h,w', [(64,64),(65,200),(300,64),(33,40),(128,129)])
def test_fit(h, w): assert fit(picture(0,h,w), 64).shape==(64,64,3)

def test_fit_keeps_the_middle():
    a = np.zeros((64,192,3),np.uint8); a[:,64:128] = 255
    assert (fit(a,64)==255).all()

def test_same_names_in_other_folders(tmp_path):
    for i,name in enumerate(('a/1.png','b/1.png','b/1.PNG.png','ä/漫画.png','b/漫画.png')): save(picture(i), tmp_path/'in'/name)
    assert build_dataset(tmp_path/'in', tmp_path/'out', size=48).kept==5
    assert len(list((tmp_path/'out').rglob('*.png')))==5
    assert all(p.name.isascii() for p in (tmp_path/'out').rglob('*.png'))

def test_finished_is_reported_without_work(pages, tmp_path):
    r = build_dataset(pages, tmp_path/'out', size=48); before = contents(tmp_path/'out')
    (tmp_path/'out'/'metadata.jsonl').touch()
    assert build_dataset(pages, tmp_path/'out', size=48)==r and contents(tmp_path/'out')==before

@pytest.mark.parametrize('other', [dict(size=64),dict(seed=1),dict(n=3),dict(max_complexity=30.),dict(valid_pct=.2)])
def test_another_data_set_is_left_alone(pages, tmp_path, other):
    build_dataset(pages, tmp_path/'out', size=48); before = contents(tmp_path/'out')
    with pytest.raises(ValueError, match='or the same data set'): build_dataset(pages, tmp_path/'out', **(dict(size=48)|other))
    assert contents(tmp_path/'out')==before

def test_foreign_folder_is_left_alone(pages, tmp_path):
    dst = tmp_path/'out'; dst.mkdir(); (dst/'thesis.txt').write_text('mine')
    with pytest.raises(ValueError, match='other files'): build_dataset(pages, dst, size=48)
    assert contents(dst)=={'thesis.txt':b'mine'}
    with pytest.raises(ValueError, match='empty folder'): build_dataset(pages, dst/'thesis.txt', size=48)

def test_interrupted_work_is_finished_by_the_same_call(pages, tmp_path):
    class Stop(KeyboardInterrupt): pass
    def stop(k):
        if k==5: raise Stop
    with pytest.raises(Stop): build_dataset(pages, tmp_path/'out', size=48, each=stop)
    with pytest.raises(ValueError, match='finished data set'): read_metadata(tmp_path/'out')
    build_dataset(pages, tmp_path/'out', size=48); build_dataset(pages, tmp_path/'whole', size=48)
    assert contents(tmp_path/'out')==contents(tmp_path/'whole')

def test_folders_must_be_apart(pages, tmp_path):
    for dst in (pages, pages/'out', tmp_path):
        with pytest.raises(ValueError, match='two separate folders'): build_dataset(pages, dst)

@pytest.mark.parametrize('kwargs,match', [(dict(n=None),'expected n,'),(dict(n=0),'n of at least 1'),(dict(n=1,size=8),'expected a size'),
                                          (dict(n=1,valid_pct=1.),'valid_pct'),(dict(n=1,valid_pct=-.1),'valid_pct')])
def test_wrong_arguments(tmp_path, kwargs, match):
    with pytest.raises(ValueError, match=match): build_dataset(FakeWorld(), tmp_path/'out', **kwargs)
    assert not (tmp_path/'out').exists()

def test_nothing_usable(tmp_path):
    save(picture(0)[...,0], tmp_path/'in'/'grey.png')
    with pytest.raises(ValueError, match='no colour'): build_dataset(tmp_path/'in', tmp_path/'out', size=64)
    assert not any((tmp_path/'out').iterdir())
    with pytest.raises(ValueError, match='expected a folder'): build_dataset(tmp_path/'nowhere', tmp_path/'out')
    with pytest.raises(ValueError, match='got none'): build_dataset((tmp_path/'void').mkdir() or tmp_path/'void', tmp_path/'out')

def test_an_endless_source_stays_bounded():
    seen = []
    def keys():
        for i in range(10**9): seen.append(i); yield i
    results = in_order(abs, keys(), n_workers=1)
    assert [next(results) for _ in range(3)]==[0,1,2] and len(seen)<12
    results.close()

def test_command(pages, tmp_path, capsys):
    manga_dataset(str(pages), str(tmp_path/'out'), size=48, n=4, workers=0)
    assert 'train' in capsys.readouterr().out and len(read_metadata(tmp_path/'out'))==4
    with pytest.raises(SystemExit, match='expected a folder'): manga_dataset(str(tmp_path/'no'), str(tmp_path/"o"), workers=0)

@pytest.mark.skipif(not ART, reason='MANGA_ART names no folder of real pictures')
def test_real_art(tmp_path):
    r = build_dataset(Path(ART), tmp_path/'out', size=256)
    assert all('bw_' in f for f in r.refused.get('no colour',[]) if f.startswith('manga'))
    assert not any(f['source'].startswith('manga/bw_') for f in read_metadata(tmp_path/'out'))
    assert sum(f['source'].startswith('squares') for f in read_metadata(tmp_path/'out'))==23
    print(r)

def test_endless_source_that_gives_nothing_stops(tmp_path):
    with pytest.raises(ValueError, match='expected usable pictures'): build_dataset(FakeWorld(), tmp_path/'d', n=3, size=32, max_complexity=-1.)

def test_bad_seed_claims_nothing(tmp_path):
    with pytest.raises(ValueError, match='expected a seed'): build_dataset(FakeWorld(), tmp_path/'d', n=3, size=32, seed=-1)
    assert not (tmp_path/'d').exists()
