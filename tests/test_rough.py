"Sketches as people draw them: forms, seeds, batches, shares, sizes, faults"
import pickle
from functools import partial

import numpy as np,pytest,torch
import manga_colorize.cues.points as cues_,manga_colorize.sketches.pencil as hand_,manga_colorize.cues.strokes as strokes_
from manga_colorize.core import to_tensor
from manga_colorize.sketches.pencil import broken,despeckle,guides,hatch,paper,pen,pencil,retrace,speckle,wobble
from manga_colorize.sketches.line_styles import rough_sketch,sketch_changes,sketch_ways
from manga_colorize.sketches.sketchify import complexity,sketchify
from manga_colorize.sketches.xdog import xdog
from test_cues import batch,pictures

sketches = sketchify(batch)
habits = [pen, broken, wobble, retrace, pencil, guides, speckle, paper]
one_way = [partial(rough_sketch, ways={k:1.}) for k in sketch_ways]
ids = lambda f: getattr(f, '__name__', None) or str(f.keywords)

@pytest.mark.parametrize('kw', [{}, dict(sigma=.3), dict(sigma=2), dict(gamma=.99), dict(epsilon=3), dict(phi=.1)], ids=str)
def test_xdog_is_the_equation(kw):
    "Against scipy, in doubles"
    from scipy.ndimage import gaussian_filter
    s,k,gamma,epsilon,phi = [({'sigma':.5,'k':4.5,'gamma':.95,'epsilon':-.1,'phi':1e9}|kw)[n] for n in ('sigma','k','gamma','epsilon','phi')]
    for p in pictures:
        import cv2
        grey = cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(float)
        d = gaussian_filter(grey, s, mode='mirror', truncate=6)-gamma*gaussian_filter(grey, k*s, mode='mirror', truncate=6)
        want = np.where(d>=epsilon, 1, 1+np.tanh(phi*(np.minimum(d,epsilon)-epsilon)))
        clear = abs(d-epsilon)>.2 if phi>1 else np.ones_like(d, bool)
        assert abs(xdog(p, **kw)/255-want)[clear].max()<.03
        assert abs((xdog(to_tensor(p), **kw)[0].numpy()+1)/2-want)[clear].max()<.03

@pytest.mark.parametrize('f', habits+[rough_sketch], ids=ids)
def test_forms_agree(f):
    x,source = (batch,pictures) if f is rough_sketch else (sketches,[sketchify(p) for p in pictures])
    whole = f(x, seed=3)
    assert whole.shape==(5,1,256,256) and whole.dtype==torch.float32 and whole.isfinite().all() and whole.abs().max()<=1
    for i,p in enumerate(source):
        one,alone = f(p, seed=3+i),f(x[i], seed=3+i)
        assert one.dtype==np.uint8 and one.shape==(256,256) and alone.shape==(1,256,256)
        assert (to_tensor(one)-whole[i]).abs().mean()<.006 and (alone-whole[i]).abs().mean()<1e-3

@pytest.mark.parametrize('f', habits+[rough_sketch]+one_way, ids=ids)
def test_a_sketch_does_not_depend_on_its_batch(f):
    x,seeds = sketches if f in habits else batch,[11,5,900,0,2**40]
    whole = f(x, seed=seeds)
    for order in ([4,0],[2],[3,1,0,2]): assert (f(x[order], seed=[seeds[i] for i in order])-whole[order]).abs().mean()<1e-3

@pytest.mark.parametrize('f', habits+[rough_sketch], ids=ids)
def test_same_seed_same_sketch(f):
    x = sketches if f in habits else batch
    assert torch.equal(f(x, seed=7), f(x, seed=7)) and not torch.equal(f(x, seed=7), f(x, seed=70))
    for seed in (np.int64(7), np.arange(7,12), torch.arange(7,12), range(7,12)): assert torch.equal(f(x, seed=seed), f(x, seed=7))
    state,before = torch.get_rng_state(),x.clone(); f(x)
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(before, x)
    assert torch.equal(pickle.loads(pickle.dumps(partial(f, seed=7)))(x), f(x, seed=7))

def test_every_draw_has_dice_of_its_own():
    "Two draws with equal salt would be thrown alike: a gap where a cue's stroke is"
    import inspect
    names = {n for m in (cues_,strokes_,hand_) for n,f in vars(m).items()
             if inspect.isfunction(f) and f.__module__==m.__name__ and list(inspect.signature(f).parameters)[:1]==['rng']}
    salts = [sum(map(ord,n)) for n in names|{'rough'}]
    assert len(names)>=12 and len(set(salts))==len(salts)

@pytest.mark.parametrize('way', sketch_ways)
def test_ways(way):
    out = rough_sketch(batch.repeat(8,1,1,1), ways={way:1.}, changes={})
    assert out.unique().numel()>2 or set(out.unique().tolist())=={-1.,1.}
    assert 0<complexity(out).mean()<60
    if way=='plain': assert torch.equal(out, sketchify(batch).repeat(8,1,1,1))

@pytest.mark.parametrize('change', sketch_changes)
def test_changes(change):
    ways = dict(window=1.)
    out,was = [rough_sketch(batch, 5, ways=ways, changes=c) for c in ({change:1.},{})]
    assert not torch.equal(out, was)
    assert torch.equal(rough_sketch(batch, 5, ways=dict(plain=1.), changes={change:1.}), sketches)
    low,high = [(x<.5).float().mean() for x in (out,was)]
    if change in ('hatch','retrace','speckle','guides'): assert low>=high
    if change=='broken': assert low<high

def test_shares_are_kept():
    x = torch.zeros(4000,3,4,4)
    said = []
    def count(name, n): said.append((name,n))
    from manga_colorize.sketches import line_styles as rough
    old_ways,old_changes = dict(rough._ways),dict(rough._changes)
    try:
        for k in old_ways: rough._ways[k] = lambda grey,settings,k=k: (count(k,len(grey)), grey/127.5-1)[1]
        for k in old_changes: rough._changes[k] = lambda x,*_,seed,k=k: (count(k,len(seed)), x)[1]
        rough_sketch(x)
    finally: rough._ways.update(old_ways); rough._changes.update(old_changes)
    n = dict(said)
    for k,p in sketch_ways.items(): assert abs(n[k]/4000-p)<.03
    for k,p in sketch_changes.items(): assert abs(n[k]/(4000-n['plain'])-p)<.04
    assert sum(sketch_ways.values())==pytest.approx(1) and list(sketch_ways)==list(old_ways) and list(sketch_changes)==list(old_changes)

@pytest.mark.parametrize('shape', [(1,1),(1,7),(5,2),(40,64),(300,120)])
def test_sizes(shape):
    x = torch.rand(12,3,*shape)*2-1
    for changes in ({}, {k:1. for k in sketch_changes}):
        out = rough_sketch(x, ways=dict(window=.25,xdog=.25,clean=.25,scaled=.25), changes=changes)
        assert out.shape==(12,1,*shape) and out.isfinite().all() and out.abs().max()<=1

def test_habits_grow_with_the_picture():
    "A line of 1 px at 256 and one of 4 px at 1024 are treated alike"
    def lines(n):
        x = torch.ones(1,1,n,n); x[...,n//2:n//2+n//256] = -1; x[...,n//4:n//4+n//256,:] = -1
        return x
    down = lambda x: torch.nn.functional.interpolate(x, (256,256), mode='area')
    for f in (partial(pen,px=1), partial(broken,share=.3,seed=3), partial(wobble,px=3,seed=2), partial(guides,seed=1)):
        a,b = f(lines(256)),down(f(lines(1024)))
        assert (a-b).abs().mean() < .35*(a-lines(256)).abs().mean()+.004

def test_amounts():
    assert torch.equal(pen(sketches,0), sketches) and (pen(sketches,1)<=sketches).all() and (pen(sketches,-1)>=sketches).all()
    assert torch.equal(broken(sketches,0), sketches) and (broken(sketches,1)==1).all()
    assert (wobble(sketches,0)-sketches).abs().max()<1e-3 and torch.equal(guides(sketches,0), sketches)
    for share in (.001,.02,.3): assert (speckle(torch.ones(16,1,128,128), share)<0).float().mean().item()==pytest.approx(share, rel=.15)
    assert torch.equal(speckle(sketches,0), sketches)
    x = torch.ones(1,1,64,64); x[...,10,10] = x[...,30,20:22] = -1; x[...,50,5:60] = -1
    want = torch.ones(1,1,64,64); want[...,50,5:60] = -1
    assert torch.equal(despeckle(x), want)

def test_wobble_stays_within_its_distance():
    x = torch.ones(6,1,256,256); x[...,128] = -1
    for px in (1,4):
        at = (wobble(x, px, seed=range(6))<.9).nonzero()[:,3]
        assert at.min()>=128-px-1 and at.max()<=128+px+1 and at.unique().numel()>px

@pytest.mark.parametrize('f', habits, ids=ids)
def test_wrong_sketches(f):
    for bad in (pictures[0], batch, torch.zeros(4,4), torch.zeros(1,1,4,4,dtype=torch.uint8), torch.zeros(0,1,4,4), 'a.png', None):
        with pytest.raises(ValueError, match='expected'): f(bad)
    for seed in (-1, [1,2]):
        with pytest.raises(ValueError, match='seed'): f(sketches, seed=seed)

@pytest.mark.parametrize('call', [lambda: pen(sketches,9), lambda: pen(sketches,float('nan')), lambda: broken(sketches,-.1),
                                  lambda: speckle(sketches,.6), lambda: wobble(sketches,-1),
                                  lambda: guides(sketches,9), lambda: rough_sketch(batch, ways=dict(crayon=1)),
                                  lambda: rough_sketch(batch, ways=dict(plain=.5)),
                                  lambda: rough_sketch(batch, changes=dict(pen=2)), lambda: rough_sketch(sketches),
                                  lambda: rough_sketch(pictures[0][...,0]), lambda: rough_sketch('a.png'),
                                  lambda: rough_sketch(batch*float('nan')), lambda: xdog(batch, sigma=0), lambda: xdog(pictures[0], phi=-1),
                                  lambda: xdog(sketches)])
def test_wrong_arguments(call):
    with pytest.raises(ValueError, match='expected'): call()

@pytest.mark.skipif(not (torch.cuda.is_available() or torch.backends.mps.is_available()), reason='needs a GPU')
@pytest.mark.parametrize('f', habits+[rough_sketch]+one_way, ids=ids)
def test_gpu_is_the_cpu(f):
    dev,x = 'cuda' if torch.cuda.is_available() else 'mps',sketches if f in habits else batch
    assert (f(x.to(dev), seed=3).cpu()-f(x, seed=3)).abs().mean()<2e-3
