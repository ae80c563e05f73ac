"The registry keeps its promises, and a new method needs nothing but a record"
import json,subprocess,sys
from inspect import signature

import numpy as np,pytest,torch
from torch import nn
from fastai.basics import Learner
from manga_colorize.colorizer.colorizer import Colorizer
from manga_colorize.colorizer.train import make_learner,train_method,usual_options
from manga_colorize.commands.train import manga_train
from manga_colorize.core import scales
from manga_colorize.dataset.build import build_dataset
from manga_colorize.evaluate.tasks import evaluate_tasks
from manga_colorize.methods import Late,Method,find_method,given_words,methods
from manga_colorize.world.artist import World

@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    path = tmp_path_factory.mktemp('pages')/'set'
    build_dataset(World(0), path, size=64, n=120, scenes=0., test_pct=.3)
    return path

# ---------- a toy, in ten lines

class Toy(nn.Module):
    stride = 2
    def __init__(self, width=4):
        super().__init__(); self.width = width
        self.net = nn.Sequential(nn.Conv2d(5, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 1), nn.Tanh())
    def forward(self, sketch, cue): return self.net(torch.cat([sketch, cue], 1))
    @property
    def config(self): return dict(arch='toy', width=self.width)

def toy_learner(dls, width=4, lr=1e-3): return Learner(dls, Toy(width), loss_func=nn.L1Loss(), lr=lr)

@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(methods, 'toy', Method('toy', 'A toy', '', ('sketch','cue'), Late('dataset.batches:manga_dls'), Toy, toy_learner))

def test_a_new_method_by_the_public_doors(toy, pages, tmp_path, capsys):
    "It trains, saves, loads, colours and is scored; nothing else was touched"
    manga_train([str(pages), '--method', 'toy', '--out', str(tmp_path/'toy'), '--width', '3', '--bs', '8', '--epochs', '2'])
    paint = Colorizer.load(tmp_path/'toy', device='cpu')
    assert paint.config['model']==dict(arch='toy', width=3) and paint.given==('sketch','cue') and 'toy' in repr(paint)
    assert paint(np.full((30,21), 255, np.uint8)).size==(21,30)
    scores = evaluate_tasks(dict(toy=paint), pages, n=2)
    assert scores['color','toy','psnr'].shape==(2,)
    with pytest.raises(SystemExit): manga_train([str(pages), '--method', 'toy', '--help'])
    assert '--width' in capsys.readouterr().out
    train_method('toy', pages, out=tmp_path/'more', width=3, bs=8, epochs=1)
    assert json.loads((tmp_path/'more'/'config.json').read_text(encoding='utf-8'))['training']['method']=='toy'

def test_without_a_record_it_cannot_be_loaded(pages, tmp_path, monkeypatch):
    monkeypatch.setitem(methods, 'toy', Method('toy', 'A toy', '', ('sketch','cue'), Late('dataset.batches:manga_dls'), Toy, toy_learner))
    Colorizer(Toy()).save(tmp_path/'toy')
    monkeypatch.delitem(methods, 'toy')
    with pytest.raises(ValueError, match=r"expected arch to be one of \['pix2pix', 'cyclegan', 'lab', 'cue_unet'\], got 'toy'"): Colorizer.load(tmp_path/'toy')

# ---------- the records

@pytest.mark.parametrize('name', methods)
def test_records_are_complete(name):
    m = methods[name]
    assert m.name==name and m.title and m.paper and set(m.given)<=set(given_words) and set(m.sizes)==set(scales)
    for f in (m.dls, m.learner, m.network): assert callable(f) and signature(f)
    for s in scales.values():
        options = usual_options(name, s)
        assert options.keys()>=m.sizes[s.name].keys() and {'epochs','seed','bs'}<=options.keys()

def test_sizes_of_pix2pix_are_those_of_the_lessons():
    for s in scales.values(): assert methods['pix2pix'].sizes[s.name]==dict(bs=s.bs, ngf=s.ngf, n_down=s.n_down, epochs=s.epochs)

small = dict(pix2pix=dict(ngf=2, n_down=4, bs=4), lab=dict(width=1/32, bs=4, protocol='sketch'), cue_unet=dict(width=2, depth=2, bs=4, crop=64, size=64))

@pytest.mark.parametrize('name', small)
def test_methods_of_pairs_train_save_and_load(name, pages, tmp_path):
    paint = train_method(name, pages, out=tmp_path/name, epochs=1, **small[name])
    again = Colorizer.load(tmp_path/name, device='cpu')
    sketch = np.full((40,50), 255, np.uint8); sketch[10:20,10:30] = 0
    assert again(sketch).tobytes()==paint.to('cpu')(sketch).tobytes() and again.config['seen']>0

def test_what_is_refused(pages, tmp_path):
    with pytest.raises(ValueError, match='expected a method of pix2pix'): find_method('soup')
    with pytest.raises(ValueError, match='expected words of'): Method('x', 'X', '', ('wish',), print, print)
    with pytest.raises(ValueError, match='expected a schedule'): Method('x', 'X', '', (), print, print, schedule='random')
    with pytest.raises(ValueError, match='expected 1 folder for pix2pix, got 2'): make_learner('pix2pix', pages, pages)
    with pytest.raises(ValueError, match='which does not'): train_method(Method('x', 'X', '', ('sketch',), print, print), pages, out=tmp_path/'x')

def test_the_list_loads_no_libraries():
    "A command's help need not wait for PyTorch"
    code = "import sys; import manga_colorize.methods; print(sorted({'torch','fastai','numpy','cv2','PIL'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable,'-c',code], capture_output=True, text=True).stdout.strip()=='[]'
