"Two piles of panels: squares, refusals, broken pages, interrupts, other forms of scans; and the command that trains on them"
import json
from pathlib import Path

import cv2,numpy as np,pytest
from PIL import Image
from manga_colorize.colorizer.train import train_method
from manga_colorize.core import read_image
from manga_colorize.dataset.build import build_dataset,read_metadata
from manga_colorize.dataset.panel_source import PanelFolder,build_panels,draw_pages,drawn_share,even_paper,smooth_pages,squares
from manga_colorize.dataset.reading import Refused
from manga_colorize.dataset.screening import Screens,colour_share
from manga_colorize.world.artist import World
from fixtures import contents,refusals

def page(i, h=300, w=220, color=False):
    "Two panels with something in each"
    rng,a = np.random.default_rng(i),np.full((h,w,3), 255, np.uint8)
    for k,(y0,y1) in enumerate(((10,h//2-8),(h//2+8,h-10))):
        ink = (60,120,200) if color and k==i%2 else (200,90,60) if color else (110,)*3
        cv2.rectangle(a, (10,y0), (w-10,y1), (0,0,0), 2)
        for _ in range(6): cv2.circle(a, tuple(int(v) for v in rng.integers((40,y0+25),(w-40,y1-25))), int(rng.integers(10,24)), ink, -1)
    return a

def fill(folder, n, first=0, color=False, suffix='png'):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first,first+n): Image.fromarray(page(i, color=color)).save(folder/f'page {i}.{suffix}')
    return folder

@pytest.mark.parametrize('box', [(0,0,50,50), (3,4,50,70), (3,4,200,60), (0,9,31,400), (5,5,1,7), (0,0,240,100), (0,0,149,100)])
def test_squares_leave_out_half_a_square_at_most(box):
    x,y,w,h = box; found = squares(box); side = min(w,h)
    assert all(x<=a and y<=b and a+s<=x+w and b+s<=y+h and s==side for a,b,s in found)
    if len(found)>1: assert found[0][:2]==(x,y) and found[-1][0]+side==x+w and found[-1][1]+side==y+h
    seen = np.zeros((y+h,x+w), bool)
    for a,b,s in found: seen[b:b+s,a:a+s] = True
    assert len(found)==max(1, round(max(w,h)/side)) and seen.any(0).sum()*seen.any(1).sum()==min(w*h, len(found)*side*side)
    assert max(w,h)-seen.sum()/side<=side/2

def test_two_piles(tmp_path):
    for kind,first in (('bw',0),('color',4)):
        r = build_panels(fill(tmp_path/kind, 4, first, kind=='color'), tmp_path/'out'/kind, size=48, scans=kind=='bw', valid_pct=.25)
        rows = read_metadata(tmp_path/'out'/kind)
        assert r.kept==len(rows)>=8 and r.refused=={} and r.train and r.valid
        assert {row['page'] for row in rows}=={f'page {i}.png' for i in range(first,first+4)}
        assert all(row['source'].startswith(row['page']+'@') and row['width']==row['height']>80 for row in rows)
        for row in rows:
            a = read_image(tmp_path/'out'/kind/row['file_name'])
            assert a.shape==(48,48,3) and (np.ptp(a, axis=2).max()==0)==(kind=='bw')

def test_squares_are_those_of_the_page(tmp_path):
    source = PanelFolder(fill(tmp_path/'in', 1, color=True))
    for key,known in source:
        x,y,side = map(int, key.rpartition('@')[2].split(','))
        assert known==dict(page='page 0.png') and source.name(key).startswith('page-0-')
        assert np.array_equal(source.load(key, 32)[0], page(0, color=True)[y:y+side,x:x+side])
    assert len({source.name(k) for k,_ in source})==len(list(source))

def test_workers_change_nothing(tmp_path):
    fill(tmp_path/'in', 4)
    for k in (0,2): build_panels(tmp_path/'in', tmp_path/str(k), size=32, scans=True, n=5, seed=3, n_workers=k)
    a,b = contents(tmp_path/'0'),contents(tmp_path/'2')
    assert a.keys()==b.keys() and not [k for k in a if a[k]!=b[k]]

def test_goes_on_after_an_interrupt(tmp_path):
    fill(tmp_path/'in', 4)
    class Stop(Exception): pass
    def stop(n):
        if n==3: raise Stop
    build_panels(tmp_path/'in', tmp_path/'whole', size=32, scans=True)
    with pytest.raises(Stop): build_panels(tmp_path/'in', tmp_path/'part', size=32, scans=True, each=stop)
    assert not (tmp_path/'part'/'metadata.jsonl').exists()
    after = []; build_panels(tmp_path/'in', tmp_path/'part', size=32, scans=True, each=after.append)
    a,b = contents(tmp_path/'whole'),contents(tmp_path/'part')
    assert min(after)>2 and a.keys()==b.keys() and not [k for k in a if a[k]!=b[k]]

def test_every_refusal_has_a_name(tmp_path):
    src = fill(tmp_path/'in', 2)
    Image.fromarray(page(0, color=True)).save(src/'cover.png'); (src/'empty.png').touch(); (src/'text.jpg').write_text('no')
    Image.fromarray(np.full((300,200), 255, np.uint8)).save(src/'blank.png')
    Image.fromarray(page(9)[:20,:20]).save(src/'stamp.png'); Image.fromarray(page(9)).save(src/'odd@1,2.png')
    r = build_panels(src, tmp_path/'out', size=48, scans=True)
    got = refusals(tmp_path/'out')
    why = {'cover.png':'in colour', 'empty.png':'empty file', 'text.jpg':'not a picture', 'blank.png':'nearly empty', 'stamp.png':'too small'}
    assert {k.rpartition('@')[0]:v for k,v in got.items()}==why
    assert {f['page'] for f in read_metadata(tmp_path/'out')}=={'page 0.png','page 1.png','odd@1,2.png'}
    with pytest.raises(ValueError, match='no colour'): build_panels(fill(tmp_path/'grey', 2), tmp_path/'other', size=48)
    with pytest.raises(ValueError, match='scans True, not False'): build_panels(src, tmp_path/'out', size=48)
    with pytest.raises(ValueError, match='expected a folder of pictures'): build_panels(tmp_path/'nowhere', tmp_path/'x')
    with pytest.raises(ValueError, match='too small'): build_panels(src, tmp_path/'y', size=1024, scans=True)

@pytest.mark.parametrize('mode,suffix', [('1','tif'), ('L','jpg'), ('RGBA','png'), ('P','gif')])
def test_forms_of_scans(tmp_path, mode, suffix):
    (tmp_path/'in').mkdir(); Image.fromarray(page(1)).convert(mode).save(tmp_path/'in'/f'a.{suffix}')
    assert build_panels(tmp_path/'in', tmp_path/'out', size=32, scans=True, valid_pct=0).kept>=2

def test_turned_scans_are_upright(tmp_path):
    (tmp_path/'in').mkdir(); exif = Image.Exif(); exif[274] = 6
    Image.fromarray(page(1)).transpose(Image.Transpose.ROTATE_90).save(tmp_path/'in'/'a.png', exif=exif)
    assert np.array_equal(PanelFolder(tmp_path/'in').page('a.png'), page(1))

@pytest.mark.parametrize('tint', [(255,240,200), (225,235,255), (250,250,250)])
def test_paper_of_any_tint(tint):
    a = page(2); scan = (a/255*np.array(tint)).round().astype(np.uint8)
    assert abs(even_paper(scan).astype(int)-a).max()<=3
    for flat in (0,128,255): assert np.ptp(even_paper(np.full((40,40,3), flat, np.uint8)))==0
    assert even_paper(np.zeros((40,40,3), np.uint8)).max()==0

@pytest.mark.parametrize('ink,paper', [((60,40,20),(240,225,190)), ((20,30,90),(250,250,250)), ((0,0,0),(255,240,200))])
def test_ink_of_any_tint(tmp_path, ink, paper):
    "A page in one ink is black and white, whatever the ink; its middle tones are neutral too"
    scan = (np.array(ink)+page(2)/255*(np.array(paper)-ink)).round().astype(np.uint8); even = even_paper(scan)
    assert np.ptp(even.astype(int), axis=2).max()<=3 and even.min()<=max(ink) and even.max()==255
    Image.fromarray(scan).save(tmp_path/'a.png')
    assert all(k.rpartition('@')[2] for k,_ in PanelFolder(tmp_path, scans=True))
    assert np.array_equal(even_paper(page(2)), page(2)) and colour_share(even_paper(page(2, color=True)))>.9*colour_share(page(2, color=True))

def test_drawn_share():
    flat = np.full((60,60,3), (120,160,230), np.uint8)
    assert drawn_share(flat)==0 and drawn_share(cv2.circle(flat.copy(), (30,30), 18, (0,0,0), -1))>.2
    ramp = np.repeat(np.linspace(0,255,60).astype(np.uint8)[:,None,None], 60, 1).repeat(3, 2)
    assert drawn_share(ramp)>.5

def test_any_source_goes_into_build_dataset(tmp_path):
    r = build_dataset(PanelFolder(fill(tmp_path/'in', 2, color=True), least=0), tmp_path/'out', size=32, screens=Screens(max_complexity=100, twins=None))
    assert r.kept>=4

def test_pages_are_drawn_once(tmp_path):
    files = draw_pages(tmp_path, 2, first=5, size=(150,106))
    assert [f.name for f in files]==['page-00005.png','page-00006.png']
    was = [(f.stat().st_mtime_ns,f.stat().st_ino) for f in files]; files[1].unlink()
    draw_pages(tmp_path, 2, first=5, size=(150,106))
    assert (files[0].stat().st_mtime_ns,files[0].stat().st_ino)==was[0] and read_image(files[1]).shape==(150,106,3)
    with pytest.raises(ValueError, match='1 page or more'): draw_pages(tmp_path, 0)

def test_other_pages_are_refused(tmp_path):
    "A page that is there is not drawn again, so all that decides how it looks must be as it was"
    draw_pages(tmp_path/'a', 1, size=(150,106)); (tmp_path/'a'/'page-00000.png').unlink()
    cast = World(seed=0).cast(2)
    for other in (dict(size=(300,212)), dict(color=True), dict(world=World(seed=1)), dict(cast=cast[:1])):
        with pytest.raises(ValueError, match='expected another folder'): draw_pages(tmp_path/'a', 1, **(dict(size=(150,106)) | other))
    draw_pages(tmp_path/'b', 1, size=(150,106), cast=cast)
    with pytest.raises(ValueError, match='expected another folder'): draw_pages(tmp_path/'b', 1, size=(150,106), cast=cast[:1])
    (tmp_path/'b'/'pages.json').unlink()
    with pytest.raises(ValueError, match='without a note'): draw_pages(tmp_path/'b', 1, size=(150,106), cast=cast)
    assert not list((tmp_path/'a').glob('*.png'))

def dotted(i):
    "A page of two panels with screentone"
    a = page(i, 420, 300); y,x = np.indices(a.shape[:2]); dots = ((x%5)//2+(y%5)//2==0)
    a[dots&(a[...,0]>200)&(x>20)&(x<280)] = 0
    return a

def test_smooth_pages(tmp_path):
    "Dots become grey, folders stay, coloured and broken pages are left out, and what is there is left alone"
    (tmp_path/'a'/'in').mkdir(parents=True)
    for k,f in enumerate(('in/one.png','two.png')): Image.fromarray(dotted(k)).save(tmp_path/'a'/f)
    Image.fromarray(page(2, color=True)).save(tmp_path/'a'/'cover.png'); (tmp_path/'a'/'broken.png').write_bytes(b'x')
    files = smooth_pages(tmp_path/'a', tmp_path/'b')
    assert sorted(f.relative_to(tmp_path/'b').as_posix() for f in files)==['in/one.png.png','two.png.png']
    rough = lambda f: np.abs(np.diff(read_image(f)[...,0].astype(int), axis=1)).mean()
    assert rough(tmp_path/'b'/'two.png.png')<.4*rough(tmp_path/'a'/'two.png')
    with pytest.raises(ValueError, match='expected another folder'): smooth_pages(tmp_path/'b', tmp_path/'b')
    with pytest.raises(ValueError, match='expected black and white pages'): smooth_pages(fill(tmp_path/'c', 2, color=True), tmp_path/'d')
    files[0].write_bytes(b'mine'); assert smooth_pages(tmp_path/'a', tmp_path/'b')==files and files[0].read_bytes()==b'mine'
    assert not [f for f in (tmp_path/'b').rglob('*') if f.is_file() and f.suffix!='.png' and f.name!='pages.json']

# ---------- CycleGAN by the public door

@pytest.fixture(scope='module')
def piles(tmp_path_factory):
    root = tmp_path_factory.mktemp('piles')
    return str(fill(root/'bw', 4)),str(fill(root/'color', 4, 4, True))

small = dict(size=32, bs=4, ngf=2, n_blocks=1, n_layers=1, epochs=2)

@pytest.fixture
def quick(monkeypatch): monkeypatch.setenv('MANGA_SCALE', 'quick')

def test_a_run_resumes_exactly(piles, tmp_path, quick):
    "A run stopped after one epoch and resumed ends as one that was not"
    from fastai.basics import Callback,CancelFitException
    from manga_colorize.colorizer.colorizer import Colorizer
    train_method('cyclegan', *piles, out=tmp_path/'whole', **small)
    class Stop(Callback):
        order = 91 # after the checkpoint
        def after_epoch(self): raise CancelFitException
    train_method('cyclegan', *piles, out=tmp_path/'part', cbs=[Stop()], **small)
    train_method('cyclegan', *piles, out=tmp_path/'part', resume=True)
    a,b = [(tmp_path/k/'model.safetensors').read_bytes() for k in ('whole','part')]
    assert len(a)==len(b) and hash(a)==hash(b)
    paint = Colorizer.load(tmp_path/'whole', device='cpu')
    assert paint(np.full((40,50), 255, np.uint8)).size==(50,40)
    assert paint.config['training']['lambda_identity']==.5 and paint.config['protocol']==dict(cue='none', size=32, tones='print')
    assert paint.given==('sketch',)
    kept = json.loads((tmp_path/'whole'/'train.json').read_text(encoding='utf-8'))
    assert kept['folders']==[str(Path(p).resolve()) for p in piles] and kept['uncut'] is False
    published = (tmp_path/'whole'/'config.json').read_text(encoding='utf-8')
    assert 'folders' not in paint.config['training'] and not any(Path(p).parent.name in published for p in piles)

def test_what_is_wrong_is_named(piles, tmp_path, quick):
    bw,color = piles; run,new,old = tmp_path/'p',dict(out=tmp_path/'q'),dict(out=tmp_path/'p', resume=True); run.mkdir()
    (run/'checkpoint.pt').touch()
    wrong = [((bw,color), dict(out=run), 'expected --resume'), ((bw,color), new | dict(resume=True), 'expected a run to go on with'),
             ((bw,'world'), new, 'the word world twice'), ((bw,bw), new, 'different pages'), ((tmp_path/'no',color), new, 'expected a folder of pictures'),
             ((bw,), new, 'expected 2 folders for cyclegan, got 1'), ((bw,color), new | dict(blocks=3), 'got blocks'),
             ((bw,color), new | dict(uncut=True, bs=400, size=32), 'at least one batch')]
    for folders,kwargs,says in wrong: refused(folders, kwargs, says)
    (run/'train.json').write_text('{"cue": "blur", "depth": 6}')          # of another program
    refused((bw,color), old, 'expected a run of this command')
    (run/'checkpoint.pt').unlink(); (run/'train.json').unlink()
    train_method('cyclegan', bw, color, out=run, **(small | dict(epochs=1)))
    for folders,kwargs,says in (((bw,color), dict(ngf=8), "got {'ngf': 8}"), ((color,bw), {}, "got {'folders': "), ((bw,tmp_path), {}, "got {'folders': "),
                                (('world','world'), {}, "got {'folders': ['world'"), ((bw,color), dict(uncut=True), "got {'uncut': True}")):
        refused(folders, old | kwargs, says)

def refused(folders, kwargs, says):
    with pytest.raises(ValueError) as e: train_method('cyclegan', *folders, **kwargs)
    assert says in str(e.value)

@pytest.mark.parametrize('size', [30,12,0,-4])
def test_the_command_names_a_wrong_size(size, tmp_path, quick):
    from manga_colorize.commands.train import manga_train
    with pytest.raises(SystemExit, match=f'manga-train: expected a size that is a multiple of 4, at least 16, got {size}'):
        manga_train(['world', 'world', '--method', 'cyclegan', '--out', str(tmp_path/'o'), '--size', str(size)])
    assert not (tmp_path/'o'/'pages').exists()

def test_uncut_goes_on_uncut(piles, tmp_path, monkeypatch, quick):
    from manga_colorize.dataset import page_folders
    seen,load = [],page_folders.unpaired_dls
    monkeypatch.setattr(page_folders, 'unpaired_dls', lambda bw, color, *args: seen.append((bw, color)) or load(bw, color, *args))
    for kwargs in (dict(uncut=True, **(small | dict(epochs=1, bs=2))), dict(resume=True)): train_method('cyclegan', *piles, out=tmp_path/'run', **kwargs)
    assert seen==[tuple(map(Path, piles))]*2

def test_smooth_tones_are_remembered(piles, tmp_path, quick):
    "The squares come from smooth pages, and the painter says that it knows no others"
    from manga_colorize.colorizer.colorizer import Colorizer
    train_method('cyclegan', *piles, out=tmp_path/'run', smooth=True, **(small | dict(epochs=1)))
    assert len(list((tmp_path/'run'/'pages'/'bw-smooth').glob('*.png')))==4
    assert {r['page'] for r in read_metadata(tmp_path/'run'/'panels'/'bw-smooth-32')}<={f'page {i}.png.png' for i in range(4)}
    assert Colorizer.load(tmp_path/'run', device='cpu').config['protocol']['tones']=='smooth'

@pytest.mark.parametrize('smooth', [False,True])
def test_a_world_draws_its_own_pages(smooth, tmp_path, monkeypatch, quick):
    from manga_colorize.dataset import page_folders
    from manga_colorize.colorizer.colorizer import Colorizer
    drawn = []
    def draw(folder, n, first=0, color=False, size=None, n_workers=0):
        drawn.append((Path(folder).name, n, first, color)); fill(Path(folder), n, first, color)
    monkeypatch.setattr(page_folders, 'draw_pages', draw)
    page_folders.page_squares('world', 'world', tmp_path, 32, pages=2, smooth=smooth)
    train_method('cyclegan', 'world', 'world', out=tmp_path, **(small | dict(pages=3, epochs=1, smooth=smooth)))    # none of the two pages of before
    assert drawn==[('bw-2-600',2,0,False),('color-2-600',2,2,True),('bw-3-600',3,0,False),('color-3-600',3,3,True)] and (tmp_path/'config.json').exists()
    assert Colorizer.load(tmp_path, device='cpu').config['data']==dict(kind='world', world=0, pages=3)
    if smooth: assert {f['page'] for f in read_metadata(tmp_path/'panels'/'bw-3-600-smooth-32')}<={f'page {i}.png.png' for i in range(3)}
    assert {f['page'] for f in read_metadata(tmp_path/'panels'/'color-3-600-32')}=={f'page {i}.png' for i in (3,4,5)}

def test_what_a_step_costs():
    from manga_colorize.evaluate.training_speed import cyclegan_speed,step_bytes
    narrow = dict(ngf=4, n_blocks=2, n_layers=1, precision='fp32')
    assert cyclegan_speed(32, 1, n=1, rounds=1, **narrow)>0
    assert step_bytes(32, 1, recompute=True, **narrow)<step_bytes(32, 1, **narrow)<step_bytes(32, 2, **narrow)

def test_what_a_step_keeps_in_half_precision(monkeypatch):
    "The scaler of fp16 refuses a step without gradients; here it is the CPU's, which does the same"
    from fastai.callback import fp16
    from torch.amp import GradScaler,autocast
    from manga_colorize.evaluate.training_speed import step_bytes
    monkeypatch.setattr(fp16, 'GradScaler', lambda device, **kwargs: GradScaler('cpu', **kwargs))
    monkeypatch.setattr(fp16, 'autocast', lambda device, dtype: autocast('cpu', dtype=dtype))
    half,whole = [step_bytes(32, 1, ngf=4, n_blocks=2, n_layers=1, precision=p) for p in ('fp16','fp32')]
    assert 0<half<whole

# ---------- with pairs or without

def test_pairs_of_squares_and_the_error_on_people():
    from manga_colorize.evaluate.versus import panel_pairs,people_errors
    from manga_colorize.world.pages import Page
    who = np.zeros((300,220), np.int32); who[30:120,40:160] = 7
    color = page(0, color=True); flat = Page(color[...,0].copy(), color, [(10,10,200,132),(10,158,200,132)], who>9, who, who.astype(np.uint8), ())
    bw,colors,people = panel_pairs([flat,flat], 32)
    assert len(bw)==4 and bw[0].shape==people[0].shape==(32,32) and colors[0].shape==(32,32,3) and people[0].dtype==bool   # the lower panel is nobody's
    assert len(panel_pairs([flat], 32, least=0)[0])==4
    assert panel_pairs([], 32)==panel_pairs([flat], 32, least=1)==([],[],[])
    assert people_errors(colors, colors, people).tolist()==[0.]*4
    elsewhere = [np.where(p[...,None], c, 255-c) for c,p in zip(colors, people)]
    assert people_errors(elsewhere, colors, people).tolist()==[0.]*4
    white,black = [people_errors([np.full_like(c, v) for c in colors], [np.full_like(c, 255) for c in colors], people) for v in (255,0)]
    assert white.max()==0 and 99<black.min()<=black.max()<101
    for nobody in ([], [np.zeros((32,32), bool)]):
        with pytest.raises(ValueError, match='expected people'): people_errors(colors[:1], colors[:1], nobody)

def test_error_of_a_mean_as_elsewhere():
    from manga_colorize.core import mean_error
    from manga_colorize.evaluate.adherence import Adherence
    for numbers in ([3.], [1.,2.,6.]):
        theirs = Adherence([dict(painter='a', picture=0, after=x, before=x, leak=x) for x in numbers]).rows[0]['after']
        assert mean_error(numbers)==theirs
