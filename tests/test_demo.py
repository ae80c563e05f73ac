"The whole road in seconds, and Ctrl-C anywhere on it"
import re,shutil,subprocess,sys,time,torch
from itertools import count,islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np,pytest
from PIL import Image

from children import Child,posix,run_script
from manga_colorize.core import read_image
from manga_colorize.dataset.build import build_dataset
from manga_colorize.world.artist import World
from manga_colorize.commands import demo
from manga_colorize.colorizer.colorizer import Colorizer
from manga_colorize.commands.demo import TimeBudget,demo_source,run_demo,tune_threads
from manga_colorize.commands.own_pictures import Hurry,Mixed,random_square,readable
from manga_colorize.commands.results import curve_html,results_page

@pytest.fixture(scope='module')
def own(tmp_path_factory):
    "Pages, a transparent sprite, a broken file"
    folder = tmp_path_factory.mktemp('own')
    for i in range(4): Image.fromarray(World(seed=9).illustration(i, size=320).color[:,40:280]).save(folder/f'page_{i}.png')
    sprite = World(seed=9).illustration(9, size=300).color; alpha = np.zeros((300,300,1), np.uint8); alpha[50:250,80:220] = 255
    Image.fromarray(np.concatenate([sprite,alpha],2)).save(folder/'sprite.png'); (folder/'broken.png').write_bytes(b'no')
    return folder

tiny = dict(dls=dict(bs=8,crop=64), learner=dict(ngf=4,n_down=5), lr=1e-3, alone=.5)

@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(demo.recipes, 'cpu', tiny)
    monkeypatch.setattr(demo, 'build_dataset', lambda *args, n_workers, **kwargs: build_dataset(*args, **kwargs)) # workers, who take seconds to start, work for the command below

# --- own pictures

@pytest.mark.parametrize('shape', [(300,200),(200,300),(64,64),(40,30),(1000,90),(1,1)], ids=str)
def test_random_square_is_inside_and_never_enlarged_more_than_needed(shape):
    color = np.arange(np.prod(shape)*3).reshape(*shape,3).astype(np.uint8)
    for seed in range(20):
        s = random_square(color, np.random.default_rng(seed), 64)
        assert s.shape[0]==s.shape[1] and min(64,*shape)<=len(s)<=min(shape)

def test_a_mixed_source_is_the_same_for_any_process_and_order(own):
    make = lambda: Mixed(readable(sorted(own.iterdir()))[0], World(seed=1))
    keys = [k for k,_ in islice(make(),12)]; there = [make().load(k,64)[0] for k in keys]; source = make()
    for k,x in reversed(list(zip(keys,there))): assert np.array_equal(source.load(k,64)[0], x)
    assert any(k.startswith('own-') for k in keys) and len(keys)==len(set(keys))

def test_held_out_pages_teach_nothing(own):
    source,test,bad = demo_source(own)
    assert len(test)==1 and test[0] not in source.files and len(source.files)==4 and bad==[('broken.png','not a picture')]

class Clock:
    "A clock that only we turn: on a busy machine the real one jumps"
    def __init__(self): self.now = 0.
    def __call__(self): return self.now
    def sleep(self, seconds): self.now += seconds

@pytest.fixture
def clock(monkeypatch):
    c = Clock(); monkeypatch.setattr(time, 'perf_counter', c)
    return c

def test_hurry_ends_by_the_clock(clock):
    class Slow:
        def recipe(self): return {}
        def __iter__(self):
            for k in count(): clock.sleep(.01); yield str(k),{}
    assert 29<=len(list(Hurry(Slow(), .3, least=2)))<=31 and len(list(Hurry(Slow(), 0, least=7)))==7

# --- parts

def test_time_budget_ends_in_time_at_rate_zero(clock):
    from fastai.basics import CancelFitException
    rates,told = [],[]; budget = TimeBudget(.3, lr=1., news=lambda *a: told.append(a))
    budget.learn = SimpleNamespace(loss=torch.tensor(1.), opt=SimpleNamespace(set_hyper=lambda n,v: rates.append(v)), xb=[[0]*4])
    budget.before_fit()
    with pytest.raises(CancelFitException):
        while True: budget.before_batch(); clock.sleep(.01); budget.after_batch()
    assert .29<clock()<.32 and rates[0]==1 and rates[-1]<.01 and rates==sorted(rates, reverse=True)
    assert budget.seen==4*len(budget.losses) and 29<=len(told)<=31 and told[-1][0]<=1 and told[-1][2]==[1.]

def test_a_budget_of_nothing_still_takes_a_step(clock):
    budget = TimeBudget(1e-9); rate = []
    budget.learn = SimpleNamespace(loss=torch.tensor(1.), opt=SimpleNamespace(set_hyper=lambda n,v: rate.append(v)), xb=[[0]])
    budget.before_fit(); clock.sleep(.01); budget.before_batch(); budget.after_batch(); budget.after_fit()
    assert budget.losses==[1.] and rate==[0]

def test_threads_are_those_that_were_fastest(clock):
    import torch
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(8)
        assert tune_threads(lambda: clock.sleep(.01*abs(torch.get_num_threads()-2)+.001))==2==torch.get_num_threads()
    finally: torch.set_num_threads(before)

@pytest.mark.parametrize('losses', [[1.],[1.,1.],[0.,0.],list(np.linspace(9,1,5000))], ids=len)
def test_curve(losses):
    svg = curve_html(losses)
    assert 'nan' not in svg and 'inf' not in svg and f'{len(losses):,} batches' in svg

def test_page_escapes_and_stands_alone(tmp_path):
    grey = np.full((8,8,3),99,np.uint8)
    page = results_page(tmp_path/'p.html', '<b>&', 'story', {'<x>':'$1'}, [('h','t','b')], (grey,)*4, r'C:\models').read_text(encoding='utf-8')
    assert '&lt;b&gt;&amp;' in page and '&lt;x&gt;' in page and '$1' in page and not re.search(r'(src|href)="(?!data:)', page)

# --- the whole road

def files(folder): return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file() and 'data/' not in p.as_posix())

def test_the_whole_road(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv('MANGA_ART', raising=False)
    page = run_demo(minutes=.05, out=tmp_path/'demo', test=None)
    assert files(tmp_path/'demo')==['gallery.png','index.html','model/config.json','model/model.safetensors']
    assert page==tmp_path/'demo'/'index.html' and page.stat().st_size>50_000
    paint = Colorizer.load(tmp_path/'demo'/'model')
    assert paint.config['seen']>0 and paint.config['protocol']['cue']=='blur' and paint.config['data']['world']==0
    said = capsys.readouterr().out
    assert 'against the cue alone' in said and '100%' in said
    run_demo(minutes=.05, out=tmp_path/'demo', test=None) # again: the data set is there

def test_own_pictures_and_a_test_folder(own, tmp_path, capsys):
    run_demo(own, minutes=.05, out=tmp_path/'demo')
    assert {'gallery_real.png','index.html'}<={*files(tmp_path/'demo')} and len([f for f in files(tmp_path/'demo') if f.startswith('kept_aside/')])==1
    assert 'Skipped broken.png' in capsys.readouterr().out
    made = [p.name for p in (tmp_path/'demo'/'data'/'train').iterdir()]
    assert any(n.startswith('own') for n in made) and any(not n.startswith('own') for n in made)
    with pytest.raises(ValueError, match='same data set'): run_demo(minutes=.05, out=tmp_path/'demo')

# --- the command

exe = shutil.which('manga-demo', path=str(Path(sys.executable).parent))

def small_script(path, *args):
    "The command with one worker and a small network, as another program would find it on a small machine"
    demo.os.cpu_count,demo.recipes['cpu'] = lambda: 1,tiny
    run_script(path, *args)

@pytest.mark.skipif(not posix, reason='no process groups to send SIGINT to')
@pytest.mark.parametrize('word', ['pictures','L1'], ids=['drawing','training'])
def test_ctrl_c_keeps_what_is_finished(word, tmp_path):
    code,said,err = Child(tmp_path, small_script, exe, '--minutes', '.15', '--out', str(tmp_path/'demo')).until(word).interrupt().end()
    assert code==130 and 'Stopped. Finished:' in said, (code,said,err)
    assert 'Traceback' not in err, err
    if word=='L1':
        assert Colorizer.load(tmp_path/'demo'/'model')(np.full((64,64),255,np.uint8)).size==(64,64)
        assert read_image(tmp_path/'demo'/'gallery.png').shape[2]==3

def test_errors_are_one_line(tmp_path):
    run = subprocess.run([exe,'--images',tmp_path/'nowhere','--out',tmp_path/'demo'], capture_output=True, text=True)
    assert run.returncode==1 and run.stderr.startswith('manga-demo: expected a folder with pictures') and run.stderr.count('\n')==1
