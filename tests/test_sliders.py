"Knobs, what follows from them, and the panel without a browser"
import threading,time

import numpy as np,pytest
from fixtures import same
from manga_colorize.core import over_white,to_image
from manga_colorize.dataset.batches import cues,sketches
from manga_colorize.cues.blur import blur_cue
from manga_colorize.sketches.sketchify import complexity,sketchify
from manga_colorize.world.artist import World
from manga_colorize.studio.sliders import *

color = World(seed=0).illustration(7, size=64).color
def wash(sketch, cue): return over_white(cue)//2+sketch[...,None]//2
def tinted(sketch, cue, warm=0., gain=1.): return (wash(sketch, cue)*gain+warm).clip(0,255).astype(np.uint8)
tinted.options = dict(warm=(0,50,10), gain=(.5,2,1))

class Counting:
    def __init__(self, seconds=0): self.seen,self.seconds = [],seconds
    def __call__(self, sketch, cue): time.sleep(self.seconds); self.seen.append((sketch,cue)); return wash(sketch, cue)

def test_pictures_are_what_the_functions_give():
    e = Explorer(color, wash).set(block_size=11, c=4, sigma=9)
    assert (e.sketch==sketchify(color, 11, 4)).all() and (e.cue==blur_cue(color, 9)).all()
    assert (e.fake==wash(e.sketch, e.cue)).all() and e.complexity==complexity(e.sketch)

@pytest.mark.parametrize('sketch', [k for k,f in sketches.items() if f])
@pytest.mark.parametrize('cue', cues)
def test_all_kinds(sketch, cue):
    e = Explorer(color, wash).set(sketch=sketch, cue=cue, n=5, seed=3)
    assert e.sketch.shape==(64,64) and e.cue.shape==(64,64,4) and e.fake.shape==(64,64,3) and not e.error

@pytest.mark.parametrize('x', [dict(block_size=4), dict(block_size=1), dict(sigma=0), dict(sigma=-1), dict(cue='x'), dict(sketch='own'),
                               dict(cue='point',n=-1), dict(cue='stroke',seed=-1), dict(model='x'), dict(x=1), dict(options={}), dict(warm=1)], ids=str)
def test_wrong_values_change_nothing(x):
    e = Explorer(color, wash); before = e.knobs,e.sketch,e.cue,e.fake
    with pytest.raises(ValueError): e.set(sigma=7, **x) if 'sigma' not in x else e.set(c=3, **x)
    assert e.knobs==before[0] and all(a is b for a,b in zip(before[1:], (e.sketch,e.cue,e.fake)))

def test_nothing_is_done_twice():
    paint = Counting(); e = Explorer(color, paint)
    e.set(n=3, seed=9); e.set(sigma=20.); assert len(paint.seen)==1
    e.set(sigma=5); e.set(c=5); assert len(paint.seen)==3
    assert paint.seen[1][0] is paint.seen[0][0] and paint.seen[2][1] is paint.seen[1][1]

def test_a_new_array_in_an_old_place_is_not_taken_for_the_old_one():
    paint = Counting(); e = Explorer(color, paint)
    for sigma in range(1,40): e.set(sigma=sigma); assert (e.fake==wash(e.sketch, blur_cue(color, sigma))).all()

@pytest.mark.parametrize('give', [lambda s,c: 1/0, lambda s,c: None, lambda s,c: np.zeros(3), lambda s,c: np.full((4,4,3), np.nan)])
def test_failing_painters_are_told_of(give):
    e = Explorer(color, dict(good=wash, bad=give))
    e.set(model='bad'); assert e.fake is None and e.error.startswith('bad failed.') and e.sheet(32)
    e.set(model='good'); assert e.fake is not None and e.error==''

def test_options():
    e = Explorer(color, dict(plain=wash, tinted=tinted))
    assert e.knobs.options=={} and options_of(tinted)==tinted.options
    e.set(model='tinted'); assert e.knobs.options==dict(warm=10,gain=1)
    e.set(warm=40); assert (e.fake==tinted(e.sketch, e.cue, 40, 1)).all()
    e.set(model='plain'); e.set(model='tinted'); assert e.knobs.options==dict(warm=40,gain=1)
    e.set(model='plain'); e.set(model='tinted', gain=2.); assert e.knobs.options==dict(warm=40,gain=2.)

@pytest.mark.parametrize('options', [dict(n=(0,1,0)), dict(model=(0,1,0)), dict(t=(0,1)), dict(t=(1,0,1)), dict(t=(0,1,2)), dict(t=(1,1,1))], ids=str)
def test_wrong_options(options):
    f = lambda s,c: wash(s,c); f.options = options
    with pytest.raises(ValueError, match='expected'): Explorer(color, f)

@pytest.mark.parametrize('shape', [(1,1),(300,40),(37,900),(2000,1500)], ids=str)
def test_odd_sizes(shape):
    e = Explorer(np.full((*shape,3), 120, np.uint8), wash)
    assert max(e.color.shape)<=256 and e.sketch.shape==e.color.shape[:2] and e.sheet(64).height==84

def test_any_picture(tmp_path):
    from PIL import Image
    Image.fromarray(color).convert('L').save(tmp_path/'a.png')
    for x in (tmp_path/'a.png', Image.fromarray(color).convert('RGBA'), color[...,0]): assert Explorer(x).sketch.shape==(64,64)
    with pytest.raises(ValueError, match='expected'): Explorer(color/255)

def test_without_a_painter():
    e = explore(color, sigma=4)
    assert e.fake is None and list(e.columns())[1:]==['cue','color'] and e.knobs.model==''

def test_many_threads_end_in_one_state():
    e = Explorer(color, wash); ts = [threading.Thread(target=lambda k=k: e.set(sigma=k+1, c=k%5)) for k in range(30)]
    for t in ts: t.start()
    for t in ts: t.join()
    assert (e.fake==wash(sketchify(color, c=e.knobs.c), blur_cue(color, e.knobs.sigma))).all()

widgets = pytest.importorskip('ipywidgets')

def test_sliders_turn_knobs():
    panel = explore(color, dict(wash=wash, tinted=tinted)).panel(); e = panel.explorer; before = panel.picture.value
    turned = dict(sigma=44., c=3.5, block_size=15, cue='point', n=11, seed=2, sketch='xdog', model='tinted')
    for k,v in turned.items(): panel.controls[k].value = v
    assert panel.wait(20) and {k:getattr(e.knobs,k) for k in turned}==turned
    panel.options['tinted','gain'].value = 1.7; panel.wait(20)
    assert e.knobs.options['gain']==1.7 and panel.picture.value!=before
    assert panel.active()==['sketch','cue','n','seed','model','warm','gain']

def test_knobs_move_sliders_once():
    paint = Counting(); panel = explore(color, paint).panel(); n = len(paint.seen)
    panel.explorer.set(sigma=33, cue='stroke', n=7); panel.wait(20); assert len(paint.seen)==n+1
    assert (panel.controls['sigma'].value,panel.controls['cue'].value,panel.controls['n'].value)==(33,'stroke',7)

def test_values_beyond_a_slider_stay():
    "The slider stops at its end, the knob does not"
    panel = explore(color).panel(); panel.explorer.set(sigma=200, cue='stroke'); panel.controls['n'].value = 3; panel.wait(20)
    assert panel.controls['sigma'].value==80 and panel.explorer.knobs.sigma==200 and panel.explorer.knobs.n==3

def test_hidden_sliders():
    panel = explore(color, dict(wash=wash, tinted=tinted)).panel()
    seen = lambda: {k for k,c in panel.controls.items() if c.layout.display!='none'}|{k for (_,k),c in panel.options.items() if c.layout.display!='none'}
    assert seen()=={'sketch','block_size','c','cue','sigma','model'}
    panel.explorer.set(sketch='rough', cue='none', model='tinted'); assert seen()=={'sketch','seed','cue','model','warm','gain'}

def test_latest_wins():
    paint = Counting(.05); panel = explore(color, paint).panel()
    for k in range(1,61): panel.controls['sigma'].value = k; panel.controls['c'].value = k%10
    assert panel.wait(20) and len(paint.seen)<60 and panel.explorer.knobs.sigma==60 and panel.explorer.knobs.c==0

def test_changing_the_model_drops_options_that_wait():
    gate = threading.Event()
    def held(sketch, cue): gate.wait(10); return wash(sketch, cue)
    gate.set(); panel = explore(color, dict(tinted=tinted, held=held)).panel()
    gate.clear(); panel.explorer.models['tinted'] = lambda s,c,**o: (gate.wait(10), tinted(s,c,**o))[1]
    panel.controls['sigma'].value = 30                       # the thread is busy with this one
    panel.options['tinted','warm'].value = 33; panel.controls['model'].value = 'held'
    gate.set(); assert panel.wait(20) and panel.explorer.knobs.model=='held' and panel.status.value==''

def test_two_panels_do_not_mix():
    a,b = (explore(color, wash).panel() for _ in range(2)); a.controls['sigma'].value = 55; a.wait(20)
    assert b.explorer.knobs.sigma==20 and b.controls['sigma'].value==20 and a.explorer.panel() is a

def test_words_are_escaped():
    def rude(sketch, cue): raise ValueError('<script>')
    assert '&lt;script&gt;' in explore(color, rude).panel().status.value

def test_values_are_round():
    panel = explore(color).panel(); panel.controls['sigma'].value = 42.00000000000001; panel.wait(20)
    assert panel.explorer.knobs.sigma==42

# ---- a saved Lab model

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    pytest.importorskip('kornia')
    import torch
    from manga_colorize.lab.gamut import gamut_bins
    from manga_colorize.lab.network import LabPainter
    from manga_colorize.colorizer.colorizer import Colorizer
    torch.manual_seed(0); painter = LabPainter('cue', 313, nf=2, temperature=20, bins=gamut_bins())
    painter.net.head.weight.data *= 300   # opinions, as after training
    return Colorizer.load(Colorizer(painter).save(tmp_path_factory.mktemp('lab')), device='cpu')

def test_a_saved_lab_model_has_a_temperature(lab):
    assert options_of(lab)==dict(temperature=(0,1,.2))
    e = explore(color, lab, side=64); usual = e.fake
    assert not e.error and e.knobs.options==dict(temperature=.2) and (usual==np.array(lab(e.sketch, e.cue))).all()
    pages = [e.set(temperature=t).fake for t in (0,1)]
    chroma = [(p.max(-1).astype(int)-p.min(-1)).mean() for p in (*pages,usual)]
    assert not e.error and chroma[0]>chroma[1] and chroma[2]>chroma[1] and (e.set(temperature=.2).fake==usual).all()

def test_a_temperature_reaches_batches_and_tiles(lab):
    import torch
    sketch,cue = torch.rand(1,1,64,96)*2-1,torch.rand(1,4,64,96)
    with torch.inference_mode(): true = lab.model(sketch, cue, temperature=1.)
    assert torch.equal(lab(sketch, cue, temperature=1.), true) and not torch.equal(lab(sketch, cue), true)
    lab.limit,lab.tile,lab.overlap = 64*64,64,16
    try: a,b = [lab(sketch, cue, temperature=t) for t in (0.,1.)]
    finally: del lab.limit,lab.tile,lab.overlap
    assert a.shape==true.shape and (a-b).abs().max()>.1

def test_a_slider_turns_it(lab):
    pytest.importorskip('ipywidgets')
    panel = explore(color, dict(wash=wash, lab=lab), side=64).panel()
    assert panel.options['lab','temperature'].layout.display=='none'
    panel.controls['model'].value = 'lab'; panel.wait(); slider = panel.options['lab','temperature']
    assert slider.layout.display=='' and (slider.min,slider.max,slider.value)==(0,1,.2)
    slider.value = .9; assert panel.wait(60)
    assert panel.explorer.knobs.options==dict(temperature=.9) and not panel.explorer.error

def test_options_that_are_none(lab):
    from manga_colorize.colorizer.colorizer import Colorizer
    with pytest.raises(ValueError, match='temperature from 0 to 1, got 2'): lab(color[...,0], temperature=2)
    with pytest.raises(ValueError, match="expected options among .'temperature'., got .'warmth'."): lab(color[...,0], warmth=1)
    for bad in ('0.3',[.3],float('nan')):
        with pytest.raises(ValueError, match='temperature from 0 to 1, got'): lab(color[...,0], temperature=bad)
    assert same(lab(color[...,0], temperature=None, warmth=None), lab(color[...,0]))
    from manga_colorize.lab.network import LabPainter
    l2 = Colorizer(LabPainter('grey', 2, nf=2)); assert l2.options=={}
    with pytest.raises(ValueError, match='expected options among'): l2(color[...,0], temperature=.5)
